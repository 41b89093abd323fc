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
    ($($(#[$doc:meta])* $name:ident: $kind:ty = $field:expr;)*) => {
        #[pymethods]
        impl PyScanReport {
            $($(#[$doc])*
            #[getter]
            fn $name(&self) -> $kind {
                let get: fn(&ScanReport) -> $kind = $field;
                get(&self.report)
            })*

            /// The same in words, with the offset; empty when nothing did.
            #[getter]
            fn reason(&self) -> &str {
                &self.report.reason
            }

            /// Its checkpoints.
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
    /// Records in the valid prefix.
    records: u64 = |report| report.summary.records;
    /// Where the valid prefix ends.
    valid_bytes: u64 = |report| report.summary.valid_bytes;
    /// Bytes in the file.
    file_bytes: u64 = |report| report.file_bytes;
    /// The highest LSN before the file.
    base_lsn: u64 = |report| report.summary.base_lsn;
    /// LSN of the first record in file order.
    first_lsn: Option<u64> = |report| report.summary.first_lsn;
    /// LSN of the last record in file order.
    last_lsn: Option<u64> = |report| report.summary.last_lsn;
    /// The highest LSN; `base_lsn` without records.
    highest_lsn: u64 = |report| report.summary.highest_lsn;
    /// The highest term; 0 without records.
    highest_term: u64 = |report| report.summary.highest_term;
    /// The last record's term; 0 without records.
    last_term: u64 = |report| report.summary.last_term;
    /// Whether LSNs strictly increase, from `base_lsn` on.
    ordered: bool = |report| report.summary.ordered;
    /// Whether a prune must frame some record anew: a legacy or wide one, or one without a timestamp.
    reframe: bool = |report| report.summary.reframe;
    /// Where the leading run of version 1 frames ends.
    v1_bytes: u64 = |report| report.summary.v1_bytes;
    /// Whether the last frame has the wide layout.
    last_wide: bool = |report| report.summary.last_wide;
    /// The last four bytes of the prefix as a number; 0 when it is empty.
    tail_crc: u32 = |report| report.summary.tail_crc;
    /// Where the first frame above the mark begins; `valid_bytes` without one.
    marked_bytes: u64 = |report| report.marked_bytes;
    /// What stopped the prefix, as a class: magic, version, torn, implausible, crc mismatch, legacy; or `None`.
    stop: Option<&'static str> = |report| report.stop;
    /// Whether only zeros follow the prefix.
    zero_tail: bool = |report| report.zero_tail;
    /// Valid frames behind the first bad one that count.
    behind_frames: u64 = |report| report.behind.frames;
    /// LSN of the first of them.
    behind_first_lsn: Option<u64> = |report| report.behind.first_lsn;
    /// The highest LSN of them; 0 without any.
    behind_highest_lsn: u64 = |report| report.behind.highest_lsn;
    /// Where the last of them ends; 0 without any.
    behind_end: u64 = |report| report.behind.end;
    /// Whether there is any frame with a matching checksum behind, counted or not.
    behind_any: bool = |report| report.behind.any;
    /// Whether the file is somebody else's.
    foreign: bool = |report| report.foreign;
}
