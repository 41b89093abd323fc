//! The one map from the core's errors to Python's.

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict, PyType};

use crate::error::CoreError;

/// The Python error that `error` is. `path` is the path as the caller gave it, where there is one.
pub fn to_py(py: Python<'_>, error: CoreError, path: Option<&Py<PyAny>>) -> PyErr {
    build(py, error, path).unwrap_or_else(|error| error)
}

fn build(py: Python<'_>, error: CoreError, path: Option<&Py<PyAny>>) -> PyResult<PyErr> {
    let facts = PyDict::new(py);
    let class = match error {
        CoreError::Os { errno, .. } => {
            let words: String = py.import("os")?.call_method1("strerror", (errno,))?.extract()?;
            return Ok(PyOSError::new_err((errno, words, path.map(|path| path.clone_ref(py)))));
        }
        CoreError::Invalid { reason } => return Ok(PyValueError::new_err(reason)),
        CoreError::Frame { reason, offset } => {
            facts.set_item("reason", reason)?;
            facts.set_item("offset", offset)?;
            "FrameCorrupt"
        }
        CoreError::Corrupt { reason, offset, first_lsn, last_lsn } => {
            facts.set_item("path", path)?;
            facts.set_item("reason", reason)?;
            set_known(&facts, "offset", offset)?;
            set_known(&facts, "first_lsn", first_lsn)?;
            set_known(&facts, "last_lsn", last_lsn)?;
            "SpoolCorrupt"
        }
        CoreError::PayloadTooLarge { size, limit, index } => {
            facts.set_item("size", size)?;
            facts.set_item("limit", limit)?;
            set_known(&facts, "index", index)?;
            "PayloadTooLarge"
        }
        CoreError::LsnOrder { lsn, last_lsn, index } => {
            facts.set_item("lsn", lsn)?;
            facts.set_item("last_lsn", last_lsn)?;
            set_known(&facts, "index", index)?;
            "LsnOrderError"
        }
        CoreError::StaleTerm { term, current_term, index } => {
            facts.set_item("term", term)?;
            facts.set_item("current_term", current_term)?;
            set_known(&facts, "index", index)?;
            "StaleTermError"
        }
        CoreError::Poisoned { reason } => {
            facts.set_item("path", path)?;
            facts.set_item("reason", reason)?;
            "SpoolPoisoned"
        }
        CoreError::Closed => {
            facts.set_item("path", path)?;
            "SpoolClosed"
        }
    };
    let class = py.import("walspool.errors")?.getattr(class)?.cast_into::<PyType>()?;
    Ok(PyErr::from_value(class.call((), Some(&facts.into_py_dict(py)?))?))
}

fn set_known<'py, T: IntoPyObject<'py>>(facts: &Bound<'py, PyDict>, name: &str, value: Option<T>) -> PyResult<()> {
    value.map_or(Ok(()), |value| facts.set_item(name, value))
}
