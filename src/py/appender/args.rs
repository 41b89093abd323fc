//! Arguments of appends, taken once: what a flush sees can't change any more.

use std::sync::Arc;
use std::time::SystemTime;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use crate::appender::{MARK_BYTES, Mark, Record};
use crate::py::convert::Data;
use crate::py::file::PyFile;

/// The arguments of one append.
pub struct Taken<'py> {
    pub lsn: Option<u64>,
    pub payload: Payload<'py>,
    pub term: Option<u64>,
    pub timestamp_ms: u64,
}

/// Bytes that can't change any more.
pub enum Payload<'py> {
    Bytes(Bound<'py, PyBytes>),
    Copy(Vec<u8>),
}

impl<'py> Payload<'py> {
    /// Copies whatever may change.
    pub fn new(data: Data<'py>) -> Self {
        match data {
            Data::Bytes(bytes) => Self::Bytes(bytes),
            Data::Buffer(_) => {
                let mut copy = Vec::new();
                data.copy_to(&mut copy);
                Self::Copy(copy)
            }
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes.as_bytes(),
            Self::Copy(bytes) => bytes,
        }
    }
}

/// The arguments of one append, kept while no interpreter is at hand.
pub struct Kept {
    lsn: Option<u64>,
    payload: KeptPayload,
    term: Option<u64>,
    timestamp_ms: u64,
}

enum KeptPayload {
    Bytes(PyBackedBytes),
    Copy(Vec<u8>),
}

impl From<Taken<'_>> for Kept {
    fn from(taken: Taken<'_>) -> Self {
        let payload = match taken.payload {
            Payload::Bytes(bytes) => KeptPayload::Bytes(bytes.into()),
            Payload::Copy(bytes) => KeptPayload::Copy(bytes),
        };
        Self { lsn: taken.lsn, payload, term: taken.term, timestamp_ms: taken.timestamp_ms }
    }
}

impl Kept {
    /// What is to be appended.
    pub fn record(&self) -> Record<'_> {
        let bytes = match &self.payload {
            KeptPayload::Bytes(bytes) => bytes,
            KeptPayload::Copy(bytes) => bytes.as_slice(),
        };
        Record::new(self.lsn, self.term, self.timestamp_ms, bytes)
    }
}

/// The mark that `file` and its template are.
pub fn take_mark(file: &PyFile, template: &[u8]) -> PyResult<Mark> {
    let template: [u8; MARK_BYTES] = template
        .try_into()
        .map_err(|_| PyValueError::new_err(format!("the mark's template must have {MARK_BYTES} bytes")))?;
    Ok(Mark::new(Arc::clone(&file.file), template))
}

/// Says which item of a list a wrong argument was.
pub fn at_index(py: Python<'_>, error: PyErr, index: usize) -> PyErr {
    let kind = error.get_type(py);
    let words = || format!("records[{index}]: {}", error.value(py));
    if kind.is(py.get_type::<PyTypeError>()) {
        return PyTypeError::new_err(words());
    }
    if kind.is(py.get_type::<PyValueError>()) {
        return PyValueError::new_err(words());
    }
    error
}

/// Milliseconds since the epoch, by the system's clock.
pub fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
