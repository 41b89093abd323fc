//! Frames that come as bytes, as replication ships them: checked, never encoded again.

use super::batch::{Part, Position};
use crate::error::CoreError;
use crate::frame::{self, Fault, HEADER, Layout, MAGIC};

/// One verified frame of a buffer.
#[derive(Debug, Clone, Copy)]
pub struct RawFrame<'a> {
    lsn: u64,
    term: u64,
    bytes: &'a [u8],
}

impl Part for RawFrame<'_> {
    const OWN: bool = false;

    fn lsn(&self) -> Option<u64> {
        Some(self.lsn)
    }

    fn term(&self) -> Option<u64> {
        Some(self.term)
    }

    fn frame_len(&self) -> usize {
        self.bytes.len()
    }

    fn write(&self, _: Position, batch: &mut Vec<u8>) {
        batch.extend_from_slice(self.bytes);
    }
}

/// The whole frames at the start of `bytes`, and what is wrong behind them. Of the last one a part may be missing.
/// `base` is the offset of `bytes` in the caller's buffer.
pub fn split(bytes: &[u8], base: usize) -> (Vec<RawFrame<'_>>, Option<CoreError>) {
    let mut frames = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match first(&bytes[at..]) {
            Ok(frame) => {
                at += frame.bytes.len();
                frames.push(frame);
            }
            Err(Trouble::Incomplete) => break,
            Err(Trouble::Bad(reason)) => {
                return (frames, Some(CoreError::Frame { reason, offset: (base + at) as u64 }));
            }
        }
    }
    (frames, None)
}

enum Trouble {
    /// A version 3 frame may yet come of it.
    Incomplete,
    Bad(String),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Bad(fault.to_string())
    }
}

fn first(mut bytes: &[u8]) -> Result<RawFrame<'_>, Trouble> {
    let magic = &bytes[..bytes.len().min(MAGIC.len())];
    if !MAGIC.starts_with(magic) {
        return Err(Fault::Magic.into());
    }
    match bytes.get(MAGIC.len()) {
        None => return Err(Trouble::Incomplete),
        Some(3) => {}
        Some(version @ 1..=2) => return Err(Trouble::Bad(format!("version {version} frame, only version 3 is taken"))),
        Some(version) => return Err(Fault::Version(*version).into()),
    }
    let Some(head) = bytes.get(..HEADER) else { return Err(Trouble::Incomplete) };
    let Ok(checked) = frame::check(&mut bytes, 0, head, Layout::V3);
    match checked {
        Ok(frame) => Ok(RawFrame { lsn: frame.lsn, term: frame.term, bytes: &bytes[..frame.len() as usize] }),
        Err(Fault::Torn) => Err(Trouble::Incomplete),
        Err(fault) => Err(fault.into()),
    }
}
