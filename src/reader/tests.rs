use std::io::Write;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;
use crate::copy::copy_frames;
use crate::frame;
use crate::frame::tests::build;
use crate::scan::{Options, scan_file};

struct Log {
    file: Arc<File>,
    report: ScanReport,
    handle: std::fs::File,
}

fn log_of(bytes: &[u8]) -> Log {
    let mut handle = tempfile::tempfile().unwrap();
    handle.write_all(bytes).unwrap();
    let file = Arc::new(File::new(handle.try_clone().unwrap().into()));
    let report = scan_file(&file, Options::default()).unwrap();
    Log { file, report, handle }
}

impl Log {
    fn reader(&self, since_lsn: u64) -> Reader {
        Reader::new(Arc::clone(&self.file), &self.report, since_lsn, None)
    }

    fn lsns(&self, since_lsn: u64) -> Vec<u64> {
        let mut reader = self.reader(since_lsn);
        std::iter::from_fn(|| next_record(&mut reader).unwrap()).map(|(_, record)| record.frame.lsn).collect()
    }
}

fn next_record(reader: &mut Reader) -> Result<Option<(Arc<Chunk>, Record)>> {
    let run = reader.next_run(1, u64::MAX, true)?;
    Ok(run.map(|(chunk, run)| (Arc::clone(&chunk), chunk.records()[run.start])))
}

/// A log of all layouts in turn (no version 1 behind the others), and its payloads.
fn mixed(records: u64, size: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut bytes = Vec::new();
    let mut payloads = Vec::new();
    for lsn in 1..=records {
        let layout = match lsn {
            1 | 2 => Layout::V1,
            _ => [Layout::V2, Layout::V3, Layout::Wide, Layout::Wide][lsn as usize % 4],
        };
        let payload = vec![lsn as u8; size + lsn as usize % 7];
        let frame = Frame { layout, term: 3, ownership_epoch: 4, lsn, timestamp_ms: lsn % 3, payload_len: 0 };
        bytes.extend(build(layout, &frame, &payload));
        payloads.push(payload);
    }
    (bytes, payloads)
}

#[test]
fn records_come_from_any_lsn_on() {
    for size in [0, 100, 20_000] {
        let (bytes, payloads) = mixed(200, size);
        let log = log_of(&bytes);
        assert_eq!(log.report.summary.records, 200);
        for since in [0, 1, 63, 64, 65, 128, 199, 200, 201] {
            assert_eq!(log.lsns(since), (since + 1..=200).collect::<Vec<_>>());
        }
        let mut reader = log.reader(0);
        while let Some((chunk, record)) = next_record(&mut reader).unwrap() {
            assert_eq!(chunk.payload(&record), payloads[record.frame.lsn as usize - 1]);
            assert_eq!(record.term, if record.frame.is_legacy() { 1 } else { 3 });
        }
        assert!(reader.is_done() && reader.offset() == bytes.len() as u64);
    }
}

#[test]
fn frames_leave_as_version_3() {
    let (bytes, payloads) = mixed(50, 10);
    let log = log_of(&bytes);
    let mut reader = log.reader(0);
    let mut expected = Vec::new();
    for (lsn, payload) in (1..).zip(&payloads) {
        let (term, time) = if lsn <= 2 { (1, 0) } else { (if lsn % 4 == 0 { 1 } else { 3 }, lsn % 3) };
        frame::encode(&mut expected, term, lsn, time, payload);
    }
    let mut got: Vec<u8> = Vec::new();
    loop {
        let frames = reader.read_frames(200).unwrap();
        if frames.records == 0 {
            assert_eq!((frames.data().len(), frames.first_lsn, frames.last_lsn), (0, None, None));
            break;
        }
        assert!(frames.data().len() <= 200);
        got.extend(frames.data());
    }
    assert_eq!(got, expected);
    assert_eq!(log.reader(0).read_frames(0).unwrap().records, 1);

    let target = File::new(tempfile::tempfile().unwrap().into());
    let report = copy_frames(&mut log.reader(20), &target, 77, None).unwrap();
    assert_eq!((report.summary.records, report.summary.reframe, report.summary.v1_bytes), (30, false, 0));
    let rescan = scan_file(&target, Options::default()).unwrap();
    assert_eq!(format!("{rescan:?}"), format!("{report:?}"));
    // More records go behind those that are there.
    let more = log_of(&{
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, 9, 60, 0, b"last");
        bytes
    });
    let report = copy_frames(&mut more.reader(0), &target, 77, Some(&report)).unwrap();
    let rescan = scan_file(&target, Options::default()).unwrap();
    assert_eq!((rescan.summary.records, rescan.summary.last_term), (31, 9));
    assert_eq!(format!("{rescan:?}"), format!("{report:?}"));
}

#[test]
fn runs_keep_their_bounds() {
    let (bytes, _) = mixed(200, 1000);
    let log = log_of(&bytes);
    let mut reader = log.reader(0);
    let take = |reader: &mut Reader, count, bytes, first| {
        reader.next_run(count, bytes, first).unwrap().map_or(0, |(_, run)| run.len())
    };
    assert_eq!(take(&mut reader, 0, u64::MAX, true), 0);
    assert_eq!(take(&mut reader, 3, u64::MAX, true), 3);
    assert_eq!(take(&mut reader, 9, 10, true), 1);
    assert_eq!(take(&mut reader, 9, 10, false), 0);
    assert_eq!(take(&mut reader, 9, 2500, true), 2);
    let (_, record) = next_record(&mut reader).unwrap().unwrap();
    assert_eq!(record.frame.lsn, 7);
}

#[test]
fn damage_is_told_after_the_good_records_before_it() {
    let mut bytes = Vec::new();
    (1..=200).for_each(|lsn| frame::encode(&mut bytes, 1, lsn, 5, b"payload"));
    let log = log_of(&bytes);
    log.handle.write_all_at(b"X", 44 * 150 + 35).unwrap();
    let mut reader = log.reader(100);
    for lsn in 101..=150 {
        assert_eq!(next_record(&mut reader).unwrap().unwrap().1.frame.lsn, lsn);
    }
    for _ in 0..2 {
        let Err(CoreError::Corrupt { reason, offset, first_lsn, last_lsn }) = next_record(&mut reader) else {
            panic!()
        };
        assert!(reason.starts_with("crc mismatch"));
        assert_eq!((offset, first_lsn, last_lsn), (Some(44 * 150), Some(151), Some(200)));
    }
    let mut reader = log.reader(100);
    let place = reader.place();
    assert!(reader.read_frames(u64::MAX).is_err());
    reader.go_back(place);
    assert_eq!(next_record(&mut reader).unwrap().unwrap().1.frame.lsn, 101);
    log.handle.set_len(44 * 120 + 3).unwrap();
    let mut reader = log.reader(119);
    assert!(next_record(&mut reader).unwrap().is_some());
    let Err(CoreError::Corrupt { reason, .. }) = next_record(&mut reader) else { panic!() };
    assert_eq!(reason, format!("the file ends at {}, before {}", 44 * 120 + 3, 44 * 200));
}

#[test]
fn a_look_at_one_record_reads_little_more_than_the_way_to_it() {
    let size = 300;
    let mut bytes = Vec::new();
    (1..=640).for_each(|lsn| frame::encode(&mut bytes, 1, lsn, 5, &vec![b'x'; size - 37]));
    let log = log_of(&bytes);
    for (since, records) in [(0, 109), (65, 14), (99, 37), (127, 65), (639, 109)] {
        let mut reader = log.reader(since);
        let (chunk, record) = next_record(&mut reader).unwrap().unwrap();
        assert_eq!(record.frame.lsn, since + 1);
        assert!(chunk.bytes.len() <= records * size + size, "{} bytes for {since}", chunk.bytes.len());
        assert_eq!(log.lsns(since), (since + 1..=640).collect::<Vec<_>>());
    }
    // sizes that the way to the next checkpoint says nothing about, and a record that lies behind that one
    let sizes = |lsn: u64| if lsn.is_multiple_of(64) { 9_000 } else { 10 };
    let mut bytes = Vec::new();
    (1..=640).for_each(|lsn| frame::encode(&mut bytes, 1, lsn * 1_000, 5, &vec![b'x'; sizes(lsn)]));
    let log = log_of(&bytes);
    for since in 0..=640 {
        assert_eq!(log.lsns(since * 1_000).len() as u64, 640 - since);
    }
}

#[test]
fn a_frame_larger_than_a_step_is_held_whole() {
    let mut bytes = Vec::new();
    (1..=3).for_each(|lsn| frame::encode(&mut bytes, 1, lsn, 5, &vec![lsn as u8; 3 << 20]));
    let log = log_of(&bytes);
    assert_eq!(log.lsns(0), [1, 2, 3]);
    assert_eq!(log.reader(1).read_frames(1).unwrap().data().len(), (3 << 20) + 37);
}

#[test]
fn a_legacy_frame_larger_than_a_step_is_held_whole() {
    for (layout, size, before) in [Layout::V1, Layout::V2]
        .into_iter()
        .flat_map(|layout| [FIRST_STEP - 21, FIRST_STEP - 20, 40_000, FULL_STEP, 3 << 20].map(|size| (layout, size)))
        .flat_map(|(layout, size)| [0, 2].map(|before| (layout, size, before)))
    {
        let mut bytes = Vec::new();
        for lsn in 1..=before + 1 {
            let frame = Frame { layout, term: 0, ownership_epoch: 0, lsn, timestamp_ms: 0, payload_len: 0 };
            bytes.extend(build(layout, &frame, &vec![b'x'; if lsn > before { size } else { 7 }]));
        }
        let log = log_of(&bytes);
        assert_eq!(log.report.summary.records, before + 1);
        let mut reader = log.reader(before);
        let (chunk, record) = next_record(&mut reader).unwrap().unwrap();
        assert_eq!(chunk.payload(&record), vec![b'x'; size]);
        assert!(next_record(&mut reader).unwrap().is_none());
        assert_eq!(log.lsns(0), (1..=before + 1).collect::<Vec<_>>());
        assert_eq!(log.reader(0).read_frames(u64::MAX).unwrap().records, before + 1);
        let copy = File::new(tempfile::tempfile().unwrap().into());
        assert_eq!(copy_frames(&mut log.reader(0), &copy, 9, None).unwrap().summary.records, before + 1);
    }
}

proptest! {
    #[test]
    fn lsns_in_any_order_come_in_file_order(lsns in proptest::collection::vec(0u64..100, 1..300), since in 0u64..110) {
        let mut bytes = Vec::new();
        for lsn in &lsns {
            frame::encode(&mut bytes, 1, *lsn, 5, b"");
        }
        let log = log_of(&bytes);
        let above: Vec<u64> = lsns.into_iter().filter(|lsn| *lsn > since).collect();
        prop_assert_eq!(log.lsns(since), above);
    }
}

#[test]
fn frames_are_those_of_the_file_up_to_what_fits() {
    for size in [0, 1000, 50_000, 200_000] {
        let len = size + 37;
        let mut bytes = Vec::new();
        (1..=100).for_each(|lsn| frame::encode(&mut bytes, 1, lsn, 5, &vec![lsn as u8; size]));
        let log = log_of(&bytes);
        for since in [0, 1, 63, 64, 90, 99] {
            for fit in [1, 3, 40, 100] {
                let last = (since + fit).min(100);
                for max_bytes in [fit * len, fit * len + len - 1] {
                    let frames = log.reader(since as u64).read_frames(max_bytes as u64).unwrap();
                    assert_eq!((frames.records, frames.last_lsn), ((last - since) as u64, Some(last as u64)));
                    assert!(frames.data() == &bytes[since * len..last * len], "{size} {since} {fit}");
                }
            }
        }
    }
}
