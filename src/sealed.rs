//! Opening many sealed segments at once, where each is what its sidecar says. What is not so is left to the caller.

use std::ffi::{CStr, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread::{self, Builder};

use parking_lot::Mutex;

use crate::error::{CoreError, Result};
use crate::file::{File, Kind, c_string};
use crate::frame::u32_at;
use crate::index::{Sidecar, Summary};

/// Segments from which on a second thread is worth its start: nearly all of the time goes into system calls.
const TWO_THREADS: usize = 64;
/// Segments that a thread takes at a time.
const PART: usize = 8;
/// What the first read of a sidecar asks for; that of a segment of 64 MiB in records of 256 bytes is no longer.
const ROOM: usize = 64 << 10;
/// Every block device has a multiple of this many bytes.
const SECTOR: u64 = 512;

/// What became of one segment.
#[derive(Debug)]
pub enum Opened {
    /// It is as its sidecar says.
    AsKnown(File, Box<Sidecar>),
    /// It has no sidecar, or another one, or is no regular file.
    Unlike,
    /// A call for the segment failed.
    Failed(CoreError),
    /// A call for the sidecar failed.
    SidecarFailed(CoreError),
}

/// Opens these segments of the spool with this id, all in `directory`; their sidecars' names end with `suffix`. Many are
/// opened with two threads: to ask for the number of processors takes longer than to start the second.
pub fn open_sealed(
    directory: &Path,
    names: &[OsString],
    suffix: &str,
    spool_id: [u8; 16],
    write: bool,
) -> Result<Vec<Opened>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let all = All { directory: File::open_any(None, &c_string(directory)?, false)?, suffix, spool_id, write };
    let mut opened = Vec::new();
    opened.resize_with(names.len(), || Opened::Unlike);
    let parts = Mutex::new(names.chunks(PART).zip(opened.chunks_mut(PART)));
    let work = || {
        let mut room = Vec::with_capacity(ROOM);
        loop {
            let Some((names, places)) = parts.lock().next() else { return };
            for (name, place) in names.iter().zip(places) {
                *place = all.open(name, &mut room);
            }
        }
    };
    if names.len() < TWO_THREADS {
        work();
    } else {
        all.directory.make_room(names.len() + 4);
        thread::scope(|scope| {
            // Where there is no thread to be had, one does it alone.
            let _ = Builder::new().spawn_scoped(scope, work);
            work();
        });
    }
    Ok(opened)
}

/// What is the same for all of them.
struct All<'a> {
    directory: File,
    suffix: &'a str,
    spool_id: [u8; 16],
    write: bool,
}

impl All<'_> {
    fn open(&self, name: &OsStr, room: &mut Vec<u8>) -> Opened {
        let file = match self.open_file(name, "", self.write, room) {
            Ok(file) => file,
            Err(error) => return Opened::Failed(error),
        };
        let sidecar = match self.read_sidecar(name, room) {
            Ok(Some(sidecar)) if sidecar.spool_id == self.spool_id => sidecar,
            Ok(_) => return Opened::Unlike,
            Err(error) => return Opened::SidecarFailed(error),
        };
        match ends_with(&file, &sidecar.summary, room) {
            Ok(true) => Opened::AsKnown(file, Box::new(sidecar)),
            Ok(false) => Opened::Unlike,
            Err(error) => Opened::Failed(error),
        }
    }

    fn open_file(&self, name: &OsStr, suffix: &str, write: bool, room: &mut Vec<u8>) -> Result<File> {
        room.clear();
        room.extend_from_slice(name.as_bytes());
        room.extend_from_slice(suffix.as_bytes());
        room.push(0);
        let name = CStr::from_bytes_with_nul(room).map_err(|_| CoreError::Os { errno: libc::EINVAL, call: "open" })?;
        File::open_any(Some(&self.directory), name, write)
    }

    /// A sidecar, where there is one that can be read as one.
    fn read_sidecar(&self, name: &OsStr, room: &mut Vec<u8>) -> Result<Option<Sidecar>> {
        let file = match self.open_file(name, self.suffix, false, room) {
            Ok(file) => file,
            Err(CoreError::Os { errno: libc::ENOENT, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        room.clear();
        // Not asked for its size, which takes half as long again as the read.
        if file.read_some(room, ROOM, 0)? == ROOM {
            let rest = file.size()?.saturating_sub(ROOM as u64);
            file.read_into(room, rest as usize, ROOM as u64)?;
        }
        Ok(Sidecar::decode(room).ok())
    }
}

/// Whether a file is regular, as long as `known` says, and ends with the same checksum. Uses `room`.
fn ends_with(file: &File, known: &Summary, room: &mut Vec<u8>) -> Result<bool> {
    let Some(tail) = known.valid_bytes.checked_sub(4) else { return Ok(false) };
    room.clear();
    // Where five bytes are asked for and four come, the file ends there, or can't be read behind what is known of it. It
    // need not be asked for its size, nor, at most sizes, for its kind: no place of a pipe can be read, and a device has
    // whole sectors. Asking costs a tenth of an open.
    let ends = file.read_some(room, 5, tail)? == 4 && u32_at(room, 0) == u64::from(known.tail_crc);
    Ok(ends && (!known.valid_bytes.is_multiple_of(SECTOR) || file.stat()?.kind == Kind::Regular))
}

#[cfg(test)]
mod tests;
