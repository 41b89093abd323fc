//! Appends: order and term checks, encoding into the batch that gathers, what is durable, going on in another file.
//!
//! One object for the life of a writer, shared by any number of threads. How batches are shared is in
//! `group_commit`, how one becomes durable in `flush`.

mod batch;
mod filler;
mod flush;
mod frames;
mod published;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use batch::{MAX_BATCH_BYTES, Part, Position, Record};
pub use flush::{Failure, MARK_BYTES, Mark, Options};
pub use frames::{RawFrame, split};
pub use published::{Published, Stats};

use batch::{Admission, Batch};
use filler::Filler;
use flush::Writer;

use crate::error::CoreError;
use crate::file::File;
use crate::group_commit::{GroupCommit, Staged};
use crate::index::Summary;

/// See the module.
pub struct Appender {
    commit: Arc<GroupCommit<Writer>>,
    filler: Filler,
    published: Arc<Published>,
    /// Set in a forked child, whose locks may be held by threads that it does not have.
    abandoned: AtomicBool,
}

/// What a call with several parts came to, when it came to no error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Appended {
    /// Parts that are durable. Fewer than given: the file is full.
    pub count: usize,
    /// LSN of the first of them.
    pub first_lsn: Option<u64>,
    /// LSN of the last of them.
    pub last_lsn: Option<u64>,
}

/// What became of one part of `append_each`.
pub type Each = Result<u64, Failure>;

/// An error of a call with several parts, some of which may be durable all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partly {
    /// What went wrong.
    pub failure: Failure,
    /// LSN of the last durable part.
    pub appended_through: Option<u64>,
}

impl From<CoreError> for Partly {
    fn from(error: CoreError) -> Self {
        Self { failure: error.into(), appended_through: None }
    }
}

impl Appender {
    /// Appends behind `summary`, all of which is durable in `file`.
    pub fn new(
        file: Arc<File>,
        summary: Summary,
        mark: Option<Mark>,
        floor_lsn: u64,
        term: u64,
        options: Options,
    ) -> Self {
        let published = Arc::new(Published::new(summary.clone(), floor_lsn, term));
        let queue = Admission {
            lsn: published.lsn(),
            term: published.term(),
            end: summary.valid_bytes,
            occupied: summary.records > 0,
            segment_bytes: options.segment_bytes,
            ..Admission::default()
        };
        let filler = Filler::default();
        let writer = Writer::new(file, summary, mark, Arc::clone(&published), filler.wish(), options);
        let commit = Arc::new(GroupCommit::new(writer, queue));
        Self { commit, filler, published, abandoned: AtomicBool::new(false) }
    }

    /// What is durable, and waiting for it.
    pub fn published(&self) -> Result<&Published, CoreError> {
        self.alive()?;
        Ok(&self.published)
    }

    /// Appends all `parts`, in batches of whole frames that are durable one after the other. They are checked as a
    /// whole first; `base` is the place of the first in the caller's list, for errors that are to name one.
    pub fn append<P: Part>(&self, parts: &[P], base: Option<usize>) -> Result<Appended, Partly> {
        let mut done = Appended::default();
        self.append_parts(parts, base, &mut done)
            .map_err(|failure| Partly { failure, appended_through: done.last_lsn })?;
        Ok(done)
    }

    /// Appends one record: its LSN, or `None` when the file is full.
    pub fn append_one<P: Part>(&self, part: &P) -> Result<Option<u64>, Failure> {
        self.alive()?;
        let frame_len = part.frame_len();
        self.commit(|queue, batch, _| {
            queue.open()?;
            let position = queue.position().next(part)?;
            if queue.full() {
                return Ok(Staged::Refused(None));
            }
            if !batch.fits(frame_len) {
                return Ok(Staged::NoRoom);
            }
            stage(queue, batch, part, position);
            Ok(Staged::Queued(Some(position.lsn)))
        })
    }

    fn append_parts<P: Part>(&self, parts: &[P], base: Option<usize>, done: &mut Appended) -> Result<(), Failure> {
        if parts.is_empty() {
            return Ok(self.check(parts, base)?);
        }
        self.alive()?;
        let several = chunk_len(parts) < parts.len();
        let _held = several.then(|| Held::new(&self.commit));
        while done.count < parts.len() {
            let rest = &parts[done.count..];
            let count = chunk_len(rest);
            // The first time all are checked.
            let checked = if done.count == 0 { rest } else { &rest[..count] };
            let Some((first, last)) = self.append_chunk(&rest[..count], checked, base.map(|base| base + done.count))?
            else {
                break;
            };
            done.count += count;
            done.first_lsn.get_or_insert(first);
            done.last_lsn = Some(last);
        }
        Ok(())
    }

    /// Appends the `parts` of one batch if all of `checked` may come: first and last LSN, `None` when the file is full.
    fn append_chunk<P: Part>(
        &self,
        parts: &[P],
        checked: &[P],
        base: Option<usize>,
    ) -> Result<Option<(u64, u64)>, Failure> {
        let bytes = parts.iter().map(Part::frame_len).sum();
        self.commit(|queue, batch, mut writer| {
            queue.open()?;
            queue.position().check(checked, base)?;
            if queue.full() {
                return Ok(Staged::Refused(None));
            }
            if !batch.fits(bytes) {
                return Ok(Staged::NoRoom);
            }
            let first = queue.position().of(&parts[0]).lsn;
            for part in parts {
                stage(queue, batch, part, queue.position().of(part));
                writer = writer.and_then(|writer| writer.write_ahead(batch).then_some(writer));
            }
            Ok(Staged::Queued(Some((first, queue.lsn))))
        })
    }

    fn commit<T>(
        &self,
        put: impl FnMut(&mut Admission, &mut Batch, Option<&mut Writer>) -> Result<Staged<T>, Failure>,
    ) -> Result<T, Failure> {
        let outcome = self.commit.commit(put);
        self.filler.start_if_wished(&self.commit);
        outcome
    }

    /// What the first bad one of `parts` would be refused for now; nothing is appended.
    pub fn check<P: Part>(&self, parts: &[P], base: Option<usize>) -> Result<(), CoreError> {
        self.alive()?;
        self.commit.with_queue(|queue| {
            queue.open()?;
            queue.position().check(parts, base)
        })
    }

    /// Appends each of `parts` on its own merits, in as few flushes as possible. The results, of fewer parts than
    /// given when the file is full.
    pub fn append_each<P: Part>(&self, parts: &[P]) -> Result<Vec<Each>, CoreError> {
        self.alive()?;
        let mut results: Vec<Each> = Vec::with_capacity(parts.len());
        while results.len() < parts.len() {
            let start = results.len();
            let flushed = self.commit(|queue, batch, _| {
                results.truncate(start);
                Ok(stage_each(queue, batch, &parts[start..], &mut results))
            });
            if let Err(failure) = flushed {
                for result in results[start..].iter_mut().filter(|result| result.is_ok()) {
                    *result = Err(failure.clone());
                }
            }
            if results.len() == start {
                break;
            }
        }
        Ok(results)
    }

    /// Until `release`, appends of other threads wait. May be nested.
    pub fn hold(&self) -> Result<(), CoreError> {
        self.alive()?;
        self.commit.hold();
        if self.published.closed() {
            self.commit.release();
            return Err(CoreError::Closed);
        }
        Ok(())
    }

    /// Ends one `hold` of this thread, also after `close`; false if there is none.
    pub fn release(&self) -> Result<bool, CoreError> {
        self.alive()?;
        Ok(self.commit.release())
    }

    /// Waits for what is in flight, lets no more in, and cuts the file to what is durable. After an error appends go
    /// on as before.
    pub fn seal(&self) -> Result<Summary, CoreError> {
        self.alive()?;
        let sealed = self.exclusive(Writer::seal);
        if sealed.is_err() {
            self.commit.with_queue(|queue| queue.sealed = false);
        }
        sealed.map(|()| self.published.summary())
    }

    /// Lets appends go on in the same file.
    pub fn unseal(&self) -> Result<(), CoreError> {
        self.alive()?;
        self.commit.with_queue(|queue| queue.open().map(|()| queue.sealed = false))
    }

    /// Goes on in `file`, all of whose `summary` is durable.
    pub fn swap(&self, file: Arc<File>, summary: Summary) -> Result<(), CoreError> {
        self.alive()?;
        let swapped = self.exclusive(|writer| writer.swap(file, summary));
        self.commit.with_queue(|queue| queue.sealed = false);
        swapped
    }

    /// No new LSN at or below `lsn`.
    pub fn raise_floor(&self, lsn: u64) -> Result<(), CoreError> {
        self.alive()?;
        self.commit.with_queue(|queue| {
            queue.open()?;
            queue.lsn = queue.lsn.max(lsn);
            self.published.raise_floor(lsn);
            Ok(())
        })
    }

    /// No new record of a term below `term`, which is what one without a term gets.
    pub fn raise_term(&self, term: u64) -> Result<(), CoreError> {
        self.alive()?;
        self.commit.with_queue(|queue| {
            queue.open()?;
            queue.term = queue.term.max(term);
            self.published.raise_term(term);
            Ok(())
        })
    }

    /// No new record of a term at or below `term`, but for frames of another log: that term is another primary's.
    pub fn fence(&self, term: u64) -> Result<(), CoreError> {
        self.alive()?;
        self.commit.with_queue(|queue| {
            queue.fence = queue.fence.max(Some(term));
            Ok(())
        })
    }

    /// Waits for what is in flight, cuts the file to what is durable, and lets go of it. Later calls do nothing.
    pub fn close(&self) -> Result<(), CoreError> {
        if self.alive().is_err() {
            return Ok(());
        }
        let trimmed = self.commit.exclusive(|queue| queue.closed = true, Writer::close);
        self.published.close();
        self.filler.end();
        trimmed
    }

    /// Lets go of the file as it is, once what is in flight has ended: nothing is written afterwards. For a writer that
    /// nobody closed; another may then have the file.
    pub fn forget(&self) {
        if self.alive().is_ok() {
            self.commit.exclusive(|queue| queue.closed = true, Writer::forget);
            self.published.close();
            self.filler.end();
        }
    }

    /// Whether `close`, `forget` or `abandon` was called.
    pub fn closed(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed) || self.published.closed()
    }

    /// For a forked child: from now on every call is refused, without a look at any lock.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// Whether this is still the process that made it.
    pub fn alive(&self) -> Result<(), CoreError> {
        if self.abandoned.load(Ordering::Relaxed) { Err(CoreError::Closed) } else { Ok(()) }
    }

    fn exclusive<T>(&self, work: impl FnOnce(&mut Writer) -> Result<T, CoreError>) -> Result<T, CoreError> {
        self.commit.exclusive(|queue| queue.sealed = true, work)
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        // In a forked child the lock may be held by a thread that it does not have.
        if self.alive().is_ok() {
            self.filler.end();
        }
    }
}

/// Releases what it held, whatever happens.
struct Held<'a>(&'a GroupCommit<Writer>);

impl<'a> Held<'a> {
    fn new(commit: &'a GroupCommit<Writer>) -> Self {
        commit.hold();
        Self(commit)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// How many of `parts` one batch takes: at least one.
fn chunk_len<P: Part>(parts: &[P]) -> usize {
    let mut bytes = 0;
    let mut overflows = |part: &P| {
        bytes += part.frame_len();
        bytes > MAX_BATCH_BYTES
    };
    parts.iter().position(&mut overflows).unwrap_or(parts.len()).max(1)
}

fn stage<P: Part>(queue: &mut Admission, batch: &mut Batch, part: &P, position: Position) {
    batch.add(part, position);
    queue.advance(position);
}

/// Adds results until the batch or the file is full. Those that are good count once the batch is flushed.
fn stage_each<P: Part>(queue: &mut Admission, batch: &mut Batch, parts: &[P], results: &mut Vec<Each>) -> Staged<()> {
    let mut queued = false;
    for part in parts {
        match queue.open().and_then(|()| queue.position().next(part)) {
            Err(error) => results.push(Err(error.into())),
            Ok(_) if queue.full() => break,
            Ok(_) if !batch.fits(part.frame_len()) && !queued => return Staged::NoRoom,
            Ok(_) if !batch.fits(part.frame_len()) => break,
            Ok(position) => {
                stage(queue, batch, part, position);
                results.push(Ok(position.lsn));
                queued = true;
            }
        }
    }
    if queued { Staged::Queued(()) } else { Staged::Refused(()) }
}
