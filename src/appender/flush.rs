//! One flush: a batch goes to the disk, and only then is anybody told.
//!
//! | step | a crash right after it leaves | an error of it |
//! |---|---|---|
//! | look at the file | what was durable, any part written ahead | removed or shortened: poisoned; any other: cut back where parts were written ahead |
//! | write parts of a large batch ahead, while the rest is made ready | any part of the batch, un-acknowledged | they are written again with the rest |
//! | write the batch | any part of the batch, un-acknowledged | cut back |
//! | write zeros ahead of small batches | the same, and zeros | no more zeros in this file |
//! | sync | the batch, un-acknowledged; the mark is behind | poisoned: the kernel may have dropped the pages |
//! | write the mark | the batch, perhaps acknowledged | the old mark is written again, then cut back |
//! | publish | the batch, acknowledged | |
//!
//! | step of cutting back | an error of it |
//! |---|---|
//! | write the old mark | poisoned, and not cut: the mark may already claim the batch |
//! | truncate to the durable end | remembered: done before the next batch, whose error it then is |
//! | sync | poisoned |
//!
//! | step of filling, while nothing is appended | a crash right after it leaves | an error of it |
//! |---|---|---|
//! | look at the file | what was durable, any part written ahead | as above |
//! | write zeros ahead of large batches | the same, and zeros | no more zeros in this file |
//! | sync | the same | poisoned: the next sync may not hear of it |
//!
//! The mark is only ever written after a sync, and a cut never goes below it, so it may lag but never leads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::batch::{Admission, Ahead, Batch};
use super::filler::Wish;
use super::published::Published;
use crate::error::{CoreError, Result};
use crate::file::File;
use crate::frame::{HEADER, TRAILER};
use crate::group_commit::Flusher;
use crate::index::Summary;

/// Zeros ahead end at a multiple of this.
const FILL_STEP: u64 = 256 << 10;
/// Nobody waits while zeros are written ahead of larger batches: they are bytes written twice.
const FILL_MAX_BATCH: usize = 64 << 10;
/// The most zeros ahead of large batches.
const FILL_MAX_AHEAD: u64 = 32 << 20;
/// Of a larger batch so much at a time is written before it is whole.
const AHEAD_BYTES: usize = 512 << 10;
static ZEROS: [u8; FILL_STEP as usize] = [0; FILL_STEP as usize];

/// Bytes of the durable mark.
pub const MARK_BYTES: usize = 512;
const MARK_LSN: usize = 32;
const MARK_CRC: usize = MARK_BYTES - 4;

/// What went wrong, and with which of the two files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What.
    pub error: CoreError,
    /// Whether with the mark.
    pub mark: bool,
}

impl From<CoreError> for Failure {
    fn from(error: CoreError) -> Self {
        Self { error, mark: false }
    }
}

/// The file of the durable mark: one sector, always written whole.
#[derive(Debug)]
pub struct Mark {
    file: Arc<File>,
    sector: [u8; MARK_BYTES],
}

impl Mark {
    /// `template` is all but the LSN and the checksum.
    pub fn new(file: Arc<File>, template: [u8; MARK_BYTES]) -> Self {
        Self { file, sector: template }
    }

    fn write(&mut self, lsn: u64) -> Result<()> {
        self.sector[MARK_LSN..MARK_LSN + 8].copy_from_slice(&lsn.to_le_bytes());
        let crc = crc32fast::hash(&self.sector[..MARK_CRC]);
        self.sector[MARK_CRC..].copy_from_slice(&crc.to_le_bytes());
        self.file.write_at(&self.sector, 0)
    }
}

/// The file that is appended to.
#[derive(Debug)]
struct Target {
    file: Arc<File>,
    summary: Summary,
    /// Bytes of a failed batch may still lie behind the durable end.
    uncut: bool,
    /// Whether zeros may be written ahead.
    fill: bool,
}

/// What a step of zeros ahead came to.
struct Filled {
    /// Something was written.
    some: bool,
    /// It was not all.
    more: bool,
}

/// How the appender is to work.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Size at which a file is full; `None` for never.
    pub segment_bytes: Option<u64>,
    /// Flushes after which zeros are written ahead; a large one counts once for each 64 KiB.
    pub fill_after: u64,
}

/// Writes batches. One thread at a time has it.
#[derive(Debug)]
pub struct Writer {
    /// `None` once closed.
    target: Option<Target>,
    mark: Option<Mark>,
    published: Arc<Published>,
    options: Options,
    /// What was flushed, in batches of up to 64 KiB.
    flushes: u64,
    /// Bytes of large batches since zeros were last written ahead of them.
    burst: u64,
    filler: Arc<Wish>,
    poisoned: Option<String>,
}

impl Writer {
    /// All that `summary` says of `file` is durable.
    pub fn new(
        file: Arc<File>,
        summary: Summary,
        mark: Option<Mark>,
        published: Arc<Published>,
        filler: Arc<Wish>,
        options: Options,
    ) -> Self {
        let target = Some(Target { file, summary, uncut: false, fill: true });
        Self { target, mark, published, options, flushes: 0, burst: 0, filler, poisoned: None }
    }

    /// Cuts the file to its durable end, for good: no zeros come behind it any more. No flush may be under way.
    pub fn seal(&mut self) -> Result<()> {
        self.burst = 0;
        self.with_target(|writer, target| {
            let size = writer.look(target, target.summary.valid_bytes)?;
            writer.trim(target, size)
        })
    }

    /// Goes on in another file, all of which is durable.
    pub fn swap(&mut self, file: Arc<File>, summary: Summary) -> Result<()> {
        self.with_target(|writer, target| {
            writer.published.publish(&summary, |_| ());
            *target = Target { file, summary, uncut: false, fill: true };
            Ok(())
        })
    }

    /// Trims the file, unless poisoned, and lets go of everything. Later calls do nothing.
    pub fn close(&mut self) -> Result<()> {
        self.mark = None;
        match self.target.take() {
            Some(mut target) if self.poisoned.is_none() => {
                let size = target.file.size()?;
                self.trim(&mut target, size)
            }
            _ => Ok(()),
        }
    }

    /// Lets go of everything as it is.
    pub fn forget(&mut self) {
        self.mark = None;
        self.target = None;
    }

    /// Runs `work` on the file, unless there is none any more or it is not to be touched.
    fn with_target<T, E: From<CoreError>>(
        &mut self,
        work: impl FnOnce(&mut Self, &mut Target) -> Result<T, E>,
    ) -> Result<T, E> {
        self.usable()?;
        let Some(mut target) = self.target.take() else { return Err(CoreError::Closed.into()) };
        // A panic that went on would take the writer along, and whoever comes next would wait for it for ever.
        let outcome = catch_unwind(AssertUnwindSafe(|| work(self, &mut target)));
        self.target = Some(target);
        outcome.unwrap_or_else(|_| {
            let reason = "the writer panicked".to_owned();
            self.poison(reason.clone());
            Err(CoreError::Poisoned { reason }.into())
        })
    }

    fn usable(&self) -> Result<()> {
        self.poisoned.as_ref().map_or(Ok(()), |reason| Err(CoreError::Poisoned { reason: reason.clone() }))
    }

    fn poison(&mut self, reason: String) {
        self.published.poison(&reason);
        self.poisoned = Some(reason);
    }

    /// Passes the outcome of a call on; its failure is the end of all writing.
    fn poison_unless(&mut self, outcome: Result<()>, what: &str) -> Result<()> {
        if let Err(error) = &outcome {
            self.poison(format!("{what} failed: {}", words(error)));
        }
        outcome
    }

    /// The size of the file, which must hold the `end` bytes that were written and nothing else but zeros.
    fn look(&mut self, target: &mut Target, end: u64) -> Result<u64> {
        let (size, links) = target.file.size_and_links()?;
        let reason = if links == 0 {
            "the file was removed under the open spool"
        } else if size < end {
            "the file was shortened under the open spool"
        } else if target.uncut {
            self.trim(target, size)?;
            return Ok(end);
        } else {
            return Ok(size);
        };
        self.poison(reason.to_owned());
        Err(CoreError::Corrupt { reason: reason.to_owned(), offset: None, first_lsn: None, last_lsn: None })
    }

    /// Cuts a file of `size` bytes to its durable end.
    fn trim(&mut self, target: &mut Target, size: u64) -> Result<()> {
        let end = target.summary.valid_bytes;
        if size > end || target.uncut {
            target.uncut = true;
            target.file.truncate(end)?;
            target.uncut = false;
            let synced = target.file.sync_all();
            self.poison_unless(synced, "sync after a cut")?;
        }
        Ok(())
    }

    /// Writes what gathered of a large batch, so that the disk is at work while the rest is made ready. An error is
    /// left to the flush, which writes those bytes again, and so is a file that is not as it should be: false, and
    /// no more of this batch is to be tried.
    pub fn write_ahead(&mut self, batch: &mut Batch) -> bool {
        if batch.bytes.len() < AHEAD_BYTES {
            return true;
        }
        let outcome = self.with_target(|_, target| {
            let end = target.summary.valid_bytes;
            let (found, links) = target.file.size_and_links()?;
            let Ahead { count, size } = batch.ahead.unwrap_or(Ahead { count: 0, size: found });
            if links == 0 || found < end + count || target.uncut {
                return Ok(false);
            }
            let (start, more) = (end + count, batch.bytes.len() as u64);
            target.file.write_at(&batch.bytes, start)?;
            target.file.begin_writeback(start, more);
            batch.ahead = Some(Ahead { count: count + more, size });
            batch.bytes.clear();
            Ok::<bool, CoreError>(true)
        });
        outcome.unwrap_or(false)
    }

    fn write(&mut self, target: &mut Target, batch: &mut Batch) -> Result<(), Failure> {
        let start = target.summary.valid_bytes;
        let held = start + batch.ahead.map_or(0, |ahead| ahead.count);
        let found = match self.look(target, held) {
            Ok(found) => found,
            Err(error) => {
                if batch.ahead.is_some() && self.poisoned.is_none() {
                    self.cut_back(target);
                }
                return Err(error.into());
            }
        };
        let Ahead { count, size } = batch.ahead.unwrap_or(Ahead { count: 0, size: found });
        let end = start + batch.len() as u64;
        if let Err(error) = target.file.write_at(&batch.bytes, start + count) {
            self.cut_back(target);
            return Err(error.into());
        }
        let large = batch.len() > FILL_MAX_BATCH;
        if end > size && !large && self.flushes >= self.options.fill_after {
            self.fill_ahead(target, end, end.next_multiple_of(FILL_STEP));
        }
        let begun = Instant::now();
        let synced = if end > size { target.file.sync_all() } else { target.file.sync_data() };
        let sync = begun.elapsed();
        self.poison_unless(synced, "sync")?;
        let last_lsn = batch.run.last_lsn().unwrap_or(target.summary.highest_lsn);
        self.advance_mark(target, last_lsn)?;

        self.flushes += batch.len().div_ceil(FILL_MAX_BATCH) as u64;
        if large && self.flushes >= self.options.fill_after {
            self.burst = (self.burst + batch.len() as u64).min(FILL_MAX_AHEAD);
            self.filler.make();
        }
        batch.run.move_to(start);
        target.summary.extend(&batch.run);
        assert_eq!(target.summary.valid_bytes, end, "what was noted of the batch is what was written");
        let records = batch.run.len() as u64;
        let payload_bytes = batch.len() as u64 - records * (HEADER + TRAILER) as u64;
        self.published.publish(&target.summary, |stats| stats.count(records, payload_bytes, sync));
        Ok(())
    }

    /// Written zeros behind the batch spare the next syncs a change of size. They are a convenience: without room
    /// for them the file grows batch by batch.
    fn fill_ahead(&self, target: &mut Target, end: u64, goal: u64) -> Filled {
        let limit = self
            .options
            .segment_bytes
            .map_or(u64::MAX, |limit| limit.checked_next_multiple_of(FILL_STEP).unwrap_or(limit));
        let left = goal.min(limit).saturating_sub(end);
        let count = left.min(FILL_STEP);
        if target.fill && count > 0 {
            target.fill = target.file.write_at(&ZEROS[..count as usize], end).is_ok();
        }
        Filled { some: target.fill && count > 0, more: target.fill && count < left }
    }

    /// While nothing is appended: a step towards as many zeros ahead as the last large batches took. False: no more
    /// is to be done.
    pub fn fill_for_large(&mut self) -> Result<bool> {
        // A sealed file is another's: it may be renamed or removed.
        if self.burst == 0 {
            return Ok(false);
        }
        self.with_target(|writer, target| {
            let size = writer.look(target, target.summary.valid_bytes)?;
            let filled = writer.fill_ahead(target, size, target.summary.valid_bytes + writer.burst);
            if filled.some {
                let synced = target.file.sync_all();
                writer.poison_unless(synced, "sync of zeros ahead")?;
            }
            if !filled.more {
                writer.burst = 0;
            }
            Ok(filled.more)
        })
    }

    /// Changes with each flush.
    pub fn flushes(&self) -> u64 {
        self.flushes
    }

    fn advance_mark(&mut self, target: &mut Target, lsn: u64) -> Result<(), Failure> {
        let Some(mark) = &mut self.mark else { return Ok(()) };
        let Err(error) = mark.write(lsn) else { return Ok(()) };
        let restored = mark.write(target.summary.highest_lsn);
        if self.poison_unless(restored, "writing the mark").is_ok() {
            self.cut_back(target);
        }
        Err(Failure { error, mark: true })
    }

    /// After a failed write: the file as it was.
    fn cut_back(&mut self, target: &mut Target) {
        target.uncut = true;
        // The failed write is the error that counts; this one shows in the next call.
        drop(self.trim(target, u64::MAX));
    }
}

impl Flusher for Writer {
    type Queue = Admission;
    type Batch = Batch;
    type Error = Failure;

    fn flush(&mut self, batch: &mut Batch) -> Result<(), Failure> {
        self.with_target(|writer, target| writer.write(target, batch))
    }

    fn settle(&self, queue: &mut Admission, lost: bool) {
        if let Some(target) = &self.target {
            queue.end = target.summary.valid_bytes;
            queue.occupied = target.summary.records > 0;
        }
        queue.poisoned.clone_from(&self.poisoned);
        if lost {
            queue.lsn = self.published.lsn();
            queue.term = self.published.term();
        }
    }

    fn clear(batch: &mut Batch) {
        batch.clear();
    }
}

/// What went wrong, as the C library words it, so that both cores say the same.
fn words(error: &CoreError) -> String {
    let CoreError::Os { errno, .. } = error else { return error.to_string() };
    let text = std::io::Error::from_raw_os_error(*errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
