//! A range of a file → raw frames, as replication ships them.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{Chunk, Reader};
use crate::error::Result;
use crate::frame::{self, Before, Frame, HEADER, TRAILER, plain, plain_header};

/// Bytes of one read: they are checked while they are still in the cache.
const STEP: usize = 128 << 10;
/// The longest buffer that is kept.
const KEPT: usize = 2 << 20;
/// So many are: one is read into while the one before is still looked at.
const SPARES: usize = 2;

/// The last buffers, for whoever reads next: a new one each time would be new to the processor's tables, page by page.
static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Whole version 3 frames in one buffer.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
    /// Where the frames begin in it.
    begin: usize,
    /// How many.
    pub records: u64,
    /// LSN of the first; `None` without records.
    pub first_lsn: Option<u64>,
    /// LSN of the last; `None` without records.
    pub last_lsn: Option<u64>,
}

impl Frames {
    /// The frames.
    pub fn data(&self) -> &[u8] {
        &self.buffer[self.begin..]
    }

    /// Moves to memory of their own where more was read on the way to them: who keeps them would keep that, too.
    fn leave_what_was_passed(&mut self) {
        if self.begin > self.data().len() {
            let buffer = self.data().to_vec();
            let begin = std::mem::take(&mut self.begin);
            drop(Self { buffer: std::mem::replace(&mut self.buffer, buffer), begin, ..Self::default() });
        }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        if (1..=KEPT).contains(&self.buffer.capacity())
            && let Some(mut spare) = SPARE.try_lock()
            && spare.len() < SPARES
        {
            spare.push(std::mem::take(&mut self.buffer));
        }
    }
}

impl Reader {
    /// The next frames as version 3, up to `max_bytes` of them, but at least one if there is one.
    pub fn read_frames(&mut self, max_bytes: u64) -> Result<Frames> {
        let (mut frames, full) = self.plain_frames(max_bytes)?;
        while !full && self.fill(usize::MAX)? {
            for record in &self.chunk.records[self.cursor..] {
                let len = HEADER as u64 + record.frame.payload_len + TRAILER as u64;
                if frames.records > 0 && frames.data().len() as u64 + len > max_bytes {
                    return Ok(frames);
                }
                if record.frame.is_v3() {
                    frames.buffer.extend_from_slice(self.chunk.frame(record));
                } else {
                    let Frame { lsn, timestamp_ms, .. } = record.frame;
                    frame::encode(&mut frames.buffer, record.term, lsn, timestamp_ms, self.chunk.payload(record));
                }
                frames.records += 1;
                frames.first_lsn.get_or_insert(record.frame.lsn);
                frames.last_lsn = Some(record.frame.lsn);
                self.cursor += 1;
            }
        }
        Ok(frames)
    }

    /// The next frames, as far as they lie there as they are to be returned, read straight into what is returned; and
    /// whether what follows them no longer fits.
    fn plain_frames(&mut self, max_bytes: u64) -> Result<(Frames, bool)> {
        let mut frames = Frames::default();
        if self.cursor < self.chunk.records.len() {
            return Ok((frames, false));
        }
        let start = self.next;
        let ahead = self.next_chunk();
        let mut data = SPARE.try_lock().and_then(|mut spare| spare.pop()).unwrap_or_default();
        data.clear();
        data.extend_from_slice(&ahead.bytes);
        let (mut begin, mut end) = (0_usize, 0);
        let mut full = false;
        loop {
            let most = begin.saturating_add(usize::try_from(max_bytes).unwrap_or(usize::MAX)).saturating_add(HEADER);
            self.read_some(&mut data, start, end, HEADER, most)?;
            let Some(frame) = plain_header(&data[end..], self.before) else { break };
            let len = frame.len() as usize;
            if frames.records > 0 && (end + len - begin) as u64 > max_bytes {
                full = true;
                break;
            }
            self.read_some(&mut data, start, end, len, most)?;
            if plain(&data[end..], self.before).is_none() {
                break;
            }
            end += len;
            self.before = Before::next(&frame);
            if frame.lsn <= self.since_lsn {
                begin = end;
                continue;
            }
            frames.records += 1;
            frames.first_lsn.get_or_insert(frame.lsn);
            frames.last_lsn = Some(frame.lsn);
            self.last_lsn = frame.lsn;
        }
        self.next = start + end as u64;
        self.chunk = Arc::new(Chunk { bytes: data[end..].to_vec(), ..Chunk::default() });
        data.truncate(end);
        (frames.buffer, frames.begin) = (data, begin);
        frames.leave_what_was_passed();
        Ok((frames, full))
    }

    /// Makes sure that `data`, the bytes from `start` on, holds `len` from `at` on, if there are as many: by a whole step,
    /// as long as that is not past `most`.
    fn read_some(&self, data: &mut Vec<u8>, start: u64, at: usize, len: usize, most: usize) -> Result<()> {
        if data.len() < at + len {
            self.read_to(data, start, (at + len).max(most.min(at + STEP)))?;
        }
        Ok(())
    }
}
