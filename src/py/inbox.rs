//! `Inbox` and `Outbox`: appends of asyncio tasks, whose flushes need no interpreter.
//!
//! A task puts its append into the inbox. One thread of Python's, which stays detached, takes all that is there, makes
//! it durable, leaves each result in the outbox of its event loop and rings that loop's bell, while the loop goes on.
//! Locks are held for moments, and nothing of Python's runs under them.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;

use super::appender::PyAppender;
use super::appender::args::Kept;
use crate::appender::{Appender, Failure};
use crate::bell::ring;

/// The results of one event loop's appends.
struct Results {
    done: Mutex<VecDeque<(Py<PyAny>, PyResult<u64>)>>,
    ring_fd: RawFd,
    /// Keeps the descriptor open: without it, its number might be another file's.
    _bell: Py<PyAny>,
}

/// Where one event loop finds the results of its appends.
#[pyclass(frozen, name = "Outbox", module = "walspool._native")]
pub struct PyOutbox {
    results: Arc<Results>,
}

#[pymethods]
impl PyOutbox {
    #[new]
    fn new(bell: Bound<'_, PyAny>) -> PyResult<Self> {
        let ring_fd = bell.getattr("ring_fd")?.extract()?;
        Ok(Self { results: Arc::new(Results { done: Mutex::default(), ring_fd, _bell: bell.unbind() }) })
    }

    /// Gives every future its result; one that was cancelled meanwhile gets none. After an error, as by a signal
    /// handler, the rest stays for the next call.
    fn resolve(&self, py: Python<'_>) -> PyResult<()> {
        let mut answered = std::mem::take(&mut *self.results.done.lock());
        while let Some((future, result)) = answered.pop_front() {
            let future = future.bind(py);
            let given = match result {
                Ok(lsn) => future.call_method1(intern!(py, "set_result"), (lsn,)),
                Err(error) => future.call_method1(intern!(py, "set_exception"), (error,)),
            };
            if let Err(error) = given
                && !error.is_instance(py, &py.import("asyncio")?.getattr("InvalidStateError")?)
            {
                let mut done = self.results.done.lock();
                answered.append(&mut done);
                *done = answered;
                drop(done);
                ring(self.results.ring_fd);
                return Err(error);
            }
        }
        Ok(())
    }

    /// A future knows its loop, and that its end with this outbox.
    #[allow(clippy::needless_pass_by_value, reason = "the protocol's signature")]
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // One that is in use just now is no garbage.
        let Some(done) = self.results.done.try_lock() else { return Ok(()) };
        done.iter().try_for_each(|(future, _)| visit.call(future))
    }

    fn __clear__(&self) {
        let forgotten = std::mem::take(&mut *self.results.done.lock());
        drop(forgotten);
    }
}

/// One append that waits.
struct Item {
    append: Kept,
    future: Py<PyAny>,
    results: Arc<Results>,
}

/// What one round of the inbox's thread came to.
struct Round {
    failed: Vec<(Item, Failure)>,
    end: Option<End>,
}

enum End {
    Full,
    Stopped,
}

/// So many are flushed although more may come: the loop runs its other tasks meanwhile.
const ENOUGH: usize = 32;
/// How long fewer wait for a loop that has ended, and so never says that they are all.
const PATIENCE: Duration = Duration::from_millis(5);

#[derive(Default)]
struct Waiting {
    items: VecDeque<Item>,
    /// Those are all for now.
    released: bool,
    stopped: bool,
}

impl Waiting {
    fn due(&self) -> bool {
        self.released || self.stopped || self.items.len() >= ENOUGH
    }
}

/// Appends that wait for the next flush.
#[pyclass(frozen, name = "Inbox", module = "walspool._native")]
pub struct PyInbox {
    appender: Py<PyAppender>,
    waiting: Mutex<Waiting>,
    came: Condvar,
}

#[pymethods]
impl PyInbox {
    #[new]
    fn new(appender: Py<PyAppender>) -> Self {
        Self { appender, waiting: Mutex::default(), came: Condvar::new() }
    }

    /// Leaves an append, whose result `future` gets by way of `outbox`; false after `stop`. To be flushed, it waits for
    /// company or for `release`.
    #[allow(clippy::too_many_arguments, reason = "the append's own arguments are four of them")]
    fn put(
        &self,
        py: Python<'_>,
        outbox: &Bound<'_, PyOutbox>,
        future: Py<PyAny>,
        lsn: Option<&Bound<'_, PyAny>>,
        data: &Bound<'_, PyAny>,
        term: Option<&Bound<'_, PyAny>>,
        timestamp_ms: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let append = self.appender.get().take(py, lsn, data, term, timestamp_ms)?.into();
        let item = Item { append, future, results: Arc::clone(&outbox.get().results) };
        let mut waiting = self.waiting.lock();
        if waiting.stopped {
            return Ok(false);
        }
        waiting.items.push_back(item);
        let enough = waiting.items.len() == ENOUGH;
        // The first starts the patience of whoever waits.
        let news = enough || waiting.items.len() == 1;
        drop(waiting);
        if news {
            self.came.notify_one();
        }
        Ok(true)
    }

    /// Has all flushed that waits: a loop has run every task that could add to it.
    fn release(&self) {
        let mut waiting = self.waiting.lock();
        waiting.released = !waiting.items.is_empty();
        let news = waiting.released && waiting.items.len() < ENOUGH;
        drop(waiting);
        if news {
            self.came.notify_one();
        }
    }

    /// Appends what comes, until the file is full (true), or `stop` was called and nothing is left (false).
    fn run(&self, py: Python<'_>) -> bool {
        let appender = self.appender.get();
        loop {
            let Round { failed, end } = py.detach(|| self.rounds(&appender.appender));
            answer(failed.into_iter().map(|(item, failure)| (item, Err(appender.failed(py, failure)))));
            match end {
                Some(End::Full) => return true,
                Some(End::Stopped) => return false,
                None => {}
            }
        }
    }

    /// Lets all that waits fail with `error`.
    fn fail(&self, error: Bound<'_, PyAny>) {
        let py = error.py();
        let items = std::mem::take(&mut self.waiting.lock().items);
        let error = PyErr::from_value(error);
        answer(items.into_iter().map(|item| (item, Err(error.clone_ref(py)))));
    }

    /// Takes no more.
    fn stop(&self) {
        self.waiting.lock().stopped = true;
        self.came.notify_one();
    }
}

impl PyInbox {
    /// Round after round, until one needs the interpreter.
    fn rounds(&self, appender: &Appender) -> Round {
        loop {
            let Some(taken) = self.take() else {
                return Round { failed: Vec::new(), end: Some(End::Stopped) };
            };
            let round = self.round(appender, taken);
            if round.end.is_some() || !round.failed.is_empty() {
                return round;
            }
        }
    }

    /// All that waits, once there is something; `None` if nothing is to come any more.
    fn take(&self) -> Option<VecDeque<Item>> {
        let mut waiting = self.waiting.lock();
        loop {
            if waiting.items.is_empty() {
                if waiting.stopped {
                    return None;
                }
                self.came.wait(&mut waiting);
            } else if waiting.due() || self.came.wait_for(&mut waiting, PATIENCE).timed_out() {
                waiting.released = false;
                return Some(std::mem::take(&mut waiting.items));
            }
        }
    }

    fn round(&self, appender: &Appender, mut taken: VecDeque<Item>) -> Round {
        let records: Vec<_> = taken.iter().map(|item| item.append.record()).collect();
        let results = appender.append_each(&records);
        drop(records);
        let results = match results {
            Ok(results) => results,
            Err(error) => {
                let failed = taken.into_iter().map(|item| (item, Failure::from(error.clone()))).collect();
                return Round { failed, end: None };
            }
        };
        let mut rest = taken.split_off(results.len());
        let end = (!rest.is_empty()).then_some(End::Full);
        let mut failed = Vec::new();
        let mut good = Vec::with_capacity(taken.len());
        for (item, result) in taken.into_iter().zip(results) {
            match result {
                Ok(lsn) => good.push((item, Ok(lsn))),
                Err(failure) => failed.push((item, failure)),
            }
        }
        answer(good.into_iter());
        if end.is_some() {
            let mut waiting = self.waiting.lock();
            rest.append(&mut waiting.items);
            waiting.items = rest;
        }
        Round { failed, end }
    }
}

/// Leaves each result in its outbox, and rings the bells.
fn answer(answers: impl Iterator<Item = (Item, PyResult<u64>)>) {
    let mut answers = answers.peekable();
    while let Some((item, result)) = answers.next() {
        let Item { future, results, .. } = item;
        results.done.lock().push_back((future, result));
        if answers.peek().is_none_or(|(next, _)| !Arc::ptr_eq(&next.results, &results)) {
            ring(results.ring_fd);
        }
    }
}
