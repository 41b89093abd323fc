//! What lies behind the first bad frame.

use super::Pass;
use super::window::Halt;
use crate::frame::{Before, Fault, Frame, LONGEST_HEADER, Layout, Source, look};

/// The valid frames behind the first bad one. All but `any` tell of those that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Behind {
    /// How many.
    pub frames: u64,
    /// LSN of the first.
    pub first_lsn: Option<u64>,
    /// The highest LSN; 0 without frames.
    pub highest_lsn: u64,
    /// Where the last ends; 0 without frames.
    pub end: u64,
    /// Whether there is any frame with a matching checksum, counted or not.
    pub any: bool,
}

/// Frames that follow each other, each of them new.
#[derive(Default)]
struct Run {
    frames: u64,
    first_lsn: u64,
    highest_lsn: u64,
}

impl Run {
    fn push(&mut self, frame: &Frame) {
        if self.frames == 0 {
            self.first_lsn = frame.lsn;
        }
        self.frames += 1;
        self.highest_lsn = self.highest_lsn.max(frame.lsn);
    }

    /// Ends at `end`; `proven` when that is a place where even a lone frame is believed.
    fn finish(&mut self, end: u64, proven: bool, behind: &mut Behind) {
        if self.frames >= 2 || (self.frames == 1 && proven) {
            behind.frames += self.frames;
            behind.first_lsn.get_or_insert(self.first_lsn);
            behind.highest_lsn = behind.highest_lsn.max(self.highest_lsn);
            behind.end = end;
        }
        *self = Self::default();
    }
}

impl Pass<'_> {
    /// Looks for valid frames behind the bad one at `bad`.
    pub(super) fn search(&mut self, bad: u64) -> Result<Behind, Halt> {
        let data_end = self.window.data_end(bad)?;
        let mut behind = Behind::default();
        let mut before = self.summary.before();
        let mut at = bad;
        while let Some(next) = self.past_bad(at, before, data_end)? {
            at = self.frames_from(next, data_end, &mut before, &mut behind)?;
            if at >= data_end {
                break;
            }
        }
        Ok(behind)
    }

    /// Steps over valid frames from `at` on, to the next place where there is none.
    fn frames_from(
        &mut self,
        mut at: u64,
        data_end: u64,
        before: &mut Before,
        behind: &mut Behind,
    ) -> Result<u64, Halt> {
        let mut run = Run::default();
        while at < data_end {
            let Ok(frame) = self.look_behind(at, *before)? else { break };
            behind.any = true;
            if frame.lsn > self.summary.highest_lsn {
                run.push(&frame);
            } else {
                // A stale frame is a place where the run ends at a magic.
                run.finish(at, true, behind);
            }
            *before = Before::next(&frame);
            at += frame.len();
        }
        let proven = at + 4 > data_end || self.window.magic_at(at)?;
        run.finish(at, proven, behind);
        Ok(at)
    }

    /// A frame with a checksum. Version 1 has none, and proves nothing.
    fn look_behind(&mut self, at: u64, before: Before) -> Result<Result<Frame, Fault>, Halt> {
        Ok(look(&mut self.window, at, before)?.and_then(|frame| match frame.layout {
            Layout::V1 => Err(Fault::Legacy),
            _ => Ok(frame),
        }))
    }

    /// Where to go on behind the bad frame at `at`: where its own length leads, else to the next magic.
    fn past_bad(&mut self, at: u64, before: Before, data_end: u64) -> Result<Option<u64>, Halt> {
        let file_end = self.window.end();
        let ends = self.own_ends(at, before)?;
        for end in ends.into_iter().flatten() {
            if self.window.magic_at(end)? {
                return Ok(Some(end));
            }
        }
        let mut ends = ends.into_iter().flatten();
        let past_end = self.options.mark.is_some();
        if let Some(end) = ends.find(|end| *end >= data_end && (past_end || *end <= file_end)) {
            return Ok(Some(end));
        }
        self.window.find_magic(at + 1, data_end)
    }

    /// Where the frame at `at` ends by its own length, under each layout that its version has. That of version 1, which
    /// nothing checks, is not trusted.
    fn own_ends(&mut self, at: u64, before: Before) -> Result<[Option<u64>; 2], Halt> {
        let len = (self.window.end() - at).min(LONGEST_HEADER as u64) as usize;
        let head = self.window.get(at, len)?;
        let layouts = match head.get(4) {
            Some(2) => [Some(Layout::V2), None],
            Some(3) => before.layouts().map(Some),
            _ => [None, None],
        };
        let end = |layout: Option<Layout>| {
            let frame = Frame::header(head, layout?)?;
            frame.plausible().then(|| at + frame.len())
        };
        Ok(layouts.map(end))
    }
}
