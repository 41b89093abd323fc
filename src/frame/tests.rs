use proptest::prelude::*;

use super::*;

/// A frame of any layout, built from the format table.
pub(crate) fn build(layout: Layout, frame: &Frame, payload: &[u8]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.push(layout.version());
    let numbers = match layout {
        Layout::V1 => vec![frame.lsn],
        Layout::V2 => vec![frame.lsn, frame.timestamp_ms],
        Layout::V3 => vec![frame.term, frame.lsn, frame.timestamp_ms],
        Layout::Wide => vec![frame.term, frame.ownership_epoch, frame.lsn, frame.timestamp_ms],
    };
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
    if layout == Layout::V1 {
        out.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        out.extend_from_slice(payload);
    } else {
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(payload);
        let crc = crc32(&out[4..], 0);
        out.extend_from_slice(&crc.to_le_bytes());
    }
    out
}

fn layouts() -> impl Strategy<Value = Layout> {
    prop_oneof![Just(Layout::V1), Just(Layout::V2), Just(Layout::V3), Just(Layout::Wide)]
}

proptest! {
    #[test]
    fn what_is_built_is_read(
        layout in layouts(), term: u64, ownership_epoch: u64, lsn in 1u64.., timestamp_ms: u64,
        payload in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let given = Frame { layout, term, ownership_epoch, lsn, timestamp_ms, payload_len: payload.len() as u64 };
        let bytes = build(layout, &given, &payload);
        // Under the wide layout's name its fields come back; another name's missing fields come back as 0.
        let before = Before { wide: layout == Layout::Wide, lsn: 0 };
        let Ok(frame) = look(&mut bytes.as_slice(), 0, before).unwrap() else { panic!("a whole frame") };
        prop_assert_eq!(frame.len(), bytes.len() as u64);
        prop_assert_eq!((frame.layout, frame.lsn, frame.payload_len), (layout, lsn, given.payload_len));
        if layout == Layout::Wide {
            prop_assert_eq!(frame, given);
        }
    }

    #[test]
    fn a_torn_frame_is_torn_at_every_length(
        layout in layouts(), payload in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let frame = Frame { layout, term: 1, ownership_epoch: 0, lsn: 5, timestamp_ms: 9, payload_len: 0 };
        let bytes = build(layout, &frame, &payload);
        for len in 0..bytes.len() {
            let fault = decode(&bytes[..len]).unwrap_err();
            // Part of a wide frame is read as one that is not, and fails as that.
            prop_assert!(layout == Layout::Wide || fault == Fault::Torn, "{:?}", fault);
        }
    }

    #[test]
    fn a_flipped_bit_never_passes(payload in proptest::collection::vec(any::<u8>(), 0..40), place: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = Vec::new();
        encode(&mut bytes, 3, 7, 11, &payload);
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        // Only a version byte of 1 leaves nothing to check; the scan looks at what surrounds such a frame.
        if let Ok(frame) = decode(&bytes) {
            prop_assert_eq!((frame.layout, place), (Layout::V1, 4));
        }
    }

    #[test]
    fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 0u8..5) {
        prop_assert!(decode(&bytes).map_or(0, |frame| frame.len()) <= bytes.len() as u64);
        let framed = [MAGIC.as_slice(), &[version], &bytes].concat();
        if let Ok(frame) = decode(&framed) {
            prop_assert!(frame.len() <= framed.len() as u64);
        }
        prop_assert!(longest_reading(&framed) >= LONGEST_HEADER as u64);
    }
}

#[test]
fn written_frames_are_33_bytes_of_header_and_4_of_trailer() {
    let mut bytes = Vec::new();
    encode(&mut bytes, 1, 2, 3, b"abc");
    assert_eq!(bytes.len(), 33 + 3 + 4);
    let frame = Frame { layout: Layout::V3, term: 1, ownership_epoch: 0, lsn: 2, timestamp_ms: 3, payload_len: 3 };
    assert_eq!(bytes, build(Layout::V3, &frame, b"abc"));
    assert_eq!(crc32(b"123456789", 0), 0xcbf4_3926);
    assert_eq!(crc32(b"6789", crc32(b"12345", 0)), 0xcbf4_3926);
}

#[test]
fn faults_are_told_apart() {
    let mut bytes = Vec::new();
    encode(&mut bytes, 1, 2, 3, b"abc");
    let with = |at: usize, value: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        decode(&bytes).unwrap_err()
    };
    assert_eq!(with(0, b"X"), Fault::Magic);
    assert_eq!(with(4, &[9]), Fault::Version(9));
    assert_eq!(with(29, &u32::MAX.to_le_bytes()), Fault::Implausible(u64::from(u32::MAX)));
    assert_eq!(with(29, &(MAX_PAYLOAD as u32).to_le_bytes()), Fault::Torn);
    assert_eq!(with(34, b"X").class(), "crc mismatch");
    assert_eq!(decode(b"xyz").unwrap_err(), Fault::Magic);
    assert_eq!(decode(b"RDL").unwrap_err(), Fault::Torn);
}

/// A payload that starts with any tag and the length of the rest makes a frame valid in both layouts.
#[test]
fn the_frame_before_settles_an_ambiguous_layout() {
    let payload = [7u32.to_le_bytes().as_slice(), &5u32.to_le_bytes(), b"12345"].concat();
    let mut bytes = Vec::new();
    encode(&mut bytes, 1, 100, 3, &payload);
    let read = |wide, lsn| {
        let Ok(frame) = look(&mut bytes.as_slice(), 0, Before { wide, lsn }).unwrap() else { panic!("valid") };
        (frame.layout, frame.lsn)
    };
    assert_eq!(read(false, 99), (Layout::V3, 100));
    // Read as wide its LSN is what was the timestamp.
    assert_eq!(read(true, 2), (Layout::Wide, 3));
    assert_eq!(read(true, 3), (Layout::V3, 100));
    assert_eq!(read(false, 100), (Layout::V3, 100));
    assert_eq!(decode(&bytes).unwrap().layout, Layout::V3);
}
