//! A range of a file → records. Every frame is verified; one that is bad is an error, never an end.

mod frames;

pub use frames::Frames;

use std::ops::Range;
use std::sync::Arc;

use crate::change::term_of_payload;
use crate::error::{CoreError, Result};
use crate::file::File;
use crate::frame::{Before, Fault, Frame, Layout, Source, TRAILER, look, plain, v1_ends_well};
use crate::index::{Checkpoint, Index, Summary};
use crate::scan::ScanReport;

/// Bytes of the first read, so that a look at one record stays cheap; from a checkpoint on, as many as that takes.
const FIRST_STEP: usize = 32 << 10;
const SHORTEST_STEP: usize = 4 << 10;
/// Bytes of a read once it goes on and on.
const FULL_STEP: usize = 128 << 10;

/// One record of a chunk.
#[derive(Debug, Clone, Copy)]
pub struct Record {
    /// Its frame.
    pub frame: Frame,
    /// Its term; what its payload says where the frame has none.
    pub term: u64,
    /// Where its frame begins, within the chunk.
    pub at: usize,
}

/// Bytes of the file, and the records in them.
#[derive(Debug, Default)]
pub struct Chunk {
    bytes: Vec<u8>,
    records: Vec<Record>,
    /// Where the bytes begin in the file.
    offset: u64,
}

impl Chunk {
    /// The records.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The payload of one of its records.
    pub fn payload(&self, record: &Record) -> &[u8] {
        let start = record.at + record.frame.layout.header();
        &self.bytes[start..start + record.frame.payload_len as usize]
    }

    /// The whole frame of one of its records.
    pub fn frame(&self, record: &Record) -> &[u8] {
        &self.bytes[record.at..record.at + record.frame.len() as usize]
    }
}

/// Where a reader stands.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    next: u64,
    before: Before,
    last_lsn: u64,
}

/// Reads the records above an LSN, in file order.
#[derive(Debug, Clone)]
pub struct Reader {
    file: Arc<File>,
    end: u64,
    since_lsn: u64,
    v1_bytes: u64,
    highest_lsn: u64,
    base_lsn: u64,
    /// The index of the file, by which it is known again.
    index: Arc<Index>,
    /// Where the bytes that are not decoded yet begin.
    next: u64,
    before: Before,
    /// The last LSN read, or the one to start behind.
    last_lsn: u64,
    step: usize,
    chunk: Arc<Chunk>,
    cursor: usize,
    /// Bytes of the chunk that are decoded; those behind are read ahead.
    decoded: usize,
}

impl Reader {
    /// Reads records above `since_lsn` up to `end` (the end of the valid prefix by default), as `report` knows the file.
    pub fn new(file: Arc<File>, report: &ScanReport, since_lsn: u64, end: Option<u64>) -> Self {
        let summary = &report.summary;
        let end = end.unwrap_or(summary.valid_bytes);
        let mut before = Before { wide: false, lsn: summary.base_lsn };
        let mut next = 0;
        let mut step = FIRST_STEP;
        if summary.ordered
            && let Some((checkpoint, behind)) = summary.index.seek_span(since_lsn)
        {
            next = checkpoint.offset;
            step = behind.map_or(FIRST_STEP, |behind| bytes_to(since_lsn, checkpoint, behind));
            let layout = if checkpoint.wide { Layout::Wide } else { Layout::V3 };
            before = Before::known(layout, checkpoint.lsn);
        }
        if since_lsn >= summary.highest_lsn {
            next = end;
            before = summary.before(); // what it goes on behind once there is more
        }
        Self {
            file,
            end,
            since_lsn,
            v1_bytes: summary.v1_bytes,
            highest_lsn: summary.highest_lsn,
            base_lsn: summary.base_lsn,
            index: Arc::clone(&summary.index),
            next,
            before,
            last_lsn: since_lsn,
            step,
            chunk: Arc::default(),
            cursor: 0,
            decoded: 0,
        }
    }

    /// Where the next record to be returned begins (or one that is to be skipped).
    pub fn offset(&self) -> u64 {
        self.chunk.records.get(self.cursor).map_or(self.next, |record| self.chunk.offset + record.at as u64)
    }

    /// Bytes from there to the end.
    pub fn left(&self) -> u64 {
        self.end.saturating_sub(self.offset())
    }

    /// Whether everything up to the end was read and returned.
    pub fn is_done(&self) -> bool {
        self.cursor >= self.chunk.records.len() && self.next >= self.end
    }

    /// Lets it go on to the end of what `summary` knows by now, if that is of the same file; false if not.
    pub fn extend(&mut self, summary: &Summary) -> bool {
        let same = Arc::ptr_eq(&self.index, &summary.index);
        if same {
            self.end = self.end.max(summary.valid_bytes);
            self.highest_lsn = summary.highest_lsn;
        }
        same
    }

    /// The highest LSN before the file.
    pub fn base_lsn(&self) -> u64 {
        self.base_lsn
    }

    /// `next_run`, if it needs no reading.
    pub fn ready_run(&mut self, max_count: usize, max_bytes: u64) -> Option<(Arc<Chunk>, Range<usize>)> {
        if self.cursor >= self.chunk.records.len() { None } else { self.take_run(max_count, max_bytes, true) }
    }

    /// The next records that lie together: at most `max_count`, and not more than `max_bytes` of payload, but at least
    /// one if `first` is set. `None` at the end or when nothing fits.
    pub fn next_run(
        &mut self,
        max_count: usize,
        max_bytes: u64,
        first: bool,
    ) -> Result<Option<(Arc<Chunk>, Range<usize>)>> {
        Ok(if max_count > 0 && self.fill(max_count)? { self.take_run(max_count, max_bytes, first) } else { None })
    }

    /// `next_run` for one who will go on and on: more is decoded than is returned.
    pub fn long_run(&mut self, max_count: usize, max_bytes: u64) -> Result<Option<(Arc<Chunk>, Range<usize>)>> {
        Ok(if self.fill(usize::MAX)? { self.take_run(max_count, max_bytes, true) } else { None })
    }

    fn take_run(&mut self, max_count: usize, max_bytes: u64, first: bool) -> Option<(Arc<Chunk>, Range<usize>)> {
        let start = self.cursor;
        let mut bytes = 0;
        for record in self.chunk.records[start..].iter().take(max_count) {
            bytes += record.frame.payload_len;
            if bytes > max_bytes && !(first && self.cursor == start) {
                break;
            }
            self.cursor += 1;
        }
        (self.cursor > start).then(|| (Arc::clone(&self.chunk), start..self.cursor))
    }

    /// Where the reader stands, to go back to.
    pub fn place(&self) -> Place {
        let Some(record) = self.chunk.records.get(self.cursor) else {
            return Place { next: self.next, before: self.before, last_lsn: self.last_lsn };
        };
        let before = Before::known(record.frame.layout, record.frame.lsn);
        Place { next: self.chunk.offset + record.at as u64, before, last_lsn: before.lsn }
    }

    /// Goes back to where the reader stood.
    pub fn go_back(&mut self, place: Place) {
        Place { next: self.next, before: self.before, last_lsn: self.last_lsn } = place;
        self.chunk = Arc::default();
        self.cursor = 0;
        self.decoded = 0;
    }

    /// A chunk of one's own that begins with what is read ahead; for one who has taken all records of the last.
    fn next_chunk(&mut self) -> Arc<Chunk> {
        let mut chunk = std::mem::take(&mut self.chunk);
        let decoded = std::mem::take(&mut self.decoded);
        self.cursor = 0;
        // One that somebody still holds is left to them.
        match Arc::get_mut(&mut chunk) {
            Some(own) if own.bytes.capacity() <= 2 * FULL_STEP => {
                own.records.clear();
                own.bytes.drain(..decoded);
                chunk
            }
            _ => Arc::new(Chunk { bytes: chunk.bytes[decoded..].to_vec(), ..Chunk::default() }),
        }
    }

    /// Makes sure that there is a next record in the chunk, of at most `enough`; false at the end.
    fn fill(&mut self, enough: usize) -> Result<bool> {
        while self.cursor >= self.chunk.records.len() {
            if self.next >= self.end {
                return Ok(false);
            }
            let mut chunk = self.next_chunk();
            self.decoded = self.decode(Arc::get_mut(&mut chunk).expect("nobody else holds it"), enough)?;
            self.chunk = chunk;
            self.step = (self.step * 2).min(FULL_STEP);
        }
        Ok(true)
    }

    /// Reads on, and decodes as many whole frames as there are in what was read, at least one, but no more than `enough`.
    /// How many bytes they have.
    fn decode(&mut self, chunk: &mut Chunk, enough: usize) -> Result<usize> {
        chunk.offset = self.next;
        let mut want = self.step;
        let start = self.next;
        loop {
            let limit = self.read_to(&mut chunk.bytes, start, want)?;
            while chunk.records.len() < enough
                && let Some((frame, _)) = plain(&chunk.bytes[(self.next - start) as usize..], self.before)
            {
                self.take(chunk, frame);
            }
            if chunk.records.len() >= enough {
                break;
            }
            match self.frame_in(&chunk.bytes, start, limit) {
                Ok(Ok(frame)) => self.take(chunk, frame),
                // What is bad or not whole is met again once the good frames before it are gone.
                Ok(Err(_)) | Err(_) if self.next > start => break,
                Ok(Err(fault)) if limit == self.end => return Err(self.corrupt(fault.to_string())),
                Ok(Err(_)) => return Err(self.corrupt(format!("the file ends at {limit}, before {}", self.end))),
                Err(Short(len)) => want = len,
            }
        }
        Ok((self.next - start) as usize)
    }

    /// Reads until there are `want` bytes or the end is reached. Where that is: earlier if the file has become shorter.
    fn read_to(&self, bytes: &mut Vec<u8>, start: u64, want: usize) -> Result<u64> {
        let want = (want as u64).min(self.end - start) as usize;
        let missing = want.saturating_sub(bytes.len());
        if missing == 0 {
            return Ok(self.end);
        }
        let got = self.file.read_into(bytes, missing, start + bytes.len() as u64)?;
        Ok(if got < missing { start + bytes.len() as u64 } else { self.end })
    }

    fn frame_in(&self, bytes: &[u8], start: u64, end: u64) -> Result<Result<Frame, Fault>, Short> {
        let mut view = View { bytes, start, end };
        match look(&mut view, self.next, self.before)? {
            // The scan has judged it; all that can be told again is whether its length is still right.
            Ok(frame) if frame.layout == Layout::V1 => {
                view.get(self.next, frame.len() as usize)?;
                let fits = self.next < self.v1_bytes && v1_ends_well(&mut view, self.next + frame.len())?;
                Ok(fits.then_some(frame).ok_or(Fault::Legacy))
            }
            looked => Ok(looked),
        }
    }

    fn take(&mut self, chunk: &mut Chunk, frame: Frame) {
        let mut record = Record { frame, term: frame.term, at: (self.next - chunk.offset) as usize };
        if frame.is_legacy() {
            record.term = term_of_payload(chunk.payload(&record));
        }
        if frame.lsn > self.since_lsn {
            chunk.records.push(record);
            self.last_lsn = frame.lsn;
        }
        self.before = Before::next(&frame);
        self.next += frame.len();
    }

    fn corrupt(&self, reason: String) -> CoreError {
        CoreError::Corrupt {
            reason,
            offset: Some(self.next),
            first_lsn: Some(self.last_lsn.saturating_add(1)),
            last_lsn: Some(self.highest_lsn),
        }
    }
}

/// About how many bytes lie from `checkpoint` to behind the record after `since_lsn`, if all up to the next are alike.
fn bytes_to(since_lsn: u64, checkpoint: Checkpoint, next: Checkpoint) -> usize {
    let each = (next.offset - checkpoint.offset) / (next.lsn - checkpoint.lsn) + 1;
    let bytes = each.saturating_mul((since_lsn - checkpoint.lsn).saturating_add(2));
    bytes.clamp(SHORTEST_STEP as u64, FIRST_STEP as u64) as usize
}

/// More bytes are needed: that many from the start of the view.
struct Short(usize);

/// The part of a file that was read.
struct View<'a> {
    bytes: &'a [u8],
    start: u64,
    end: u64,
}

impl Source for View<'_> {
    type Error = Short;

    fn end(&self) -> u64 {
        self.end
    }

    #[inline]
    fn get(&mut self, at: u64, len: usize) -> Result<&[u8], Short> {
        let from = (at - self.start) as usize;
        self.bytes.get(from..from + len).ok_or(Short(from + len))
    }

    #[inline]
    fn crc(&mut self, at: u64, len: usize) -> Result<u32, Short> {
        // The stored checksum behind them is needed next, so both are asked for at once.
        self.get(at, len + TRAILER).map(|bytes| crc32fast::hash(&bytes[..len]))
    }

    fn zeros_from(&mut self, _: u64) -> Result<bool, Short> {
        // What is read was found valid, so no zeros trail in it.
        Ok(false)
    }
}

#[cfg(test)]
mod tests;
