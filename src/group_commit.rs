//! Who writes and who waits when many threads commit at once. Knows nothing of what is written.
//!
//! Callers stage their part into the batch that gathers, under one lock. The first who finds nobody flushing becomes
//! the leader: it takes the batch, flushes it without the lock, and wakes those whose part was in it, while the next
//! batch gathers. A lone caller leads at once and meets nobody. One batch is flushed at a time, in order; when it
//! fails, the one gathering behind it fails with it, because it was checked against what has now not happened.
//!
//! | moment | who has the flusher | the batch that gathers |
//! |---|---|---|
//! | idle | the state | empty |
//! | staged, nobody leads yet | the state; a waiting caller was notified, or the next to come leads | not empty |
//! | gathering, flushing | the leader | whoever comes joins it |
//! | exclusive work | that caller | empty, because staging is barred |
//! | work while idle | that caller | whoever comes joins it, and one of them leads afterwards |

use std::time::Duration;

use super::sync::{Condvar, Mutex, MutexGuard, ThreadId, lock, now, thread_id, wait, wait_for};

/// Makes batches durable. One thread at a time has it.
pub trait Flusher {
    /// What decides whether a caller's part is taken; guarded by the lock.
    type Queue;
    /// What callers stage into.
    type Batch: Default;
    /// Goes to every caller whose part was lost.
    type Error: Clone;

    /// Makes the batch durable, or leaves things as if it had never been.
    fn flush(&mut self, batch: &mut Self::Batch) -> Result<(), Self::Error>;
    /// Called under the lock after each flush; `lost` says that all that is staged is gone, so claims go back.
    fn settle(&self, queue: &mut Self::Queue, lost: bool);
    /// Empties a batch for the next use.
    fn clear(batch: &mut Self::Batch);
}

/// What staging came to.
#[derive(Debug)]
pub enum Staged<T> {
    /// It is in the batch: wait until that is flushed.
    Queued(T),
    /// There is nothing to wait for; queue and batch are as they were.
    Refused(T),
    /// The batch must be taken first; queue and batch are as they were.
    NoRoom,
}

/// See the module.
pub struct GroupCommit<F: Flusher> {
    state: Mutex<State<F>>,
    /// Callers of even and of odd batches: at most two batches are under way.
    settled: [Condvar; 2],
    /// The leader that waits for company.
    company: Condvar,
    /// Callers at the door.
    door: Condvar,
    /// Callers who want the flusher for themselves.
    idle: Condvar,
}

struct State<F: Flusher> {
    queue: F::Queue,
    batch: F::Batch,
    spare: F::Batch,
    /// Callers in `batch`.
    calls: usize,
    /// Number of `batch`.
    number: u64,
    /// Batches below this are flushed or lost.
    settled: u64,
    /// Here unless somebody leads or works exclusively.
    flusher: Option<Box<F>>,
    /// Lost batches whose callers have not all heard of it.
    losses: Vec<Loss<F::Error>>,
    door: Option<Door>,
    /// Somebody waits for the batch to be taken, so its leader waits for nobody.
    hurry: bool,
    pace: Pace,
}

/// Only the owner may stage.
struct Door {
    owner: ThreadId,
    depth: usize,
}

struct Loss<E> {
    first: u64,
    last: u64,
    error: E,
    unheard: usize,
}

type Guard<'a, F> = MutexGuard<'a, State<F>>;

impl<F: Flusher> GroupCommit<F> {
    /// Starts with nothing staged.
    pub fn new(flusher: F, queue: F::Queue) -> Self {
        let state = State {
            queue,
            batch: F::Batch::default(),
            spare: F::Batch::default(),
            calls: 0,
            number: 0,
            settled: 0,
            flusher: Some(Box::new(flusher)),
            losses: Vec::new(),
            door: None,
            hurry: false,
            pace: Pace::default(),
        };
        Self {
            state: Mutex::new(state),
            settled: [Condvar::new(), Condvar::new()],
            company: Condvar::new(),
            door: Condvar::new(),
            idle: Condvar::new(),
        }
    }

    /// Stages a part and returns when it is durable or lost. `put` may be called again after `NoRoom`, and must
    /// leave everything as it was unless it returns `Queued`. It gets the flusher where the batch holds nobody else's
    /// part and nobody flushes: this caller will lead, and may begin with what needs no sync. Others wait meanwhile.
    pub fn commit<T>(
        &self,
        mut put: impl FnMut(&mut F::Queue, &mut F::Batch, Option<&mut F>) -> Result<Staged<T>, F::Error>,
    ) -> Result<T, F::Error> {
        let mut state = self.pass_door(lock(&self.state));
        let mut claimed = false;
        let answer = loop {
            let open = &mut *state;
            if open.calls == 0 {
                // What a `put` that panicked left there is nobody's.
                F::clear(&mut open.batch);
            }
            let own = if open.calls == 0 { open.flusher.as_deref_mut() } else { None };
            match put(&mut open.queue, &mut open.batch, own) {
                Ok(Staged::NoRoom) => {
                    if !claimed {
                        claim(&mut state.door, thread_id());
                        claimed = true;
                    }
                    state.hurry = true;
                    self.company.notify_one();
                    let number = state.number;
                    while state.number == number {
                        state = wait(&self.door, state);
                    }
                }
                other => break other,
            }
        };
        if claimed {
            self.open_door(&mut state);
        }
        match answer? {
            Staged::Queued(value) => {
                state.calls += 1;
                self.follow_or_lead(state).map(|()| value)
            }
            Staged::Refused(value) => Ok(value),
            Staged::NoRoom => unreachable!("the loop above ends with another answer"),
        }
    }

    /// Until `release`, only this thread may stage; what others staged before goes on. May be nested.
    pub fn hold(&self) {
        let mut state = self.pass_door(lock(&self.state));
        claim(&mut state.door, thread_id());
    }

    /// Ends one `hold` of this thread; false if there is none.
    pub fn release(&self) -> bool {
        let mut state = lock(&self.state);
        if !state.door.as_ref().is_some_and(|door| door.owner == thread_id()) {
            return false;
        }
        self.open_door(&mut state);
        true
    }

    /// Looks at the queue, or changes it, under the lock.
    pub fn with_queue<T>(&self, work: impl FnOnce(&mut F::Queue) -> T) -> T {
        work(&mut lock(&self.state).queue)
    }

    /// Waits for all that is staged, then works with the flusher, without the lock. From `bar` on, and until this
    /// returns, staging must refuse; `bar` says so in the queue.
    pub fn exclusive<T>(&self, bar: impl FnOnce(&mut F::Queue), work: impl FnOnce(&mut F) -> T) -> T {
        let mut state = lock(&self.state);
        bar(&mut state.queue);
        let mut flusher = loop {
            if state.calls == 0
                && let Some(flusher) = state.flusher.take()
            {
                break flusher;
            }
            state = wait(&self.idle, state);
        };
        drop(state);
        let result = work(&mut flusher);
        let mut state = lock(&self.state);
        debug_assert!(state.calls == 0, "staged although barred");
        flusher.settle(&mut state.queue, true);
        state.flusher = Some(flusher);
        drop(state);
        self.idle.notify_one();
        result
    }

    /// Works with the flusher, without the lock, if nothing is staged or under way; else `None`. What is staged
    /// meanwhile waits.
    pub fn when_idle<T>(&self, work: impl FnOnce(&mut F) -> T) -> Option<T> {
        let mut state = lock(&self.state);
        if state.calls > 0 {
            return None;
        }
        let mut flusher = state.flusher.take()?;
        drop(state);
        let result = work(&mut flusher);
        let mut state = lock(&self.state);
        flusher.settle(&mut state.queue, false);
        state.flusher = Some(flusher);
        let (behind, number) = (state.calls > 0, state.number);
        drop(state);
        if behind {
            self.settled[parity(number)].notify_one();
        }
        self.idle.notify_one();
        Some(result)
    }

    /// Waits until no other thread has the door.
    fn pass_door<'a>(&'a self, mut state: Guard<'a, F>) -> Guard<'a, F> {
        while state.door.as_ref().is_some_and(|door| door.owner != thread_id()) {
            state = wait(&self.door, state);
        }
        state
    }

    fn open_door(&self, state: &mut State<F>) {
        if let Some(door) = &mut state.door {
            door.depth -= 1;
            if door.depth == 0 {
                state.door = None;
                self.door.notify_all();
            }
        }
    }

    /// The caller's part is in the batch that gathers.
    fn follow_or_lead(&self, mut state: Guard<'_, F>) -> Result<(), F::Error> {
        let ticket = state.number;
        if state.calls >= state.pace.expected {
            self.company.notify_one();
        }
        while ticket >= state.settled {
            if let Some(flusher) = state.flusher.take() {
                return self.lead(state, flusher);
            }
            state = wait(&self.settled[parity(ticket)], state);
        }
        state.verdict(ticket)
    }

    fn lead(&self, state: Guard<'_, F>, mut flusher: Box<F>) -> Result<(), F::Error> {
        let mut state = self.gather(state);
        let spare = std::mem::take(&mut state.spare);
        let mut batch = std::mem::replace(&mut state.batch, spare);
        let calls = std::mem::take(&mut state.calls);
        let number = state.number;
        state.number += 1;
        state.hurry = false;
        drop(state);
        self.door.notify_all();

        let start = now();
        let result = flusher.flush(&mut batch);
        let took = start.elapsed();
        F::clear(&mut batch);

        let mut state = lock(&self.state);
        state.spare = batch;
        let waiting = state.calls;
        state.pace.flushed(calls, waiting, took);
        if let Err(error) = &result {
            state.lose(number, calls - 1, error.clone());
        }
        state.settled = state.number;
        flusher.settle(&mut state.queue, result.is_err());
        state.flusher = Some(flusher);
        let behind = state.calls > 0;
        drop(state);

        if calls > 1 {
            self.settled[parity(number)].notify_all();
        }
        if result.is_err() {
            self.settled[parity(number + 1)].notify_all();
            self.door.notify_all();
        } else if behind {
            self.settled[parity(number + 1)].notify_one();
        }
        self.idle.notify_one();
        result
    }

    /// Waits a moment for those who took part in the last flushes: fuller batches, fewer syncs.
    fn gather<'a>(&'a self, mut state: Guard<'a, F>) -> Guard<'a, F> {
        if state.calls >= state.pace.expected || state.hurry || state.door.is_some() || !state.pace.try_gathering() {
            return state;
        }
        let alone = state.calls;
        let (step, limit) = state.pace.patience();
        let start = now();
        while state.calls < state.pace.expected && !state.hurry {
            let before = state.calls;
            let (again, timed_out) = wait_for(&self.company, state, step);
            state = again;
            if timed_out && (state.calls == before || start.elapsed() >= limit) {
                break;
            }
        }
        let came = state.calls > alone;
        state.pace.gathered(came);
        state
    }
}

impl<F: Flusher> State<F> {
    /// Batch `number` is lost, and with it the one that gathers.
    fn lose(&mut self, number: u64, waiting: usize, error: F::Error) {
        let unheard = waiting + std::mem::take(&mut self.calls);
        if unheard > 0 {
            self.losses.push(Loss { first: number, last: self.number, error, unheard });
        }
        F::clear(&mut self.batch);
        self.number += 1;
        self.hurry = false;
    }

    /// What became of a settled batch, for one of its callers.
    fn verdict(&mut self, ticket: u64) -> Result<(), F::Error> {
        let Some(place) = self.losses.iter().position(|loss| loss.first <= ticket && ticket <= loss.last) else {
            return Ok(());
        };
        let loss = &mut self.losses[place];
        loss.unheard -= 1;
        Err(if loss.unheard == 0 { self.losses.swap_remove(place).error } else { loss.error.clone() })
    }
}

fn claim(door: &mut Option<Door>, owner: ThreadId) {
    door.get_or_insert(Door { owner, depth: 0 }).depth += 1;
}

fn parity(number: u64) -> usize {
    usize::from(number % 2 == 1)
}

/// How long a leader waits for others, and for how many.
#[derive(Default)]
struct Pace {
    /// Callers seen around the last flush: in it, or waiting when it ended.
    expected: usize,
    /// Running mean of the time of a flush.
    flush: Duration,
    /// Waits in a row that nobody joined.
    misses: u32,
    /// Flushes to let pass before the next try.
    pause: u32,
}

impl Pace {
    fn flushed(&mut self, calls: usize, waiting: usize, took: Duration) {
        self.expected = calls + waiting;
        self.flush = (self.flush * 7 + took) / 8;
    }

    fn try_gathering(&mut self) -> bool {
        let now = self.pause == 0;
        self.pause = self.pause.saturating_sub(1);
        now
    }

    /// The longest wait without a newcomer, and the longest in all: dozens of threads need a while to come, one by one.
    fn patience(&self) -> (Duration, Duration) {
        let step = (self.flush / 4).clamp(Duration::from_micros(50), Duration::from_micros(500));
        (step, (step * 4).max(Duration::from_millis(1)))
    }

    fn gathered(&mut self, came: bool) {
        self.misses = if came { 0 } else { (self.misses + 1).min(6) };
        self.pause = if came { 0 } else { (1 << self.misses) - 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_waits_longer_for_many_than_for_nobody() {
        let fast = Pace { flush: Duration::from_micros(100), ..Pace::default() };
        assert_eq!(fast.patience(), (Duration::from_micros(50), Duration::from_millis(1)));
        let slow = Pace { flush: Duration::from_millis(10), ..Pace::default() };
        assert_eq!(slow.patience(), (Duration::from_micros(500), Duration::from_millis(2)));
    }
}
