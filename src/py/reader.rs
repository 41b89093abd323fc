//! `Reader` and its iterators.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use super::convert::{Defaulted, optional_u64_arg, u64_arg};
use super::entry::PyEntry;
use super::errors::to_py;
use super::file::{PyFile, detached};
use super::frames::view;
use super::lists::{count_arg, entry_list, room_arg, tuple_list, tuple_run};
use super::report::PyScanReport;
use crate::copy::{CopyError, copy_frames as copy};
use crate::error::Result;
use crate::index::Summary;
use crate::reader::{Chunk, Reader, Record};
use crate::scan::ScanReport;

/// Records of the first list that an iterator gives, and of the longest: a few kilobytes are still in the cache when
/// Python comes to them.
const FIRST_RUN: usize = 8;
const LONGEST_RUN: usize = 128;
/// Bytes of payload of a list of more than one record.
const RUN_BYTES: u64 = 256 << 10;

/// A reader and all iterators made from it share one place in the file.
pub struct Shared {
    reader: Mutex<Reader>,
    path: Py<PyAny>,
}

impl Shared {
    /// Runs `work` on the reader, detached. The lock is never waited for while attached.
    fn with<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut Reader) -> Result<T> + Send) -> PyResult<T> {
        detached(py, &self.path, || work(&mut self.reader.lock()))
    }

    /// The next records that lie together. The lock is gone before any Python object is made.
    fn run(&self, py: Python<'_>, max_count: usize) -> PyResult<Option<(Arc<Chunk>, Range<usize>)>> {
        let ready = self.reader.try_lock().and_then(|mut reader| reader.ready_run(max_count, RUN_BYTES));
        if ready.is_some() { Ok(ready) } else { self.with(py, |reader| reader.long_run(max_count, RUN_BYTES)) }
    }

    /// The next records up to the end of what `summary` knows by now of the file; none where it is another file's, or they
    /// can't be read: a reader that is made for it tells why.
    pub fn read_on(&self, summary: &Summary, max_count: usize, max_bytes: u64) -> Option<(Arc<Chunk>, Range<usize>)> {
        let mut reader = self.reader.lock();
        let known = reader.extend(summary);
        if known { reader.next_run(max_count, max_bytes, true).ok().flatten() } else { None }
    }

    /// Runs a call that reads a list. When it fails it has read nothing: the reader stands where it stood.
    fn whole<T>(&self, py: Python<'_>, read: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
        let place = match self.reader.try_lock() {
            Some(reader) => reader.place(),
            None => self.with(py, |reader| Ok(reader.place()))?,
        };
        read().inspect_err(|_| {
            py.detach(|| self.reader.lock().go_back(place));
        })
    }

    /// A reader of its own at the same place.
    pub fn copy(&self, py: Python<'_>) -> PyResult<Reader> {
        self.with(py, |reader| Ok(reader.clone()))
    }

    /// The path as it was given.
    pub fn path(&self) -> &Py<PyAny> {
        &self.path
    }
}

/// Verified reading of the records above an LSN.
#[pyclass(frozen, name = "Reader", module = "walspool._native")]
pub struct PyReader {
    pub shared: Arc<Shared>,
}

#[pymethods]
impl PyReader {
    #[new]
    #[pyo3(
        signature = (file, path, report, *, since_lsn = Defaulted::LEFT_OUT, end = None),
        text_signature = "(file, path, report, *, since_lsn=0, end=None)"
    )]
    fn new(
        file: &Bound<'_, PyFile>,
        path: Py<PyAny>,
        report: &Bound<'_, PyScanReport>,
        since_lsn: Defaulted<'_>,
        end: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let since_lsn = since_lsn.u64("since_lsn", 0)?;
        let end = optional_u64_arg(end, "end")?;
        let reader = Reader::new(Arc::clone(&file.get().file), &report.get().report, since_lsn, end);
        Ok(Self { shared: Arc::new(Shared { reader: Mutex::new(reader), path }) })
    }

    /// Where in the file the next record begins.
    #[getter]
    fn offset(&self, py: Python<'_>) -> PyResult<u64> {
        self.shared.with(py, |reader| Ok(reader.offset()))
    }

    /// The records as (LSN, payload) in short lists, read as they are asked for.
    fn tuple_runs(&self) -> TupleRuns {
        TupleRuns { shared: Arc::clone(&self.shared), size: RunSize::default() }
    }

    /// The records as entries in short lists, read as they are asked for.
    fn entry_runs(&self) -> EntryRuns {
        EntryRuns { shared: Arc::clone(&self.shared), size: RunSize::default() }
    }

    /// The next records as a list of (LSN, payload).
    #[pyo3(signature = (max_count = None, reencode = false))]
    fn read_tuples<'py>(
        &self,
        py: Python<'py>,
        max_count: Option<&Bound<'py, PyAny>>,
        reencode: bool,
    ) -> PyResult<Bound<'py, PyList>> {
        let left = count_arg(max_count)?;
        let next = |left| self.shared.with(py, |reader| tuple_run(reader, left, reencode));
        Ok(self.shared.whole(py, || tuple_list(py, left, next))?.0)
    }

    /// The next records as a list of entries, at least one if there is one.
    #[pyo3(signature = (max_count = None, max_bytes = None))]
    fn read_entries<'py>(
        &self,
        py: Python<'py>,
        max_count: Option<&Bound<'py, PyAny>>,
        max_bytes: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let (left, room) = (count_arg(max_count)?, room_arg(max_bytes)?);
        let next = |left, room, first| self.shared.with(py, |reader| reader.next_run(left, room, first));
        Ok(self.shared.whole(py, || entry_list(py, left, room, next))?.0)
    }

    /// The next records as version 3 frames: (data, records, first LSN, last LSN).
    fn read_frames<'py>(&self, py: Python<'py>, max_bytes: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
        let max_bytes = u64_arg(max_bytes, "max_bytes")?;
        let frames = self.shared.whole(py, || self.shared.with(py, |reader| reader.read_frames(max_bytes)))?;
        let (records, first_lsn, last_lsn) = (frames.records, frames.first_lsn, frames.last_lsn);
        (view(py, frames)?, records, first_lsn, last_lsn).into_pyobject(py)
    }
}

/// How many records the next list holds: few at first, so that a look at one stays cheap.
struct RunSize(AtomicUsize);

impl Default for RunSize {
    fn default() -> Self {
        Self(AtomicUsize::new(FIRST_RUN))
    }
}

impl RunSize {
    fn next(&self) -> usize {
        let size = self.0.load(Ordering::Relaxed);
        self.0.store((size * 2).min(LONGEST_RUN), Ordering::Relaxed);
        size
    }
}

/// What `Reader.tuple_runs` gives.
#[pyclass(frozen, module = "walspool._native")]
pub struct TupleRuns {
    shared: Arc<Shared>,
    size: RunSize,
}

#[pymethods]
impl TupleRuns {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.shared.run(py, self.size.next()) {
            Ok(Some((chunk, run))) => {
                let pairs = chunk.records()[run].iter().map(|record| pair(py, &chunk, record));
                PyList::new(py, pairs).map(|list| Some(list.into_any()))
            }
            Ok(None) => Ok(None),
            Err(error) => TupleIterator(Rest::new(&self.shared, error)).into_bound_py_any(py).map(Some),
        }
    }
}

/// What `Reader.entry_runs` gives.
#[pyclass(frozen, module = "walspool._native")]
pub struct EntryRuns {
    shared: Arc<Shared>,
    size: RunSize,
}

#[pymethods]
impl EntryRuns {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.shared.run(py, self.size.next()) {
            Ok(Some((chunk, run))) => {
                let entries = chunk.records()[run].iter().map(|record| PyEntry::of(py, &chunk, record));
                PyList::new(py, entries).map(|list| Some(list.into_any()))
            }
            Ok(None) => Ok(None),
            Err(error) => EntryIterator(Rest::new(&self.shared, error)).into_bound_py_any(py).map(Some),
        }
    }
}

/// What is left of a reader that failed. A run that raised would end the chain that it is a link of, as if nothing came
/// behind; a link that raises stays, and is asked again.
struct Rest {
    shared: Arc<Shared>,
    error: Mutex<Option<PyErr>>,
}

impl Rest {
    fn new(shared: &Arc<Shared>, error: PyErr) -> Self {
        Self { shared: Arc::clone(shared), error: Mutex::new(Some(error)) }
    }

    /// The failure, and after it record by record whatever can be read.
    fn next(&self, py: Python<'_>) -> PyResult<Option<(Arc<Chunk>, Record)>> {
        let error = self.error.lock().take();
        error.map_or(Ok(()), Err)?;
        let run = self.shared.run(py, 1)?;
        Ok(run.map(|(chunk, run)| (Arc::clone(&chunk), chunk.records()[run.start])))
    }
}

/// The rest of `Reader.tuple_runs` behind a failure.
#[pyclass(frozen, module = "walspool._native")]
struct TupleIterator(Rest);

#[pymethods]
impl TupleIterator {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<(u64, Bound<'py, PyBytes>)>> {
        Ok(self.0.next(py)?.map(|(chunk, record)| pair(py, &chunk, &record)))
    }
}

/// The rest of `Reader.entry_runs` behind a failure.
#[pyclass(frozen, module = "walspool._native")]
struct EntryIterator(Rest);

#[pymethods]
impl EntryIterator {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<PyEntry>> {
        Ok(self.0.next(py)?.map(|(chunk, record)| PyEntry::of(py, &chunk, &record)))
    }
}

fn pair<'py>(py: Python<'py>, chunk: &Chunk, record: &Record) -> (u64, Bound<'py, PyBytes>) {
    (record.frame.lsn, PyBytes::new(py, chunk.payload(record)))
}

/// Writes the reader's remaining records to `file` as version 3 frames.
#[pyfunction]
#[pyo3(signature = (reader, file, path, *, stamp_ms, resume = None))]
pub fn copy_frames(
    py: Python<'_>,
    reader: &Bound<'_, PyReader>,
    file: &Bound<'_, PyFile>,
    path: &Bound<'_, PyAny>,
    stamp_ms: &Bound<'_, PyAny>,
    resume: Option<&Bound<'_, PyScanReport>>,
) -> PyResult<PyScanReport> {
    let stamp_ms = u64_arg(stamp_ms, "stamp_ms")?;
    let target = Arc::clone(&file.get().file);
    let resume: Option<&ScanReport> = resume.map(|report| &report.get().report);
    let shared = &reader.get().shared;
    let report = py.detach(|| copy(&mut shared.reader.lock(), &target, stamp_ms, resume));
    report.map(|report| PyScanReport { report }).map_err(|error| match error {
        CopyError::Read(error) => to_py(py, error, Some(&shared.path)),
        CopyError::Write(error) => to_py(py, error, Some(&path.clone().unbind())),
    })
}
