//! What is durable, for all who read or wait. Its lock is held for moments, never during a call of the system.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::bell::ring;
use crate::error::{CoreError, Result};
use crate::index::Summary;

/// Buckets of a histogram; bucket n counts values of n bits.
const BUCKETS: usize = 32;

/// Counters since the appender was made.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Records that became durable.
    pub appends: u64,
    /// Bytes of their payloads.
    pub appended_bytes: u64,
    /// Successful flushes.
    pub flushes: u64,
    /// Time spent in their syncs.
    pub sync_ns_total: u64,
    /// The longest of them.
    pub sync_ns_max: u64,
    /// Their times in microseconds, by bits.
    pub sync_us_histogram: [u64; BUCKETS],
    /// Records of a flush, by bits.
    pub records_per_flush_histogram: [u64; BUCKETS],
}

impl Stats {
    /// Takes in one flush.
    pub fn count(&mut self, records: u64, payload_bytes: u64, sync: Duration) {
        let nanos = u64::try_from(sync.as_nanos()).unwrap_or(u64::MAX);
        self.appends += records;
        self.appended_bytes += payload_bytes;
        self.flushes += 1;
        self.sync_ns_total += nanos;
        self.sync_ns_max = self.sync_ns_max.max(nanos);
        self.sync_us_histogram[bucket(nanos / 1000)] += 1;
        self.records_per_flush_histogram[bucket(records)] += 1;
    }
}

fn bucket(value: u64) -> usize {
    ((u64::BITS - value.leading_zeros()) as usize).min(BUCKETS - 1)
}

/// One consistent view.
#[derive(Debug)]
struct Durable {
    summary: Summary,
    stats: Stats,
    poisoned: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub struct Published {
    durable: Mutex<Durable>,
    /// Followers of the durable LSN.
    passed: Condvar,
    listeners: Mutex<Vec<RawFd>>,
    /// The highest durable LSN, or the floor. Only ever grows, under the lock.
    lsn: AtomicU64,
    /// The current term. Only ever grows, under the lock.
    term: AtomicU64,
    /// Set once, under the lock.
    closed: AtomicBool,
}

impl Published {
    /// Starts with what `summary` says, all of it durable.
    pub fn new(summary: Summary, floor_lsn: u64, term: u64) -> Self {
        let lsn = AtomicU64::new(summary.highest_lsn.max(floor_lsn));
        let term = AtomicU64::new(summary.highest_term.max(term));
        let durable = Durable { summary, stats: Stats::default(), poisoned: None };
        let closed = AtomicBool::new(false);
        Self { durable: Mutex::new(durable), passed: Condvar::new(), listeners: Mutex::default(), lsn, term, closed }
    }

    /// The highest LSN at or below which nothing new can come.
    pub fn lsn(&self) -> u64 {
        self.lsn.load(Ordering::Acquire)
    }

    /// The highest term seen.
    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    /// Whether all waiting was ended.
    pub fn closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// What is durable in the current file.
    pub fn summary(&self) -> Summary {
        self.durable.lock().summary.clone()
    }

    /// The counters.
    pub fn stats(&self) -> Stats {
        self.durable.lock().stats.clone()
    }

    /// Why nothing may be written any more.
    pub fn poisoned(&self) -> Option<String> {
        self.durable.lock().poisoned.clone()
    }

    /// Makes a new state known to all: `count` takes the flush behind it into the counters.
    pub fn publish(&self, summary: &Summary, count: impl FnOnce(&mut Stats)) {
        let mut durable = self.durable.lock();
        durable.summary.clone_from(summary);
        count(&mut durable.stats);
        self.lsn.fetch_max(summary.highest_lsn, Ordering::AcqRel);
        self.term.fetch_max(summary.highest_term, Ordering::AcqRel);
        drop(durable);
        self.wake();
    }

    /// No new LSN at or below `lsn`.
    pub fn raise_floor(&self, lsn: u64) {
        let durable = self.durable.lock();
        self.lsn.fetch_max(lsn, Ordering::AcqRel);
        drop(durable);
        self.wake();
    }

    /// No new record of a term below `term`.
    pub fn raise_term(&self, term: u64) {
        let _durable = self.durable.lock();
        self.term.fetch_max(term, Ordering::AcqRel);
    }

    /// Makes known why nothing may be written any more.
    pub fn poison(&self, reason: &str) {
        self.durable.lock().poisoned = Some(reason.to_owned());
    }

    /// Ends all waiting.
    pub fn close(&self) {
        let durable = self.durable.lock();
        self.closed.store(true, Ordering::Release);
        drop(durable);
        self.wake();
    }

    /// Waits until the durable LSN is above `since_lsn`: what is durable then, in the current file. `None` when `limit` has
    /// passed before.
    pub fn wait(&self, since_lsn: u64, limit: Duration) -> Result<Option<Summary>> {
        let deadline = Instant::now() + limit;
        let mut durable = self.durable.lock();
        let mut late = false;
        loop {
            if self.closed() {
                return Err(CoreError::Closed);
            }
            let passed = self.lsn() > since_lsn;
            if passed || late {
                return Ok(passed.then(|| durable.summary.clone()));
            }
            late = self.passed.wait_until(&mut durable, deadline).timed_out();
        }
    }

    /// From now on a 1 is written to `fd`, an eventfd, whenever there may be something new.
    pub fn add_listener(&self, fd: RawFd) {
        self.listeners.lock().push(fd);
    }

    /// Ends that. No write to `fd` is under way when this returns.
    pub fn remove_listener(&self, fd: RawFd) {
        self.listeners.lock().retain(|listener| *listener != fd);
    }

    fn wake(&self) {
        self.passed.notify_all();
        for fd in self.listeners.lock().iter() {
            ring(*fd);
        }
    }
}
