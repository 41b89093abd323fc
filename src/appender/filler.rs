//! Zeros ahead of large batches, written while nothing is appended.
//!
//! A batch that grows its file waits for a change of size to be durable besides its bytes. Zeros that were written
//! and synced before spare it that, but are bytes written twice, so that no caller waits for them: once large batches
//! have come and then nothing for a moment, a thread takes the writer as a leader does, for one short step at a time,
//! and gives it back to whoever came meanwhile. It writes as many zeros as the last batches took.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::flush::Writer;
use crate::group_commit::GroupCommit;

/// How long nothing must have been flushed.
const IDLE: Duration = Duration::from_millis(5);

/// What the writer tells the thread.
#[derive(Debug, Default)]
pub struct Wish {
    /// Whether there ever was one.
    ever: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    wished: bool,
    ended: bool,
    asleep: bool,
}

impl Wish {
    /// A large batch was flushed.
    pub fn make(&self) {
        self.ever.store(true, Ordering::Relaxed);
        let mut state = self.state.lock();
        state.wished = true;
        if state.asleep {
            self.changed.notify_one();
        }
    }

    fn end(&self) {
        self.state.lock().ended = true;
        self.changed.notify_one();
    }

    /// Waits for the next wish; false at the end.
    fn taken(&self) -> bool {
        let mut state = self.state.lock();
        state.asleep = true;
        while !state.wished && !state.ended {
            self.changed.wait(&mut state);
        }
        state.asleep = false;
        state.wished = false;
        !state.ended
    }

    /// Lets a moment pass; false at the end.
    fn pause(&self) -> bool {
        let mut state = self.state.lock();
        if !state.ended {
            self.changed.wait_for(&mut state, IDLE);
        }
        !state.ended
    }
}

/// The thread, which starts with the first wish.
#[derive(Debug)]
pub struct Filler {
    wish: Arc<Wish>,
    started: Once,
}

impl Default for Filler {
    fn default() -> Self {
        Self { wish: Arc::default(), started: Once::new() }
    }
}

impl Filler {
    /// What its writer makes wishes with.
    pub fn wish(&self) -> Arc<Wish> {
        Arc::clone(&self.wish)
    }

    /// To be called after each commit.
    pub fn start_if_wished(&self, commit: &Arc<GroupCommit<Writer>>) {
        if self.wish.ever.load(Ordering::Relaxed) {
            self.started.call_once(|| {
                let (wish, commit) = (self.wish(), Arc::downgrade(commit));
                // Without a thread the file grows batch by batch.
                drop(std::thread::Builder::new().name("walspool-zeros".into()).spawn(move || run(&wish, &commit)));
            });
        }
    }

    /// Ends the thread, soon. May be called twice.
    pub fn end(&self) {
        self.wish.end();
    }
}

fn run(wish: &Wish, commit: &Weak<GroupCommit<Writer>>) {
    while wish.taken() {
        let mut seen = None;
        while wish.pause() {
            let Some(commit) = commit.upgrade() else { return };
            let now = commit.when_idle(|writer| writer.flushes());
            if now.is_some() && now == seen {
                fill(&commit, now);
                break;
            }
            seen = now;
        }
    }
}

/// Writes zeros until there are enough, something is appended, or it fails, of which the next append hears.
fn fill(commit: &GroupCommit<Writer>, seen: Option<u64>) {
    let step = |writer: &mut Writer| Some(writer.flushes()) == seen && writer.fill_for_large().unwrap_or(false);
    while commit.when_idle(step) == Some(true) {}
}
