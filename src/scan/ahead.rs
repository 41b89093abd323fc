//! A second thread, which scans every other part of a file before the pass comes to it.
//!
//! What it finds is an offer. The pass takes it where it arrives exactly at the first frame of a part, and only what it
//! would itself find there is in it: frames whose verdict hangs on nothing but their own bytes and the LSN before them.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope};

use super::window::{Halt, Window};
use crate::file::File;
use crate::frame::{Before, Frame, HEADER, Layout, MAGIC, Source, look, plain, plain_header, u32_at};
use crate::index::Run;

/// Finished parts that may wait for the pass.
const WAITING: usize = 4;

/// The parts of a file that the other thread scans.
pub struct Ahead {
    parts: Option<Receiver<Run>>,
    /// Bytes of a part.
    size: u64,
    /// Where the range of the next part begins.
    range: u64,
    /// A part that the pass has not come to.
    next: Option<Run>,
}

impl Ahead {
    /// No part is scanned ahead.
    pub fn nothing() -> Self {
        Self { parts: None, size: 0, range: u64::MAX, next: None }
    }

    /// Every other `size` bytes from `start` to `end`, but not the first, scanned by a thread of `scope`.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        file: &'scope File,
        start: u64,
        end: u64,
        size: u64,
    ) -> Self {
        let (sender, parts) = sync_channel(WAITING);
        let range = start + size;
        let thread = Builder::new().spawn_scoped(scope, move || scan_parts(file, range, end, size, &sender));
        // Where there is no thread to be had, one does it alone.
        thread.map_or_else(|_| Self::nothing(), |_| Self { parts: Some(parts), size, range, next: None })
    }

    /// The part whose first frame begins at `at`. The pass asks for ever higher places.
    #[inline]
    pub fn part_at(&mut self, at: u64) -> Option<Run> {
        if at < self.range && self.next.is_none() { None } else { self.seek(at) }
    }

    #[cold]
    fn seek(&mut self, at: u64) -> Option<Run> {
        while at >= self.range {
            self.next = self.parts.as_ref().and_then(|parts| parts.recv().ok());
            self.range = if self.next.is_some() { self.range + 2 * self.size } else { u64::MAX };
        }
        self.next.take_if(|part| part.start <= at).filter(|part| part.start == at)
    }
}

fn scan_parts(file: &File, mut range: u64, end: u64, size: u64, sender: &SyncSender<Run>) {
    while range < end {
        // What can't be read, or is not there any more, the pass will meet itself.
        let mut run = Run::default();
        let _ = scan_part(&mut Window::new(file, end), range, range + size, &mut run);
        if sender.send(run).is_err() {
            return;
        }
        range += 2 * size;
    }
}

/// Fills `run` with the first frames between `from` and `to` that follow each other, the last of which may end behind.
fn scan_part(window: &mut Window, mut from: u64, to: u64, run: &mut Run) -> Result<(), Halt> {
    let mut before = Before::default();
    while run.is_empty() {
        let Some(start) = window.find_magic(from, to.min(window.end()))? else { return Ok(()) };
        let head = window.get(start, (window.end() - start).min(HEADER as u64) as usize)?;
        if let Some(frame) = plain_header(head, before) {
            before = Before::known(Layout::V3, frame.lsn);
            *run = Run::at(start);
            while run.end < to
                && let Some((frame, tail_crc)) = frame_at(window, run.end, before)?
            {
                before = Before::next(&frame);
                run.push(&frame, tail_crc);
            }
        }
        before = Before::default();
        from = start + MAGIC.len() as u64;
    }
    Ok(())
}

/// The frame at `at` and its checksum, if it is of the layout that is written and its LSN is above the one before.
fn frame_at(window: &mut Window, at: u64, before: Before) -> Result<Option<(Frame, u32)>, Halt> {
    if let Some(found) = plain(window.ready(at), before) {
        return Ok(Some(found));
    }
    if at >= window.end() {
        return Ok(None);
    }
    match look(window, at, before)? {
        Ok(frame) if frame.is_v3() && frame.lsn > before.lsn => {
            let tail_crc = u32_at(window.get(at + frame.len() - 4, 4)?, 0) as u32;
            Ok(Some((frame, tail_crc)))
        }
        _ => Ok(None),
    }
}
