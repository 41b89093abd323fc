//! Any file is scanned; what the scan calls valid is read, and copied into a file that scans clean.
#![no_main]

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use walspool::copy::copy_frames;
use walspool::file::File;
use walspool::frame::crc32;
use walspool::reader::Reader;
use walspool::scan::{Options, ScanReport, scan_file, scan_in_parts};

fn memory(bytes: &[u8]) -> Arc<File> {
    // SAFETY: the name is a string, and the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"fuzz".as_ptr(), libc::MFD_CLOEXEC)) };
    let file = File::new(fd);
    file.write_at(bytes, 0).expect("memory can be written");
    Arc::new(file)
}

/// Checksums that are marked for it are made to match, because chance alone would never find them.
fn mend(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(place) = bytes[at..].windows(4).position(|window| window == b"RDLW") {
        at += place;
        let header = match bytes.get(at + 4) {
            Some(2) => 25,
            Some(3) => 33,
            Some(0x83) => 41,
            _ => 0,
        };
        if header == 0 || bytes.len() < at + header {
            at += 4;
            continue;
        }
        bytes[at + 4] &= 0x7f;
        let length = &bytes[at + header - 4..at + header];
        let end = at + header + u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        if bytes.len() >= end + 4 && bytes[end..end + 4] == *b"CCCC" {
            let crc = crc32(&bytes[at + 4..end], 0);
            bytes[end..end + 4].copy_from_slice(&crc.to_le_bytes());
        }
        at += 4;
    }
}

fn check(file: &Arc<File>, report: &ScanReport) {
    let summary = &report.summary;
    assert!(summary.valid_bytes <= report.file_bytes, "the prefix lies within the file");
    assert!(report.marked_bytes <= summary.valid_bytes, "the marked part lies within the prefix");
    assert!(report.behind.frames == 0 || report.behind.highest_lsn > summary.highest_lsn, "only new LSNs count");
    let mut reader = Reader::new(Arc::clone(file), report, 0, None);
    let mut records = 0;
    let mut zeros = 0;
    while let Some((chunk, run)) = reader.long_run(128, u64::MAX).expect("a valid prefix can be read") {
        for record in &chunk.records()[run] {
            assert_eq!(chunk.payload(record).len() as u64, record.frame.payload_len);
            records += 1;
            zeros += u64::from(record.frame.lsn == 0);
        }
    }
    assert_eq!(zeros, 0, "LSN 0 is above nothing");
    let mut reader = Reader::new(Arc::clone(file), report, 0, None);
    let mut shipped = 0;
    loop {
        let frames = reader.read_frames(100).expect("a valid prefix can be shipped");
        if frames.records == 0 {
            break;
        }
        shipped += frames.records;
    }
    assert_eq!(shipped, records, "all of it is shipped");
    let target = memory(b"");
    let mut reader = Reader::new(Arc::clone(file), report, 0, None);
    let copied = copy_frames(&mut reader, &target, 1, None).expect("a valid prefix can be copied");
    assert_eq!(copied.summary.records, records, "all of it is copied");
    if summary.ordered {
        let again = scan_file(&target, Options::default()).expect("memory can be read");
        assert_eq!((again.summary.records, again.stop), (records, None), "the copy is valid");
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&[mark, until], bytes)) = data.split_first_chunk::<2>() else { return };
    let mut bytes = bytes.to_vec();
    mend(&mut bytes);
    let file = memory(&bytes);
    let mark = (mark > 0).then_some(u64::from(mark));
    let whole = scan_file(&file, Options { mark, ..Options::default() }).expect("memory can be read");
    check(&file, &whole);
    let two = scan_in_parts(&file, Options { mark, ..Options::default() }, 100).expect("memory can be read");
    assert_eq!(format!("{two:?}"), format!("{whole:?}"), "two threads find what one finds");
    let part = Options { until_lsn: Some(u64::from(until)), ..Options::default() };
    let part = scan_file(&file, part).expect("memory can be read");
    let rest = Options { mark, resume: Some(part), ..Options::default() };
    let rest = scan_file(&file, rest).expect("memory can be read");
    assert_eq!(rest.summary.valid_bytes, whole.summary.valid_bytes, "a scan in two parts finds the same");
    assert_eq!((rest.stop, rest.behind), (whole.stop, whole.behind));
});
