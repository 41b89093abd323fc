//! The appender on real files. Which calls fail is chosen by devices that refuse them.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::{Appended, Appender, MARK_BYTES, Mark, Options, Position, Record, split};
use crate::error::CoreError;
use crate::file::File;
use crate::frame::{HEADER, TRAILER, encode, u64_at};
use crate::group_commit::Staged;
use crate::index::Summary;
use crate::scan::{self, ScanReport, scan_file};

mod ahead;

const OVERHEAD: u64 = (HEADER + TRAILER) as u64;
const PLAIN: Options = Options { segment_bytes: None, fill_after: u64::MAX };

fn open(path: &Path) -> Arc<File> {
    let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    Arc::new(File::new(OwnedFd::from(file)))
}

fn scanned(path: &Path) -> ScanReport {
    scan_file(&open(path), scan::Options::default()).unwrap()
}

/// A directory with a log and its mark.
struct Log {
    dir: TempDir,
    path: PathBuf,
    appender: Appender,
}

impl Log {
    fn new(options: Options) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("log");
        let mark = Mark::new(open(&dir.path().join("mark")), [7; MARK_BYTES]);
        let appender = Appender::new(open(&path), Summary::new(0), Some(mark), 0, 1, options);
        Self { dir, path, appender }
    }

    fn marked_lsn(&self) -> u64 {
        let sector = std::fs::read(self.dir.path().join("mark")).unwrap();
        assert_eq!(sector.len(), MARK_BYTES);
        assert_eq!(u64::from(crc32fast::hash(&sector[..508])), crate::frame::u32_at(&sector, 508));
        u64_at(&sector, 32)
    }

    fn size(&self) -> u64 {
        std::fs::metadata(&self.path).unwrap().len()
    }

    /// What the appender says is what a scan of the file finds.
    fn check(&self) -> Summary {
        let (ours, report) = (self.appender.published().unwrap().summary(), scanned(&self.path));
        let found = &report.summary;
        assert!(report.stop.is_none(), "{}", report.reason);
        let facts = |s: &Summary| (s.records, s.valid_bytes, s.first_lsn, s.last_lsn, s.highest_lsn);
        assert_eq!(facts(&ours), facts(found));
        let more = |s: &Summary| (s.highest_term, s.last_term, s.ordered, s.reframe, s.last_wide, s.tail_crc);
        assert_eq!(more(&ours), more(found));
        assert_eq!(ours.index.checkpoints(), found.index.checkpoints());
        ours
    }
}

fn next(payload: &[u8]) -> Record<'_> {
    Record::new(None, None, 1, payload)
}

fn at(lsn: u64) -> Record<'static> {
    Record::new(Some(lsn), None, 1, b"x")
}

#[test]
fn what_is_written_is_what_is_reported() {
    let log = Log::new(PLAIN);
    assert_eq!(log.appender.append_one(&at(5)), Ok(Some(5)));
    assert_eq!(log.appender.append_one(&next(b"{\"operation\":\"insert\",\"term\":4}")), Ok(Some(6)));
    let many: Vec<_> = (10..200).map(at).collect();
    let done = log.appender.append(&many, Some(0)).unwrap();
    assert_eq!(done, Appended { count: 190, first_lsn: Some(10), last_lsn: Some(199) });
    let summary = log.check();
    assert_eq!((summary.records, summary.last_term, log.marked_lsn()), (192, 4, 199));
    let stats = log.appender.published().unwrap().stats();
    assert_eq!((stats.appends, stats.flushes, stats.records_per_flush_histogram[8]), (192, 3, 1));
    log.appender.close().unwrap();
    assert_eq!(log.appender.append_one(&next(b"")).unwrap_err().error, CoreError::Closed);
}

#[test]
fn a_fence_keeps_own_records_out() {
    let log = Log::new(PLAIN);
    log.appender.append_one(&Record::new(None, Some(3), 1, b"")).unwrap();
    log.appender.fence(5).unwrap();
    log.appender.fence(4).unwrap();
    let refused = log.appender.append_one(&next(b"")).unwrap_err().error;
    assert_eq!(refused, CoreError::StaleTerm { term: 3, current_term: 5, index: None });
    let own = |term| Record::new(None, Some(term), 1, b"");
    let refused = log.appender.append_one(&own(6)).unwrap_err().error;
    assert_eq!(refused, CoreError::StaleTerm { term: 3, current_term: 5, index: None });
    log.appender.raise_term(6).unwrap();
    let done = log.appender.append(&[own(6), own(6), own(7)], Some(0)).map(|done| done.count);
    assert_eq!(done, Ok(3));
    let refused = log.appender.append_one(&own(5)).unwrap_err().error;
    assert_eq!(refused, CoreError::StaleTerm { term: 5, current_term: 7, index: None });
    assert_eq!(log.check().records, 4);
}

#[test]
fn order_and_terms_are_kept() {
    let log = Log::new(PLAIN);
    log.appender.append_one(&Record::new(Some(7), Some(3), 1, b"")).unwrap();
    let refused = log.appender.append_one(&at(7)).unwrap_err().error;
    assert_eq!(refused, CoreError::LsnOrder { lsn: 7, last_lsn: 7, index: None });
    let refused = log.appender.append_one(&Record::new(None, Some(2), 1, b"")).unwrap_err().error;
    assert_eq!(refused, CoreError::StaleTerm { term: 2, current_term: 3, index: None });
    let refused = log.appender.append(&[at(8), at(9), at(9)], Some(40)).unwrap_err();
    assert_eq!(refused.failure.error, CoreError::LsnOrder { lsn: 9, last_lsn: 9, index: Some(42) });
    log.appender.raise_floor(u64::MAX - 1).unwrap();
    assert_eq!(log.appender.append_one(&next(b"")), Ok(Some(u64::MAX)));
    let refused = log.appender.append_one(&next(b"")).unwrap_err().error;
    assert_eq!(refused, CoreError::LsnOrder { lsn: u64::MAX, last_lsn: u64::MAX, index: None });
    assert_eq!(log.check().records, 2);
}

#[test]
fn large_calls_are_several_batches_and_a_large_frame_goes_alone() {
    let log = Log::new(PLAIN);
    let (mebibyte, huge) = (vec![1; 1 << 20], vec![2; 5 << 20]);
    let mut parts = vec![next(&mebibyte); 7];
    parts.extend([next(&huge), next(b"small")]);
    assert_eq!(log.appender.append(&parts, Some(0)).unwrap().count, 9);
    assert_eq!(log.appender.published().unwrap().stats().flushes, 5);
    assert_eq!(log.check().records, 9);
}

#[test]
fn each_part_has_its_own_answer() {
    let log = Log::new(PLAIN);
    let parts = [at(3), at(3), next(b""), at(9)];
    let results = log.appender.append_each(&parts).unwrap();
    let lsns: Vec<_> = results.iter().map(|result| result.as_ref().ok()).collect();
    assert_eq!(lsns, [Some(&3), None, Some(&4), Some(&9)]);
    assert_eq!(log.appender.published().unwrap().stats().flushes, 1);
    assert_eq!(log.check().records, 3);
}

#[test]
fn raw_frames_are_taken_as_they_are() {
    let log = Log::new(PLAIN);
    let mut buffer = b"skip".to_vec();
    encode(&mut buffer, 2, 5, 0, b"one");
    encode(&mut buffer, 2, 6, 9, b"two");
    let whole = buffer.len();
    encode(&mut buffer, 2, 7, 9, b"three");
    for cut in [whole, whole + 3, whole + 5, whole + 33, buffer.len() - 1] {
        let (frames, bad) = split(&buffer[4..cut], 4);
        assert_eq!((frames.len(), bad), (2, None));
    }
    let (frames, _) = split(&buffer[4..whole], 4);
    log.appender.append(&frames, None).unwrap();
    assert_eq!(std::fs::read(&log.path).unwrap(), &buffer[4..whole]);
    assert!(log.check().reframe, "a timestamp is missing");
    for (place, wrong) in [(whole, b'r'), (whole + 4, 2), (whole + 4, 4), (whole + 32, 0x7f), (whole + 34, 0)] {
        let mut bad = buffer.clone();
        bad[place] = wrong;
        let (frames, trouble) = split(&bad[4..], 4);
        let offset_of = |error| if let CoreError::Frame { offset, .. } = error { Some(offset) } else { None };
        assert_eq!((frames.len(), trouble.and_then(offset_of)), (2, Some(whole as u64)));
    }
}

#[test]
fn a_full_file_is_sealed_and_the_next_one_goes_on() {
    let log = Log::new(Options { segment_bytes: Some(100), fill_after: 0 });
    while log.appender.append_one(&next(&[0; 13])).unwrap().is_some() {}
    assert_eq!((log.check().records, log.size()), (2, 256 << 10));
    assert_eq!(log.appender.append(&[next(b"")], None).unwrap(), Appended::default());
    assert!(log.appender.append_each(&[next(b"")]).unwrap().is_empty());
    let sealed = log.appender.seal().unwrap();
    assert_eq!((sealed.valid_bytes, log.size()), (100, 100));

    let second = log.dir.path().join("second");
    log.appender.swap(open(&second), Summary::new(2)).unwrap();
    assert_eq!(log.appender.append_one(&next(b"")), Ok(Some(3)));
    log.appender.seal().unwrap();
    assert_eq!(log.appender.append_one(&next(b"")), Ok(None));
    log.appender.unseal().unwrap();
    assert_eq!(log.appender.append_one(&next(b"")), Ok(Some(4)));
    log.appender.close().unwrap();
    assert_eq!((scanned(&second).summary.records, log.size(), log.marked_lsn()), (2, 100, 4));
}

#[test]
fn zeros_ahead_come_late_and_go_at_the_end() {
    // The first counts for five.
    let log = Log::new(Options { segment_bytes: None, fill_after: 7 });
    let sizes = [300 << 10, 0, 0, 0, 0].map(|len: usize| {
        log.appender.append_one(&next(&vec![1; len])).unwrap();
        log.size()
    });
    let grown = OVERHEAD + (300 << 10);
    assert_eq!(sizes, [grown, grown + OVERHEAD, grown + 2 * OVERHEAD, 512 << 10, 512 << 10]);
    log.check();
    log.appender.close().unwrap();
    assert_eq!(log.size(), grown + 4 * OVERHEAD);
}

/// Waits until the file is of this size.
fn wait_for_size(log: &Log, size: u64) {
    let start = std::time::Instant::now();
    while log.size() != size {
        assert!(start.elapsed() < Duration::from_secs(60), "{} instead of {size}", log.size());
        std::thread::yield_now();
    }
}

#[test]
fn zeros_ahead_of_large_batches_come_while_nothing_is_appended() {
    let log = Log::new(Options { segment_bytes: Some(2 << 20), fill_after: 0 });
    let large = vec![1; 300 << 10];
    let frame = OVERHEAD + (300 << 10);
    log.appender.append(&[next(&large)], None).unwrap();
    log.appender.append(&[next(&large)], None).unwrap();
    wait_for_size(&log, 4 * frame);
    log.check();
    // They are appended into.
    for _ in 0..2 {
        log.appender.append_one(&next(&large)).unwrap();
    }
    log.check();
    wait_for_size(&log, 6 * frame);
    // No further than a segment goes.
    log.appender.append_one(&next(&vec![1; 600 << 10])).unwrap();
    wait_for_size(&log, 2 << 20);
    log.check();
    log.appender.close().unwrap();
    assert_eq!(log.size(), 5 * frame + (300 << 10));
    assert_eq!(scanned(&log.path).summary.records, 5);
}

/// `/dev/null` takes zeros and refuses to sync.
#[cfg(target_os = "linux")]
#[test]
fn zeros_ahead_that_can_not_be_synced_are_the_end() {
    let log = Log::new(Options { segment_bytes: None, fill_after: 0 });
    log.appender.append_one(&next(&vec![1; 300 << 10])).unwrap();
    log.appender.swap(open(Path::new("/dev/null")), Summary::new(1)).unwrap();
    let start = std::time::Instant::now();
    while log.appender.published().unwrap().poisoned().is_none() {
        assert!(start.elapsed() < Duration::from_secs(60), "the failed sync is not told");
        std::thread::yield_now();
    }
    let reason = String::from("sync of zeros ahead failed: Invalid argument");
    assert_eq!(log.appender.append_one(&next(b"")).unwrap_err().error, CoreError::Poisoned { reason });
}

#[test]
fn no_zeros_come_behind_a_seal_or_a_writer_that_is_forgotten() {
    for forget in [false, true] {
        let log = Log::new(Options { segment_bytes: None, fill_after: 0 });
        let commit = Arc::clone(&log.appender.commit);
        log.appender.append_one(&next(&vec![1; 300 << 10])).unwrap();
        if forget {
            log.appender.forget();
            assert_eq!(log.appender.append_one(&next(b"")).unwrap_err().error, CoreError::Closed);
        } else {
            log.appender.seal().unwrap();
        }
        let size = log.size();
        let filled = commit.when_idle(|writer| {
            std::fs::remove_file(&log.path).unwrap();
            writer.fill_for_large()
        });
        assert!(matches!(filled, Some(Ok(false) | Err(CoreError::Closed))), "{filled:?}");
        assert_eq!(log.appender.published.poisoned(), None);
        assert!(forget || size == OVERHEAD + (300 << 10));
    }
}

#[test]
fn threads_append_while_zeros_are_written() {
    let log = Log::new(Options { segment_bytes: None, fill_after: 0 });
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..20 {
                    log.appender.append_one(&next(&vec![7; 100 << 10])).unwrap();
                    // Long enough for the other thread to begin, now and then.
                    log.appender.published().unwrap().wait(u64::MAX, Duration::from_millis(6)).unwrap();
                }
            });
        }
    });
    assert_eq!(log.check().records, 60);
}

#[test]
fn a_file_removed_or_shortened_under_it_is_the_end() {
    let large = vec![1; 300 << 10];
    for (remove, payload) in [(true, &b""[..]), (false, b""), (true, &large), (false, &large)] {
        let log = Log::new(PLAIN);
        log.appender.append_one(&next(b"x")).unwrap();
        if remove {
            std::fs::remove_file(&log.path).unwrap();
        } else {
            std::fs::OpenOptions::new().write(true).open(&log.path).unwrap().set_len(5).unwrap();
        }
        let refused = log.appender.append(&[next(payload); 3], None).unwrap_err().failure.error;
        let CoreError::Corrupt { reason, .. } = refused else { panic!("{refused}") };
        assert_eq!(log.appender.published().unwrap().poisoned(), Some(reason.clone()));
        assert_eq!(log.appender.append_one(&next(b"")).unwrap_err().error, CoreError::Poisoned { reason });
        log.appender.close().unwrap();
    }
}

fn device(path: &str, mark: Option<&str>) -> Appender {
    let mark = mark.map(|path| Mark::new(open(Path::new(path)), [0; MARK_BYTES]));
    Appender::new(open(Path::new(path)), Summary::new(0), mark, 0, 1, PLAIN)
}

/// Linux: `/dev/null` takes writes and refuses to sync, `/dev/full` takes nothing and can't be cut.
#[cfg(target_os = "linux")]
#[test]
fn what_fails_decides_what_is_left() {
    let unsynced = device("/dev/null", None);
    let failed = unsynced.append_one(&next(b"")).unwrap_err();
    assert_eq!((failed.error, failed.mark), (CoreError::Os { errno: libc::EINVAL, call: "fsync" }, false));
    let reason = String::from("sync failed: Invalid argument");
    assert_eq!(unsynced.append_one(&next(b"")).unwrap_err().error, CoreError::Poisoned { reason });

    let large = vec![1; 300 << 10];
    for payload in [&b""[..], &large] {
        let full = device("/dev/full", None);
        let failed = full.append(&[next(payload); 3], None).unwrap_err();
        assert_eq!(failed.failure.error, CoreError::Os { errno: libc::ENOSPC, call: "pwrite" });
        assert_eq!((failed.appended_through, full.published().unwrap().poisoned()), (None, None));
        // The cut that failed is made up for first.
        let cut = CoreError::Os { errno: libc::EINVAL, call: "ftruncate" };
        assert_eq!(full.append(&[next(payload); 3], None).unwrap_err().failure.error, cut);
        assert_eq!(full.close(), Err(cut));
        assert_eq!(full.close(), Ok(()));
    }

    let dir = TempDir::new().unwrap();
    let path = dir.path().join("log");
    let unmarked = device(path.to_str().unwrap(), Some("/dev/full"));
    let failed = unmarked.append_one(&next(b"")).unwrap_err();
    assert_eq!((failed.error, failed.mark), (CoreError::Os { errno: libc::ENOSPC, call: "pwrite" }, true));
    // The mark may claim the record, so it stays.
    assert!(unmarked.published().unwrap().poisoned().is_some());
    assert_eq!((scanned(&path).summary.records, unmarked.published().unwrap().lsn()), (1, 0));
}

#[test]
fn many_threads_share_one_order() {
    let log = Log::new(Options { segment_bytes: None, fill_after: 8 });
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let appender = &log.appender;
            scope.spawn(move || {
                let mut last = 0;
                for place in 0..25 {
                    let lsn = appender.append_one(&next(&vec![thread; place * 40])).unwrap().unwrap();
                    assert!(lsn > last && appender.published().unwrap().lsn() >= lsn);
                    last = lsn;
                }
            });
        }
        for _ in 0..5 {
            log.appender.hold().unwrap();
            let first = log.appender.append_one(&next(b"held")).unwrap().unwrap();
            assert_eq!(log.appender.append_one(&next(b"held")), Ok(Some(first + 1)));
            assert_eq!(log.appender.release(), Ok(true));
        }
    });
    let summary = log.check();
    assert_eq!((summary.records, summary.highest_lsn, log.marked_lsn()), (210, 210, 210));
}

#[test]
fn waiting_ends_with_an_append_in_time_or_with_close() {
    let log = Log::new(PLAIN);
    let (appender, minute) = (&log.appender, Duration::from_secs(60));
    let wait = |since_lsn, limit| appender.published()?.wait(since_lsn, limit).map(|passed| passed.is_some());
    assert_eq!(wait(0, Duration::ZERO), Ok(false));
    std::thread::scope(|scope| {
        let first = scope.spawn(move || wait(0, minute));
        let second = scope.spawn(move || wait(1, minute));
        appender.append_one(&next(b"")).unwrap();
        assert_eq!(first.join().unwrap(), Ok(true));
        appender.close().unwrap();
        assert_eq!(second.join().unwrap(), Err(CoreError::Closed));
    });
}

#[test]
fn an_abandoned_one_refuses_everything() {
    let log = Log::new(Options { segment_bytes: None, fill_after: 0 });
    log.appender.append_one(&next(b"")).unwrap();
    let size = log.size();
    log.appender.abandon();
    assert_eq!(log.appender.append_one(&next(b"")).unwrap_err().error, CoreError::Closed);
    assert_eq!(log.appender.append(&[next(b"")], None).unwrap_err().failure.error, CoreError::Closed);
    assert!(log.appender.append_each(&[next(b"")]).is_err() && log.appender.published().is_err());
    assert!(log.appender.hold().is_err() && log.appender.seal().is_err() && log.appender.unseal().is_err());
    assert_eq!(log.appender.close(), Ok(()));
    assert_eq!((log.appender.closed(), log.size()), (true, size), "not trimmed");
}

#[test]
fn a_panic_of_the_writer_poisons_and_leaves_nobody_waiting() {
    let log = Log::new(PLAIN);
    assert_eq!(log.appender.append_one(&next(b"good")).unwrap(), Some(1));
    let outcome = log.appender.commit.commit(|_, batch, _| {
        // Half a frame is not what was noted of it.
        batch.add(&next(b"payload"), Position { lsn: 2, term: 1, fence: None });
        batch.bytes.truncate(HEADER + TRAILER);
        Ok(Staged::Queued(()))
    });
    let poisoned = CoreError::Poisoned { reason: "the writer panicked".to_owned() };
    assert_eq!(outcome.unwrap_err().error, poisoned);
    assert_eq!(log.appender.append_one(&next(b"more")).unwrap_err().error, poisoned);
    assert_eq!(log.appender.seal().unwrap_err(), poisoned);
    log.appender.close().unwrap();
}
