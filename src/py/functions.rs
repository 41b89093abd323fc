//! The module's functions: frames, checksums, scans, sidecars.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::convert::{Data, Defaulted, optional_u64_arg, u64_arg};
use super::entry::PyEntry;
use super::errors::to_py;
use super::file::{PyFile, detached};
use super::report::PyScanReport;
use crate::change;
use crate::error::CoreError;
use crate::file::File;
use crate::frame::{self, LONGEST_HEADER};
use crate::index::Sidecar;
use crate::reader::Record;
use crate::scan::{Options, ScanReport, scan_file as scan_open_file};

/// Bytes from which on other threads are let in meanwhile.
const LONG: usize = 16 << 10;

/// CRC-32/ISO-HDLC of `data`, going on from `value`.
#[pyfunction]
#[pyo3(signature = (data, value = 0))]
pub fn crc32(py: Python<'_>, data: &Bound<'_, PyAny>, value: u32) -> PyResult<u32> {
    let data = Data::new(data)?;
    let mut copy = Vec::new();
    let bytes = data.as_bytes_or_copy(&mut copy);
    Ok(detached_if_long(py, bytes.len(), || frame::crc32(bytes, value)))
}

/// One version 3 frame.
#[pyfunction]
#[pyo3(
    signature = (lsn, data, *, term = Defaulted::LEFT_OUT, timestamp_ms = Defaulted::LEFT_OUT),
    text_signature = "(lsn, data, *, term=1, timestamp_ms=0)"
)]
pub fn encode_frame<'py>(
    py: Python<'py>,
    lsn: &Bound<'py, PyAny>,
    data: &Bound<'py, PyAny>,
    term: Defaulted<'py>,
    timestamp_ms: Defaulted<'py>,
) -> PyResult<Bound<'py, PyBytes>> {
    let lsn = u64_arg(lsn, "lsn")?;
    let term = term.u64("term", change::DEFAULT_TERM)?;
    let timestamp_ms = timestamp_ms.u64("timestamp_ms", 0)?;
    let data = Data::payload(data)?.map_err(|error| to_py(py, error, None))?;
    let mut out = Vec::new();
    frame::begin(&mut out, term, lsn, timestamp_ms, data.len());
    data.copy_to(&mut out);
    detached_if_long(py, data.len(), || frame::finish(&mut out, 0));
    Ok(PyBytes::new(py, &out))
}

/// The frame at `offset`, of any layout, and where the next one begins.
#[pyfunction]
#[pyo3(signature = (buffer, offset = Defaulted::LEFT_OUT), text_signature = "(buffer, offset=0)")]
pub fn decode_frame(py: Python<'_>, buffer: &Bound<'_, PyAny>, offset: Defaulted<'_>) -> PyResult<(PyEntry, u64)> {
    let offset = offset.u64("offset", 0)?;
    let data = Data::new(buffer)?;
    if offset > data.len() as u64 {
        return Err(PyValueError::new_err(format!("offset {offset} is past the end of {} bytes", data.len())));
    }
    let start = offset as usize;
    let mut copy = Vec::new();
    let bytes = if let Some(bytes) = data.as_bytes() {
        &bytes[start..]
    } else {
        // Only as much is copied as the longest reading of the header asks for.
        let end = data.len();
        data.copy_range(&mut copy, start..end.min(start + LONGEST_HEADER));
        let len = frame::longest_reading(&copy).min((end - start) as u64) as usize;
        copy.clear();
        data.copy_range(&mut copy, start..start + len);
        &copy
    };
    let frame = detached_if_long(py, bytes.len(), || frame::decode(bytes))
        .map_err(|fault| to_py(py, CoreError::Frame { reason: fault.to_string(), offset }, None))?;
    let payload = &bytes[frame.layout.header()..][..frame.payload_len as usize];
    let term = if frame.is_legacy() { change::term_of_payload(payload) } else { frame.term };
    let entry = PyEntry::new_with(py, &Record { frame, term, at: 0 }, payload);
    Ok((entry, offset + frame.len()))
}

/// Detaching costs more than a few bytes' checksum.
fn detached_if_long<T: Send>(py: Python<'_>, len: usize, work: impl FnOnce() -> T + Send) -> T {
    if len > LONG { py.detach(work) } else { work() }
}

/// (term, whether it says so itself) of a payload that is a `ChangeRecord`, else `None`.
#[pyfunction]
pub fn change_term(py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<Option<(u64, bool)>> {
    let data = Data::new(data)?;
    let mut copy = Vec::new();
    let bytes = data.as_bytes_or_copy(&mut copy);
    Ok(detached_if_long(py, bytes.len(), || change::change_term(bytes)).map(|change| (change.term, change.given)))
}

/// One read-only pass over a file.
#[pyfunction]
#[pyo3(
    signature = (file, path, *, base_lsn = Defaulted::LEFT_OUT, mark = None, until_lsn = None, resume = None),
    text_signature = "(file, path, *, base_lsn=0, mark=None, until_lsn=None, resume=None)"
)]
pub fn scan_file(
    py: Python<'_>,
    file: &Bound<'_, PyFile>,
    path: Py<PyAny>,
    base_lsn: Defaulted<'_>,
    mark: Option<&Bound<'_, PyAny>>,
    until_lsn: Option<&Bound<'_, PyAny>>,
    resume: Option<&Bound<'_, PyScanReport>>,
) -> PyResult<PyScanReport> {
    let options = Options {
        base_lsn: base_lsn.u64("base_lsn", 0)?,
        mark: optional_u64_arg(mark, "mark")?,
        until_lsn: optional_u64_arg(until_lsn, "until_lsn")?,
        resume: resume.map(|report| report.get().report.clone()),
    };
    let file = Arc::clone(&file.get().file);
    let report = detached(py, &path, || scan_open_file(&file, options))?;
    Ok(PyScanReport { report })
}

/// One read-only pass over the file at `path`.
#[pyfunction]
pub fn scan(py: Python<'_>, path: Py<PyAny>) -> PyResult<PyScanReport> {
    let name: PathBuf = path.extract(py)?;
    if name.as_os_str().as_bytes().contains(&0) {
        return Err(PyValueError::new_err("embedded null byte"));
    }
    let report = detached(py, &path, || scan_open_file(&File::open(&name)?, Options::default()))?;
    Ok(PyScanReport { report })
}

/// The checkpoints of the file at `path`, as (LSN, offset).
#[pyfunction]
pub fn build_seek_index(py: Python<'_>, path: Py<PyAny>) -> PyResult<Vec<(u64, u64)>> {
    let report = scan(py, path)?.report;
    Ok(report.summary.index.checkpoints().iter().map(|checkpoint| (checkpoint.lsn, checkpoint.offset)).collect())
}

/// The sidecar of a segment.
#[pyfunction]
#[pyo3(signature = (spool_id, prev_lsn, report, extra = &b""[..]), text_signature = "(spool_id, prev_lsn, report, extra=b'')")]
pub fn encode_sidecar<'py>(
    py: Python<'py>,
    spool_id: &[u8],
    prev_lsn: &Bound<'py, PyAny>,
    report: &Bound<'py, PyScanReport>,
    extra: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let spool_id = spool_id.try_into().map_err(|_| PyValueError::new_err("spool_id must have 16 bytes"))?;
    let sidecar = Sidecar {
        spool_id,
        prev_lsn: u64_arg(prev_lsn, "prev_lsn")?,
        summary: report.get().report.summary.clone(),
        extra: extra.to_vec(),
    };
    Ok(PyBytes::new(py, &sidecar.encode()))
}

/// (spool id, LSN before the segment, report, extra) of a sidecar; `ValueError` when it is none.
#[pyfunction]
pub fn decode_sidecar<'py>(py: Python<'py>, data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
    let data = Data::new(data)?;
    let mut copy = Vec::new();
    let sidecar = Sidecar::decode(data.as_bytes_or_copy(&mut copy)).map_err(|error| to_py(py, error, None))?;
    let report = PyScanReport { report: ScanReport::clean(sidecar.summary) };
    let (spool_id, extra) = (PyBytes::new(py, &sidecar.spool_id), PyBytes::new(py, &sidecar.extra));
    (spool_id, sidecar.prev_lsn, report, extra).into_pyobject(py)
}
