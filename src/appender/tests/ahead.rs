//! Parts of a large batch that are written before it is whole: what becomes of them when the rest does not follow.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::{Log, OVERHEAD, PLAIN, next};
use crate::appender::{Appender, Failure, Part, Position};
use crate::error::CoreError;
use crate::file::File;
use crate::group_commit::Staged;
use crate::index::Summary;

#[test]
fn a_large_batch_is_on_its_way_before_it_is_whole() {
    let log = Log::new(PLAIN);
    log.appender.append_one(&next(b"before")).unwrap();
    let mut sizes = Vec::new();
    append_ahead(&log.appender, 2..=6, |held| sizes.push((log.size(), held))).unwrap();
    let (first, frame) = (6 + OVERHEAD, (300 << 10) + OVERHEAD);
    let pieces = [(0, frame), (2 * frame, 0), (2 * frame, frame), (4 * frame, 0), (4 * frame, frame)];
    assert_eq!(sizes, pieces.map(|(there, held)| (first + there, held as usize)));
    let stats = log.appender.published().unwrap().stats();
    assert_eq!((stats.flushes, log.check().records, log.size()), (2, 6, first + 5 * frame));
    let payload = vec![1; 300 << 10];
    log.appender.append(&vec![next(&payload); 20], None).unwrap();
    assert_eq!(log.check().records, 26);
}

/// Records of 300 KiB, of which each second one sends what is there ahead; `behind` each it hears what is still held.
fn append_ahead(
    appender: &Appender,
    lsns: std::ops::RangeInclusive<u64>,
    mut behind: impl FnMut(usize),
) -> Result<(), Failure> {
    let payload = vec![1; 300 << 10];
    appender.commit.commit(|queue, batch, writer| {
        let writer = writer.expect("nobody else writes");
        for lsn in lsns.clone() {
            let position = Position { lsn, term: 1, fence: None };
            batch.add(&next(&payload), position);
            queue.advance(position);
            assert!(writer.write_ahead(batch));
            behind(batch.bytes.len());
        }
        Ok(Staged::Queued(()))
    })
}

#[test]
fn what_was_written_ahead_and_cut_off_is_not_acknowledged() {
    let log = Log::new(PLAIN);
    log.appender.append_one(&next(b"before")).unwrap();
    let size = log.size();
    let mut records = 0;
    let cut_behind_the_third = |_| {
        records += 1;
        if records == 3 {
            std::fs::OpenOptions::new().write(true).open(&log.path).unwrap().set_len(size).unwrap();
        }
    };
    let refused = append_ahead(&log.appender, 2..=4, cut_behind_the_third).unwrap_err().error;
    assert!(matches!(refused, CoreError::Corrupt { .. }), "{refused}");
    assert_eq!(log.marked_lsn(), 1);
    assert_eq!(log.check().records, 1);
}

#[test]
fn a_write_ahead_that_failed_is_not_tried_again_in_its_batch() {
    let full = File::new(OwnedFd::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap()));
    let appender = Appender::new(Arc::new(full), Summary::new(0), None, 0, 1, PLAIN);
    let payload = vec![1; 600 << 10];
    let refused = appender.commit.commit(|_, batch, writer| {
        batch.add(&next(&payload), Position { lsn: 1, term: 1, fence: None });
        assert!(!writer.expect("nobody else writes").write_ahead(batch));
        batch.clear();
        Ok(Staged::Refused(()))
    });
    refused.unwrap();
}

/// Two large frames, and one that panics.
struct Bad(bool, Vec<u8>);

impl Part for Bad {
    const OWN: bool = true;
    fn lsn(&self) -> Option<u64> {
        None
    }
    fn term(&self) -> Option<u64> {
        None
    }
    fn frame_len(&self) -> usize {
        self.1.len() + OVERHEAD as usize
    }
    fn write(&self, position: Position, batch: &mut Vec<u8>) {
        assert!(!self.0, "on purpose");
        next(&self.1).write(position, batch);
    }
}

#[test]
fn parts_of_a_call_that_panicked_are_not_the_next_ones() {
    let log = Log::new(PLAIN);
    log.appender.append_one(&next(b"before")).unwrap();
    let parts = [false, false, true].map(|bad| Bad(bad, vec![1; 300 << 10]));
    let call = std::panic::AssertUnwindSafe(|| log.appender.append(&parts, None));
    assert!(std::panic::catch_unwind(call).is_err());
    log.appender.seal().unwrap();
    log.appender.unseal().unwrap();
    assert_eq!(log.appender.append_one(&next(b"after")).unwrap(), Some(2));
    assert_eq!(log.check().records, 2);
}
