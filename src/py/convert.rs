//! Arguments from Python, taken exactly: nothing is wrapped, rounded or truncated.

use std::marker::PhantomData;

use pyo3::Borrowed;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyInt};

use crate::error::CoreError;
use crate::frame::MAX_PAYLOAD;

/// An unsigned 64-bit argument.
pub fn u64_arg(value: &Bound<'_, PyAny>, name: &str) -> PyResult<u64> {
    let plain = value.is_exact_instance_of::<PyInt>();
    if !plain && (!value.is_instance_of::<PyInt>() || value.is_instance_of::<PyBool>()) {
        return Err(PyTypeError::new_err(format!("{name} must be an int, not {}", value.get_type().name()?)));
    }
    match value.extract() {
        Ok(number) => Ok(number),
        Err(_) => Err(PyValueError::new_err(format!("{name} must be between 0 and 2**64-1, not {}", value.str()?))),
    }
}

/// An unsigned 64-bit argument, or `None`.
pub fn optional_u64_arg(value: Option<&Bound<'_, PyAny>>, name: &str) -> PyResult<Option<u64>> {
    value.map(|value| u64_arg(value, name)).transpose()
}

/// An argument with a default. Left out and `None` are two things.
pub struct Defaulted<'py>(Option<Bound<'py, PyAny>>);

impl Defaulted<'_> {
    /// What it is when it is left out.
    pub const LEFT_OUT: Self = Self(None);

    /// An unsigned 64-bit argument.
    pub fn u64(&self, name: &str, default: u64) -> PyResult<u64> {
        self.0.as_ref().map_or(Ok(default), |value| u64_arg(value, name))
    }
}

impl<'py> FromPyObject<'_, 'py> for Defaulted<'py> {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(Some(value.to_owned())))
    }
}

/// A buffer that is held open. `PyUntypedBuffer` refuses those without a shape or strides, as every ctypes object's.
pub struct Buffer<'py> {
    /// An exporter may let it point into itself, so it stays where it is.
    raw: Box<ffi::Py_buffer>,
    attached: PhantomData<Python<'py>>,
}

impl<'py> Buffer<'py> {
    fn get(value: &Bound<'py, PyAny>) -> PyResult<Self> {
        let mut raw = Box::new(ffi::Py_buffer::new());
        // SAFETY: `value` is a live object, and `raw` is released once, when it was filled in.
        if unsafe { ffi::PyObject_GetBuffer(value.as_ptr(), &raw mut *raw, ffi::PyBUF_FULL_RO) } != 0 {
            return Err(PyErr::fetch(value.py()));
        }
        Ok(Self { raw, attached: PhantomData })
    }

    fn is_c_contiguous(&self) -> bool {
        // SAFETY: the buffer is filled in and open.
        unsafe { ffi::PyBuffer_IsContiguous(&raw const *self.raw, b'C'.cast_signed()) != 0 }
    }

    fn len(&self) -> usize {
        self.raw.len.cast_unsigned()
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        // SAFETY: the buffer is open, and the lifetime says that the thread is attached.
        unsafe { ffi::PyBuffer_Release(&raw mut *self.raw) }
    }
}

/// A bytes-like argument. Only `bytes` can't change under our hands; all others are to be copied before they are looked at.
pub enum Data<'py> {
    /// Immutable.
    Bytes(Bound<'py, PyBytes>),
    /// Anything else with a contiguous buffer.
    Buffer(Buffer<'py>),
}

impl<'py> Data<'py> {
    /// The buffer of `value`.
    pub fn new(value: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = value.cast_exact::<PyBytes>() {
            return Ok(Self::Bytes(bytes.clone()));
        }
        // SAFETY: `value` is a live object.
        if unsafe { ffi::PyObject_CheckBuffer(value.as_ptr()) } == 0 {
            let kind = value.get_type();
            return Err(PyTypeError::new_err(format!("data must be a bytes-like object, not {}", kind.name()?)));
        }
        let buffer = Buffer::get(value)?;
        if !buffer.is_c_contiguous() {
            return Err(PyValueError::new_err("data must be a contiguous buffer"));
        }
        Ok(Self::Buffer(buffer))
    }

    /// The buffer of `value`, which is to become a payload.
    pub fn payload(value: &Bound<'py, PyAny>) -> PyResult<Result<Self, CoreError>> {
        let data = Self::new(value)?;
        let size = data.len() as u64;
        if size > MAX_PAYLOAD {
            return Ok(Err(CoreError::PayloadTooLarge { size, limit: MAX_PAYLOAD, index: None }));
        }
        Ok(Ok(data))
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.as_bytes().len(),
            Self::Buffer(buffer) => buffer.len(),
        }
    }

    /// The bytes themselves, where they can't change.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes.as_bytes()),
            Self::Buffer(_) => None,
        }
    }

    /// The bytes themselves, or a copy where they can change.
    pub fn as_bytes_or_copy<'a>(&'a self, copy: &'a mut Vec<u8>) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes.as_bytes(),
            Self::Buffer(_) => {
                self.copy_to(copy);
                copy
            }
        }
    }

    /// Appends a copy of the bytes in `range` to `into`.
    pub fn copy_range(&self, into: &mut Vec<u8>, range: std::ops::Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len(), "the range lies within the buffer");
        match self {
            Self::Bytes(bytes) => into.extend_from_slice(&bytes.as_bytes()[range]),
            Self::Buffer(buffer) => {
                let len = range.len();
                if len == 0 {
                    // There may be nothing to point to.
                    return;
                }
                into.reserve(len);
                // SAFETY: the buffer is contiguous and held open, the range lies within it, and `into` has the room.
                // Another thread may write to it meanwhile: then the copy is some mixture, and it alone counts.
                unsafe {
                    let from = buffer.raw.buf.cast::<u8>().add(range.start);
                    std::ptr::copy_nonoverlapping(from, into.as_mut_ptr().add(into.len()), len);
                    into.set_len(into.len() + len);
                }
            }
        }
    }

    /// Appends a copy of all bytes to `into`.
    pub fn copy_to(&self, into: &mut Vec<u8>) {
        self.copy_range(into, 0..self.len());
    }
}
