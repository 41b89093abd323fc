//! A file as the scan sees it: read forward in big steps, each byte once as long as the frames are good.

use crc32fast::Hasher;

use crate::error::CoreError;
use crate::file::File;
use crate::frame::{MAGIC, Source};

/// Bytes of one step.
const STEP: usize = 256 << 10;

/// Why the scan could not go on.
#[derive(Debug)]
pub enum Halt {
    /// The system refused a call. This says nothing about the file's content.
    Error(CoreError),
    /// The file ends here now: its writer has trimmed it.
    Shrunk(u64),
}

impl From<CoreError> for Halt {
    fn from(error: CoreError) -> Self {
        Self::Error(error)
    }
}

/// The bytes of a file, a few at a time.
pub struct Window<'a> {
    file: &'a File,
    end: u64,
    start: u64,
    bytes: Vec<u8>,
    /// Only zeros lie from here to the end.
    zeros_from: u64,
    /// Whether the byte before `zeros_from` is known not to be zero.
    zeros_found: bool,
}

impl<'a> Window<'a> {
    /// A window onto the first `end` bytes of `file`.
    pub fn new(file: &'a File, end: u64) -> Self {
        Self { file, end, start: 0, bytes: Vec::new(), zeros_from: end, zeros_found: false }
    }

    /// Takes it that the file ends at `end`.
    pub fn shrink(&mut self, end: u64) {
        *self = Self::new(self.file, end);
    }

    /// What was read already from `at` on.
    #[inline]
    pub fn ready(&self, at: u64) -> &[u8] {
        at.checked_sub(self.start).and_then(|from| self.bytes.get(from as usize..)).unwrap_or_default()
    }

    /// Whether the magic stands at `at`.
    pub fn magic_at(&mut self, at: u64) -> Result<bool, Halt> {
        Ok(at + 4 <= self.end && self.get(at, 4)? == MAGIC)
    }

    /// The next magic that begins at or behind `from` and ends at or before `to`.
    pub fn find_magic(&mut self, mut from: u64, to: u64) -> Result<Option<u64>, Halt> {
        while from + 4 <= to {
            let len = (to - from).min(STEP as u64) as usize;
            if let Some(place) = memchr::memmem::find(self.get(from, len)?, &MAGIC) {
                return Ok(Some(from + place as u64));
            }
            // The last three bytes may begin one.
            from += len as u64 - 3;
        }
        Ok(None)
    }

    /// Where the last byte that is not zero ends, or `floor` if only zeros follow that.
    pub fn data_end(&mut self, floor: u64) -> Result<u64, Halt> {
        let mut bytes = Vec::new();
        while !self.zeros_found && self.zeros_from > floor {
            let len = (self.zeros_from - floor).min(STEP as u64) as usize;
            let from = self.zeros_from - len as u64;
            bytes.clear();
            let got = self.file.read_into(&mut bytes, len, from)?;
            if got < len {
                return Err(Halt::Shrunk(from + got as u64));
            }
            self.zeros_from = from + last_nonzero(&bytes) as u64;
            self.zeros_found = self.zeros_from > from;
        }
        Ok(self.zeros_from.max(floor))
    }

    fn refill(&mut self, at: u64, len: usize) -> Result<(), Halt> {
        let known = self.start + self.bytes.len() as u64;
        if (self.start..=known).contains(&at) {
            self.bytes.drain(..(at - self.start) as usize);
        } else {
            self.bytes.clear();
        }
        self.start = at;
        let have = self.bytes.len();
        let want = (len.max(STEP) as u64).min(self.end - at) as usize - have;
        let got = self.file.read_into(&mut self.bytes, want, at + have as u64)?;
        if got < want { Err(Halt::Shrunk(at + (have + got) as u64)) } else { Ok(()) }
    }
}

impl Source for Window<'_> {
    type Error = Halt;

    fn end(&self) -> u64 {
        self.end
    }

    #[inline]
    fn get(&mut self, at: u64, len: usize) -> Result<&[u8], Halt> {
        if at < self.start || at + len as u64 > self.start + self.bytes.len() as u64 {
            self.refill(at, len)?;
        }
        let from = (at - self.start) as usize;
        Ok(&self.bytes[from..from + len])
    }

    #[inline]
    fn crc(&mut self, at: u64, len: usize) -> Result<u32, Halt> {
        if len <= STEP {
            return self.get(at, len).map(crc32fast::hash);
        }
        self.crc_from(Hasher::new(), at, len)
    }

    fn crc_from(&mut self, mut crc: Hasher, mut at: u64, len: usize) -> Result<u32, Halt> {
        let end = at + len as u64;
        while at < end {
            let step = (end - at).min(STEP as u64) as usize;
            crc.update(self.get(at, step)?);
            at += step as u64;
        }
        Ok(crc.finalize())
    }

    fn zeros_from(&mut self, at: u64) -> Result<bool, Halt> {
        Ok(self.data_end(at)? <= at)
    }
}

/// Where the last byte that is not zero ends.
fn last_nonzero(bytes: &[u8]) -> usize {
    let mut end = bytes.len();
    for block in bytes.rchunks(4096) {
        if block.iter().fold(0, |all, byte| all | byte) != 0 {
            return end - block.len() + block.iter().rposition(|byte| *byte != 0).map_or(0, |place| place + 1);
        }
        end -= block.len();
    }
    0
}
