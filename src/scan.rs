//! One read-only pass over a file: its valid prefix, the index over it, and the evidence for a verdict on what follows.

mod ahead;
mod behind;
mod window;

pub use behind::Behind;

use std::thread::{self, available_parallelism};

use ahead::Ahead;
use window::{Halt, Window};

use crate::change::term_of_payload;
use crate::error::Result;
use crate::file::File;
use crate::frame::{Fault, Frame, Layout, MAGIC, Source, believe_v1, look, plain, u32_at};
use crate::index::{Run, Summary};

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

/// Bytes that one thread scans while another scans the next.
const PART: u64 = 1 << 20;
/// Bytes from which on a second thread is worth its start.
const LARGE: u64 = 16 * PART;

/// Scans `file`, a large one with a second thread where there is a processor for it. An error of the system is returned
/// as such, never taken for damage.
pub fn scan_file(file: &File, options: Options) -> Result<ScanReport> {
    let file_bytes = file.size()?;
    let known = options.resume.as_ref().map_or(0, |report| report.summary.valid_bytes);
    let large = file_bytes.saturating_sub(known) >= LARGE;
    let two = large && available_parallelism().is_ok_and(|count| count.get() > 1);
    scan(file, file_bytes, options, two.then_some(PART))
}

/// Scans `file` with a second thread that scans every other `part` bytes ahead. The report is the same as of one.
pub fn scan_in_parts(file: &File, options: Options, part: u64) -> Result<ScanReport> {
    scan(file, file.size()?, options, Some(part))
}

fn scan(file: &File, file_bytes: u64, options: Options, part: Option<u64>) -> Result<ScanReport> {
    let summary = match &options.resume {
        Some(report) => report.summary.clone(),
        None => Summary::new(options.base_lsn),
    };
    let marked = match (&options.resume, options.mark) {
        (Some(report), Some(mark)) if report.summary.highest_lsn > mark => Some(report.marked_bytes),
        _ => None,
    };
    thread::scope(|scope| {
        let start = summary.valid_bytes;
        let ahead = part.map_or_else(Ahead::nothing, |part| Ahead::start(scope, file, start, file_bytes, part));
        let mut pass = Pass { window: Window::new(file, file_bytes), summary, options, marked, ahead };
        loop {
            match pass.run() {
                Ok(report) => return Ok(report),
                Err(Halt::Error(error)) => return Err(error),
                Err(Halt::Shrunk(end)) => pass.window.shrink(end),
            }
        }
    })
}

/// A scan under way.
struct Pass<'a> {
    window: Window<'a>,
    summary: Summary,
    options: Options,
    marked: Option<u64>,
    ahead: Ahead,
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
            if let Some(run) = self.ahead.part_at(at)
                && run.end <= self.window.end()
                && run.above(until).is_none()
                && self.summary.continues(&run)
            {
                self.extend(&run);
                continue;
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

    fn extend(&mut self, run: &Run) {
        if let Some(at) = self.options.mark.and_then(|mark| run.above(mark)) {
            self.marked.get_or_insert(at);
        }
        self.summary.extend(run);
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
