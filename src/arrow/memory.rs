//! The memory of a batch: mapped by itself, in huge pages where it is large, and used again once it is released.
//!
//! Whoever keeps a table touches all of its memory for the first time. By pages of 4 KiB that takes several times as
//! long as reading the file.

use std::ptr::{NonNull, null_mut};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::error::{CoreError, Result};

/// Bytes of a huge page; memory from this size on begins where one does.
pub const HUGE: usize = 2 << 20;

/// Readable and writable memory, zeroed at first.
#[derive(Debug)]
pub struct Memory {
    mapped: NonNull<libc::c_void>,
    mapped_len: usize,
    start: usize,
    len: usize,
}

// SAFETY: the mapping belongs to this structure alone, and a mapping is of no thread.
unsafe impl Send for Memory {}
// SAFETY: nothing of it changes through a shared reference.
unsafe impl Sync for Memory {}

impl Memory {
    /// At least `len` bytes.
    fn new(len: usize) -> Result<Self> {
        let large = len >= HUGE;
        let len = if large { len.next_multiple_of(HUGE) } else { len.max(1) };
        // The place is up to the system, so a huge page more is asked for, and its part that is not needed never touched.
        let mapped_len = if large { len + HUGE } else { len };
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at a place of the system's choice touches no other memory.
        let mapped = unsafe { libc::mmap(null_mut(), mapped_len, access, kind, -1, 0) };
        let Some(mapped) = NonNull::new(mapped).filter(|_| mapped != libc::MAP_FAILED) else {
            return Err(CoreError::last_os("mmap"));
        };
        let start = if large { mapped.as_ptr().align_offset(HUGE) } else { 0 };
        let memory = Self { mapped, mapped_len, start, len };
        #[cfg(target_os = "linux")]
        if large {
            // SAFETY: the range lies in the mapping, and the advice changes nothing of its content. Where it is not
            // taken the pages are small.
            unsafe { libc::madvise(mapped.as_ptr().byte_add(start), len, libc::MADV_HUGEPAGE) };
        }
        Ok(memory)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the range lies in the mapping, which lives as long as this structure and is initialised.
        unsafe { std::slice::from_raw_parts(self.mapped.as_ptr().byte_add(self.start).cast(), self.len) }
    }

    /// The same, to write to.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else refers to it.
        unsafe { std::slice::from_raw_parts_mut(self.mapped.as_ptr().byte_add(self.start).cast(), self.len) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this structure's own, and goes with it.
        unsafe { libc::munmap(self.mapped.as_ptr(), self.mapped_len) };
    }
}

/// What was released last, for the next batch.
#[derive(Debug, Default)]
pub struct Pool {
    spare: Mutex<Option<Memory>>,
}

impl Pool {
    /// At least `len` bytes, whatever they hold.
    pub fn take(&self, len: usize) -> Result<Memory> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        spare.filter(|spare| spare.len >= len).map_or_else(|| Memory::new(len), Ok)
    }
}

/// Memory that goes back to its pool, if that still is, when its last holder goes. What one large record took does
/// not: the next batch would be kept in all of it.
#[derive(Debug)]
pub struct Lent {
    memory: Option<Memory>,
    pool: Weak<Pool>,
}

impl Lent {
    /// `memory`, which came from `pool`.
    pub fn new(memory: Memory, pool: &Arc<Pool>) -> Self {
        Self { memory: Some(memory), pool: Arc::downgrade(pool) }
    }
}

impl Lent {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], Memory::bytes)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let kept = self.memory.as_ref().is_some_and(|memory| memory.len <= HUGE);
        // in a forked child whoever held the lock is not there
        if kept
            && let Some(pool) = self.pool.upgrade()
            && let Ok(mut spare) = pool.spare.try_lock()
        {
            *spare = self.memory.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_memory_begins_where_a_huge_page_does() {
        for len in [1, 4096, HUGE, HUGE + 1, 5 * HUGE - 7] {
            let mut memory = Memory::new(len).unwrap();
            let bytes = memory.bytes_mut();
            assert!(bytes.len() >= len && (len < HUGE || bytes.as_ptr().addr().is_multiple_of(HUGE)));
            bytes.fill(7);
            assert!(memory.bytes().iter().all(|byte| *byte == 7));
        }
        assert_eq!(Memory::new(usize::MAX / 4).unwrap_err(), CoreError::Os { errno: libc::ENOMEM, call: "mmap" });
    }

    #[test]
    fn what_is_released_is_used_again_as_long_as_the_stream_lives() {
        let pool = Arc::default();
        let first = Lent::new(Pool::take(&pool, 100).unwrap(), &pool);
        let place = first.bytes().as_ptr();
        let second = Lent::new(pool.take(100).unwrap(), &pool);
        assert_ne!(second.bytes().as_ptr(), place);
        drop(first);
        let again = Lent::new(pool.take(50).unwrap(), &pool);
        assert_eq!(again.bytes().as_ptr(), place);
        drop(again);
        assert_eq!(pool.take(HUGE).unwrap().len, HUGE);
        drop(Lent::new(pool.take(HUGE + 1).unwrap(), &pool));
        assert_eq!(pool.take(100).unwrap().len, 100, "a small batch does not keep the memory of a large record");
        drop(pool);
        drop(second);
    }
}
