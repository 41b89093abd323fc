//! Records of one file → another file, all of them as version 3.

use crate::error::CoreError;
use crate::file::File;
use crate::frame::{self, Frame, Layout, u32_at};
use crate::index::Summary;
use crate::reader::{Chunk, Reader, Record};
use crate::scan::ScanReport;

/// Which of the two files an error is about.
#[derive(Debug)]
pub enum CopyError {
    /// The one that is read.
    Read(CoreError),
    /// The one that is written.
    Write(CoreError),
}

/// Writes the reader's remaining records to `target`, behind what `resume` says is there already. Version 3 frames are
/// copied as they are; all others are framed anew, and a timestamp of 0 becomes `stamp_ms`. Nothing is synced.
pub fn copy_frames(
    reader: &mut Reader,
    target: &File,
    stamp_ms: u64,
    resume: Option<&ScanReport>,
) -> Result<ScanReport, CopyError> {
    let mut summary = resume.map_or_else(|| Summary::new(reader.base_lsn()), |report| report.summary.clone());
    let mut batch = Vec::new();
    while let Some((chunk, run)) = reader.next_run(usize::MAX, u64::MAX, true).map_err(CopyError::Read)? {
        let start = summary.valid_bytes;
        batch.clear();
        for record in &chunk.records()[run] {
            push(&mut batch, &mut summary, &chunk, record, stamp_ms);
        }
        target.write_at(&batch, start).map_err(CopyError::Write)?;
    }
    Ok(ScanReport::clean(summary))
}

fn push(batch: &mut Vec<u8>, summary: &mut Summary, chunk: &Chunk, record: &Record, stamp_ms: u64) {
    let mut copy = Frame { layout: Layout::V3, term: record.term, ownership_epoch: 0, ..record.frame };
    if copy == record.frame && copy.timestamp_ms != 0 {
        batch.extend_from_slice(chunk.frame(record));
    } else {
        if copy.timestamp_ms == 0 {
            copy.timestamp_ms = stamp_ms;
        }
        frame::encode(batch, copy.term, copy.lsn, copy.timestamp_ms, chunk.payload(record));
    }
    let tail_crc = u32_at(batch, batch.len() - 4) as u32;
    summary.push(&copy, copy.term, tail_crc);
}
