//! `File`: an open file that its holders share.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::errors::to_py;
use crate::error::CoreError;
use crate::file::File;

/// A descriptor that is closed when its last holder goes.
#[pyclass(frozen, name = "File", module = "walspool._native")]
pub struct PyFile {
    pub file: Arc<File>,
    pub path: Py<PyAny>,
}

#[pymethods]
impl PyFile {
    #[new]
    fn new(fd: RawFd, path: Py<PyAny>) -> PyResult<Self> {
        if fd < 0 {
            return Err(PyValueError::new_err(format!("fd must be an open descriptor, not {fd}")));
        }
        // SAFETY: the caller hands the descriptor over, as the constructor's contract says.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { file: Arc::new(File::new(fd)), path })
    }

    /// The descriptor's number.
    fn fileno(&self) -> RawFd {
        self.file.fileno()
    }

    /// The path as it was given.
    #[getter]
    fn path(&self, py: Python<'_>) -> Py<PyAny> {
        self.path.clone_ref(py)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("File(fd={}, path={})", self.file.fileno(), self.path.bind(py).repr()?))
    }
}

/// Runs `work` detached from the interpreter; its error is shown with `path`.
pub fn detached<T: Send>(
    py: Python<'_>,
    path: &Py<PyAny>,
    work: impl FnOnce() -> Result<T, CoreError> + Send,
) -> PyResult<T> {
    py.detach(work).map_err(|error| to_py(py, error, Some(path)))
}
