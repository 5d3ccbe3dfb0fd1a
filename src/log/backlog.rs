//! The backlog: the newest part of the log, in memory, for replicas that come back after a short break.
//!
//! Frames are shared with whoever else holds them. The bound is in bytes (`repl-backlog-size`), of what the frames take, and
//! the newest frame always stays.
//!
//! Owned by the control core.

use std::collections::VecDeque;

use super::frame::{Frame, Index};

/// See the module.
#[derive(Debug)]
pub struct Backlog {
    frames: VecDeque<Frame>,
    bytes: usize,
    bytes_max: usize,
}

impl Backlog {
    pub fn new(bytes_max: usize) -> Backlog {
        Backlog { frames: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Appends the next frame.
    pub fn push(&mut self, frame: Frame) {
        self.bytes += frame.bytes();
        self.frames.push_back(frame);
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.bytes > self.bytes_max
            && self.frames.len() > 1
            && let Some(frame) = self.frames.pop_front()
        {
            self.bytes -= frame.bytes();
        }
    }

    pub fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
        self.shrink();
    }

    /// What is here is of no use any more.
    pub fn clear(&mut self) {
        (self.frames, self.bytes) = (VecDeque::new(), 0);
    }

    /// Takes away what comes after `to`; a frame goes as a whole.
    pub fn truncate(&mut self, to: Index) {
        while self.frames.back().is_some_and(|frame| frame.last() > to)
            && let Some(frame) = self.frames.pop_back()
        {
            self.bytes -= frame.bytes();
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first index that is here; None: nothing is.
    pub fn first(&self) -> Option<Index> {
        self.frames.front().map(|frame| frame.head.first)
    }

    /// The frames from the one on that holds `index`; None if some are missing. Nothing, if it is the next to come.
    pub fn from(&self, index: Index) -> Option<impl Iterator<Item = &Frame>> {
        let end = self.frames.back().map(Frame::last);
        if self.first().is_none_or(|first| index < first) && end.is_none_or(|end| index != end + 1) {
            return None;
        }
        let at = self.frames.partition_point(|frame| frame.last() < index);
        Some(self.frames.range(at..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::frame::{HEADER_BYTES, Kind};

    #[test]
    fn the_newest_frames_stay() {
        let mut backlog = Backlog::new(3 * (HEADER_BYTES + 10));
        assert!(backlog.from(1).is_none() && backlog.first().is_none());
        for first in (1..100).step_by(2) {
            backlog.push(Frame::new(Kind::Log, 1, first, 0, 2, vec![0; 10]));
        }
        assert_eq!((backlog.first(), backlog.bytes()), (Some(95), 3 * (HEADER_BYTES + 10)));
        let from = |index| backlog.from(index).map(|frames| frames.map(|frame| frame.head.first).collect::<Vec<_>>());
        assert_eq!(from(94), None);
        assert_eq!(from(95), Some(vec![95, 97, 99]));
        assert_eq!(from(98), Some(vec![97, 99]));
        assert_eq!(from(101), Some(vec![]));
        backlog.push(Frame::new(Kind::Log, 1, 101, 0, 2, vec![0; 1000]));
        assert_eq!(backlog.first(), Some(101), "the last one stays, whatever its size");
    }
}
