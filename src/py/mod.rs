//! The Python module: conversions, detaching from the interpreter, the error map. No logic of the log is here.

#![allow(clippy::needless_pass_by_value, reason = "arguments come from Python by value")]

mod appender;
mod arrow;
mod convert;
mod entry;
mod errors;
mod file;
mod frames;
mod functions;
mod inbox;
mod lists;
mod reader;
mod report;
mod sealed;

use pyo3::prelude::*;

/// The Rust core of walspool.
#[pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use super::appender::PyAppender;
    #[pymodule_export]
    use super::arrow::ArrowStream;
    #[pymodule_export]
    use super::entry::PyEntry;
    #[pymodule_export]
    use super::file::PyFile;
    #[pymodule_export]
    use super::functions::{
        build_seek_index, change_term, crc32, decode_frame, decode_sidecar, encode_frame, encode_sidecar, scan,
        scan_file,
    };
    #[pymodule_export]
    use super::inbox::{PyInbox, PyOutbox};
    #[pymodule_export]
    use super::lists::{read_entries, read_tuples};
    #[pymodule_export]
    use super::reader::{EntryRuns, PyReader, TupleRuns, copy_frames};
    #[pymodule_export]
    use super::report::{PyIndex, PyScanReport};
    #[pymodule_export]
    use super::sealed::open_sealed;

    use super::{Bound, PyModule, PyResult};
    use pyo3::types::PyModuleMethods;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("name", "rust")
    }
}
