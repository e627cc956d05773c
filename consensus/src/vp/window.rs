//! The open instances: the ones directly above the last decided one.
//!
//! Owns as many instances as the configured depth, in memory that is reserved at the start, and how
//! far into them this replica has voted in the current epoch. Always true: they are numbered without
//! gaps, all are in one epoch, and those that were written are the lowest ones (rule SMR.1). Must
//! not: vote, or know what a decision is followed by.

use alloc::vec::Vec;

use crate::message::Position;
use crate::spec;
use crate::types::{ConsensusId, Epoch, ViewId};
use crate::vp::instance::Instance;

/// See the module.
pub(crate) struct Window<P> {
    ring: Vec<Instance<P>>,
    /// Where in the ring the lowest open instance is.
    first: usize,
    /// How many instances, from the lowest on, were written or accepted in this epoch, and of how
    /// many the messages that came early have been read.
    written: usize,
    accepted: usize,
    read: usize,
    /// The last instance that may be open (rule VIEW.4).
    limit: ConsensusId,
}

impl<P> Window<P> {
    /// Instances 1 to `depth`, in epoch 0.
    pub(crate) fn new(view: ViewId, depth: usize, per_digest: bool) -> Self {
        assert!(depth > 0, "one instance is open at least");
        let instance = |cid| {
            let at = Position { view, cid: ConsensusId(cid as u64), epoch: Epoch(0) };
            Instance::new(at, depth, per_digest)
        };
        let ring = (1..=depth).map(instance).collect();
        let limit = ConsensusId(u64::MAX);
        Self { ring, first: 0, written: 0, accepted: 0, read: 0, limit }
    }

    /// How many instances may be open.
    pub(crate) fn depth(&self) -> usize {
        self.ring.len()
    }

    /// The instance after the last decided one.
    pub(crate) fn lowest(&self) -> &Instance<P> {
        &self.ring[self.first]
    }

    /// See [`Window::lowest`].
    pub(crate) fn lowest_mut(&mut self) -> &mut Instance<P> {
        &mut self.ring[self.first]
    }

    /// Number of the lowest open instance.
    pub(crate) fn start(&self) -> ConsensusId {
        self.lowest().at.cid
    }

    /// Number of the highest open instance; below [`Window::start`] when none is.
    pub(crate) fn end(&self) -> ConsensusId {
        self.newest().min(self.limit)
    }

    /// Number of the highest instance of the depth, open or not.
    pub(crate) fn newest(&self) -> ConsensusId {
        ConsensusId(self.start().0 + self.depth() as u64 - 1)
    }

    /// No instance above `limit` is open any more: nothing has happened in any.
    pub(crate) fn set_limit(&mut self, limit: ConsensusId) {
        spec!("VIEW.4");
        self.limit = limit;
    }

    /// Is no instance open?
    pub(crate) fn is_closed(&self) -> bool {
        self.start() > self.limit
    }

    /// Nothing has happened in the instances from the lowest on, which are of another view from now on,
    /// in epoch 0.
    pub(crate) fn enter_view(&mut self, view: ViewId) {
        spec!("VIEW.6");
        self.limit = ConsensusId(u64::MAX);
        for instance in &mut self.ring {
            instance.at = Position { view, epoch: Epoch(0), ..instance.at };
            instance.reopen(instance.at.cid);
        }
        (self.written, self.accepted, self.read) = (0, 0, 0);
    }

    /// Instance `cid`, if it is open.
    pub(crate) fn get(&self, cid: ConsensusId) -> Option<&Instance<P>> {
        self.place(cid).filter(|_| cid <= self.limit).map(|place| &self.ring[place])
    }

    /// Instance `cid`, which is open.
    pub(crate) fn at(&self, cid: ConsensusId) -> &Instance<P> {
        &self.ring[self.place(cid).expect("the instance is open")]
    }

    /// Instance `cid`, which is open.
    pub(crate) fn at_mut(&mut self, cid: ConsensusId) -> &mut Instance<P> {
        let place = self.place(cid).expect("the instance is open");
        &mut self.ring[place]
    }

    /// All of them, the lowest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Instance<P>> {
        let (before, from) = self.ring.split_at(self.first);
        from.iter().chain(before)
    }

    /// Where in the current epoch `cid` is, open or not.
    pub(crate) fn position(&self, cid: ConsensusId) -> Position {
        Position { cid, ..self.lowest().at }
    }

    fn place(&self, cid: ConsensusId) -> Option<usize> {
        let above = usize::try_from(cid.0.checked_sub(self.start().0)?).ok()?;
        let depth = self.depth();
        (above < depth).then(|| {
            let place = self.first + above;
            if place < depth { place } else { place - depth }
        })
    }

    /// Nothing has happened yet: the lowest instance is `first`, in epoch 0.
    pub(crate) fn begin_at(&mut self, first: ConsensusId) {
        assert!(self.first == 0 && self.start() == ConsensusId(1), "nothing has happened yet");
        for (above, instance) in self.ring.iter_mut().enumerate() {
            instance.at.cid = ConsensusId(first.0 + above as u64);
        }
    }

    /// The lowest instance is over: its memory becomes the instance after the highest.
    pub(crate) fn slide(&mut self) {
        let next = self.newest().next();
        self.lowest_mut().reopen(next);
        self.first = if self.first + 1 < self.depth() { self.first + 1 } else { 0 };
        self.written = self.written.saturating_sub(1);
        self.accepted = self.accepted.saturating_sub(1);
        self.read = self.read.saturating_sub(1);
    }

    /// All instances below `first` are over: those that are open stay as they are.
    pub(crate) fn skip_to(&mut self, first: ConsensusId) {
        let over = first.0.saturating_sub(self.start().0);
        if over <= self.depth() as u64 {
            return (0..over).for_each(|_| self.slide());
        }
        for (above, instance) in self.ring.iter_mut().enumerate() {
            instance.reopen(ConsensusId(first.0 + above as u64));
        }
        (self.first, self.written, self.accepted, self.read) = (0, 0, 0, 0);
    }

    /// All open instances start `epoch`.
    pub(crate) fn enter_epoch(&mut self, epoch: Epoch) {
        self.ring.iter_mut().for_each(|instance| instance.enter_epoch(epoch));
        (self.written, self.accepted, self.read) = (0, 0, 0);
    }

    /// The lowest instance that was not written in this epoch: the only one that may be next.
    pub(crate) fn to_write(&self) -> Option<ConsensusId> {
        self.above(self.written)
    }

    /// The instance of [`Window::to_write`] was written.
    pub(crate) fn note_written(&mut self) {
        self.written += 1;
    }

    /// How many instances, from the lowest on, were written in this epoch.
    pub(crate) fn written(&self) -> usize {
        self.written
    }

    /// The lowest instance without an ACCEPT of this replica in this epoch.
    pub(crate) fn to_accept(&self) -> Option<ConsensusId> {
        self.above(self.accepted)
    }

    /// The instance of [`Window::to_accept`] was accepted.
    pub(crate) fn note_accepted(&mut self) {
        self.accepted += 1;
    }

    /// The lowest instance whose early messages have not all been read in this epoch.
    pub(crate) fn to_read(&self) -> Option<ConsensusId> {
        self.above(self.read)
    }

    /// The early messages of the instance of [`Window::to_read`] have been read.
    pub(crate) fn note_read(&mut self) {
        self.read += 1;
    }

    fn above(&self, count: usize) -> Option<ConsensusId> {
        let cid = ConsensusId(self.start().0 + count as u64);
        (count < self.depth() && cid <= self.limit).then_some(cid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::SharedBytes;
    use crate::types::Digest;

    #[test]
    fn the_window_slides_without_gaps_and_what_was_written_stays_its_lowest_part() {
        let mut window: Window<SharedBytes> = Window::new(ViewId(0), 3, true);
        for start in 1..=10 {
            let cids: Vec<u64> = window.iter().map(|open| open.at.cid.0).collect();
            assert_eq!(cids, [start, start + 1, start + 2]);
            assert_eq!((window.start().0, window.end().0), (start, start + 2));
            for cid in [0, start - 1, start + 3, u64::MAX] {
                assert!(window.get(ConsensusId(cid)).is_none());
            }
            while let Some(cid) = window.to_write().filter(|cid| cid.0 <= start + 1) {
                window.at_mut(cid).wrote = Some(Digest([cid.0 as u8; 32]));
                window.note_written();
            }
            assert_eq!(window.to_write(), Some(ConsensusId(start + 2)));
            assert!(window.iter().take(2).all(|open| open.wrote.is_some()));
            window.slide();
        }
        window.enter_epoch(Epoch(4));
        assert_eq!(window.to_write(), Some(window.start()));
        assert!(window.iter().all(|open| open.at.epoch == Epoch(4) && open.wrote.is_none()));
        for (skip, stays) in [(0, 3), (2, 1), (3, 0), (40, 0), (1, 2)] {
            let first = ConsensusId(window.start().0 + skip);
            while let Some(cid) = window.to_write() {
                window.at_mut(cid).wrote = Some(Digest([cid.0 as u8; 32]));
                window.note_written();
            }
            window.skip_to(first);
            let wrote: Vec<_> = window.iter().map(|open| open.wrote.is_some()).collect();
            assert_eq!(wrote, [stays > 0, stays > 1, stays > 2]);
            let cids: Vec<u64> = window.iter().map(|open| open.at.cid.0).collect();
            assert_eq!(cids, [first.0, first.0 + 1, first.0 + 2]);
            assert_eq!(window.written(), stays);
            assert!(window.iter().all(|open| open.at.epoch == Epoch(4)));
        }
        let mut single: Window<SharedBytes> = Window::new(ViewId(0), 1, true);
        single.note_accepted();
        assert_eq!(single.to_accept(), None);
        single.slide();
        assert_eq!(single.to_accept(), Some(ConsensusId(2)));
    }
}
