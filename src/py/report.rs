//! `Index` and `ScanReport`: what is known of one file.

use std::sync::Arc;

use pyo3::prelude::*;

use crate::index::Index;
use crate::scan::ScanReport;

/// The checkpoints of one segment.
#[pyclass(frozen, name = "Index", module = "walspool._native")]
pub struct PyIndex {
    pub index: Arc<Index>,
}

#[pymethods]
impl PyIndex {
    /// All of them, as (LSN, offset).
    fn checkpoints(&self) -> Vec<(u64, u64)> {
        self.index.checkpoints().iter().map(|checkpoint| (checkpoint.lsn, checkpoint.offset)).collect()
    }

    /// Offset of the last one at or below `since_lsn`, else 0.
    fn seek(&self, since_lsn: &Bound<'_, PyAny>) -> PyResult<u64> {
        let since_lsn = super::convert::u64_arg(since_lsn, "since_lsn")?;
        Ok(self.index.seek(since_lsn).map_or(0, |checkpoint| checkpoint.offset))
    }

    fn __len__(&self) -> usize {
        self.index.len()
    }
}

/// What one pass found in a file, or what its writer knows of it.
#[pyclass(frozen, name = "ScanReport", module = "walspool._native")]
pub struct PyScanReport {
    pub report: ScanReport,
}

macro_rules! getters {
    ($($name:ident: $kind:ty = $field:expr;)*) => {
        #[pymethods]
        impl PyScanReport {
            $(#[getter]
            fn $name(&self) -> $kind {
                let get: fn(&ScanReport) -> $kind = $field;
                get(&self.report)
            })*

            #[getter]
            fn reason(&self) -> &str {
                &self.report.reason
            }

            #[getter]
            fn index(&self) -> PyIndex {
                PyIndex { index: Arc::clone(&self.report.summary.index) }
            }

            fn __repr__(&self) -> String {
                let report = &self.report;
                format!(
                    "ScanReport(records={}, valid_bytes={}, file_bytes={}, highest_lsn={}, stop={:?}, reason={:?})",
                    report.summary.records,
                    report.summary.valid_bytes,
                    report.file_bytes,
                    report.summary.highest_lsn,
                    report.stop,
                    report.reason,
                )
            }
        }
    };
}

getters! {
    records: u64 = |report| report.summary.records;
    valid_bytes: u64 = |report| report.summary.valid_bytes;
    file_bytes: u64 = |report| report.file_bytes;
    base_lsn: u64 = |report| report.summary.base_lsn;
    first_lsn: Option<u64> = |report| report.summary.first_lsn;
    last_lsn: Option<u64> = |report| report.summary.last_lsn;
    highest_lsn: u64 = |report| report.summary.highest_lsn;
    highest_term: u64 = |report| report.summary.highest_term;
    last_term: u64 = |report| report.summary.last_term;
    ordered: bool = |report| report.summary.ordered;
    reframe: bool = |report| report.summary.reframe;
    v1_bytes: u64 = |report| report.summary.v1_bytes;
    last_wide: bool = |report| report.summary.last_wide;
    tail_crc: u32 = |report| report.summary.tail_crc;
    marked_bytes: u64 = |report| report.marked_bytes;
    stop: Option<&'static str> = |report| report.stop;
    zero_tail: bool = |report| report.zero_tail;
    behind_frames: u64 = |report| report.behind.frames;
    behind_first_lsn: Option<u64> = |report| report.behind.first_lsn;
    behind_highest_lsn: u64 = |report| report.behind.highest_lsn;
    behind_end: u64 = |report| report.behind.end;
    behind_any: bool = |report| report.behind.any;
    foreign: bool = |report| report.foreign;
}
