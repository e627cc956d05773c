//! Messages that came too early: for a later instance, or for a regency that is not synchronised.
//!
//! Owns, for each member, a queue of `OUT_OF_CONTEXT_MAX` messages. Always true: what one member
//! sends pushes out only its own messages. Must not: judge them; they are read again when their
//! time comes, as if they had just arrived (rule SMR.12).

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::limits::{OUT_OF_CONTEXT_MAX, OUT_OF_CONTEXT_PROPOSALS_MAX};
use crate::message::{Position, Propose, Refuse, Vote};
use crate::spec;

/// A consensus message.
#[derive(Clone, Debug)]
pub(crate) enum Early<P> {
    Propose(Propose<P>),
    Write(Vote),
    Accept(Vote),
    Refuse(Refuse),
}

impl<P> Early<P> {
    pub(crate) fn at(&self) -> Position {
        match self {
            Self::Propose(propose) => propose.at,
            Self::Write(vote) | Self::Accept(vote) => vote.at,
            Self::Refuse(refuse) => refuse.at,
        }
    }

    fn is_proposal(&self) -> bool {
        matches!(self, Self::Propose(_))
    }
}

/// See the module.
pub(crate) struct OutOfContext<P> {
    members: Vec<VecDeque<Early<P>>>,
    count: usize,
}

impl<P> OutOfContext<P> {
    pub(crate) fn new(n: usize) -> Self {
        let queue = |_| VecDeque::with_capacity(OUT_OF_CONTEXT_MAX);
        Self { members: (0..n).map(queue).collect(), count: 0 }
    }

    /// Keeps a message of the member at `index`; its oldest one goes if there is no room.
    pub(crate) fn store(&mut self, index: usize, message: Early<P>) {
        spec!("SMR.12");
        let queue = &mut self.members[index];
        let proposals = queue.iter().filter(|kept| kept.is_proposal()).count();
        if message.is_proposal() && proposals >= OUT_OF_CONTEXT_PROPOSALS_MAX {
            let oldest = queue.iter().position(Early::is_proposal);
            if oldest.and_then(|at| queue.remove(at)).is_some() {
                self.count -= 1;
            }
        }
        if queue.len() == OUT_OF_CONTEXT_MAX && queue.pop_front().is_some() {
            self.count -= 1;
        }
        queue.push_back(message);
        self.count += 1;
        assert!(queue.len() <= OUT_OF_CONTEXT_MAX);
    }

    /// Takes one message for exactly this position, with the index of its sender.
    pub(crate) fn take(&mut self, at: Position) -> Option<(usize, Early<P>)> {
        if self.count == 0 {
            return None;
        }
        for (index, queue) in self.members.iter_mut().enumerate() {
            if let Some(found) = queue.iter().position(|message| message.at() == at) {
                self.count -= 1;
                return queue.remove(found).map(|message| (index, message));
            }
        }
        None
    }

    /// Drops what is for an instance or an epoch before `at`.
    pub(crate) fn forget_before(&mut self, at: Position) {
        if self.count == 0 {
            return;
        }
        for queue in &mut self.members {
            queue.retain(|message| message.at().cid >= at.cid && message.at().epoch >= at.epoch);
        }
        self.count = self.members.iter().map(VecDeque::len).sum();
    }
}
