//! Bytes ↔ frames: all layouts, their checksums, no I/O.
//!
//! | version | layout | read | written |
//! |---|---|---|---|
//! | 3 | `RDLW` `03` term u64, lsn u64, `timestamp_ms` u64, length u32, payload, crc u32 | yes | yes |
//! | 3, wide | `RDLW` `03` term u64, `ownership_epoch` u64, lsn u64, `timestamp_ms` u64, length u32, payload, crc u32 | yes | no |
//! | 2 | `RDLW` `02` lsn u64, `timestamp_ms` u64, length u32, payload, crc u32 | yes | no |
//! | 1 | `RDLW` `01` lsn u64, length u64, payload | yes | no |
//!
//! Numbers are little-endian. The checksum is CRC-32/ISO-HDLC over all that stands between the magic and it.

mod look;

pub use look::{Source, believe_v1, check, decode, look, plain, plain_header, v1_ends_well};

use std::fmt;

use crc32fast::Hasher;

/// What every frame begins with.
pub const MAGIC: [u8; 4] = *b"RDLW";
/// The largest payload: longer ones are refused on write and implausible on read.
pub const MAX_PAYLOAD: u64 = 256 << 20;
/// Bytes before the payload in the layout that is written.
pub const HEADER: usize = 33;
/// Bytes of the checksum behind the payload.
pub const TRAILER: usize = 4;
/// Bytes before the payload in the widest layout.
pub const LONGEST_HEADER: usize = 41;

/// The four ways a frame can be laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Version 1: no checksum, no timestamp, no term.
    V1,
    /// Version 2: no term.
    V2,
    /// Version 3, the one that is written.
    V3,
    /// Version 3 with an ownership epoch between term and LSN.
    Wide,
}

impl Layout {
    /// Bytes before the payload.
    pub const fn header(self) -> usize {
        match self {
            Self::V1 => 21,
            Self::V2 => 25,
            Self::V3 => HEADER,
            Self::Wide => LONGEST_HEADER,
        }
    }

    /// Bytes behind the payload.
    pub const fn trailer(self) -> usize {
        match self {
            Self::V1 => 0,
            Self::V2 | Self::V3 | Self::Wide => TRAILER,
        }
    }

    /// The version byte.
    pub const fn version(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
            Self::V3 | Self::Wide => 3,
        }
    }
}

/// The fields of one frame; its payload stays where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// How it is laid out.
    pub layout: Layout,
    /// Its term; 0 where the layout has none.
    pub term: u64,
    /// Its ownership epoch; 0 (none) where the layout has none.
    pub ownership_epoch: u64,
    /// Its LSN.
    pub lsn: u64,
    /// Milliseconds since the epoch; 0 where the layout has none.
    pub timestamp_ms: u64,
    /// Bytes of payload. What the header says, plausible or not.
    pub payload_len: u64,
}

impl Frame {
    /// Reads the header at the start of `bytes` as `layout`; `None` when it is cut short. Magic and version are not looked at.
    pub fn header(bytes: &[u8], layout: Layout) -> Option<Self> {
        let bytes = bytes.get(..layout.header())?;
        let (term, ownership_epoch, lsn, timestamp_ms, payload_len) = match layout {
            Layout::V1 => (0, 0, u64_at(bytes, 5), 0, u64_at(bytes, 13)),
            Layout::V2 => (0, 0, u64_at(bytes, 5), u64_at(bytes, 13), u32_at(bytes, 21)),
            Layout::V3 => (u64_at(bytes, 5), 0, u64_at(bytes, 13), u64_at(bytes, 21), u32_at(bytes, 29)),
            Layout::Wide => {
                (u64_at(bytes, 5), u64_at(bytes, 13), u64_at(bytes, 21), u64_at(bytes, 29), u32_at(bytes, 37))
            }
        };
        Some(Self { layout, term, ownership_epoch, lsn, timestamp_ms, payload_len })
    }

    /// Whether its payload length can be right.
    pub const fn plausible(&self) -> bool {
        self.payload_len <= MAX_PAYLOAD
    }

    /// Bytes of the whole frame. Only of a plausible one.
    #[allow(clippy::len_without_is_empty, reason = "a frame has a header, so it is never empty")]
    pub const fn len(&self) -> u64 {
        self.layout.header() as u64 + self.payload_len + self.layout.trailer() as u64
    }

    /// Whether it has the layout that is written today.
    pub const fn is_v3(&self) -> bool {
        matches!(self.layout, Layout::V3)
    }

    /// Whether it is of a version without a term of its own.
    pub const fn is_legacy(&self) -> bool {
        matches!(self.layout, Layout::V1 | Layout::V2)
    }
}

/// What stands before a frame. It settles the layout of a version 3 frame that matches both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Before {
    /// Whether the frame before is wide.
    pub wide: bool,
    /// The LSN of the frame before.
    pub lsn: u64,
}

impl Before {
    /// What stands before the frame that follows `frame`.
    pub const fn next(frame: &Frame) -> Self {
        Self { wide: matches!(frame.layout, Layout::Wide), lsn: frame.lsn }
    }

    /// What makes the frame with this LSN be read in the layout that it is known to have.
    pub const fn known(layout: Layout, lsn: u64) -> Self {
        Self { wide: matches!(layout, Layout::Wide), lsn: lsn.saturating_sub(1) }
    }

    /// The two layouts of version 3, the likelier one first.
    pub const fn layouts(self) -> [Layout; 2] {
        if self.wide { [Layout::Wide, Layout::V3] } else { [Layout::V3, Layout::Wide] }
    }
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// They do not begin with the magic.
    Magic,
    /// They are of a version that nobody knows.
    Version(u8),
    /// They end before the frame does.
    Torn,
    /// The payload length is above the limit.
    Implausible(u64),
    /// The checksum is another than the one computed.
    Crc {
        /// The one in the frame.
        stored: u32,
        /// The one its bytes have.
        computed: u32,
    },
    /// A version 1 frame where none is believed.
    Legacy,
}

impl Fault {
    /// The class of the fault, one word or two.
    pub const fn class(self) -> &'static str {
        match self {
            Self::Magic => "magic",
            Self::Version(_) => "version",
            Self::Torn => "torn",
            Self::Implausible(_) => "implausible",
            Self::Crc { .. } => "crc mismatch",
            Self::Legacy => "legacy",
        }
    }

    /// The fault in words, with the place where it was met.
    pub fn at(self, offset: u64) -> String {
        format!("{self} at offset {offset}")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("wrong magic"),
            Self::Version(version) => write!(f, "unknown version {version}"),
            Self::Torn => f.write_str("torn frame"),
            Self::Implausible(len) => write!(f, "implausible payload length {len}"),
            Self::Crc { stored, computed } => {
                write!(f, "crc mismatch (stored {stored:08x}, computed {computed:08x})")
            }
            Self::Legacy => f.write_str("version 1 frame that can't be trusted"),
        }
    }
}

/// Appends one version 3 frame to `into`. The payload is copied once, and it is the copy that is checksummed.
pub fn encode(into: &mut Vec<u8>, term: u64, lsn: u64, timestamp_ms: u64, payload: &[u8]) {
    let start = into.len();
    begin(into, term, lsn, timestamp_ms, payload.len());
    into.extend_from_slice(payload);
    finish(into, start);
}

/// Appends the header of a frame whose payload of `len` bytes is to follow.
pub fn begin(into: &mut Vec<u8>, term: u64, lsn: u64, timestamp_ms: u64, len: usize) {
    debug_assert!(len as u64 <= MAX_PAYLOAD, "the caller has checked the size");
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&MAGIC);
    header[4] = Layout::V3.version();
    header[5..13].copy_from_slice(&term.to_le_bytes());
    header[13..21].copy_from_slice(&lsn.to_le_bytes());
    header[21..29].copy_from_slice(&timestamp_ms.to_le_bytes());
    header[29..].copy_from_slice(&(len as u32).to_le_bytes());
    into.reserve(HEADER + len + TRAILER);
    into.extend_from_slice(&header);
}

/// Appends the checksum of the frame that begins at `start`.
pub fn finish(into: &mut Vec<u8>, start: usize) {
    let crc = crc32fast::hash(&into[start + MAGIC.len()..]);
    into.extend_from_slice(&crc.to_le_bytes());
}

/// The bytes that the longest plausible reading of the header at the start of `bytes` asks for.
pub fn longest_reading(bytes: &[u8]) -> u64 {
    [Layout::V1, Layout::V2, Layout::V3, Layout::Wide]
        .into_iter()
        .filter_map(|layout| Frame::header(bytes, layout))
        .filter(Frame::plausible)
        .map(|frame| frame.len())
        .fold(LONGEST_HEADER as u64, u64::max)
}

/// CRC-32/ISO-HDLC of `bytes`, going on from `value`.
pub fn crc32(bytes: &[u8], value: u32) -> u32 {
    let mut hasher = Hasher::new_with_initial(value);
    hasher.update(bytes);
    hasher.finalize()
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

/// Widened, because every length is compared with 64-bit ones.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u64::from(u32::from_le_bytes(raw))
}

#[cfg(test)]
pub(crate) mod tests;
