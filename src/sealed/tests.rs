use std::fs;

use super::*;
use crate::frame;
use crate::scan::{Options, scan_file};

const ID: [u8; 16] = [7; 16];

/// So many segments of three records each, with their sidecars; their names.
fn spool(folder: &Path, segments: u64) -> Vec<OsString> {
    let make = |number: u64| {
        let mut bytes = Vec::new();
        for lsn in number * 3 + 1..=number * 3 + 3 {
            let start = bytes.len();
            frame::begin(&mut bytes, 1, lsn, 5, 4);
            bytes.extend_from_slice(b"data");
            frame::finish(&mut bytes, start);
        }
        let name = OsString::from(format!("{number:020}"));
        fs::write(folder.join(&name), bytes).unwrap();
        let file = File::open(&folder.join(&name)).unwrap();
        let summary = scan_file(&file, Options::default()).unwrap().summary;
        let sidecar = Sidecar { spool_id: ID, prev_lsn: number * 3, summary, extra: Vec::new() };
        fs::write(folder.join(format!("{number:020}.idx")), sidecar.encode()).unwrap();
        name
    };
    (0..segments).map(make).collect()
}

#[test]
fn two_threads_open_each_segment_once_and_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let names = spool(folder.path(), 2 * TWO_THREADS as u64 + 3);
    fs::remove_file(folder.path().join("00000000000000000070.idx")).unwrap();
    fs::remove_file(folder.path().join("00000000000000000080")).unwrap();
    let opened = open_sealed(folder.path(), &names, ".idx", ID, false).unwrap();
    assert_eq!(opened.len(), names.len());
    for (number, one) in opened.iter().enumerate() {
        match one {
            Opened::AsKnown(file, sidecar) => {
                assert_eq!(sidecar.prev_lsn, number as u64 * 3);
                assert_eq!(file.size().unwrap(), sidecar.summary.valid_bytes);
            }
            Opened::Unlike => assert_eq!(number, 70),
            Opened::Failed(error) => {
                assert_eq!((number, error), (80, &CoreError::Os { errno: libc::ENOENT, call: "open" }));
            }
            Opened::SidecarFailed(error) => panic!("{error}"),
        }
    }
}

#[test]
fn without_a_directory_none_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let gone = folder.path().join("gone");
    assert!(open_sealed(&gone, &[], ".idx", ID, false).unwrap().is_empty());
    assert!(open_sealed(&gone, &["1".into()], ".idx", ID, false).is_err());
}
