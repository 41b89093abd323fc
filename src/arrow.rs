//! Records as four columns, through the Arrow C stream interface.
//!
//! What is handed out owns its memory, and is freed by its release callback, once. No callback needs the interpreter.

mod layout;

pub use layout::{ArrowArray, ArrowArrayStream, ArrowSchema};

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};

use crate::error::CoreError;
use crate::reader::Reader;

/// A batch is closed before its payloads pass this many bytes, so that 32-bit offsets always do.
const BATCH_BYTES: u64 = 2 << 20;
/// And at this many records.
const BATCH_RECORDS: usize = 64 << 10;

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
}

/// The values of one batch.
struct Batch {
    lsn: Vec<u64>,
    term: Vec<u64>,
    timestamp: Vec<i64>,
    ends: Vec<i32>,
    payload: Vec<u8>,
}

/// The stream of all records of `parts`, in order. It must be released.
pub fn stream(mut parts: Vec<Part>) -> ArrowArrayStream {
    parts.reverse();
    ArrowArrayStream {
        get_schema: Some(get_schema),
        get_next: Some(get_next),
        get_last_error: Some(get_last_error),
        release: Some(release_stream),
        private_data: Box::into_raw(Box::new(Stream { parts, failed: None })).cast(),
    }
}

impl Stream {
    /// The next batch, empty at the end. Records before an error come first.
    fn next(&mut self) -> Result<Batch, c_int> {
        let left = self.parts.last().map_or(0, |part| part.reader.left().min(BATCH_BYTES));
        let mut batch = Batch {
            lsn: Vec::new(),
            term: Vec::new(),
            timestamp: Vec::new(),
            ends: vec![0],
            payload: Vec::with_capacity(left as usize),
        };
        while self.failed.is_none()
            && batch.lsn.len() < BATCH_RECORDS
            && let Some(part) = self.parts.last_mut()
        {
            match batch.fill(&mut part.reader) {
                Ok(()) if part.reader.is_done() => drop(self.parts.pop()),
                Ok(()) => break,
                Err(error) => {
                    let words = format!("{}: {}", part.path, words(&error)).replace('\0', "?");
                    self.failed = Some((code(&error), CString::new(words).unwrap_or_default()));
                }
            }
        }
        match &self.failed {
            Some((code, _)) if batch.lsn.is_empty() => Err(*code),
            _ => Ok(batch),
        }
    }
}

impl Batch {
    /// Takes as many records as there are, or as there is room for.
    fn fill(&mut self, reader: &mut Reader) -> Result<(), CoreError> {
        loop {
            let count = BATCH_RECORDS - self.lsn.len();
            let bytes = BATCH_BYTES.saturating_sub(self.payload.len() as u64);
            let run = reader.next_run(count, bytes, self.lsn.is_empty())?;
            let Some((chunk, run)) = run else { return Ok(()) };
            for record in &chunk.records()[run] {
                // What is past Arrow's range is the end of it.
                let timestamp = i64::try_from(record.frame.timestamp_ms).unwrap_or(i64::MAX);
                self.lsn.push(record.frame.lsn);
                self.term.push(record.term);
                self.timestamp.push(timestamp);
                self.payload.extend_from_slice(chunk.payload(record));
                let end = i32::try_from(self.payload.len()).expect("a batch holds less than 2 GiB");
                self.ends.push(end);
            }
        }
    }
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
    _values: Vec<Values>,
}

/// The memory behind one buffer.
enum Values {
    Unsigned(#[allow(dead_code, reason = "kept alive for the buffer's pointer")] Vec<u64>),
    Signed(#[allow(dead_code, reason = "kept alive for the buffer's pointer")] Vec<i64>),
    Ends(#[allow(dead_code, reason = "kept alive for the buffer's pointer")] Vec<i32>),
    Bytes(#[allow(dead_code, reason = "kept alive for the buffer's pointer")] Vec<u8>),
}

impl Values {
    fn pointer(&self) -> *const c_void {
        match self {
            Self::Unsigned(values) => values.as_ptr().cast(),
            Self::Signed(values) => values.as_ptr().cast(),
            Self::Ends(values) => values.as_ptr().cast(),
            Self::Bytes(values) => values.as_ptr().cast(),
        }
    }
}

fn count(len: usize) -> i64 {
    i64::try_from(len).expect("what is in memory can be counted")
}

fn schema(format: &'static CStr, name: &'static CStr, children: Vec<ArrowSchema>) -> ArrowSchema {
    let children: Vec<_> = children.into_iter().map(|child| Box::into_raw(Box::new(child))).collect();
    let mut owned = Box::new(Owned { children, buffers: Vec::new(), _values: Vec::new() });
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

fn array(length: usize, values: Vec<Values>, children: Vec<ArrowArray>) -> ArrowArray {
    let children: Vec<_> = children.into_iter().map(|child| Box::into_raw(Box::new(child))).collect();
    // The first buffer is the validity bitmap, which is left out where nothing is null.
    let buffers: Vec<_> = std::iter::once(null()).chain(values.iter().map(Values::pointer)).collect();
    let mut owned = Box::new(Owned { children, buffers, _values: values });
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

fn batch_array(batch: Batch) -> ArrowArray {
    let length = batch.lsn.len();
    let columns = [
        vec![Values::Unsigned(batch.lsn)],
        vec![Values::Unsigned(batch.term)],
        vec![Values::Signed(batch.timestamp)],
        vec![Values::Ends(batch.ends), Values::Bytes(batch.payload)],
    ];
    array(length, Vec::new(), columns.into_iter().map(|values| array(length, values, Vec::new())).collect())
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
        Ok(batch) if batch.lsn.is_empty() => END,
        Ok(batch) => batch_array(batch),
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
