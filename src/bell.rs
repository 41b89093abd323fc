//! Waking whoever waits on a descriptor.

use std::os::fd::RawFd;

/// Writes a 1, as 8 bytes, to `fd`, an eventfd or a pipe.
pub fn ring(fd: RawFd) {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: `one` is readable memory of that length. A full or closed descriptor is its owner's affair.
    unsafe { libc::write(fd, one.as_ptr().cast(), one.len()) };
}
