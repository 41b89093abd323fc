//! Any bytes are a sidecar or refused, also with a matching checksum; a sidecar has one encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walspool::frame::crc32;
use walspool::index::Sidecar;

fn check(bytes: &[u8]) {
    if let Ok(sidecar) = Sidecar::decode(bytes) {
        // An empty segment's first and last LSN are not kept.
        if sidecar.summary.records > 0 {
            assert_eq!(sidecar.encode(), bytes, "a sidecar has one encoding");
        }
        sidecar.summary.index.seek(u64::MAX);
    }
}

fuzz_target!(|data: &[u8]| {
    check(data);
    let crc = crc32(data, 0);
    check(&[data, &crc.to_le_bytes()].concat());
});
