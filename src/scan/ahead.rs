//! Reading one step ahead in a thread of its own, so that a large file is read and judged at the same time.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

use crate::error::Result;
use crate::file::File;

/// Free bytes in front of what is read, for the frame that the step before has begun.
pub const HEADROOM: usize = 16 << 10;

/// Where to read, how much, and a buffer to use again.
type Wish = (u64, usize, Vec<u8>);
/// Headroom and what was read, and how much that is.
type Step = (Vec<u8>, Result<usize>);

/// The thread's other end. The thread ends when this goes away.
pub struct Ahead {
    wishes: SyncSender<Wish>,
    steps: Receiver<Step>,
    /// What was asked for and not taken yet.
    asked: Option<(u64, usize)>,
}

impl Ahead {
    /// Starts the thread; `None` where there is none to be had.
    pub fn start<'scope>(scope: &'scope Scope<'scope, '_>, file: &'scope File) -> Option<Self> {
        let (wishes, inbox) = sync_channel::<Wish>(1);
        let (done, steps) = sync_channel::<Step>(1);
        let work = move || {
            for (offset, len, mut bytes) in inbox {
                bytes.resize(HEADROOM, 0);
                let got = file.read_into(&mut bytes, len, offset);
                if done.send((bytes, got)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("walspool-scan".into()).spawn_scoped(scope, work).ok()?;
        Some(Self { wishes, steps, asked: None })
    }

    /// Asks for `len` bytes at `offset`; `buffer` is used again.
    pub fn ask(&mut self, offset: u64, len: usize, buffer: Vec<u8>) {
        if len > 0 && self.wishes.send((offset, len, buffer)).is_ok() {
            self.asked = Some((offset, len));
        }
    }

    /// What was asked for, if it begins at `offset`: its length, and the step.
    pub fn take(&mut self, offset: u64) -> Option<(usize, Step)> {
        let (asked, len) = self.asked.take()?;
        let step = self.steps.recv().ok()?;
        (asked == offset).then_some((len, step))
    }
}
