use std::io::Write;
use std::mem::MaybeUninit;
use std::sync::Arc;

use super::*;
use crate::file::File;
use crate::frame::encode;
use crate::scan::{Options, scan_file};

/// A part of `records` records, and the file to damage it.
fn part(records: u64, size: usize) -> (Part, std::fs::File) {
    let mut bytes = Vec::new();
    for lsn in 1..=records {
        encode(&mut bytes, lsn % 3, lsn, if lsn == 2 { u64::MAX } else { lsn }, &vec![lsn as u8; size]);
    }
    let mut handle = tempfile::tempfile().unwrap();
    handle.write_all(&bytes).unwrap();
    let file = Arc::new(File::new(handle.try_clone().unwrap().into()));
    let report = scan_file(&file, Options::default()).unwrap();
    (Part { reader: Reader::new(file, &report, 0, None), path: "some\0where".to_owned() }, handle)
}

fn next(stream: &mut ArrowArrayStream) -> Result<Option<ArrowArray>, c_int> {
    let mut array = MaybeUninit::uninit();
    // SAFETY: the stream is not released, and `array` is writable.
    match unsafe { stream.get_next.unwrap()(stream, array.as_mut_ptr()) } {
        // SAFETY: the call succeeded, so it filled the array.
        0 => Ok(Some(unsafe { array.assume_init() }).filter(|array| array.release.is_some())),
        code => Err(code),
    }
}

/// The values of a buffer of a column.
fn values<T: Copy>(array: &ArrowArray, column: usize, buffer: usize, len: usize) -> Vec<T> {
    // SAFETY: a batch has four columns, whose buffers hold as many values as the test asks for.
    unsafe {
        let column = &**array.children.add(column);
        let buffer: *const T = (*column.buffers.add(buffer)).cast();
        (0..len).map(|place| *buffer.add(place)).collect()
    }
}

fn release(mut array: ArrowArray) {
    // SAFETY: the array is not released yet.
    unsafe { array.release.unwrap()(&raw mut array) };
    assert!(array.release.is_none());
}

fn close(mut stream: ArrowArrayStream) {
    // SAFETY: the stream is not released yet.
    unsafe { stream.release.unwrap()(&raw mut stream) };
    assert!(stream.release.is_none());
}

#[test]
fn parts_follow_each_other() {
    let mut stream = stream(vec![part(3, 10).0, part(0, 0).0, part(2, 0).0]);
    let array = next(&mut stream).unwrap().unwrap();
    assert_eq!((array.length, array.n_children, array.n_buffers), (5, 4, 1));
    assert_eq!(values::<u64>(&array, 0, 1, 5), [1, 2, 3, 1, 2]);
    assert_eq!(values::<u64>(&array, 1, 1, 5), [1, 2, 0, 1, 2]);
    assert_eq!(values::<i64>(&array, 2, 1, 5), [1, i64::MAX, 3, 1, i64::MAX]);
    assert_eq!(values::<i32>(&array, 3, 1, 6), [0, 10, 20, 30, 30, 30]);
    assert_eq!(values::<u8>(&array, 3, 2, 30), [[1; 10], [2; 10], [3; 10]].concat());
    assert!(next(&mut stream).unwrap().is_none());
    // A batch outlives its stream.
    close(stream);
    release(array);
}

/// How many records each batch of a stream has, all of them kept until the end.
fn lengths(records: u64, size: usize) -> Vec<i64> {
    let mut stream = stream(vec![part(records, size).0]);
    let mut batches = Vec::new();
    while let Some(array) = next(&mut stream).unwrap() {
        batches.push(array);
    }
    close(stream);
    let lengths = batches.iter().map(|array| array.length).collect();
    batches.into_iter().for_each(release);
    lengths
}

#[test]
fn batches_are_bounded() {
    assert_eq!(lengths(8, 600 << 10), [3, 3, 2]);
    assert_eq!(lengths(3, BATCH_BYTES + 1), [1; 3]);
    let full = count(BATCH_RECORDS);
    assert_eq!(lengths(BATCH_RECORDS as u64 + 5, 0), [full, 5]);
    assert_eq!(lengths(100_000, 40).len(), 4);
}

#[test]
fn every_column_of_a_large_batch_is_whole() {
    let mut stream = stream(vec![part(20_000, 150).0]);
    let (mut first, mut batches) = (1, 0);
    while let Some(array) = next(&mut stream).unwrap() {
        let len = usize::try_from(array.length).unwrap();
        let lsns: Vec<u64> = (first..).take(len).collect();
        assert_eq!(values::<u64>(&array, 0, 1, len), lsns);
        assert_eq!(values::<u64>(&array, 1, 1, len), lsns.iter().map(|lsn| lsn % 3).collect::<Vec<_>>());
        assert_eq!(values::<i32>(&array, 3, 1, len + 1), (0..).step_by(150).take(len + 1).collect::<Vec<_>>());
        let payload: Vec<u8> = lsns.iter().flat_map(|lsn| [*lsn as u8; 150]).collect();
        assert_eq!(values::<u8>(&array, 3, 2, len * 150), payload);
        first += len as u64;
        batches += 1;
        // Its memory is the next batch's.
        release(array);
    }
    assert_eq!((first, batches), (20_001, 2));
    close(stream);
}

#[test]
fn an_error_comes_after_the_records_before_it_and_stays() {
    let (part, handle) = part(100, 100);
    handle.set_len(137 * 60 + 5).unwrap();
    let mut stream = stream(vec![part]);
    let array = next(&mut stream).unwrap().unwrap();
    assert_eq!(array.length, 60);
    release(array);
    for _ in 0..2 {
        assert_eq!(next(&mut stream).map(|_| ()), Err(libc::EIO));
    }
    // SAFETY: the stream is not released, and the words live until it is.
    let words = unsafe { CStr::from_ptr(stream.get_last_error.unwrap()(&raw mut stream)) }.to_str().unwrap();
    assert!(words.starts_with("some?where: damaged: the file ends at 8225"), "{words}");
    close(stream);
}

#[test]
fn the_schema_has_four_columns_that_are_never_null() {
    let mut stream = stream(Vec::new());
    let mut schema = MaybeUninit::uninit();
    // SAFETY: the stream is not released, and `schema` is writable; the call fills it.
    let mut schema = unsafe {
        assert_eq!(stream.get_schema.unwrap()(&raw mut stream, schema.as_mut_ptr()), 0);
        schema.assume_init()
    };
    for (place, (name, format)) in COLUMNS.iter().enumerate() {
        // SAFETY: the schema has as many children as there are columns, and its strings are static.
        unsafe {
            let child = &**schema.children.add(place);
            assert_eq!((CStr::from_ptr(child.name), CStr::from_ptr(child.format), child.flags), (*name, *format, 0));
        }
    }
    // SAFETY: the schema is not released yet.
    unsafe { schema.release.unwrap()(&raw mut schema) };
    assert!(next(&mut stream).unwrap().is_none());
    close(stream);
}
