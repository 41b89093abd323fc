//! LSN → offset, sparsely: one checkpoint for every 64th record of a segment. And what is known of a segment's valid
//! prefix, which grows with every record that is read or written.

mod run;
mod sidecar;

pub use run::Run;
pub use sidecar::Sidecar;

use std::sync::Arc;

use parking_lot::RwLock;

use crate::frame::{Before, Frame, Layout};

/// Records from one checkpoint to the next.
pub const INTERVAL: u64 = 64;

/// Where one record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its LSN.
    pub lsn: u64,
    /// Where its frame begins.
    pub offset: u64,
    /// Whether its frame is wide.
    pub wide: bool,
}

/// The checkpoints of one segment, shared by its writer and its readers. It only ever grows.
#[derive(Debug, Default)]
pub struct Index {
    checkpoints: RwLock<Vec<Checkpoint>>,
}

impl Index {
    /// An index of these checkpoints.
    pub fn new(checkpoints: Vec<Checkpoint>) -> Self {
        Self { checkpoints: RwLock::new(checkpoints) }
    }

    /// Adds a checkpoint, unless its LSN is not above the last one's.
    pub fn push(&self, checkpoint: Checkpoint) {
        let mut checkpoints = self.checkpoints.write();
        if checkpoints.last().is_none_or(|last| last.lsn < checkpoint.lsn) {
            checkpoints.push(checkpoint);
        }
    }

    /// The last checkpoint at or below `since_lsn`.
    pub fn seek(&self, since_lsn: u64) -> Option<Checkpoint> {
        self.seek_span(since_lsn).map(|(checkpoint, _)| checkpoint)
    }

    /// The last checkpoint at or below `since_lsn`, and the next one.
    pub fn seek_span(&self, since_lsn: u64) -> Option<(Checkpoint, Option<Checkpoint>)> {
        let checkpoints = self.checkpoints.read();
        let above = checkpoints.partition_point(|checkpoint| checkpoint.lsn <= since_lsn);
        let last = checkpoints[..above].last()?;
        Some((*last, checkpoints.get(above).copied()))
    }

    /// A copy of all checkpoints.
    pub fn checkpoints(&self) -> Vec<Checkpoint> {
        self.checkpoints.read().clone()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.checkpoints.read().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What is known of the valid prefix of one segment. Clones share the index.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Records in it.
    pub records: u64,
    /// Where it ends.
    pub valid_bytes: u64,
    /// The highest LSN before this segment.
    pub base_lsn: u64,
    /// LSN of the first record in file order; `None` without records.
    pub first_lsn: Option<u64>,
    /// LSN of the last record in file order; `None` without records.
    pub last_lsn: Option<u64>,
    /// The highest LSN, `base_lsn` included.
    pub highest_lsn: u64,
    /// The highest term; 0 without records.
    pub highest_term: u64,
    /// The last record's term; 0 without records.
    pub last_term: u64,
    /// Whether LSNs strictly increase, from `base_lsn` on.
    pub ordered: bool,
    /// Whether a record is there that a prune must write anew: a legacy or wide one, or one without a timestamp.
    pub reframe: bool,
    /// Where the leading run of version 1 frames ends. Such a frame behind it is damage.
    pub v1_bytes: u64,
    /// Whether the last frame is wide.
    pub last_wide: bool,
    /// The last four bytes of the prefix as a number; 0 when it is empty.
    pub tail_crc: u32,
    /// Its checkpoints.
    pub index: Arc<Index>,
}

impl Summary {
    /// Nothing read yet, of a segment before which `base_lsn` is the highest LSN.
    pub fn new(base_lsn: u64) -> Self {
        Self {
            records: 0,
            valid_bytes: 0,
            base_lsn,
            first_lsn: None,
            last_lsn: None,
            highest_lsn: base_lsn,
            highest_term: 0,
            last_term: 0,
            ordered: true,
            reframe: false,
            v1_bytes: 0,
            last_wide: false,
            tail_crc: 0,
            index: Arc::default(),
        }
    }

    /// Takes in the frame at the end of the prefix. `term` is its effective term, `tail_crc` its last four bytes.
    pub fn push(&mut self, frame: &Frame, term: u64, tail_crc: u32) {
        let wide = frame.layout == Layout::Wide;
        if self.records.is_multiple_of(INTERVAL) {
            self.index.push(Checkpoint { lsn: frame.lsn, offset: self.valid_bytes, wide });
        }
        if frame.layout == Layout::V1 {
            self.v1_bytes = self.valid_bytes + frame.len();
        }
        self.records += 1;
        self.valid_bytes += frame.len();
        self.first_lsn.get_or_insert(frame.lsn);
        self.last_lsn = Some(frame.lsn);
        self.ordered &= frame.lsn > self.highest_lsn;
        self.highest_lsn = self.highest_lsn.max(frame.lsn);
        self.highest_term = self.highest_term.max(term);
        self.last_term = term;
        self.reframe |= !frame.is_v3() || frame.timestamp_ms == 0;
        self.last_wide = wide;
        self.tail_crc = tail_crc;
    }

    /// What stands before the next frame.
    pub fn before(&self) -> Before {
        Before { wide: self.last_wide, lsn: self.last_lsn.unwrap_or(self.base_lsn) }
    }

    /// Whether a version 1 frame at the end of the prefix could be genuine.
    pub fn v1_allowed(&self) -> bool {
        self.v1_bytes == self.valid_bytes
    }
}

#[cfg(test)]
mod tests;
