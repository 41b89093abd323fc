//! The sidecar of a sealed segment: its summary and checkpoints, so that opening need not read the segment.
//!
//! `WSPI` · version u8 · flags u8 · reserved u16 · spool id 16 bytes · `valid_bytes` u64 · `tail_crc` u32 · checkpoint
//! count u32 · records, `base_lsn`, `prev_lsn`, `first_lsn`, `last_lsn`, `highest_lsn`, `highest_term`, `last_term`, `v1_bytes`
//! u64 each · checkpoints (lsn u64, offset u64 with bit 63 for a wide frame) · extra length u32 · extra · crc32 u32
//! of all that stands before it. Numbers are little-endian.

use super::{Checkpoint, INTERVAL, Index, Summary};
use crate::error::{CoreError, Result};
use crate::frame::{u32_at, u64_at};

const MAGIC: [u8; 4] = *b"WSPI";
const VERSION: u8 = 1;
/// Bytes before the checkpoints.
const HEADER: usize = 112;
const ORDERED: u8 = 1;
const REFRAME: u8 = 2;
const LAST_WIDE: u8 = 4;
const WIDE: u64 = 1 << 63;

/// What a sidecar holds.
#[derive(Debug, Clone)]
pub struct Sidecar {
    /// Whose it is.
    pub spool_id: [u8; 16],
    /// LSN before the segment's first record.
    pub prev_lsn: u64,
    /// What is known of the segment.
    pub summary: Summary,
    /// Fields of a later release, kept as they are.
    pub extra: Vec<u8>,
}

impl Sidecar {
    /// The sidecar's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let Self { spool_id, prev_lsn, summary, extra } = self;
        // A writer may have extended the shared index since the summary was taken.
        let mut checkpoints = summary.index.checkpoints();
        checkpoints.retain(|checkpoint| checkpoint.offset < summary.valid_bytes);
        let mut out = Vec::with_capacity(HEADER + checkpoints.len() * 16 + extra.len() + 8);
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        out.push(flag(summary.ordered, ORDERED) | flag(summary.reframe, REFRAME) | flag(summary.last_wide, LAST_WIDE));
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(spool_id);
        out.extend_from_slice(&summary.valid_bytes.to_le_bytes());
        out.extend_from_slice(&summary.tail_crc.to_le_bytes());
        out.extend_from_slice(&(checkpoints.len() as u32).to_le_bytes());
        let numbers = [
            summary.records,
            summary.base_lsn,
            *prev_lsn,
            summary.first_lsn.unwrap_or(0),
            summary.last_lsn.unwrap_or(0),
            summary.highest_lsn,
            summary.highest_term,
            summary.last_term,
            summary.v1_bytes,
        ];
        for number in numbers {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for checkpoint in &checkpoints {
            let wide = if checkpoint.wide { WIDE } else { 0 };
            out.extend_from_slice(&checkpoint.lsn.to_le_bytes());
            out.extend_from_slice(&(checkpoint.offset | wide).to_le_bytes());
        }
        out.extend_from_slice(&(extra.len() as u32).to_le_bytes());
        out.extend_from_slice(extra);
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out
    }

    /// The sidecar in `bytes`, if they are exactly one and make sense.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < HEADER + 8 {
            return Err(invalid("the sidecar is too short"));
        }
        if bytes[..4] != MAGIC {
            return Err(invalid("not a sidecar"));
        }
        if bytes[4] != VERSION {
            return Err(invalid(format!("unknown sidecar version {}", bytes[4])));
        }
        let body = &bytes[..bytes.len() - 4];
        if u64::from(crc32fast::hash(body)) != u32_at(bytes, body.len()) {
            return Err(invalid("the sidecar's checksum does not match"));
        }
        let count = u32_at(body, 36) as usize;
        let extra_at = HEADER + count * 16;
        if body.len() < extra_at + 4 || (body.len() - extra_at - 4) as u64 != u32_at(body, extra_at) {
            return Err(invalid("the sidecar's lengths do not match"));
        }
        let summary = summary(body, count)?;
        let mut spool_id = [0; 16];
        spool_id.copy_from_slice(&body[8..24]);
        Ok(Self { spool_id, prev_lsn: u64_at(body, 56), summary, extra: body[extra_at + 4..].to_vec() })
    }
}

fn summary(body: &[u8], count: usize) -> Result<Summary> {
    let flags = body[5];
    if flags & !(ORDERED | REFRAME | LAST_WIDE) != 0 || body[6..8] != [0; 2] {
        return Err(invalid("the sidecar has unknown flags"));
    }
    let records = u64_at(body, 40);
    let some = |at| (records > 0).then(|| u64_at(body, at));
    let checkpoints: Vec<Checkpoint> = (0..count)
        .map(|place| {
            let at = HEADER + place * 16;
            let offset = u64_at(body, at + 8);
            Checkpoint { lsn: u64_at(body, at), offset: offset & !WIDE, wide: offset & WIDE != 0 }
        })
        .collect();
    let summary = Summary {
        records,
        valid_bytes: u64_at(body, 24),
        base_lsn: u64_at(body, 48),
        first_lsn: some(64),
        last_lsn: some(72),
        highest_lsn: u64_at(body, 80),
        highest_term: u64_at(body, 88),
        last_term: u64_at(body, 96),
        ordered: flags & ORDERED != 0,
        reframe: flags & REFRAME != 0,
        v1_bytes: u64_at(body, 104),
        last_wide: flags & LAST_WIDE != 0,
        tail_crc: u32_at(body, 32) as u32,
        index: std::sync::Arc::default(),
    };
    check(&summary, &checkpoints)?;
    Ok(Summary { index: std::sync::Arc::new(Index::new(checkpoints)), ..summary })
}

/// A sidecar that contradicts itself is none, whatever its checksum.
fn check(summary: &Summary, checkpoints: &[Checkpoint]) -> Result<()> {
    let ascending = checkpoints.windows(2).all(|pair| pair[0].lsn < pair[1].lsn && pair[0].offset < pair[1].offset);
    let inside = checkpoints.last().is_none_or(|last| last.offset < summary.valid_bytes);
    let first = checkpoints.first().map(|first| (Some(first.lsn), first.offset));
    let begins = first.is_none_or(|first| first == (summary.first_lsn, 0));
    if !ascending || !inside || !begins || checkpoints.len() as u64 > summary.records.div_ceil(INTERVAL) {
        return Err(invalid("the sidecar's checkpoints make no sense"));
    }
    let empty = summary.records == 0;
    let last = summary.last_lsn.unwrap_or(summary.base_lsn);
    let lsns = summary.highest_lsn >= summary.base_lsn.max(last);
    if empty != (summary.valid_bytes == 0) || empty != checkpoints.is_empty() || !lsns {
        return Err(invalid("the sidecar's numbers make no sense"));
    }
    if summary.v1_bytes > summary.valid_bytes || summary.last_term > summary.highest_term {
        return Err(invalid("the sidecar's numbers make no sense"));
    }
    Ok(())
}

fn invalid(reason: impl Into<String>) -> CoreError {
    CoreError::Invalid { reason: reason.into() }
}
