//! The core of walspool: the mechanism of a durable log, one open file at a time.
//!
//! Which files there are, and what a damaged one means, is decided above, in Python. What is here runs per record:
//! encoding, checksums, scanning, indexing, writing, syncing. Nothing outside `py` knows of Python.

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!("walspool runs on Linux and macOS only: it knows no other system's way to make written bytes durable");

pub mod appender;
pub mod arrow;
pub mod bell;
pub mod change;
pub mod copy;
pub mod error;
pub mod file;
pub mod frame;
pub mod group_commit;
#[cfg(test)]
mod group_commit_shuttle;
pub mod index;
#[cfg(feature = "python")]
mod py;
pub mod reader;
pub mod scan;
pub mod sealed;
pub mod sync;
