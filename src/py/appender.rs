//! `Appender`: the writer of a log. Every call that waits or locks is detached from the interpreter.

pub(super) mod args;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use args::{Payload, Taken, at_index, now_ms, take_mark};

use super::convert::{Data, Defaulted, optional_u64_arg, u64_arg};
use super::entry::PyEntry;
use super::errors::to_py;
use super::file::PyFile;
use super::lists::{count_arg, room_arg};
use super::reader::PyReader;
use super::report::PyScanReport;
use crate::appender::{Appended, Appender, Failure, Options, Partly, Published, Record, split};
use crate::error::CoreError;
use crate::frame::MAX_PAYLOAD;
use crate::index::Summary;
use crate::scan::ScanReport;

/// How often a wait looks for Ctrl-C.
const SIGNALS: Duration = Duration::from_millis(50);

/// Records, first and last LSN, where they end in the buffer, and whether the file was full before its end.
type FramesAppended = (usize, Option<u64>, Option<u64>, usize, bool);

/// Appends records and makes them durable; shared by any number of threads.
#[pyclass(frozen, name = "Appender", module = "walspool._native")]
pub struct PyAppender {
    pub(super) appender: Appender,
    path: Mutex<Py<PyAny>>,
    mark_path: Option<Py<PyAny>>,
}

#[pymethods]
impl PyAppender {
    #[new]
    #[pyo3(
        signature = (
            file, path, report, *, mark=None, segment_bytes=None, floor_lsn=Defaulted::LEFT_OUT,
            term=Defaulted::LEFT_OUT, fill_after=Defaulted::LEFT_OUT
        ),
        text_signature = "(file, path, report, *, mark=None, segment_bytes=None, floor_lsn=0, term=1, fill_after=64)"
    )]
    #[allow(clippy::too_many_arguments, reason = "the signature is Python's, with keywords")]
    fn new(
        py: Python<'_>,
        file: &PyFile,
        path: Py<PyAny>,
        report: &PyScanReport,
        mark: Option<(Bound<'_, PyFile>, Bound<'_, PyBytes>)>,
        segment_bytes: Option<&Bound<'_, PyAny>>,
        floor_lsn: Defaulted<'_>,
        term: Defaulted<'_>,
        fill_after: Defaulted<'_>,
    ) -> PyResult<Self> {
        let options = Options {
            segment_bytes: optional_u64_arg(segment_bytes, "segment_bytes")?,
            fill_after: fill_after.u64("fill_after", 64)?,
        };
        let floor_lsn = floor_lsn.u64("floor_lsn", 0)?;
        let term = term.u64("term", 1)?;
        let mark_path = mark.as_ref().map(|(file, _)| file.get().path.clone_ref(py));
        let mark = mark.map(|(file, template)| take_mark(file.get(), template.as_bytes())).transpose()?;
        let summary = report.report.summary.clone();
        let appender = Appender::new(Arc::clone(&file.file), summary, mark, floor_lsn, term, options);
        Ok(Self { appender, path: Mutex::new(path), mark_path })
    }

    /// Appends one record: its LSN, or `None` when the file is full.
    fn append(
        &self,
        py: Python<'_>,
        lsn: Option<&Bound<'_, PyAny>>,
        data: &Bound<'_, PyAny>,
        term: Option<&Bound<'_, PyAny>>,
        timestamp_ms: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Option<u64>> {
        self.alive(py)?;
        let taken = self.take(py, lsn, data, term, timestamp_ms)?;
        let bytes = taken.payload.as_bytes();
        py.detach(|| self.appender.append_one(&Record::new(taken.lsn, taken.term, taken.timestamp_ms, bytes)))
            .map_err(|failure| self.failed(py, failure))
    }

    /// Appends the (LSN, data) pairs from `start` on: the index of the first that no longer went into the file.
    fn append_many<'py>(
        &self,
        py: Python<'py>,
        items: &Bound<'py, PyList>,
        term: Option<&Bound<'py, PyAny>>,
        timestamp_ms: Option<&Bound<'py, PyAny>>,
        start: usize,
    ) -> PyResult<usize> {
        let pair = |item: &Bound<'py, PyAny>, index| {
            let Some(pair) = item.cast::<PyTuple>().ok().filter(|pair| pair.len() == 2) else {
                return Err(PyTypeError::new_err("must be a tuple (lsn, data)"));
            };
            let (lsn, data) = (pair.get_borrowed_item(0)?, pair.get_borrowed_item(1)?);
            Ok((Some(u64_arg(&lsn, "lsn")?), self.payload(py, &data, Some(index))?))
        };
        self.append_list(py, items, term, timestamp_ms, start, pair).map(|(next, _)| next)
    }

    /// Appends the payloads from `start` on under the next LSNs: the index of the first that no longer went into the
    /// file, and the first LSN given.
    fn append_next_many<'py>(
        &self,
        py: Python<'py>,
        payloads: &Bound<'py, PyList>,
        term: Option<&Bound<'py, PyAny>>,
        timestamp_ms: Option<&Bound<'py, PyAny>>,
        start: usize,
    ) -> PyResult<(usize, Option<u64>)> {
        let payload = |item: &Bound<'py, PyAny>, index| Ok((None, self.payload(py, item, Some(index))?));
        self.append_list(py, payloads, term, timestamp_ms, start, payload)
    }

    /// Appends the whole version 3 frames in `buffer` from `start` on: how many, the first and the last LSN, where in
    /// the buffer they end, and whether the file was full before their end.
    fn append_frames(&self, py: Python<'_>, buffer: &Bound<'_, PyAny>, start: usize) -> PyResult<FramesAppended> {
        self.alive(py)?;
        let payload = Payload::new(Data::new(buffer)?);
        let Some(bytes) = payload.as_bytes().get(start..) else {
            return Err(PyValueError::new_err("start must lie within the buffer"));
        };
        let appended = py.detach(|| {
            let (frames, bad) = split(bytes, start);
            if let Some(bad) = bad {
                self.appender.check(&frames, None)?;
                return Err(Partly::from(bad));
            }
            let done = self.appender.append(&frames, None)?;
            let end = start + frames[..done.count].iter().map(crate::appender::Part::frame_len).sum::<usize>();
            Ok((done.count, done.first_lsn, done.last_lsn, end, done.count < frames.len()))
        });
        appended.map_err(|partly| self.partly_failed(py, partly))
    }

    /// Until `release`, appends of other threads wait. May be nested.
    fn hold(&self, py: Python<'_>) -> PyResult<()> {
        self.detached(py, Appender::hold)
    }

    /// Ends one `hold` of this thread.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        if self.detached(py, Appender::release)? {
            return Ok(());
        }
        Err(PyRuntimeError::new_err("release() without hold() in this thread"))
    }

    /// Waits for what is in flight, lets no more in, cuts the file to what is durable: what is known of it.
    fn seal(&self, py: Python<'_>) -> PyResult<PyScanReport> {
        let summary = self.detached(py, Appender::seal)?;
        Ok(PyScanReport { report: ScanReport::clean(summary) })
    }

    /// Lets appends go on in the same file.
    fn unseal(&self, py: Python<'_>) -> PyResult<()> {
        self.detached(py, Appender::unseal)
    }

    /// Goes on in another file, all of whose report is durable.
    fn swap(&self, py: Python<'_>, file: &PyFile, path: Py<PyAny>, report: &PyScanReport) -> PyResult<()> {
        let (file, summary) = (Arc::clone(&file.file), report.report.summary.clone());
        self.detached(py, |appender| appender.swap(file, summary))?;
        *self.path.lock().unwrap_or_else(PoisonError::into_inner) = path;
        Ok(())
    }

    /// No new LSN at or below `lsn`.
    fn raise_floor(&self, py: Python<'_>, lsn: &Bound<'_, PyAny>) -> PyResult<()> {
        let lsn = u64_arg(lsn, "lsn")?;
        self.detached(py, |appender| appender.raise_floor(lsn))
    }

    /// No new record of a term below `term`.
    fn raise_term(&self, py: Python<'_>, term: &Bound<'_, PyAny>) -> PyResult<()> {
        let term = u64_arg(term, "term")?;
        self.detached(py, |appender| appender.raise_term(term))
    }

    /// No new record of a term at or below `term`, but for frames.
    fn fence(&self, py: Python<'_>, term: &Bound<'_, PyAny>) -> PyResult<()> {
        let term = u64_arg(term, "term")?;
        self.detached(py, |appender| appender.fence(term))
    }

    /// Waits until the durable LSN is above `since_lsn`; false after `timeout` seconds. Ctrl-C works.
    fn wait_lsn(&self, py: Python<'_>, since_lsn: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<bool> {
        let since_lsn = u64_arg(since_lsn, "since_lsn")?;
        self.wait_for(py, since_lsn, timeout, |_| ()).map(|passed| passed.is_some())
    }

    /// Waits as `wait_lsn` does, then reads on with `reader`, in one go. `None` after `timeout` seconds, nothing where the
    /// records are in another file or can't be read.
    #[pyo3(signature = (reader, since_lsn, timeout, max_count, max_bytes))]
    fn wait_entries<'py>(
        &self,
        py: Python<'py>,
        reader: &Bound<'py, PyReader>,
        since_lsn: &Bound<'py, PyAny>,
        timeout: Option<f64>,
        max_count: &Bound<'py, PyAny>,
        max_bytes: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyList>>> {
        let since_lsn = u64_arg(since_lsn, "since_lsn")?;
        let (count, room) = (count_arg(Some(max_count))?, room_arg(Some(max_bytes))?);
        let shared = &reader.get().shared;
        let Some(run) = self.wait_for(py, since_lsn, timeout, |summary| shared.read_on(summary, count, room))? else {
            return Ok(None);
        };
        let entries = run.iter().flat_map(|(chunk, run)| {
            let records = &chunk.records()[run.clone()];
            records.iter().map(|record| PyEntry::of(py, chunk, record))
        });
        Ok(Some(PyList::new(py, entries.collect::<Vec<_>>())?))
    }

    /// From now on a 1 is written to `fd`, an eventfd, whenever there may be something new.
    fn add_listener(&self, py: Python<'_>, fd: i32) -> PyResult<()> {
        self.detached(py, |appender| appender.published().map(|published| published.add_listener(fd)))
    }

    /// Ends that; no write to `fd` is under way when this returns.
    fn remove_listener(&self, py: Python<'_>, fd: i32) -> PyResult<()> {
        self.detached(py, |appender| appender.published().map(|published| published.remove_listener(fd)))
    }

    /// What is durable now in the current file.
    fn summary(&self, py: Python<'_>) -> PyResult<PyScanReport> {
        let summary = self.detached(py, |appender| appender.published().map(Published::summary))?;
        Ok(PyScanReport { report: ScanReport::clean(summary) })
    }

    /// The highest durable LSN, or the floor.
    #[getter]
    fn durable_lsn(&self, py: Python<'_>) -> PyResult<u64> {
        // No lock is taken for this one and the next.
        self.appender.published().map(Published::lsn).map_err(|error| self.failed(py, error.into()))
    }

    /// The term of the next record, if none is given.
    #[getter]
    fn current_term(&self, py: Python<'_>) -> PyResult<u64> {
        self.appender.published().map(Published::term).map_err(|error| self.failed(py, error.into()))
    }

    /// Why nothing may be written any more, else `None`.
    #[getter]
    fn poisoned(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.detached(py, |appender| appender.published().map(Published::poisoned))
    }

    /// Whether `close` or `abandon` was called.
    #[getter]
    fn closed(&self) -> bool {
        self.appender.closed()
    }

    /// Counters since this object was made.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.detached(py, |appender| appender.published().map(Published::stats))?;
        let dict = PyDict::new(py);
        dict.set_item("appends", stats.appends)?;
        dict.set_item("appended_bytes", stats.appended_bytes)?;
        dict.set_item("flushes", stats.flushes)?;
        dict.set_item("sync_ns_total", stats.sync_ns_total)?;
        dict.set_item("sync_ns_max", stats.sync_ns_max)?;
        dict.set_item("sync_us_histogram", PyTuple::new(py, stats.sync_us_histogram)?)?;
        dict.set_item("records_per_flush_histogram", PyTuple::new(py, stats.records_per_flush_histogram)?)?;
        Ok(dict)
    }

    /// Waits for what is in flight, cuts the file to what is durable, lets go of it. Later calls do nothing.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.detached(py, Appender::close)
    }

    /// Lets go of the file as it is, once what is in flight has ended: nothing is written afterwards.
    fn forget(&self, py: Python<'_>) {
        py.detach(|| self.appender.forget());
    }

    /// For a forked child: from now on every call is refused; no lock is taken, nothing is written.
    fn abandon(&self) {
        self.appender.abandon();
    }
}

impl PyAppender {
    /// Waits until the durable LSN is above `since_lsn`, and then, still detached, does `work`.
    fn wait_for<T: Send>(
        &self,
        py: Python<'_>,
        since_lsn: u64,
        timeout: Option<f64>,
        work: impl Fn(&Summary) -> T + Sync,
    ) -> PyResult<Option<T>> {
        if timeout.is_some_and(f64::is_nan) {
            return Err(PyValueError::new_err("timeout must not be NaN"));
        }
        // What no clock can hold is for ever.
        let limit = timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok());
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            let left = deadline.map_or(SIGNALS, |deadline| deadline.saturating_duration_since(Instant::now()));
            let wait = |appender: &Appender| appender.published()?.wait(since_lsn, left.min(SIGNALS));
            let done = self.detached(py, |appender| Ok(wait(appender)?.map(|summary| work(&summary))))?;
            if done.is_some() || left.is_zero() {
                return Ok(done);
            }
            py.check_signals()?;
        }
    }

    fn alive(&self, py: Python<'_>) -> PyResult<()> {
        self.appender.alive().map_err(|error| self.failed(py, error.into()))
    }

    fn detached<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&Appender) -> Result<T, CoreError> + Send,
    ) -> PyResult<T> {
        py.detach(|| work(&self.appender)).map_err(|error| self.failed(py, error.into()))
    }

    pub(super) fn failed(&self, py: Python<'_>, failure: Failure) -> PyErr {
        // The lock is only ever held to copy or replace the path.
        let path = self.path.lock().unwrap_or_else(PoisonError::into_inner).clone_ref(py);
        let path = self.mark_path.as_ref().filter(|_| failure.mark).unwrap_or(&path);
        to_py(py, failure.error, Some(path))
    }

    fn partly_failed(&self, py: Python<'_>, partly: Partly) -> PyErr {
        let error = self.failed(py, partly.failure);
        match partly.appended_through.map(|lsn| error.value(py).setattr("appended_through", lsn)) {
            Some(Err(other)) => other,
            _ => error,
        }
    }

    fn payload<'py>(&self, py: Python<'py>, data: &Bound<'py, PyAny>, index: Option<usize>) -> PyResult<Payload<'py>> {
        if let Ok(bytes) = data.cast_exact::<PyBytes>()
            && bytes.as_bytes().len() as u64 <= MAX_PAYLOAD
        {
            return Ok(Payload::Bytes(bytes.clone()));
        }
        let data = Data::payload(data)?;
        data.map(Payload::new).map_err(|error| match index {
            Some(index) => self.failed(py, error.at_index(index).into()),
            None => self.failed(py, error.into()),
        })
    }

    pub(super) fn take<'py>(
        &self,
        py: Python<'py>,
        lsn: Option<&Bound<'py, PyAny>>,
        data: &Bound<'py, PyAny>,
        term: Option<&Bound<'py, PyAny>>,
        timestamp_ms: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Taken<'py>> {
        Ok(Taken {
            lsn: optional_u64_arg(lsn, "lsn")?,
            payload: self.payload(py, data, None)?,
            term: optional_u64_arg(term, "term")?,
            timestamp_ms: optional_u64_arg(timestamp_ms, "timestamp_ms")?.unwrap_or_else(now_ms),
        })
    }

    /// Appends what `take` makes of the items from `start` on. The first bad one decides which error there is.
    fn append_list<'py>(
        &self,
        py: Python<'py>,
        items: &Bound<'py, PyList>,
        term: Option<&Bound<'py, PyAny>>,
        timestamp_ms: Option<&Bound<'py, PyAny>>,
        start: usize,
        take: impl Fn(&Bound<'py, PyAny>, usize) -> PyResult<(Option<u64>, Payload<'py>)>,
    ) -> PyResult<(usize, Option<u64>)> {
        self.alive(py)?;
        let term = optional_u64_arg(term, "term")?;
        let timestamp_ms = optional_u64_arg(timestamp_ms, "timestamp_ms")?.unwrap_or_else(now_ms);
        let mut taken = Vec::with_capacity(items.len().saturating_sub(start));
        let mut bad = None;
        for (index, item) in items.iter().enumerate().skip(start) {
            match take(&item, index) {
                Ok(part) => taken.push(part),
                Err(error) => {
                    bad = Some(at_index(py, error, index));
                    break;
                }
            }
        }
        let parts: Vec<_> = taken.iter().map(|(lsn, payload)| (*lsn, payload.as_bytes())).collect();
        let all_good = bad.is_none();
        let appended = py.detach(|| {
            let record = |(lsn, bytes)| Record::new(lsn, term, timestamp_ms, bytes);
            let records: Vec<_> = parts.into_iter().map(record).collect();
            if all_good {
                return self.appender.append(&records, Some(start));
            }
            self.appender.check(&records, Some(start))?;
            Ok(Appended::default())
        });
        let done = appended.map_err(|partly| self.partly_failed(py, partly))?;
        bad.map_or_else(|| Ok((start + done.count, done.first_lsn)), Err)
    }
}
