//! A range of a file → raw frames, as replication ships them.

use std::sync::Arc;

use super::{Chunk, Reader};
use crate::error::Result;
use crate::frame::{self, Before, Frame, HEADER, TRAILER, plain, plain_header};

/// Whole version 3 frames in one buffer.
#[derive(Debug, Default)]
pub struct Frames {
    /// The frames.
    pub data: Vec<u8>,
    /// How many.
    pub records: u64,
    /// LSN of the first; `None` without records.
    pub first_lsn: Option<u64>,
    /// LSN of the last; `None` without records.
    pub last_lsn: Option<u64>,
}

impl Reader {
    /// The next frames as version 3, up to `max_bytes` of them, but at least one if there is one.
    pub fn read_frames(&mut self, max_bytes: u64) -> Result<Frames> {
        let (mut frames, full) = self.plain_frames(max_bytes)?;
        while !full && self.fill(usize::MAX)? {
            for record in &self.chunk.records[self.cursor..] {
                let len = HEADER as u64 + record.frame.payload_len + TRAILER as u64;
                if frames.records > 0 && frames.data.len() as u64 + len > max_bytes {
                    return Ok(frames);
                }
                if record.frame.is_v3() {
                    frames.data.extend_from_slice(self.chunk.frame(record));
                } else {
                    let Frame { lsn, timestamp_ms, .. } = record.frame;
                    frame::encode(&mut frames.data, record.term, lsn, timestamp_ms, self.chunk.payload(record));
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
        let mut chunk = self.next_chunk();
        let mut data = std::mem::take(&mut Arc::get_mut(&mut chunk).expect("nobody else holds it").bytes);
        self.read_to(&mut data, start, usize::try_from(max_bytes.saturating_add(HEADER as u64)).unwrap_or(usize::MAX))?;
        let (mut begin, mut end) = (0, 0);
        let mut full = false;
        while let Some(frame) = self.plain_header(&mut data, start, end)? {
            let len = frame.len() as usize;
            if frames.records > 0 && (end + len - begin) as u64 > max_bytes {
                full = true;
                break;
            }
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
        data.drain(..begin);
        frames.data = data;
        Ok((frames, full))
    }

    /// What the header at `at` in `data`, the bytes from `start` on, says of a frame that is laid out as the one before.
    fn plain_header(&self, data: &mut Vec<u8>, start: u64, at: usize) -> Result<Option<Frame>> {
        if data.len() < at + HEADER {
            self.read_to(data, start, at + HEADER)?;
        }
        Ok(plain_header(&data[at..], self.before))
    }
}
