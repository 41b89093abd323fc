//! `ArrowStream`: the capsule around a stream of batches.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use super::reader::{PyReader, Shared};
use crate::arrow::{ArrowArrayStream, Part, stream};

/// Records as a table for any Arrow consumer. Each one gets them from where the readers stand.
#[pyclass(frozen, module = "walspool._native")]
pub struct ArrowStream {
    readers: Vec<Arc<Shared>>,
}

/// Releases the stream unless its consumer has moved it out.
#[repr(transparent)]
struct Exported(ArrowArrayStream);

impl Drop for Exported {
    fn drop(&mut self) {
        if let Some(release) = self.0.release {
            // SAFETY: the stream is not released, and nobody else has it.
            unsafe { release(&raw mut self.0) };
        }
    }
}

#[pymethods]
impl ArrowStream {
    #[new]
    fn new(readers: &Bound<'_, PyAny>) -> PyResult<Self> {
        let shared = |reader: PyResult<Bound<'_, PyAny>>| Ok(Arc::clone(&reader?.cast::<PyReader>()?.get().shared));
        Ok(Self { readers: readers.try_iter()?.map(shared).collect::<PyResult<_>>()? })
    }

    /// The Arrow C stream. A requested schema is not heeded: there is only one.
    #[pyo3(signature = (requested_schema = None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let _ = requested_schema;
        let part = |shared: &Arc<Shared>| {
            let path = shared.path().bind(py).str()?.to_string_lossy().into_owned();
            Ok(Part { reader: shared.copy(py)?, path })
        };
        let parts = self.readers.iter().map(part).collect::<PyResult<_>>()?;
        PyCapsule::new_with_value(py, Exported(stream(parts)), c"arrow_array_stream")
    }
}
