use proptest::prelude::*;

use super::*;
use crate::frame::tests::build;

fn frame(lsn: u64, layout: Layout) -> Frame {
    Frame { layout, term: lsn % 5, ownership_epoch: 0, lsn, timestamp_ms: lsn, payload_len: lsn % 50 }
}

fn summary(lsns: impl IntoIterator<Item = u64>, layout: Layout) -> Summary {
    let mut summary = Summary::new(0);
    for lsn in lsns {
        summary.push(&frame(lsn, layout), lsn % 5, lsn as u32);
    }
    summary
}

#[test]
fn one_record_in_64_is_a_checkpoint() {
    for (records, checkpoints) in [(0, 0), (1, 1), (64, 1), (65, 2), (200, 4)] {
        assert_eq!(summary(1..=records, Layout::V3).index.len(), checkpoints);
    }
    let index = summary(1..=200, Layout::V3).index;
    assert_eq!(index.seek(0), None);
    assert_eq!(index.seek(64).unwrap().lsn, 1);
    assert_eq!(index.seek(65).unwrap().lsn, 65);
    assert_eq!(index.seek(u64::MAX).unwrap().lsn, 193);
    assert_eq!(index.seek_span(100).map(|(at, next)| (at.lsn, next.unwrap().lsn)), Some((65, 129)));
    assert_eq!(index.seek_span(200).map(|(at, next)| (at.lsn, next)), Some((193, None)));
}

#[test]
fn a_checkpoint_that_is_not_above_the_last_is_left_out() {
    let summary = summary((1..=64).chain([1]), Layout::V3);
    assert_eq!((summary.index.len(), summary.ordered, summary.highest_lsn), (1, false, 64));
}

#[test]
fn offsets_are_those_of_the_frames() {
    let mut bytes = Vec::new();
    let summary = summary(1..=130, Layout::Wide);
    let mut offsets = Vec::new();
    for lsn in 1..=130 {
        let frame = frame(lsn, Layout::Wide);
        offsets.push(bytes.len() as u64);
        bytes.extend(build(Layout::Wide, &frame, &vec![0; frame.payload_len as usize]));
    }
    assert_eq!(summary.valid_bytes, bytes.len() as u64);
    let expected =
        [0, 64, 128].map(|place: usize| Checkpoint { lsn: place as u64 + 1, offset: offsets[place], wide: true });
    assert_eq!(summary.index.checkpoints(), expected);
}

fn sidecar(records: u64, extra: Vec<u8>) -> Sidecar {
    Sidecar { spool_id: *b"0123456789abcdef", prev_lsn: 9, summary: summary(10..10 + records, Layout::Wide), extra }
}

fn facts(sidecar: &Sidecar) -> String {
    format!("{sidecar:?}")
}

proptest! {
    #[test]
    fn a_sidecar_comes_back(records in 0u64..300, extra in proptest::collection::vec(any::<u8>(), 0..20)) {
        let sidecar = sidecar(records, extra);
        let bytes = sidecar.encode();
        let decoded = Sidecar::decode(&bytes).unwrap();
        prop_assert_eq!(facts(&decoded), facts(&sidecar));
        prop_assert_eq!(decoded.encode(), bytes);
    }

    #[test]
    fn a_damaged_sidecar_is_none(records in 0u64..200, place: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = sidecar(records, b"more".to_vec()).encode();
        let place = place.index(bytes.len());
        prop_assert!(Sidecar::decode(&bytes[..place]).is_err());
        bytes[place] ^= 1 << bit;
        prop_assert!(Sidecar::decode(&bytes).is_err());
    }

    #[test]
    fn a_sidecar_of_any_numbers_is_taken_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 116..300), count in 0u8..12) {
        bytes[..5].copy_from_slice(b"WSPI\x01");
        bytes[36..40].copy_from_slice(&[count, 0, 0, 0]);
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        if let Ok(sidecar) = Sidecar::decode(&bytes) {
            prop_assert_eq!(sidecar.encode(), bytes);
        }
    }
}

#[test]
fn checkpoints_past_the_summary_stay_out_of_the_sidecar() {
    let early = summary(10..80, Layout::V3);
    let mut late = early.clone();
    for lsn in 80..300 {
        late.push(&frame(lsn, Layout::V3), 1, 0);
    }
    assert_eq!(early.index.len(), 5);
    let sidecar = Sidecar { spool_id: [0; 16], prev_lsn: 0, summary: early, extra: Vec::new() };
    assert_eq!(Sidecar::decode(&sidecar.encode()).unwrap().summary.index.len(), 2);
}

#[test]
fn a_run_continues_only_what_leaves_no_doubt_about_its_frames() {
    let before = |layout, lsn| {
        let mut summary = Summary::new(0);
        summary.push(&frame(lsn, layout), 1, 0);
        summary
    };
    let mut run = Run::at(before(Layout::V3, 4).valid_bytes);
    assert!(!before(Layout::V3, 1).continues(&run), "it is empty");
    run.push(&frame(5, Layout::V3), 9);
    assert!(before(Layout::V3, 4).continues(&run));
    let (mut elsewhere, mut wide, mut above) = (before(Layout::V3, 4), before(Layout::V3, 4), before(Layout::V3, 4));
    elsewhere.valid_bytes += 1;
    wide.last_wide = true;
    above.last_lsn = Some(5);
    assert!(!elsewhere.continues(&run) && !wide.continues(&run) && !above.continues(&run));
}
