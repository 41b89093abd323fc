//! `FrameBytes`: the memory that raw frames were read into, lent to Python without a copy.

use std::ffi::c_int;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyMemoryView;

use crate::reader::Frames;

/// Raw frames as they were read. Once nobody looks at them any more their memory is used again.
#[pyclass(frozen, module = "walspool._native")]
pub struct FrameBytes(Frames);

#[pymethods]
impl FrameBytes {
    /// Lends the bytes, read-only.
    ///
    /// # Safety
    /// The interpreter calls it with a view that is to be filled in.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let data = slf.get().0.data();
        let (start, len) = (data.as_ptr().cast_mut().cast(), data.len().cast_signed());
        // SAFETY: the view keeps `slf` alive, whose bytes neither move nor change as long as it lives; they are lent
        // read-only. A `bytes` object would need new memory and a copy: a third of the time that reading takes.
        if unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, len, 1, flags) } != 0 {
            return Err(PyErr::fetch(slf.py()));
        }
        Ok(())
    }
}

/// A view of the frames, which keeps them.
pub fn view(py: Python<'_>, frames: Frames) -> PyResult<Bound<'_, PyMemoryView>> {
    PyMemoryView::from(Bound::new(py, FrameBytes(frames))?.as_any())
}
