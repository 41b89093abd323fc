//! One read-only pass over a file: its valid prefix, the index over it, and the evidence for a verdict on what follows.

mod behind;
mod window;

pub use behind::Behind;

use window::{Halt, Window};

use crate::change::term_of_payload;
use crate::error::Result;
use crate::file::File;
use crate::frame::{Fault, Frame, Layout, MAGIC, Source, believe_v1, look, plain, u32_at};
use crate::index::Summary;

/// What one pass found in a file.
#[derive(Debug, Clone)]
pub struct ScanReport {
    /// The valid prefix.
    pub summary: Summary,
    /// Bytes in the file.
    pub file_bytes: u64,
    /// Where the first frame above the durable mark begins; the end of the prefix without one.
    pub marked_bytes: u64,
    /// The class of what stopped the prefix; `None` when nothing did.
    pub stop: Option<&'static str>,
    /// The same in words.
    pub reason: String,
    /// Whether only zeros follow the prefix.
    pub zero_tail: bool,
    /// What lies behind it.
    pub behind: Behind,
    /// Whether the file is somebody else's.
    pub foreign: bool,
}

impl ScanReport {
    /// The report of a file that is known to hold the prefix and nothing else.
    pub fn clean(summary: Summary) -> Self {
        Self {
            file_bytes: summary.valid_bytes,
            marked_bytes: summary.valid_bytes,
            summary,
            stop: None,
            reason: String::new(),
            zero_tail: false,
            behind: Behind::default(),
            foreign: false,
        }
    }
}

/// What a scan is told beforehand.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The highest LSN before this file.
    pub base_lsn: u64,
    /// The durable mark, where there is one.
    pub mark: Option<u64>,
    /// Where to stop: frames above it are left, and what follows once it is reached is not judged.
    pub until_lsn: Option<u64>,
    /// An earlier report of the same file, whose prefix is taken as read and whose index is extended.
    pub resume: Option<ScanReport>,
}

/// Scans `file`. An error of the system is returned as such, never taken for damage.
pub fn scan_file(file: &File, options: Options) -> Result<ScanReport> {
    let file_bytes = file.size()?;
    let summary = match &options.resume {
        Some(report) => report.summary.clone(),
        None => Summary::new(options.base_lsn),
    };
    let marked = match (&options.resume, options.mark) {
        (Some(report), Some(mark)) if report.summary.highest_lsn > mark => Some(report.marked_bytes),
        _ => None,
    };
    let mut pass = Pass { window: Window::new(file, file_bytes), summary, options, marked };
    loop {
        match pass.run() {
            Ok(report) => return Ok(report),
            Err(Halt::Error(error)) => return Err(error),
            Err(Halt::Shrunk(end)) => pass.window.shrink(end),
        }
    }
}

/// A scan under way.
struct Pass<'a> {
    window: Window<'a>,
    summary: Summary,
    options: Options,
    marked: Option<u64>,
}

impl Pass<'_> {
    fn run(&mut self) -> Result<ScanReport, Halt> {
        let fault = self.prefix()?;
        let at = self.summary.valid_bytes;
        let mut report = ScanReport::clean(self.summary.clone());
        report.file_bytes = self.window.end();
        report.marked_bytes = self.marked.unwrap_or(at);
        if let Some(fault) = fault {
            report.zero_tail = self.window.data_end(at)? <= at;
            if !report.zero_tail {
                report.stop = Some(fault.class());
                report.reason = fault.at(at);
                report.behind = self.search(at)?;
                report.foreign = self.summary.records == 0 && !report.behind.any && self.strange_start()?;
            }
        }
        Ok(report)
    }

    /// Takes in good frames. What stops it, if it is to be judged, is returned.
    fn prefix(&mut self) -> Result<Option<Fault>, Halt> {
        let until = self.options.until_lsn.unwrap_or(u64::MAX);
        loop {
            let at = self.summary.valid_bytes;
            if at >= self.window.end() {
                return Ok(None);
            }
            if let Some((frame, tail_crc)) = plain(self.window.ready(at), self.summary.before())
                && frame.lsn <= until
            {
                self.push(at, &frame, frame.term, tail_crc);
                continue;
            }
            match self.frame_at(at)? {
                Ok(frame) if frame.lsn > until => return Ok(None),
                Ok(frame) => self.take(at, &frame)?,
                Err(_) if self.options.until_lsn.is_some() && self.summary.highest_lsn >= until => return Ok(None),
                Err(fault) => return Ok(Some(fault)),
            }
        }
    }

    fn frame_at(&mut self, at: u64) -> Result<Result<Frame, Fault>, Halt> {
        match look(&mut self.window, at, self.summary.before())? {
            Ok(frame) if frame.layout == Layout::V1 => {
                let believed = self.summary.v1_allowed() && believe_v1(&mut self.window, at, &frame)?;
                Ok(believed.then_some(frame).ok_or(Fault::Legacy))
            }
            looked => Ok(looked),
        }
    }

    fn take(&mut self, at: u64, frame: &Frame) -> Result<(), Halt> {
        let term = if frame.is_legacy() {
            let payload = at + frame.layout.header() as u64;
            term_of_payload(self.window.get(payload, frame.payload_len as usize)?)
        } else {
            frame.term
        };
        let tail_crc = u32_at(self.window.get(at + frame.len() - 4, 4)?, 0) as u32;
        self.push(at, frame, term, tail_crc);
        Ok(())
    }

    #[inline]
    fn push(&mut self, at: u64, frame: &Frame, term: u64, tail_crc: u32) {
        if self.options.mark.is_some_and(|mark| frame.lsn > mark) {
            self.marked.get_or_insert(at);
        }
        self.summary.push(frame, term, tail_crc);
    }

    /// Whether the file begins with neither the magic, or its beginning, nor a zero.
    fn strange_start(&mut self) -> Result<bool, Halt> {
        let len = self.window.end().min(MAGIC.len() as u64) as usize;
        let start = self.window.get(0, len)?;
        Ok(!MAGIC.starts_with(start) && start.first() != Some(&0))
    }
}

#[cfg(test)]
mod tests;
