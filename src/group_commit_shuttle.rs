//! The group commit under a model checker: the shipped source over shuttle's primitives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use group_commit::{Flusher, GroupCommit, Staged};
use shuttle::sync::Mutex;
use shuttle::thread;

#[allow(clippy::duplicate_mod, reason = "the same source over other primitives is the point")]
#[path = "group_commit.rs"]
mod group_commit;

mod sync {
    //! What `crate::sync` offers, by shuttle. Time stands still: a timed wait is a chance for others to run.

    use std::ops::{Deref, DerefMut};
    use std::time::Duration;

    pub use shuttle::sync::{Condvar, Mutex};
    pub use shuttle::thread::ThreadId;

    type Inner<'a, T> = shuttle::sync::MutexGuard<'a, T>;

    pub struct MutexGuard<'a, T> {
        inner: Inner<'a, T>,
        mutex: &'a Mutex<T>,
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            &self.inner
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.inner
        }
    }

    pub struct Instant;

    impl Instant {
        #[allow(clippy::unused_self, reason = "the signature is the real one's")]
        pub fn elapsed(&self) -> Duration {
            Duration::ZERO
        }
    }

    pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        MutexGuard { inner: mutex.lock().expect("no test panics under the lock"), mutex }
    }

    pub fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let MutexGuard { inner, mutex } = guard;
        MutexGuard { inner: condvar.wait(inner).expect("no test panics under the lock"), mutex }
    }

    pub fn wait_for<'a, T>(_: &Condvar, guard: MutexGuard<'a, T>, _: Duration) -> (MutexGuard<'a, T>, bool) {
        let mutex = guard.mutex;
        drop(guard);
        shuttle::thread::yield_now();
        (lock(mutex), true)
    }

    pub fn thread_id() -> ThreadId {
        shuttle::thread::current().id()
    }

    pub fn now() -> Instant {
        Instant
    }
}

/// Schedules per test and strategy.
const RUNS: usize = if cfg!(debug_assertions) { 400 } else { 5000 };
const ROOM: usize = 2;

/// A record: its LSN and what is in it.
type Record = (u64, u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Closed,
    Poisoned,
    Lost,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// This flush is cut back.
    Write(usize),
    /// This flush is the last.
    Sync(usize),
}

#[derive(Default)]
struct Admission {
    last: u64,
    closed: bool,
    poisoned: bool,
    sealed: bool,
}

/// Files of records instead of a disk. What `files` holds is durable.
struct Disk {
    files: Arc<Mutex<Vec<Vec<Record>>>>,
    busy: Arc<AtomicBool>,
    flushes: usize,
    fault: Fault,
    poisoned: bool,
}

impl Flusher for Disk {
    type Queue = Admission;
    type Batch = Vec<Record>;
    type Error = Refusal;

    fn flush(&mut self, batch: &mut Vec<Record>) -> Result<(), Refusal> {
        assert!(!self.busy.swap(true, Ordering::SeqCst), "two flushes at once");
        assert!(!batch.is_empty() && batch.len() <= ROOM && !self.poisoned);
        thread::yield_now();
        self.flushes += 1;
        let result = match self.fault {
            Fault::Write(place) if place == self.flushes => Err(Refusal::Lost),
            Fault::Sync(place) if place == self.flushes => {
                self.poisoned = true;
                Err(Refusal::Lost)
            }
            _ => {
                self.files.lock().unwrap().last_mut().unwrap().extend(batch.iter());
                Ok(())
            }
        };
        assert!(self.busy.swap(false, Ordering::SeqCst));
        result
    }

    fn settle(&self, queue: &mut Admission, lost: bool) {
        if lost {
            queue.last = self.files.lock().unwrap().iter().flatten().last().map_or(0, |record| record.0);
        }
        queue.poisoned = self.poisoned;
    }

    fn clear(batch: &mut Vec<Record>) {
        batch.clear();
    }
}

#[derive(Clone)]
struct Log {
    commit: Arc<GroupCommit<Disk>>,
    files: Arc<Mutex<Vec<Vec<Record>>>>,
    busy: Arc<AtomicBool>,
}

impl Log {
    fn new(fault: Fault) -> Self {
        let files = Arc::new(Mutex::new(vec![Vec::new()]));
        let busy = Arc::new(AtomicBool::new(false));
        let disk = Disk { files: files.clone(), busy: busy.clone(), flushes: 0, fault, poisoned: false };
        Self { commit: Arc::new(GroupCommit::new(disk, Admission::default())), files, busy }
    }

    /// The LSN; `None` when sealed. What was acknowledged must be durable at that moment.
    fn append(&self, payload: u32) -> Result<Option<u64>, Refusal> {
        let lsn = self.commit.commit(|queue, batch, _| {
            if queue.closed {
                return Err(Refusal::Closed);
            }
            if queue.poisoned {
                return Err(Refusal::Poisoned);
            }
            if queue.sealed {
                return Ok(Staged::Refused(None));
            }
            if batch.len() == ROOM {
                return Ok(Staged::NoRoom);
            }
            queue.last += 1;
            batch.push((queue.last, payload));
            Ok(Staged::Queued(Some(queue.last)))
        })?;
        if let Some(lsn) = lsn {
            assert!(self.records().contains(&(lsn, payload)), "acknowledged, not durable");
        }
        Ok(lsn)
    }

    fn records(&self) -> Vec<Record> {
        self.files.lock().unwrap().concat()
    }

    /// Every record once, LSNs without a gap, and exactly what was acknowledged.
    fn check(&self, mut acknowledged: Vec<Record>) {
        acknowledged.sort_unstable();
        let records = self.records();
        assert_eq!(records, acknowledged);
        assert!(records.iter().zip(1..).all(|(record, lsn)| record.0 == lsn));
        assert!(!self.busy.load(Ordering::SeqCst));
    }
}

/// Runs `count` threads, each appending `each` records, and returns what each call came to.
fn append_from(log: &Log, count: u32, each: u32) -> Vec<(u32, Result<Option<u64>, Refusal>)> {
    let start = |thread: u32| {
        let log = log.clone();
        thread::spawn(move || (0..each).map(|i| (thread * 10 + i, log.append(thread * 10 + i))).collect::<Vec<_>>())
    };
    let threads: Vec<_> = (1..=count).map(start).collect();
    threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
}

/// Bars staging in another thread, and waits there for what is staged.
fn exclusive_from(log: &Log, bar: fn(&mut Admission)) -> thread::JoinHandle<()> {
    let log = log.clone();
    thread::spawn(move || log.commit.exclusive(bar, |_| ()))
}

fn acknowledged(results: &[(u32, Result<Option<u64>, Refusal>)]) -> Vec<Record> {
    results.iter().filter_map(|(payload, result)| Some((result.ok()??, *payload))).collect()
}

fn explore(test: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(test.clone(), RUNS);
    shuttle::check_pct(test, RUNS, 3);
}

#[test]
fn every_caller_is_answered_once_durable() {
    explore(|| {
        let log = Log::new(Fault::None);
        let results = append_from(&log, 4, 2);
        assert!(results.iter().all(|(_, result)| result.is_ok()));
        log.check(acknowledged(&results));
    });
}

#[test]
fn a_failed_write_fails_its_batch_and_what_queued_behind_it_and_no_more() {
    // Five threads fill the batch that is lost and the one behind it, and one waits for room.
    for (place, threads, each) in [(1, 3, 2), (2, 3, 2), (3, 3, 2), (1, 5, 1)] {
        explore(move || {
            let log = Log::new(Fault::Write(place));
            let mut results = append_from(&log, threads, each);
            let lost = results.iter().filter(|(_, result)| *result == Err(Refusal::Lost)).count();
            // The batch, and at most one full batch behind it.
            assert!((1..=2 * ROOM).contains(&lost));
            results.push((99, log.append(99)));
            assert!(results.last().unwrap().1.is_ok(), "usable again");
            assert!(results.iter().all(|(_, result)| matches!(result, Ok(_) | Err(Refusal::Lost))));
            log.check(acknowledged(&results));
        });
    }
}

#[test]
fn a_failed_sync_is_the_last_flush() {
    for place in 1..4 {
        explore(move || {
            let log = Log::new(Fault::Sync(place));
            let results = append_from(&log, 3, 2);
            assert!(results.iter().any(|(_, result)| *result == Err(Refusal::Lost)));
            assert_eq!(log.append(99), Err(Refusal::Poisoned));
            log.check(acknowledged(&results));
        });
    }
}

#[test]
fn close_waits_for_what_is_staged_and_refuses_the_rest() {
    explore(|| {
        let log = Log::new(Fault::None);
        let closer = {
            let log = log.clone();
            thread::spawn(move || {
                let at_close =
                    log.commit.exclusive(|queue| queue.closed = true, |disk| disk.files.lock().unwrap().concat());
                assert_eq!(log.append(98), Err(Refusal::Closed));
                at_close
            })
        };
        let results = append_from(&log, 3, 2);
        assert_eq!(closer.join().unwrap(), log.records(), "written after close");
        assert!(results.iter().all(|(_, result)| matches!(result, Ok(_) | Err(Refusal::Closed))));
        log.check(acknowledged(&results));
    });
}

#[test]
fn a_holder_appends_undisturbed() {
    explore(|| {
        let log = Log::new(Fault::None);
        let holder = {
            let log = log.clone();
            thread::spawn(move || {
                log.commit.hold();
                log.commit.hold();
                let mut results: Vec<_> = (50..52).map(|payload| (payload, log.append(payload))).collect();
                assert!(log.commit.release());
                results.push((52, log.append(52)));
                assert!(log.commit.release());
                assert!(!log.commit.release());
                results
            })
        };
        let mut results = append_from(&log, 2, 2);
        let held = acknowledged(&holder.join().unwrap());
        assert!(held.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1), "somebody came between");
        results.extend(held.iter().map(|(lsn, payload)| (*payload, Ok(Some(*lsn)))));
        assert_eq!(results.len(), 7);
        log.check(acknowledged(&results));
    });
}

#[test]
fn nothing_reaches_a_file_behind_its_seal() {
    explore(|| {
        let log = Log::new(Fault::None);
        let roller = {
            let log = log.clone();
            thread::spawn(move || {
                let sealed =
                    log.commit.exclusive(|queue| queue.sealed = true, |disk| disk.files.lock().unwrap().concat());
                log.commit.exclusive(|queue| queue.sealed = true, |disk| disk.files.lock().unwrap().push(Vec::new()));
                log.commit.with_queue(|queue| queue.sealed = false);
                sealed
            })
        };
        let results = append_from(&log, 3, 2);
        assert_eq!(roller.join().unwrap(), log.files.lock().unwrap()[0]);
        assert!(results.iter().all(|(_, result)| result.is_ok()));
        log.check(acknowledged(&results));
    });
}

#[test]
fn work_while_idle_keeps_nobody_waiting_for_ever() {
    for fault in [Fault::None, Fault::Write(1), Fault::Sync(2)] {
        explore(move || {
            let log = Log::new(fault);
            let worker = {
                let log = log.clone();
                let work = |disk: &mut Disk| {
                    assert!(!disk.busy.swap(true, Ordering::SeqCst), "somebody flushes");
                    thread::yield_now();
                    assert!(disk.busy.swap(false, Ordering::SeqCst));
                };
                thread::spawn(move || (0..3).filter(|_| log.commit.when_idle(work).is_some()).count())
            };
            let sealer = exclusive_from(&log, |queue| queue.sealed = true);
            let results = append_from(&log, 3, 1);
            worker.join().unwrap();
            sealer.join().unwrap();
            assert_eq!(log.commit.when_idle(|_| 7), Some(7));
            log.check(acknowledged(&results));
        });
    }
}

#[test]
fn seal_and_close_may_meet() {
    explore(|| {
        let log = Log::new(Fault::Write(2));
        let sealer = exclusive_from(&log, |queue| queue.sealed = true);
        let closer = exclusive_from(&log, |queue| queue.closed = true);
        let results = append_from(&log, 3, 1);
        sealer.join().unwrap();
        closer.join().unwrap();
        log.check(acknowledged(&results));
    });
}
