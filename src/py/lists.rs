//! Records as lists: of a reader that goes on, or of one that is made for this list alone.

use std::ops::Range;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBytes, PyList};

use super::convert::{optional_u64_arg, u64_arg};
use super::entry::PyEntry;
use super::file::{PyFile, detached};
use super::report::PyScanReport;
use crate::change::{change_term, ends_with_term};
use crate::error::Result;
use crate::reader::{Chunk, Reader, Record};

/// Records that lie together, and which of them are `ChangeRecord`s of another term than their frame's.
pub type TupleRun = (Arc<Chunk>, Range<usize>, Vec<bool>);

/// The next of them, up to `left`; none is of another term unless that is to be mended.
pub fn tuple_run(reader: &mut Reader, left: usize, reencode: bool) -> Result<Option<TupleRun>> {
    let Some((chunk, run)) = reader.next_run(left, u64::MAX, true)? else { return Ok(None) };
    let records = &chunk.records()[run.clone()];
    let stale = records.iter().map(|record| reencode && is_stale(&chunk, record)).collect();
    Ok(Some((chunk, run, stale)))
}

/// Up to `left` records as (LSN, payload), and their bytes of payload.
pub fn tuple_list(
    py: Python<'_>,
    mut left: usize,
    mut next: impl FnMut(usize) -> PyResult<Option<TupleRun>>,
) -> PyResult<(Bound<'_, PyList>, u64)> {
    let list = PyList::empty(py);
    let mut bytes = 0;
    while left > 0
        && let Some((chunk, run, stale)) = next(left)?
    {
        left -= run.len();
        for (record, stale) in chunk.records()[run].iter().zip(stale) {
            let mut payload = PyBytes::new(py, chunk.payload(record));
            if stale {
                payload = with_term(&payload, record.term)?;
            }
            bytes += payload.as_bytes().len() as u64;
            list.append((record.frame.lsn, payload))?;
        }
    }
    Ok((list, bytes))
}

/// Up to `left` records of up to `room` bytes of payload as entries, but at least one if there is one; and those bytes.
pub fn entry_list(
    py: Python<'_>,
    mut left: usize,
    room: u64,
    mut next: impl FnMut(usize, u64, bool) -> PyResult<Option<(Arc<Chunk>, Range<usize>)>>,
) -> PyResult<(Bound<'_, PyList>, u64)> {
    let list = PyList::empty(py);
    let (mut bytes, mut first) = (0, true);
    // The first entry alone may be more than was asked for.
    while left > 0
        && let Some(rest) = room.checked_sub(bytes)
        && let Some((chunk, run)) = next(left, rest, first)?
    {
        first = false;
        left -= run.len();
        for record in &chunk.records()[run] {
            list.append(PyEntry::of(py, &chunk, record))?;
            bytes += record.frame.payload_len;
        }
    }
    Ok((list, bytes))
}

/// The first records above `since_lsn` as (LSN, payload), re-encoded, and their bytes of payload.
#[pyfunction]
#[pyo3(signature = (file, path, report, since_lsn, max_count = None))]
pub fn read_tuples<'py>(
    py: Python<'py>,
    file: &Bound<'py, PyFile>,
    path: Py<PyAny>,
    report: &Bound<'py, PyScanReport>,
    since_lsn: &Bound<'py, PyAny>,
    max_count: Option<&Bound<'py, PyAny>>,
) -> PyResult<(Bound<'py, PyList>, u64)> {
    let (mut reader, left) = (reader_above(file, report, since_lsn)?, count_arg(max_count)?);
    tuple_list(py, left, |left| detached(py, &path, || tuple_run(&mut reader, left, true)))
}

/// The first records above `since_lsn` as entries, and their bytes of payload.
#[pyfunction]
#[pyo3(signature = (file, path, report, since_lsn, max_count = None, max_bytes = None))]
pub fn read_entries<'py>(
    py: Python<'py>,
    file: &Bound<'py, PyFile>,
    path: Py<PyAny>,
    report: &Bound<'py, PyScanReport>,
    since_lsn: &Bound<'py, PyAny>,
    max_count: Option<&Bound<'py, PyAny>>,
    max_bytes: Option<&Bound<'py, PyAny>>,
) -> PyResult<(Bound<'py, PyList>, u64)> {
    let (mut reader, left) = (reader_above(file, report, since_lsn)?, count_arg(max_count)?);
    let room = room_arg(max_bytes)?;
    entry_list(py, left, room, |left, room, first| detached(py, &path, || reader.next_run(left, room, first)))
}

fn reader_above(
    file: &Bound<'_, PyFile>,
    report: &Bound<'_, PyScanReport>,
    since_lsn: &Bound<'_, PyAny>,
) -> PyResult<Reader> {
    let since_lsn = u64_arg(since_lsn, "since_lsn")?;
    Ok(Reader::new(Arc::clone(&file.get().file), &report.get().report, since_lsn, None))
}

/// How many records are asked for at most.
pub fn count_arg(max_count: Option<&Bound<'_, PyAny>>) -> PyResult<usize> {
    Ok(optional_u64_arg(max_count, "max_count")?.map_or(usize::MAX, |count| count.min(usize::MAX as u64) as usize))
}

/// How many bytes of payload are asked for at most.
pub fn room_arg(max_bytes: Option<&Bound<'_, PyAny>>) -> PyResult<u64> {
    Ok(optional_u64_arg(max_bytes, "max_bytes")?.unwrap_or(u64::MAX))
}

/// Whether the payload is a `ChangeRecord` of another term than its frame's.
fn is_stale(chunk: &Chunk, record: &Record) -> bool {
    let payload = chunk.payload(record);
    !ends_with_term(payload, record.term) && change_term(payload).is_some_and(|change| change.term != record.term)
}

fn with_term<'py>(payload: &Bound<'py, PyBytes>, term: u64) -> PyResult<Bound<'py, PyBytes>> {
    let py = payload.py();
    let change = py.import("walspool.changes")?.getattr("ChangeRecord")?.call_method1("decode", (payload,))?;
    let fields = [("term", term)].into_py_dict(py)?;
    py.import("dataclasses")?
        .call_method("replace", (change,), Some(&fields))?
        .call_method0("encode")?
        .cast_into()
        .map_err(PyErr::from)
}
