//! `Entry`: one record, its fields converted when they are asked for.

use pyo3::IntoPyObjectExt;
use pyo3::basic::CompareOp;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::convert::u64_arg;
use crate::reader::{Chunk, Record};

/// One record as it lies in the log.
#[pyclass(frozen, name = "Entry", module = "walspool._native")]
pub struct PyEntry {
    lsn: u64,
    term: u64,
    timestamp_ms: u64,
    ownership_epoch: u64,
    version: u8,
    payload: Py<PyBytes>,
}

impl PyEntry {
    /// The entry of a record in a chunk.
    pub fn of(py: Python<'_>, chunk: &Chunk, record: &Record) -> Self {
        Self::new_with(py, record, chunk.payload(record))
    }

    /// The entry of a record whose payload lies elsewhere.
    pub fn new_with(py: Python<'_>, record: &Record, payload: &[u8]) -> Self {
        let frame = &record.frame;
        Self {
            lsn: frame.lsn,
            term: record.term,
            timestamp_ms: frame.timestamp_ms,
            ownership_epoch: frame.ownership_epoch,
            version: frame.layout.version(),
            payload: PyBytes::new(py, payload).unbind(),
        }
    }

    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let payload = self.payload.bind(py);
        (self.lsn, self.term, self.timestamp_ms, payload, self.version, self.ownership_epoch()).into_pyobject(py)
    }
}

#[pymethods]
impl PyEntry {
    #[classattr]
    #[allow(non_upper_case_globals, reason = "the name is Python's")]
    const __match_args__: (&str, &str, &str, &str, &str, &str) =
        ("lsn", "term", "timestamp_ms", "payload", "version", "ownership_epoch");

    #[new]
    #[pyo3(signature = (lsn, term, timestamp_ms, payload, version = 3, ownership_epoch = None))]
    fn new(
        lsn: &Bound<'_, PyAny>,
        term: &Bound<'_, PyAny>,
        timestamp_ms: &Bound<'_, PyAny>,
        payload: Py<PyBytes>,
        version: u8,
        ownership_epoch: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        Ok(Self {
            lsn: u64_arg(lsn, "lsn")?,
            term: u64_arg(term, "term")?,
            timestamp_ms: u64_arg(timestamp_ms, "timestamp_ms")?,
            ownership_epoch: ownership_epoch.map_or(Ok(0), |epoch| u64_arg(epoch, "ownership_epoch"))?,
            version,
            payload,
        })
    }

    /// Its LSN.
    #[getter]
    fn lsn(&self) -> u64 {
        self.lsn
    }

    /// Its term; what its payload says where the frame has none.
    #[getter]
    fn term(&self) -> u64 {
        self.term
    }

    /// Milliseconds since the epoch; 0 where there is none.
    #[getter]
    fn timestamp_ms(&self) -> u64 {
        self.timestamp_ms
    }

    /// Its bytes.
    #[getter]
    fn payload(&self, py: Python<'_>) -> Py<PyBytes> {
        self.payload.clone_ref(py)
    }

    /// The version of its frame: 1, 2 or 3.
    #[getter]
    fn version(&self) -> u8 {
        self.version
    }

    /// Its ownership epoch, if its frame has one.
    #[getter]
    fn ownership_epoch(&self) -> Option<u64> {
        (self.ownership_epoch != 0).then_some(self.ownership_epoch)
    }

    /// The payload as a `ChangeRecord`.
    fn change<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import("walspool.changes")?.getattr("ChangeRecord")?.call_method1("decode", (&self.payload,))
    }

    fn __richcmp__(&self, py: Python<'_>, other: &Bound<'_, PyAny>, op: CompareOp) -> PyResult<Py<PyAny>> {
        let Ok(other) = other.cast::<Self>() else { return Ok(py.NotImplemented()) };
        let equal = || self.fields(py)?.eq(other.get().fields(py)?);
        match op {
            CompareOp::Eq => equal()?.into_py_any(py),
            CompareOp::Ne => (!equal()?).into_py_any(py),
            _ => Ok(py.NotImplemented()),
        }
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        self.fields(py)?.hash()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let epoch = self.ownership_epoch().map_or("None".to_owned(), |epoch| epoch.to_string());
        Ok(format!(
            "Entry(lsn={}, term={}, timestamp_ms={}, payload={}, version={}, ownership_epoch={epoch})",
            self.lsn,
            self.term,
            self.timestamp_ms,
            self.payload.bind(py).repr()?,
            self.version,
        ))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        Ok((slf.get_type().into_any(), slf.get().fields(slf.py())?))
    }
}
