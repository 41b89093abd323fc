//! The few operations on an open file that the log needs, and what each of them promises.
//!
//! They call the C library, so that a preloaded one can make any of them fail. An interrupted call is repeated, a
//! short one continued. Nothing here is atomic, and nothing is durable before a sync has returned.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{CoreError, Result};

/// An open file. Dropping it closes the descriptor and does nothing else.
#[derive(Debug)]
pub struct File {
    fd: OwnedFd,
}

/// What the file system says about an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Bytes.
    pub size: u64,
    /// Names; 0 when it was unlinked.
    pub links: u64,
    /// What sort of file it is.
    pub kind: Kind,
}

/// The sorts of files that make a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One that holds bytes.
    Regular,
    /// A directory.
    Directory,
    /// A pipe, a device, a socket.
    Other,
}

impl File {
    /// Takes over an open descriptor.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Opens the regular file at `path` for reading.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Self::open_any(None, &c_string(path)?, false)?;
        match file.stat()?.kind {
            Kind::Regular => Ok(file),
            Kind::Directory => Err(CoreError::Os { errno: libc::EISDIR, call: "open" }),
            Kind::Other => Err(CoreError::Os { errno: libc::ESPIPE, call: "open" }),
        }
    }

    /// Opens whatever is at `path`, seen from `directory`, for reading, with `write` for writing, too.
    pub fn open_any(directory: Option<&Self>, path: &CStr, write: bool) -> Result<Self> {
        let at = directory.map_or(libc::AT_FDCWD, Self::fileno);
        let access = if write { libc::O_RDWR } else { libc::O_RDONLY };
        // Without O_NONBLOCK a FIFO would wait for a writer.
        let flags = access | libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: `path` is a NUL-terminated string that outlives the call.
        let fd = retry("open", || i64::from(unsafe { libc::openat(at, path.as_ptr(), flags) }))?;
        // SAFETY: the call above has just returned this descriptor, so nobody else owns it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd as RawFd) } })
    }

    /// Makes room for so many more descriptors, if the system lets it; to be called before a thread is started. With
    /// more than one thread the system's table of them grows by waiting 10 ms for all processors, again and again.
    pub fn make_room(&self, count: usize) {
        let above = libc::c_int::try_from(count).unwrap_or(libc::c_int::MAX).saturating_add(self.fileno());
        // SAFETY: no memory is involved. No safe interface asks for a number.
        let fd = unsafe { libc::fcntl(self.fileno(), libc::F_DUPFD_CLOEXEC, above) };
        if fd >= 0 {
            // SAFETY: the call above has just returned this descriptor, so nobody else owns it.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }

    /// The descriptor's number.
    pub fn fileno(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Size, number of names and kind.
    pub fn stat(&self) -> Result<Stat> {
        let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
        // SAFETY: `stat` is writable memory of the right size.
        retry("fstat", || i64::from(unsafe { libc::fstat(self.fileno(), stat.as_mut_ptr()) }))?;
        // SAFETY: the call succeeded, so it filled the structure.
        let stat = unsafe { stat.assume_init() };
        #[allow(clippy::unnecessary_cast, clippy::cast_lossless, reason = "the width differs between systems")]
        let links = stat.st_nlink as u64;
        let kind = match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => Kind::Regular,
            libc::S_IFDIR => Kind::Directory,
            _ => Kind::Other,
        };
        Ok(Stat { size: u64::try_from(stat.st_size).unwrap_or(0), links, kind })
    }

    /// Bytes and names of a file that is being written.
    #[cfg(target_os = "linux")]
    pub fn size_and_links(&self) -> Result<(u64, u64)> {
        // Asking for the times too would make the next write take a new one, which slows its sync (since Linux 6.13).
        let (flags, mask) = (libc::AT_EMPTY_PATH, libc::STATX_SIZE | libc::STATX_NLINK);
        let mut stat = std::mem::MaybeUninit::<libc::statx>::uninit();
        // SAFETY: `stat` is writable memory of the right size, the path a NUL-terminated string.
        let call = || i64::from(unsafe { libc::statx(self.fileno(), c"".as_ptr(), flags, mask, stat.as_mut_ptr()) });
        retry("statx", call)?;
        // SAFETY: the call succeeded, so it filled the structure.
        let stat = unsafe { stat.assume_init() };
        Ok((stat.stx_size, u64::from(stat.stx_nlink)))
    }

    /// Bytes and names of a file that is being written.
    #[cfg(not(target_os = "linux"))]
    pub fn size_and_links(&self) -> Result<(u64, u64)> {
        self.stat().map(|stat| (stat.size, stat.links))
    }

    /// Bytes in the file.
    pub fn size(&self) -> Result<u64> {
        Ok(self.stat()?.size)
    }

    /// Appends up to `count` bytes from `offset` on to `into`; fewer come only at the end of the file.
    pub fn read_into(&self, into: &mut Vec<u8>, count: usize, offset: u64) -> Result<usize> {
        into.reserve(count);
        let mut done = 0;
        while done < count {
            let got = self.read_some(into, count - done, offset + done as u64)?;
            if got == 0 {
                break;
            }
            done += got;
        }
        Ok(done)
    }

    /// One read: appends up to `count` bytes from `offset` on to `into`, perhaps fewer; none at the end of the file.
    pub fn read_some(&self, into: &mut Vec<u8>, count: usize, offset: u64) -> Result<usize> {
        into.reserve(count);
        let at = position(offset, "pread")?;
        let spare = into.spare_capacity_mut();
        let want = count.min(spare.len());
        // SAFETY: `spare` is writable memory of at least `want` bytes.
        let got = retry("pread", || unsafe { libc::pread(self.fileno(), spare.as_mut_ptr().cast(), want, at) as i64 })?;
        // SAFETY: the call has filled `got` bytes of the spare capacity.
        unsafe { into.set_len(into.len() + got as usize) };
        Ok(got as usize)
    }

    /// Writes all of `bytes` at `offset`. After an error any part of them may be there.
    pub fn write_at(&self, mut bytes: &[u8], mut offset: u64) -> Result<()> {
        while !bytes.is_empty() {
            let at = position(offset, "pwrite")?;
            // SAFETY: `bytes` is readable memory of that length.
            let put = retry("pwrite", || unsafe {
                libc::pwrite(self.fileno(), bytes.as_ptr().cast(), bytes.len(), at) as i64
            })?;
            if put == 0 {
                return Err(CoreError::Os { errno: libc::EIO, call: "pwrite" });
            }
            bytes = &bytes[put as usize..];
            offset += put;
        }
        Ok(())
    }

    /// Lets the disk begin with bytes that were written, while more are made ready. Promises nothing: the next sync
    /// waits for them, and hears of their errors.
    #[cfg(target_os = "linux")]
    pub fn begin_writeback(&self, offset: u64, count: u64) {
        let (Ok(at), Ok(count)) = (libc::off64_t::try_from(offset), libc::off64_t::try_from(count)) else { return };
        // SAFETY: no memory is involved. No safe interface has it; it takes a fifth to a third off large batches.
        unsafe { libc::sync_file_range(self.fileno(), at, count, libc::SYNC_FILE_RANGE_WRITE) };
    }

    /// There is no such call here; the next sync begins with all of them.
    #[cfg(not(target_os = "linux"))]
    pub fn begin_writeback(&self, _offset: u64, _count: u64) {}

    /// Cuts or extends the file to `size` bytes; durable only after `sync_all`.
    pub fn truncate(&self, size: u64) -> Result<()> {
        let size = position(size, "ftruncate")?;
        // SAFETY: no memory is involved.
        retry("ftruncate", || i64::from(unsafe { libc::ftruncate(self.fileno(), size) })).map(drop)
    }

    /// Makes content and size durable. After an error what was written since the last success may be lost for good.
    #[cfg(not(target_os = "macos"))]
    pub fn sync_all(&self) -> Result<()> {
        // SAFETY: no memory is involved.
        retry("fsync", || i64::from(unsafe { libc::fsync(self.fileno()) })).map(drop)
    }

    /// Makes content durable where the size did not change. Errors mean what they mean for `sync_all`.
    #[cfg(not(target_os = "macos"))]
    pub fn sync_data(&self) -> Result<()> {
        // SAFETY: no memory is involved.
        retry("fdatasync", || i64::from(unsafe { libc::fdatasync(self.fileno()) })).map(drop)
    }

    /// Makes content and size durable. (Here `fsync` stops at the drive's cache.)
    #[cfg(target_os = "macos")]
    pub fn sync_all(&self) -> Result<()> {
        // SAFETY: no memory is involved.
        retry("F_FULLFSYNC", || i64::from(unsafe { libc::fcntl(self.fileno(), libc::F_FULLFSYNC) })).map(drop)
    }

    /// Makes content durable where the size did not change.
    #[cfg(target_os = "macos")]
    pub fn sync_data(&self) -> Result<()> {
        self.sync_all()
    }
}

/// A path as the C library takes it.
pub fn c_string(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| CoreError::Os { errno: libc::EINVAL, call: "open" })
}

fn position(offset: u64, call: &'static str) -> Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| CoreError::Os { errno: libc::EFBIG, call })
}

/// Repeats an interrupted call; a negative result is an error.
fn retry(call: &'static str, mut work: impl FnMut() -> i64) -> Result<u64> {
    loop {
        if let Ok(result) = u64::try_from(work()) {
            return Ok(result);
        }
        match CoreError::last_os(call) {
            CoreError::Os { errno: libc::EINTR, .. } => {}
            error => return Err(error),
        }
    }
}
