//! Any bytes are decoded or refused, as frames and as change records; what is encoded comes back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walspool::change::{change_term, ends_with_term};
use walspool::frame::{self, Layout};

fuzz_target!(|data: &[u8]| {
    if let Ok(frame) = frame::decode(data) {
        assert!(frame.len() <= data.len() as u64, "a frame ends within its bytes");
        let payload = &data[frame.layout.header()..][..frame.payload_len as usize];
        change_term(payload);
        if frame.layout == Layout::V3 {
            let mut again = Vec::new();
            frame::encode(&mut again, frame.term, frame.lsn, frame.timestamp_ms, payload);
            assert_eq!(again, data[..frame.len() as usize], "a frame has one encoding");
        }
    }
    if let Some(change) = change_term(data) {
        assert!(!ends_with_term(data, change.term ^ 1), "a record's end shows its own term or none");
    }
    let mut framed = Vec::new();
    frame::encode(&mut framed, 1, 2, 3, data);
    let frame = frame::decode(&framed).expect("what was encoded is a frame");
    assert_eq!((frame.layout, frame.term, frame.lsn, frame.timestamp_ms), (Layout::V3, 1, 2, 3));
});
