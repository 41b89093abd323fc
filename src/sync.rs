//! The primitives under `group_commit`, by themselves so that a model checker's can take their place.

use std::time::Duration;

pub use parking_lot::{Condvar, Mutex, MutexGuard};
pub use std::thread::ThreadId;
pub use std::time::Instant;

/// Takes the lock.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

/// Lets go of the lock until somebody notifies.
pub fn wait<'a, T>(condvar: &Condvar, mut guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(&mut guard);
    guard
}

/// Like `wait`, but no longer than `limit`. The flag says that the time ran out.
pub fn wait_for<'a, T>(condvar: &Condvar, mut guard: MutexGuard<'a, T>, limit: Duration) -> (MutexGuard<'a, T>, bool) {
    let timed_out = condvar.wait_for(&mut guard, limit).timed_out();
    (guard, timed_out)
}

/// Who is calling.
pub fn thread_id() -> ThreadId {
    std::thread::current().id()
}

/// What time it is.
pub fn now() -> Instant {
    Instant::now()
}
