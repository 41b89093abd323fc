//! What gathers between two flushes, and what decides whether a record may join it.

use crate::error::{CoreError, Result};
use crate::frame::{self, Frame, HEADER, Layout, TRAILER, u32_at};
use crate::index::Run;

/// Frames of one flush together; a larger frame goes alone. Fixed by the format: recovery reckons with it.
pub const MAX_BATCH_BYTES: usize = 4 << 20;
/// A buffer that grew past this is not kept for the next batch.
const KEPT_BYTES: usize = 2 * MAX_BATCH_BYTES;

/// Whole frames that one sync makes durable.
#[derive(Debug, Default)]
pub struct Batch {
    /// What of the frames is already in the file: `bytes` come behind it.
    pub ahead: Option<Ahead>,
    /// The frames that are to be written.
    pub bytes: Vec<u8>,
    /// What is known of all of them once they are durable: noted while their bytes are at hand.
    pub run: Run,
}

/// The part of a batch that was written before its flush.
#[derive(Debug, Clone, Copy)]
pub struct Ahead {
    /// Bytes of it.
    pub count: u64,
    /// Bytes of the file before it.
    pub size: u64,
}

impl Batch {
    /// Bytes of all its frames.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.ahead.map_or(0, |ahead| ahead.count as usize)
    }

    /// Whether `len` more bytes may join.
    pub fn fits(&self, len: usize) -> bool {
        self.run.is_empty() || self.len() + len <= MAX_BATCH_BYTES
    }

    /// Empties it, and lets go of an exceptionally large buffer.
    pub fn clear(&mut self) {
        self.ahead = None;
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.run.clear(KEPT_BYTES / (HEADER + TRAILER));
    }

    /// Adds the frame of `part`.
    pub fn add<P: Part>(&mut self, part: &P, position: Position) {
        let start = self.bytes.len();
        part.write(position, &mut self.bytes);
        let written = &self.bytes[start..];
        let frame = Frame::header(written, Layout::V3).expect("a part writes a whole frame");
        self.run.push(&frame, u32_at(written, written.len() - TRAILER) as u32);
    }
}

/// Where appends stand: what the next record must be above, and whether there may be one.
#[derive(Debug, Default)]
pub struct Admission {
    /// The highest LSN given away so far, durable or on its way.
    pub lsn: u64,
    /// The term of the next record must not be below this.
    pub term: u64,
    /// The term of the next record must be above this, unless it comes as a frame of another log.
    pub fence: Option<u64>,
    /// Durable bytes of the file.
    pub end: u64,
    /// Whether they hold a record.
    pub occupied: bool,
    /// When the file is full.
    pub segment_bytes: Option<u64>,
    /// Whether the file takes no more.
    pub sealed: bool,
    /// Whether there is nothing to append to any more.
    pub closed: bool,
    /// Why nothing may be written any more.
    pub poisoned: Option<String>,
}

impl Admission {
    /// Whether anything can be appended at all.
    pub fn open(&self) -> Result<()> {
        if self.closed {
            return Err(CoreError::Closed);
        }
        self.poisoned.as_ref().map_or(Ok(()), |reason| Err(CoreError::Poisoned { reason: reason.clone() }))
    }

    /// Whether the next record belongs into another file.
    pub fn full(&self) -> bool {
        self.sealed || (self.occupied && self.segment_bytes.is_some_and(|limit| self.end >= limit))
    }

    /// The position of the next record.
    pub fn position(&self) -> Position {
        Position { lsn: self.lsn, term: self.term, fence: self.fence }
    }

    /// Gives the positions up to `position` away.
    pub fn advance(&mut self, position: Position) {
        self.lsn = position.lsn;
        self.term = position.term;
    }
}

/// A place in the order of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Strictly increases.
    pub lsn: u64,
    /// Never decreases.
    pub term: u64,
    /// A log of own records has a term above it.
    pub fence: Option<u64>,
}

impl Position {
    /// The position of `part`, right or not.
    #[must_use]
    pub fn of<P: Part>(self, part: &P) -> Self {
        Self { lsn: part.lsn().unwrap_or(self.lsn.saturating_add(1)), term: part.term().unwrap_or(self.term), ..self }
    }

    /// The position of `part`, if it may come after this one.
    pub fn next<P: Part>(self, part: &P) -> Result<Self> {
        let Self { lsn, term, fence } = self.of(part);
        if lsn <= self.lsn {
            return Err(CoreError::LsnOrder { lsn, last_lsn: self.lsn, index: None });
        }
        if term < self.term {
            return Err(CoreError::StaleTerm { term, current_term: self.term, index: None });
        }
        // no record lifts it, whatever its term: only being promoted does
        if let Some(fence) = fence.filter(|fence| P::OWN && self.term <= *fence) {
            return Err(CoreError::StaleTerm { term: self.term, current_term: fence, index: None });
        }
        Ok(Self { lsn, term, fence })
    }

    /// Whether all `parts` may come after this one, in order; an error says which of them not, counting from `base`.
    pub fn check<P: Part>(self, parts: &[P], base: Option<usize>) -> Result<()> {
        let mut position = self;
        for (place, part) in parts.iter().enumerate() {
            position = position.next(part).map_err(|error| match base {
                Some(base) => error.at_index(base + place),
                None => error,
            })?;
        }
        Ok(())
    }
}

/// Something that becomes one frame.
pub trait Part {
    /// Whether it is made here, not shipped from another log.
    const OWN: bool;
    /// Its LSN; `None` for the next.
    fn lsn(&self) -> Option<u64>;
    /// Its term; `None` for the current one.
    fn term(&self) -> Option<u64>;
    /// Bytes of its frame.
    fn frame_len(&self) -> usize;
    /// Adds its frame.
    fn write(&self, position: Position, batch: &mut Vec<u8>);
}

/// A record to be encoded. Its payload can't change meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    lsn: Option<u64>,
    term: Option<u64>,
    timestamp_ms: u64,
    payload: &'a [u8],
}

impl<'a> Record<'a> {
    /// A term that is not given is that of a payload which is a change record and says one.
    pub fn new(lsn: Option<u64>, term: Option<u64>, timestamp_ms: u64, payload: &'a [u8]) -> Self {
        let change = || crate::change::change_term(payload).filter(|change| change.given).map(|change| change.term);
        Self { lsn, term: term.or_else(change), timestamp_ms, payload }
    }
}

impl Part for Record<'_> {
    const OWN: bool = true;

    fn lsn(&self) -> Option<u64> {
        self.lsn
    }

    fn term(&self) -> Option<u64> {
        self.term
    }

    fn frame_len(&self) -> usize {
        HEADER + self.payload.len() + TRAILER
    }

    fn write(&self, position: Position, batch: &mut Vec<u8>) {
        frame::encode(batch, position.term, position.lsn, self.timestamp_ms, self.payload);
    }
}
