//! `open_sealed`: many sealed segments in one call.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use super::errors::to_py;
use super::file::{PyFile, detached};
use super::report::PyScanReport;
use crate::scan::ScanReport;
use crate::sealed::{self, Opened};

/// For each path (file, report, LSN before it), an `OSError`, or `None`.
#[pyfunction]
#[pyo3(signature = (directory, paths, suffix, spool_id, *, write = false))]
pub fn open_sealed<'py>(
    py: Python<'py>,
    directory: Py<PyAny>,
    paths: Vec<Bound<'py, PyString>>,
    suffix: &str,
    spool_id: &[u8],
    write: bool,
) -> PyResult<Bound<'py, PyList>> {
    let spool_id = spool_id.try_into().map_err(|_| PyValueError::new_err("spool_id must have 16 bytes"))?;
    let folder: PathBuf = directory.extract(py)?;
    let names = paths.iter().map(name).collect::<PyResult<Vec<_>>>()?;
    let opened = detached(py, &directory, || sealed::open_sealed(&folder, &names, suffix, spool_id, write))?;
    let found = PyList::empty(py);
    for (path, opened) in paths.into_iter().zip(opened) {
        match opened {
            Opened::AsKnown(file, sidecar) => {
                let file = PyFile { file: Arc::new(file), path: path.into_any().unbind() };
                let report = PyScanReport { report: ScanReport::clean(sidecar.summary) };
                found.append((file, report, sidecar.prev_lsn))?;
            }
            Opened::Unlike => found.append(py.None())?,
            Opened::Failed(error) => found.append(to_py(py, error, Some(&path.into_any().unbind())).into_value(py))?,
            Opened::SidecarFailed(error) => {
                let beside = path.add(suffix)?.unbind();
                found.append(to_py(py, error, Some(&beside)).into_value(py))?;
            }
        }
    }
    Ok(found)
}

/// What a path ends with.
fn name(path: &Bound<'_, PyString>) -> PyResult<OsString> {
    let mut path = path.extract::<OsString>()?.into_vec();
    if path.contains(&0) {
        return Err(PyValueError::new_err("embedded null byte"));
    }
    let start = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    Ok(OsString::from_vec(path.split_off(start)))
}
