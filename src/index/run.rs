//! Frames that follow each other somewhere in a segment, found before it is known what stands before them.

use super::{Checkpoint, INTERVAL, Summary};
use crate::frame::Frame;

/// Frames of the layout that is written today, their LSNs strictly increasing.
#[derive(Debug, Default)]
pub struct Run {
    /// Where the first begins.
    pub start: u64,
    /// Where the last ends.
    pub end: u64,
    /// LSN of each, and how far from the start it begins.
    places: Vec<(u64, u64)>,
    highest_term: u64,
    last_term: u64,
    unstamped: bool,
    tail_crc: u32,
}

impl Run {
    /// No frame yet, at the place where the first is to begin.
    pub fn at(start: u64) -> Self {
        Self { start, end: start, ..Self::default() }
    }

    /// The same frames at another place.
    pub fn move_to(&mut self, start: u64) {
        self.end = start + (self.end - self.start);
        self.start = start;
    }

    /// Takes in the frame at the end of the run. `tail_crc` is its last four bytes.
    pub fn push(&mut self, frame: &Frame, tail_crc: u32) {
        self.places.push((frame.lsn, self.end - self.start));
        self.end += frame.len();
        self.highest_term = self.highest_term.max(frame.term);
        self.last_term = frame.term;
        self.unstamped |= frame.timestamp_ms == 0;
        self.tail_crc = tail_crc;
    }

    /// Whether it holds no frame.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many frames it holds.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// LSN of the last.
    pub fn last_lsn(&self) -> Option<u64> {
        self.places.last().map(|(lsn, _)| *lsn)
    }

    /// Begins anew at 0, with the memory for so many frames at most.
    pub fn clear(&mut self, kept: usize) {
        if self.end > 0 {
            let mut places = std::mem::take(&mut self.places);
            places.clear();
            places.shrink_to(kept);
            *self = Self { places, ..Self::default() };
        }
    }

    /// Where the first frame above `lsn` begins.
    pub fn above(&self, lsn: u64) -> Option<u64> {
        let first = self.places.partition_point(|(each, _)| *each <= lsn);
        self.places.get(first).map(|(_, offset)| self.start + *offset)
    }
}

impl Summary {
    /// Whether a scan that has come to the start of `run` would find the very frames of it.
    pub fn continues(&self, run: &Run) -> bool {
        let before = self.before();
        run.start == self.valid_bytes && !before.wide && run.places.first().is_some_and(|(lsn, _)| *lsn > before.lsn)
    }

    /// Takes in all frames of a run behind the prefix, whose LSNs are above its own. What is in order stays so.
    pub fn extend(&mut self, run: &Run) {
        let (Some((first, _)), Some((last, _))) = (run.places.first(), run.places.last()) else { return };
        debug_assert!(run.start == self.valid_bytes && *first > self.before().lsn, "the caller has made sure");
        let skip = self.records.next_multiple_of(INTERVAL) - self.records;
        let mut at = skip as usize;
        while let Some((lsn, offset)) = run.places.get(at) {
            self.index.push(Checkpoint { lsn: *lsn, offset: run.start + *offset, wide: false });
            at += INTERVAL as usize;
        }
        self.records += run.places.len() as u64;
        self.valid_bytes = run.end;
        self.first_lsn.get_or_insert(*first);
        self.last_lsn = Some(*last);
        self.highest_lsn = self.highest_lsn.max(*last);
        self.highest_term = self.highest_term.max(run.highest_term);
        self.last_term = run.last_term;
        self.reframe |= run.unstamped;
        self.last_wide = false;
        self.tail_crc = run.tail_crc;
    }
}
