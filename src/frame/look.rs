//! Finding frames in bytes that may be damaged.

use std::convert::Infallible;

use crc32fast::Hasher;

use super::{Before, Fault, Frame, HEADER, LONGEST_HEADER, Layout, MAGIC, TRAILER, u32_at};

/// How a frame begins as it is written today.
const PLAIN: [u8; 5] = *b"RDLW\x03";

/// Bytes that frames are looked for in.
pub trait Source {
    /// What can go wrong while getting at them.
    type Error;

    /// Where they end.
    fn end(&self) -> u64;

    /// The bytes from `at` on, `len` of them, all of which lie before the end.
    fn get(&mut self, at: u64, len: usize) -> Result<&[u8], Self::Error>;

    /// Whether only zeros lie from `at` on.
    fn zeros_from(&mut self, at: u64) -> Result<bool, Self::Error>;

    /// Their checksum.
    fn crc(&mut self, at: u64, len: usize) -> Result<u32, Self::Error> {
        self.get(at, len).map(crc32fast::hash)
    }

    /// Their checksum, going on from `crc`.
    fn crc_from(&mut self, mut crc: Hasher, at: u64, len: usize) -> Result<u32, Self::Error> {
        crc.update(self.get(at, len)?);
        Ok(crc.finalize())
    }
}

impl Source for &[u8] {
    type Error = Infallible;

    fn end(&self) -> u64 {
        self.len() as u64
    }

    fn get(&mut self, at: u64, len: usize) -> Result<&[u8], Infallible> {
        Ok(&self[at as usize..at as usize + len])
    }

    fn zeros_from(&mut self, at: u64) -> Result<bool, Infallible> {
        Ok(self[at as usize..].iter().all(|byte| *byte == 0))
    }
}

/// The frame at `at`, verified. A version 1 frame has nothing to verify: whether to believe it is up to the caller.
#[inline]
pub fn look<S: Source>(source: &mut S, at: u64, before: Before) -> Result<Result<Frame, Fault>, S::Error> {
    let left = source.end() - at;
    let mut head = [0; LONGEST_HEADER];
    let got = left.min(LONGEST_HEADER as u64) as usize;
    head[..got].copy_from_slice(source.get(at, got)?);
    let head = &head[..got];
    if got <= MAGIC.len() {
        return Ok(Err(if MAGIC.starts_with(head) { Fault::Torn } else { Fault::Magic }));
    }
    if head[..4] != MAGIC {
        return Ok(Err(Fault::Magic));
    }
    match head[4] {
        1 => Ok(whole(head, left, Layout::V1)),
        2 => check(source, at, head, Layout::V2),
        3 => look_v3(source, at, head, before),
        version => Ok(Err(Fault::Version(version))),
    }
}

/// What the header at the start of `bytes` says, if it is as they are written today and nothing about it is in doubt.
#[inline]
pub fn plain_header(bytes: &[u8], before: Before) -> Option<Frame> {
    let head = bytes.first_chunk::<HEADER>()?;
    if before.wide || head[..5] != PLAIN {
        return None;
    }
    Frame::header(head, Layout::V3).filter(|frame| frame.plausible() && frame.lsn > before.lsn)
}

/// The frame at the start of `bytes` and its checksum, if its header is plain and it is whole and matches. `look` says
/// the same of it, after more questions.
#[inline]
pub fn plain(bytes: &[u8], before: Before) -> Option<(Frame, u32)> {
    let frame = plain_header(bytes, before)?;
    let body = bytes.get(MAGIC.len()..frame.len() as usize)?;
    let (covered, stored) = body.split_last_chunk::<TRAILER>()?;
    let stored = u32::from_le_bytes(*stored);
    (crc32fast::hash(covered) == stored).then_some((frame, stored))
}

fn look_v3<S: Source>(source: &mut S, at: u64, head: &[u8], before: Before) -> Result<Result<Frame, Fault>, S::Error> {
    let [likely, other] = before.layouts();
    let first = check(source, at, head, likely)?;
    if let Ok(frame) = first
        && frame.lsn > before.lsn
    {
        return Ok(first);
    }
    let second = check(source, at, head, other)?;
    Ok(match (first, second) {
        (Ok(_), Ok(frame)) if frame.lsn > before.lsn => second,
        (Err(_), Ok(_)) => second,
        _ => first,
    })
}

/// The frame at `at` under one layout, its checksum compared.
#[inline]
pub fn check<S: Source>(
    source: &mut S,
    at: u64,
    head: &[u8],
    layout: Layout,
) -> Result<Result<Frame, Fault>, S::Error> {
    let frame = match whole(head, source.end() - at, layout) {
        Ok(frame) => frame,
        Err(fault) => return Ok(Err(fault)),
    };
    let len = frame.len() as usize;
    let computed = source.crc(at + 4, len - 8)?;
    let stored = u32_at(source.get(at + (len - TRAILER) as u64, TRAILER)?, 0) as u32;
    Ok(if stored == computed { Ok(frame) } else { Err(Fault::Crc { stored, computed }) })
}

/// The frame that `head` announces under `layout`, if its length is plausible and it fits in the `left` bytes.
fn whole(head: &[u8], left: u64, layout: Layout) -> Result<Frame, Fault> {
    let frame = Frame::header(head, layout).ok_or(Fault::Torn)?;
    if !frame.plausible() {
        return Err(Fault::Implausible(frame.payload_len));
    }
    if frame.len() > left { Err(Fault::Torn) } else { Ok(frame) }
}

/// The frame at the start of `bytes`. Nothing is known to stand before it, so the wide layout counts only where the
/// other does not match.
pub fn decode(mut bytes: &[u8]) -> Result<Frame, Fault> {
    let Ok(looked) = look(&mut bytes, 0, Before::default());
    let frame = looked?;
    if frame.layout == Layout::Wide {
        let head = &bytes[..Layout::Wide.header()];
        let Ok(narrow) = check(&mut &*bytes, 0, head, Layout::V3);
        return narrow.or(Ok(frame));
    }
    Ok(frame)
}

/// A flipped bit makes version 3 look like version 1, which has no checksum. So what surrounds such a frame must fit:
/// the end, only zeros, a magic, or fewer than four bytes follow it, and it is no valid frame of another version.
pub fn believe_v1<S: Source>(source: &mut S, at: u64, frame: &Frame) -> Result<bool, S::Error> {
    if !v1_ends_well(source, at + frame.len())? {
        return Ok(false);
    }
    for layout in [Layout::V2, Layout::V3, Layout::Wide] {
        if checks_as(source, at, layout)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether what follows a version 1 frame that ends at `end` lets its length be right. Where the source ends nothing is
/// asked for, so the frame itself may not have been read.
pub fn v1_ends_well<S: Source>(source: &mut S, end: u64) -> Result<bool, S::Error> {
    Ok(source.end() - end < MAGIC.len() as u64 || source.get(end, MAGIC.len())? == MAGIC || source.zeros_from(end)?)
}

/// Whether the bytes at `at` are a valid frame of `layout` but for their version byte.
fn checks_as<S: Source>(source: &mut S, at: u64, layout: Layout) -> Result<bool, S::Error> {
    let left = source.end() - at;
    if left < layout.header() as u64 {
        return Ok(false);
    }
    let head = source.get(at, layout.header())?;
    let Some(frame) = Frame::header(head, layout).filter(|frame| frame.plausible() && frame.len() <= left) else {
        return Ok(false);
    };
    let mut crc = Hasher::new();
    crc.update(&[layout.version()]);
    let computed = source.crc_from(crc, at + 5, frame.len() as usize - 9)?;
    let stored = u32_at(source.get(at + frame.len() - TRAILER as u64, TRAILER)?, 0) as u32;
    Ok(stored == computed)
}
