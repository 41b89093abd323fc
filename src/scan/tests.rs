use std::io::Write;
use std::path::Path;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::frame::tests::build;
use crate::frame::{Frame, encode};
use crate::reader::Reader;

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    File::new(file.into())
}

fn scan(bytes: &[u8], options: Options) -> ScanReport {
    scan_file(&file_of(bytes), options).unwrap()
}

fn frames(lsns: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for lsn in lsns {
        encode(&mut bytes, 1, lsn, 1000 + lsn, b"some payload");
    }
    bytes
}

/// Bytes of one of those frames.
const LEN: usize = 33 + 12 + 4;

#[test]
fn every_cut_keeps_the_whole_frames() {
    let bytes = frames(1..=3);
    for len in 0..bytes.len() {
        let report = scan(&bytes[..len], Options::default());
        assert_eq!(report.summary.records as usize, len / LEN);
        assert_eq!(report.summary.valid_bytes as usize, len / LEN * LEN);
        let torn = len % LEN != 0;
        assert_eq!(report.stop, torn.then_some("torn"));
        assert_eq!(
            report.reason,
            if torn { format!("torn frame at offset {}", len / LEN * LEN) } else { String::new() }
        );
        assert!(!report.behind.any && !report.foreign && !report.zero_tail);
    }
}

#[test]
fn frames_behind_damage_are_found() {
    let mut bytes = frames(1..=8);
    bytes[2 * LEN + 40] ^= 1;
    let report = scan(&bytes, Options::default());
    assert_eq!((report.summary.records, report.stop), (2, Some("crc mismatch")));
    let end = bytes.len() as u64;
    assert_eq!(report.behind, Behind { frames: 5, first_lsn: Some(4), highest_lsn: 8, end, any: true });
    // Their LSNs must be above the prefix's.
    let stale = [&bytes[..3 * LEN], &frames([1, 2])].concat();
    assert_eq!(scan(&stale, Options::default()).behind, Behind { any: true, ..Behind::default() });
}

#[test]
fn what_lies_in_a_torn_payload_counts_only_without_a_mark() {
    let mut torn = Vec::new();
    encode(&mut torn, 1, 3, 1, &frames(50..52));
    let bytes = [frames(1..=2), torn[..torn.len() - 2].to_vec()].concat();
    assert_eq!(scan(&bytes, Options::default()).behind.frames, 2);
    let marked = Options { mark: Some(2), ..Options::default() };
    assert_eq!(scan(&bytes, marked.clone()).behind, Behind::default());
    // With its length leading to the end of the data it is stepped over, mark or not.
    let mut flipped = [frames(1..=2), torn].concat();
    flipped[2 * LEN + 13] ^= 1;
    assert_eq!(scan(&flipped, Options::default()).behind, Behind::default());
    assert_eq!(scan(&flipped, marked).behind, Behind::default());
}

#[test]
fn a_lone_frame_among_other_bytes_proves_nothing() {
    let damage = [frames(1..=2), vec![7; 60], frames([9]), vec![7; 60]].concat();
    assert_eq!(scan(&damage, Options::default()).behind, Behind { any: true, ..Behind::default() });
    for ending in [&[7, 7, 7][..], &[0; 5000], b"RDLW and more"] {
        let bytes = [&damage[..damage.len() - 60], ending].concat();
        let report = scan(&bytes, Options::default());
        assert_eq!((report.behind.frames, report.behind.highest_lsn), (1, 9), "{ending:?}");
    }
}

#[test]
fn zeros_are_no_damage() {
    for zeros in [1, 3, 4, 33, 4096, 3 << 20] {
        let report = scan(&[frames(1..=2), vec![0; zeros]].concat(), Options::default());
        assert_eq!((report.summary.records, report.stop, report.zero_tail), (2, None, true));
    }
    let report = scan(&[0; 100], Options::default());
    assert!(report.zero_tail && !report.foreign);
    let report = scan(&[frames(1..=1), vec![0; 50], vec![1]].concat(), Options::default());
    assert_eq!((report.stop, report.zero_tail), (Some("magic"), false));
}

#[test]
fn a_foreign_file_is_known() {
    for bytes in [&b"#!/bin/sh"[..], b"x", b"RDX"] {
        assert!(scan(bytes, Options::default()).foreign);
    }
    for bytes in [&b""[..], b"RD", b"RDLW and nothing else", b"\0x"] {
        assert!(!scan(bytes, Options::default()).foreign);
    }
    assert!(!scan(&[b"garbage ".to_vec(), frames([1, 2])].concat(), Options::default()).foreign);
}

#[test]
fn a_scan_can_stop_and_go_on() {
    let bytes = frames(1..=150);
    let whole = scan(&bytes, Options::default());
    let file = file_of(&bytes);
    let first = scan_file(&file, Options { until_lsn: Some(70), ..Options::default() }).unwrap();
    assert_eq!((first.summary.records, first.stop, first.file_bytes), (70, None, bytes.len() as u64));
    let rest = Options { resume: Some(first.clone()), mark: Some(100), ..Options::default() };
    let rest = scan_file(&file, rest).unwrap();
    assert_eq!(rest.marked_bytes as usize, 100 * LEN);
    assert_eq!(format!("{:?}", rest.summary), format!("{:?}", whole.summary));
    // The index is shared.
    assert_eq!(first.summary.index.len(), 3);
    // Once the LSN is reached, what follows is not judged.
    let torn = scan(&bytes[..bytes.len() - 1], Options { until_lsn: Some(149), ..Options::default() });
    assert_eq!((torn.summary.records, torn.stop), (149, None));
    let torn = scan(&bytes[..bytes.len() - 1], Options { until_lsn: Some(150), ..Options::default() });
    assert_eq!((torn.summary.records, torn.stop), (149, Some("torn")));
}

#[test]
fn frames_larger_than_the_window_are_read() {
    let mut bytes = Vec::new();
    for lsn in 1..=3u64 {
        encode(&mut bytes, 1, lsn, 1, &vec![lsn as u8; 5 << 20]);
    }
    assert_eq!(scan(&bytes, Options::default()).summary.records, 3);
    bytes[6 << 20] ^= 1;
    let report = scan(&bytes, Options::default());
    assert_eq!((report.summary.records, report.behind.frames), (1, 1));
}

#[test]
fn an_error_of_the_system_is_no_damage() {
    let directory = std::fs::File::open("/").unwrap();
    let error = scan_file(&File::new(directory.into()), Options::default());
    assert!(
        matches!(error, Err(crate::error::CoreError::Os { errno: libc::EISDIR, .. })) || error.unwrap().file_bytes == 0
    );
    assert!(File::open(Path::new("/")).is_err());
}

/// What the golden files say of the valid prefix and what lies behind it.
#[test]
fn golden_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden");
    let mut seen = 0;
    for case in std::fs::read_dir(root).unwrap() {
        let folder = case.unwrap().path();
        let Ok(text) = std::fs::read(folder.join("expected.json")) else { continue };
        let expected: Value = serde_json::from_slice(&text).unwrap();
        if expected["kind"] == "spool" {
            golden(&folder, &expected);
            seen += 1;
        }
    }
    assert!(seen > 70, "{seen} cases");
}

fn golden(folder: &Path, expected: &Value) {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let bytes = std::fs::read(folder.join(expected["input"]["file"].as_str().unwrap())).unwrap();
    let report = scan(&bytes, Options::default());
    let wanted = &expected["walspool"];
    let either = |key: &str| if wanted[key].is_null() { &expected["reference"][key] } else { &wanted[key] };
    if !wanted["raises"].is_null() {
        return assert!(report.foreign, "{name}");
    }
    assert_eq!(report.summary.records, either("records").as_u64().unwrap(), "{name}");
    let kept = bytes.len() as u64 - either("cut_bytes").as_u64().unwrap();
    assert_eq!(report.summary.valid_bytes, kept, "{name}");
    if let Some(frames) = wanted["valid_frames_behind"].as_u64() {
        assert_eq!(report.behind.frames, frames, "{name}");
    }
    if let Some(floor) = wanted["lsn_floor"].as_u64() {
        assert_eq!(report.behind.highest_lsn.max(report.summary.highest_lsn), floor, "{name}");
    }
    let mut reader = Reader::new(std::sync::Arc::new(file_of(&bytes)), &report, 0, None);
    let mut layouts = Vec::new();
    while let Some((chunk, run)) = reader.next_run(1, u64::MAX, true).unwrap() {
        let record = chunk.records()[run.start];
        layouts.push(match record.frame.layout {
            Layout::V1 => "v1",
            Layout::V2 => "v2",
            Layout::V3 => "v3",
            Layout::Wide => "v3+epoch",
        });
    }
    assert_eq!(layouts.len() as u64, report.summary.records, "{name}");
    if let Some(wanted) = wanted["layouts"].as_array() {
        assert_eq!(&layouts, wanted, "{name}");
    }
}

/// A frame that may be of any layout, out of order, without a timestamp, or hold another frame.
fn any_frame() -> impl Strategy<Value = (Layout, u64, bool, bool)> {
    let layout =
        prop_oneof![12 => Just(Layout::V3), 1 => Just(Layout::Wide), 1 => Just(Layout::V2), 1 => Just(Layout::V1)];
    let step = prop_oneof![12 => 1..4u64, 1 => Just(0), 1 => Just(u64::MAX)];
    (layout, step, prop::bool::weighted(0.05), prop::bool::weighted(0.1))
}

fn any_file(given: &[(Layout, u64, bool, bool)]) -> Vec<u8> {
    let (mut bytes, mut lsn) = (Vec::new(), 1);
    for (number, (layout, step, unstamped, nested)) in (0..).zip(given) {
        lsn = if *step == u64::MAX { 3 } else { lsn + step };
        let payload = if *nested { frames([lsn + 1]) } else { vec![b'x'; number as usize % 50] };
        let (term, timestamp_ms) = (number / 20, if *unstamped { 0 } else { 1000 + number });
        let payload_len = payload.len() as u64;
        let frame = Frame { layout: *layout, term, ownership_epoch: 9, lsn, timestamp_ms, payload_len };
        bytes.extend(build(*layout, &frame, &payload));
    }
    bytes
}

fn words(report: &ScanReport) -> String {
    format!("{report:?}")
}

proptest! {
    #[test]
    fn two_threads_find_what_one_finds(
        given in prop::collection::vec(any_frame(), 0..400), damage in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        cut: Option<prop::sample::Index>, mark in prop::option::of(0..500u64), until_lsn in prop::option::of(0..500u64),
        resumed in prop::option::of(0..500u64), part in 40..4000u64, zeros in prop::sample::select(vec![0, 0, 500]),
    ) {
        let mut bytes = any_file(&given);
        for place in damage.iter().filter(|_| !given.is_empty()) {
            let at = place.index(bytes.len());
            bytes[at] ^= 1;
        }
        bytes.truncate(cut.map_or(bytes.len(), |place| place.index(bytes.len() + 1)));
        bytes.resize(bytes.len() + zeros, 0);
        let file = file_of(&bytes);
        let options = || {
            let resume = resumed.map(|lsn| scan(&bytes, Options { until_lsn: Some(lsn), ..Options::default() }));
            Options { base_lsn: 0, mark, until_lsn, resume }
        };
        let one = scan_file(&file, options()).unwrap();
        let two = scan_in_parts(&file, options(), part).unwrap();
        prop_assert_eq!(words(&two), words(&one));
    }
}

#[test]
fn every_other_part_is_scanned_ahead() {
    let bytes = frames(1..=1000);
    let (file, end) = (file_of(&bytes), bytes.len() as u64);
    std::thread::scope(|scope| {
        let mut ahead = Ahead::start(scope, &file, 0, end, 5000);
        let (mut at, mut taken) = (0, 0);
        while at < end {
            let run = ahead.part_at(at);
            taken += run.as_ref().map_or(0, |run| run.end - run.start);
            at = run.map_or(at + LEN as u64, |run| run.end);
        }
        assert!(taken > end / 5 * 2, "{taken} of {end} bytes");
    });
}

#[test]
fn a_large_file_is_scanned_as_any_other() {
    let mut bytes = Vec::new();
    (1..=40_000).for_each(|lsn| encode(&mut bytes, 1, lsn, 1000 + lsn, &[7; 500]));
    assert!(bytes.len() as u64 > LARGE);
    let place = bytes.len() - 3_000_000;
    bytes[place] ^= 1;
    let report = scan(&bytes, Options { mark: Some(30_000), ..Options::default() });
    let alone =
        super::scan(&file_of(&bytes), bytes.len() as u64, Options { mark: Some(30_000), ..Options::default() }, None);
    assert_eq!(words(&report), words(&alone.unwrap()));
    assert_eq!((report.stop, report.marked_bytes), (Some("crc mismatch"), 30_000 * 537));
}
