//! Records as four columns, through the Arrow C stream interface.
//!
//! What is handed out owns its memory, and is freed by its release callback, once. No callback needs the interpreter.

mod layout;
mod memory;

pub use layout::{ArrowArray, ArrowArrayStream, ArrowSchema};

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::iter::once;
use std::ptr::{null, null_mut};
use std::sync::Arc;

use crate::error::CoreError;
use crate::reader::Reader;
use memory::{HUGE, Lent, Memory, Pool};

/// Memory of a batch, unless its only record needs more: 32-bit offsets always do.
const BATCH_BYTES: usize = HUGE;
/// The same where next to nothing is left.
const LEAST_BYTES: u64 = 4 << 10;
/// And the most records of one.
const BATCH_RECORDS: usize = 64 << 10;
/// Bytes that a record takes beside its payload: three numbers and an offset.
const FIXED: usize = 3 * size_of::<u64>() + size_of::<i32>();
/// Every column begins at a multiple of this, as the specification advises.
const ALIGN: usize = 64;
/// What the alignment of five buffers and the first offset can take.
const SLACK: usize = 6 * ALIGN;

/// Name and type of each column.
const COLUMNS: [(&CStr, &CStr); 4] = [(c"lsn", c"L"), (c"term", c"L"), (c"timestamp", c"tsm:UTC"), (c"payload", c"z")];

/// What stands for the end of a stream: an array that is released already.
const END: ArrowArray = ArrowArray {
    length: 0,
    null_count: 0,
    offset: 0,
    n_buffers: 0,
    n_children: 0,
    buffers: null_mut(),
    children: null_mut(),
    dictionary: null_mut(),
    release: None,
    private_data: null_mut(),
};

/// One reader, and how its file is called in an error.
pub struct Part {
    /// What to read.
    pub reader: Reader,
    /// The file's path.
    pub path: String,
}

/// What a stream still has to give.
struct Stream {
    /// The parts, the next one last.
    parts: Vec<Part>,
    /// What ended the stream, with its code. It stays.
    failed: Option<(c_int, CString)>,
    pool: Arc<Pool>,
    batch: Batch,
}

/// The values of one batch. The payload lies where it stays; the rest is put behind it when all is there.
#[derive(Default)]
struct Batch {
    lsn: Vec<u64>,
    term: Vec<u64>,
    timestamp: Vec<i64>,
    ends: Vec<i32>,
    memory: Option<Memory>,
    payload_bytes: usize,
}

/// The stream of all records of `parts`, in order. It must be released.
pub fn stream(mut parts: Vec<Part>) -> ArrowArrayStream {
    parts.reverse();
    let stream = Stream { parts, failed: None, pool: Arc::default(), batch: Batch::default() };
    ArrowArrayStream {
        get_schema: Some(get_schema),
        get_next: Some(get_next),
        get_last_error: Some(get_last_error),
        release: Some(release_stream),
        private_data: Box::into_raw(Box::new(stream)).cast(),
    }
}

impl Stream {
    /// The next batch; `None` at the end. Records before an error come first.
    fn next(&mut self) -> Result<Option<ArrowArray>, c_int> {
        let left: u64 = self.parts.iter().map(|part| part.reader.left()).sum();
        // The columns of a frame take less than twice its bytes.
        let size = left.saturating_mul(2).clamp(LEAST_BYTES, BATCH_BYTES as u64) as usize;
        while self.failed.is_none()
            && let Some(part) = self.parts.last_mut()
        {
            match self.batch.fill(&mut part.reader, &self.pool, size) {
                Ok(()) if part.reader.is_done() => drop(self.parts.pop()),
                Ok(()) => break,
                Err(error) => {
                    let words = format!("{}: {}", part.path, words(&error)).replace('\0', "?");
                    self.failed = Some((code(&error), CString::new(words).unwrap_or_default()));
                }
            }
        }
        match &self.failed {
            Some((code, _)) if self.batch.lsn.is_empty() => Err(*code),
            _ => Ok(self.batch.finish(&self.pool)),
        }
    }
}

impl Batch {
    /// Takes as many records as there are, or as there is room for.
    fn fill(&mut self, reader: &mut Reader, pool: &Pool, size: usize) -> Result<(), CoreError> {
        loop {
            let taken = self.payload_bytes + self.lsn.len() * FIXED + SLACK;
            let room = size.saturating_sub(taken);
            // As many as an eighth of the room has numbers for: the rest of it is for their payloads.
            let count = (BATCH_RECORDS - self.lsn.len()).min((room / FIXED).div_ceil(8));
            let bytes = room - count * FIXED;
            let run = reader.next_run(count, bytes as u64, self.lsn.is_empty())?;
            let Some((chunk, run)) = run else { return Ok(()) };
            let records = &chunk.records()[run];
            let memory = match &mut self.memory {
                Some(memory) => memory,
                none => {
                    self.ends.push(0);
                    let bytes: usize = records.iter().map(|record| FIXED + record.frame.payload_len as usize).sum();
                    none.insert(pool.take((bytes + SLACK).max(size))?)
                }
            };
            for record in records {
                let payload = chunk.payload(record);
                let end = self.payload_bytes + payload.len();
                memory.bytes_mut()[self.payload_bytes..end].copy_from_slice(payload);
                self.payload_bytes = end;
                self.lsn.push(record.frame.lsn);
                self.term.push(record.term);
                // What is past Arrow's range is the end of it.
                self.timestamp.push(i64::try_from(record.frame.timestamp_ms).unwrap_or(i64::MAX));
                self.ends.push(i32::try_from(end).expect("a batch holds less than 2 GiB"));
            }
        }
    }

    /// The batch as an array, if it has records; the next one begins empty.
    fn finish(&mut self, pool: &Arc<Pool>) -> Option<ArrowArray> {
        let mut memory = self.memory.take()?;
        let length = self.lsn.len();
        let mut end = std::mem::take(&mut self.payload_bytes);
        let bytes = memory.bytes_mut();
        let lsn = put(bytes, &mut end, self.lsn.drain(..).map(u64::to_ne_bytes));
        let term = put(bytes, &mut end, self.term.drain(..).map(u64::to_ne_bytes));
        let timestamp = put(bytes, &mut end, self.timestamp.drain(..).map(i64::to_ne_bytes));
        let ends = put(bytes, &mut end, self.ends.drain(..).map(i32::to_ne_bytes));
        let lent = Arc::new(Lent::new(memory, pool));
        let columns = [vec![lsn], vec![term], vec![timestamp], vec![ends, 0]]
            .map(|starts| array(length, &starts, &lent, Vec::new()));
        Some(array(length, &[], &lent, columns.into()))
    }
}

/// Puts `values` behind `end`, and moves it. Where they begin.
fn put<const N: usize>(bytes: &mut [u8], end: &mut usize, values: impl ExactSizeIterator<Item = [u8; N]>) -> usize {
    let start = end.next_multiple_of(ALIGN);
    *end = start + values.len() * N;
    for (place, value) in bytes[start..*end].chunks_exact_mut(N).zip(values) {
        place.copy_from_slice(&value);
    }
    start
}

fn code(error: &CoreError) -> c_int {
    if let CoreError::Os { errno, .. } = error { *errno } else { libc::EIO }
}

fn words(error: &CoreError) -> String {
    match error {
        CoreError::Corrupt { offset: Some(offset), first_lsn: Some(first), last_lsn: Some(last), .. } => {
            format!("{error} (offset {offset}, LSNs {first} to {last})")
        }
        _ => error.to_string(),
    }
}

/// What the structures of one type or one batch need to stay alive; theirs by `private_data`.
struct Owned<T> {
    children: Vec<*mut T>,
    buffers: Vec<*const c_void>,
    /// What the buffers point into; kept, not read.
    _memory: Option<Arc<Lent>>,
}

fn count(len: usize) -> i64 {
    i64::try_from(len).expect("what is in memory can be counted")
}

fn schema(format: &'static CStr, name: &'static CStr, children: Vec<ArrowSchema>) -> ArrowSchema {
    let children: Vec<_> = children.into_iter().map(|child| Box::into_raw(Box::new(child))).collect();
    let mut owned = Box::new(Owned { children, buffers: Vec::new(), _memory: None });
    ArrowSchema {
        format: format.as_ptr(),
        name: name.as_ptr(),
        metadata: null(),
        flags: 0,
        n_children: count(owned.children.len()),
        children: owned.children.as_mut_ptr(),
        dictionary: null_mut(),
        release: Some(release_schema),
        private_data: Box::into_raw(owned).cast(),
    }
}

/// `length` values, whose buffers begin at `starts` in the memory.
fn array(length: usize, starts: &[usize], memory: &Arc<Lent>, children: Vec<ArrowArray>) -> ArrowArray {
    let children: Vec<_> = children.into_iter().map(|child| Box::into_raw(Box::new(child))).collect();
    // The first buffer is the validity bitmap, which is left out where nothing is null.
    let buffers = starts.iter().map(|start| memory.bytes()[*start..].as_ptr().cast());
    let buffers: Vec<_> = once(null()).chain(buffers).collect();
    let mut owned = Box::new(Owned { children, buffers, _memory: Some(Arc::clone(memory)) });
    ArrowArray {
        length: count(length),
        null_count: 0,
        offset: 0,
        n_buffers: count(owned.buffers.len()),
        n_children: count(owned.children.len()),
        buffers: owned.buffers.as_mut_ptr(),
        children: owned.children.as_mut_ptr(),
        dictionary: null_mut(),
        release: Some(release_array),
        private_data: Box::into_raw(owned).cast(),
    }
}

unsafe extern "C" fn get_schema(_: *mut ArrowArrayStream, out: *mut ArrowSchema) -> c_int {
    let columns = COLUMNS.iter().map(|(name, format)| schema(format, name, Vec::new())).collect();
    // SAFETY: the consumer gives memory for one schema, uninitialised.
    unsafe { out.write(schema(c"+s", c"", columns)) };
    0
}

unsafe extern "C" fn get_next(stream: *mut ArrowArrayStream, out: *mut ArrowArray) -> c_int {
    // SAFETY: the consumer gives a stream that is not released, and calls it from one thread at a time.
    let stream = unsafe { &mut *(*stream).private_data.cast::<Stream>() };
    let next = match stream.next() {
        Err(code) => return code,
        Ok(batch) => batch.unwrap_or(END),
    };
    // SAFETY: the consumer gives memory for one array, uninitialised.
    unsafe { out.write(next) };
    0
}

unsafe extern "C" fn get_last_error(stream: *mut ArrowArrayStream) -> *const c_char {
    // SAFETY: as above.
    let stream = unsafe { &*(*stream).private_data.cast::<Stream>() };
    stream.failed.as_ref().map_or(null(), |(_, words)| words.as_ptr())
}

unsafe extern "C" fn release_stream(stream: *mut ArrowArrayStream) {
    // SAFETY: the consumer releases a stream once; the pointer came from `Box::into_raw`.
    unsafe {
        drop(Box::from_raw((*stream).private_data.cast::<Stream>()));
        (*stream).release = None;
    }
}

unsafe extern "C" fn release_schema(schema: *mut ArrowSchema) {
    // SAFETY: the consumer releases a schema once; all pointers came from `Box::into_raw`. It may have taken children
    // out, which it marks by their missing release callback.
    unsafe {
        let owned = Box::from_raw((*schema).private_data.cast::<Owned<ArrowSchema>>());
        for child in &owned.children {
            let mut child = Box::from_raw(*child);
            if let Some(release) = child.release {
                release(&raw mut *child);
            }
        }
        (*schema).release = None;
    }
}

unsafe extern "C" fn release_array(array: *mut ArrowArray) {
    // SAFETY: as for a schema.
    unsafe {
        let owned = Box::from_raw((*array).private_data.cast::<Owned<ArrowArray>>());
        for child in &owned.children {
            let mut child = Box::from_raw(*child);
            if let Some(release) = child.release {
                release(&raw mut *child);
            }
        }
        (*array).release = None;
    }
}

#[cfg(test)]
mod tests;
