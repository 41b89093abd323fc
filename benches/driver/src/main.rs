//! Does one thing to so many records, for a tool that counts instructions: `walspool-driver append|fill|scan|replay N`.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Arc;

use walspool::appender::{Appender, Options, Record};
use walspool::file::File;
use walspool::frame;
use walspool::index::Summary;
use walspool::reader::Reader;
use walspool::scan;

const PAYLOAD: [u8; 256] = [b'w'; 256];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(what), Some(records)) = (arguments.next(), arguments.next().and_then(|word| word.parse::<u64>().ok()))
    else {
        panic!("walspool-driver append|fill|scan|replay RECORDS");
    };
    let path = std::env::temp_dir().join(format!("walspool-driver-{}", std::process::id()));
    match what.as_str() {
        "append" => append(&path, records),
        "fill" => drop(filled(&path, records)),
        "replay" => replay(&filled(&path, records), records),
        "scan" => assert_eq!(scan_all(&filled(&path, records)).summary.records, records),
        other => panic!("{other} is none of append, fill, scan, replay"),
    }
    std::fs::remove_file(&path).expect("the file was made above");
}

fn append(path: &Path, records: u64) {
    let handle = OpenOptions::new().read(true).write(true).create_new(true).open(path).expect("a new file");
    let options = Options { segment_bytes: None, fill_after: 0 };
    let appender = Appender::new(Arc::new(File::new(handle.into())), Summary::new(0), None, 0, 1, options);
    for lsn in 1..=records {
        let appended = appender.append_one(&Record::new(None, None, 1000 + lsn, &PAYLOAD));
        assert!(matches!(appended, Ok(Some(given)) if given == lsn));
    }
}

fn filled(path: &Path, records: u64) -> Arc<File> {
    let mut bytes = Vec::new();
    (1..=records).for_each(|lsn| frame::encode(&mut bytes, 1, lsn, 1000 + lsn, &PAYLOAD));
    std::fs::write(path, bytes).expect("a new file");
    Arc::new(File::open(path).expect("the file was just written"))
}

fn scan_all(file: &File) -> scan::ScanReport {
    scan::scan_file(file, scan::Options::default()).expect("a file that can be read")
}

fn replay(file: &Arc<File>, records: u64) {
    let mut reader = Reader::new(Arc::clone(file), &scan_all(file), 0, None);
    let mut seen = 0;
    while let Some((chunk, run)) = reader.long_run(128, 256 << 10).expect("valid frames") {
        seen += chunk.records()[run].iter().map(|record| u64::from(!chunk.payload(record).is_empty())).sum::<u64>();
    }
    assert_eq!(seen, records);
}
