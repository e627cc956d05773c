//! Messages that came too early: for a later instance, or for a regency that is not synchronised.
//!
//! Owns, for each member, the votes of the next `OUT_OF_CONTEXT_VOTES_MAX` instances and the proposals
//! and refusals of the next `OUT_OF_CONTEXT_MAX`. Always true: what one member sends pushes out only
//! its own messages, and never a nearer one for a farther one; finding what is due takes no search.
//! Must not: judge them; they are read again when their time comes, as if they had just arrived
//! (rule SMR.12).

use alloc::vec::Vec;

use crate::limits::{OUT_OF_CONTEXT_MAX, OUT_OF_CONTEXT_SIZE_MAX, OUT_OF_CONTEXT_VOTES_MAX};
use crate::message::{Position, Refuse, Vote};
use crate::payload::Payload;
use crate::smr::assembly::Proposal;
use crate::spec;
use crate::types::{ConsensusId, Digest};

/// A consensus message.
#[derive(Clone, Debug)]
pub(crate) enum Early<P> {
    Propose(Position, Proposal<P>),
    Write(Vote),
    Accept(Vote),
    Refuse(Refuse),
}

/// What one member voted in one position.
#[derive(Clone, Copy)]
struct Votes {
    at: Option<Position>,
    write: Option<Digest>,
    accept: Option<Digest>,
}

const NO_VOTES: Votes = Votes { at: None, write: None, accept: None };

/// Of each kind one message an instance, at the instance's number modulo the size.
struct Member<P> {
    votes: Vec<Votes>,
    proposals: Vec<Option<(Position, Proposal<P>)>>,
    /// Encoded bytes of `proposals`.
    size: usize,
    refusals: Vec<Option<Refuse>>,
}

/// See the module.
pub(crate) struct OutOfContext<P> {
    members: Vec<Member<P>>,
    /// The position that is being read, and the member whose messages come next.
    reading: Option<Position>,
    next: usize,
}

fn vote_slot(cid: ConsensusId) -> usize {
    (cid.0 % OUT_OF_CONTEXT_VOTES_MAX) as usize
}

fn slot(cid: ConsensusId) -> usize {
    (cid.0 % OUT_OF_CONTEXT_MAX) as usize
}

/// May a message for `new` take the place of one for `old`? Within the window two different instances
/// never share a place, so the older one of two is over.
fn replaces(new: Position, old: Option<Position>) -> bool {
    old.is_none_or(|old| (new.cid, new.epoch) > (old.cid, old.epoch))
}

impl<P: Payload> OutOfContext<P> {
    pub(crate) fn new(n: usize) -> Self {
        let member = |_| Member {
            votes: alloc::vec![NO_VOTES; OUT_OF_CONTEXT_VOTES_MAX as usize],
            proposals: (0..OUT_OF_CONTEXT_MAX).map(|_| None).collect(),
            size: 0,
            refusals: alloc::vec![None; OUT_OF_CONTEXT_MAX as usize],
        };
        Self { members: (0..n).map(member).collect(), reading: None, next: 0 }
    }

    /// Bytes of the tables of `n` members.
    pub(crate) fn reserved_size(n: usize) -> usize {
        let votes = OUT_OF_CONTEXT_VOTES_MAX as usize * size_of_val(&NO_VOTES);
        let others = size_of::<Option<(Position, Proposal<P>)>>() + size_of::<Option<Refuse>>();
        n * (votes + OUT_OF_CONTEXT_MAX as usize * others)
    }

    /// Keeps a message of the member at `index`, if it is for an instance near enough to `open`.
    /// False when not: LAG.1 repairs it.
    pub(crate) fn store(&mut self, index: usize, message: Early<P>, open: ConsensusId) -> bool {
        spec!("SMR.12");
        let member = &mut self.members[index];
        let ahead = |at: &Position| at.cid.0.saturating_sub(open.0);
        match message {
            Early::Write(vote) | Early::Accept(vote)
                if ahead(&vote.at) < OUT_OF_CONTEXT_VOTES_MAX =>
            {
                let kept = &mut member.votes[vote_slot(vote.at.cid)];
                if replaces(vote.at, kept.at) {
                    *kept = Votes { at: Some(vote.at), ..NO_VOTES };
                }
                if kept.at == Some(vote.at) {
                    let first = match message {
                        Early::Write(_) => &mut kept.write,
                        _ => &mut kept.accept,
                    };
                    first.get_or_insert(vote.digest);
                }
            }
            Early::Propose(at, proposal) if ahead(&at) < OUT_OF_CONTEXT_MAX => {
                let (place, size) = (slot(at.cid), proposal.size());
                if replaces(at, member.proposals[place].as_ref().map(|(at, _)| *at)) {
                    member.take_proposal(at.cid);
                    if member.size + size > OUT_OF_CONTEXT_SIZE_MAX {
                        return false;
                    }
                    member.size += size;
                    member.proposals[place] = Some((at, proposal));
                }
            }
            Early::Refuse(refuse) if ahead(&refuse.at) < OUT_OF_CONTEXT_MAX => {
                let kept = &mut member.refusals[slot(refuse.at.cid)];
                if replaces(refuse.at, kept.map(|kept| kept.at)) {
                    *kept = Some(refuse);
                }
            }
            _ => return false,
        }
        true
    }

    /// Takes the next message for exactly this position, with the index of its sender. When there is
    /// none left it costs nothing to ask again.
    pub(crate) fn take(&mut self, at: Position) -> Option<(usize, Early<P>)> {
        if self.reading != Some(at) {
            self.reading = Some(at);
            self.next = 0;
        }
        while let Some(member) = self.members.get_mut(self.next) {
            if let Some(message) = member.take(at) {
                return Some((self.next, message));
            }
            self.next += 1;
        }
        None
    }

    /// All instances up to `cid` are over.
    pub(crate) fn forget_to(&mut self, cid: ConsensusId) {
        for below in 0..OUT_OF_CONTEXT_MAX.min(cid.0) {
            self.forget(ConsensusId(cid.0 - below));
        }
    }

    /// Instance `cid` is over: lets go of the memory of proposals for it.
    pub(crate) fn forget(&mut self, cid: ConsensusId) {
        for member in &mut self.members {
            let kept = &member.proposals[slot(cid)];
            if kept.as_ref().is_some_and(|(at, _)| at.cid <= cid) {
                member.take_proposal(cid);
            }
        }
    }
}

impl<P: Payload> Member<P> {
    /// Takes what is in the place of instance `cid`.
    fn take_proposal(&mut self, cid: ConsensusId) -> Option<(Position, Proposal<P>)> {
        let taken = self.proposals[slot(cid)].take();
        self.size -= taken.as_ref().map_or(0, |(_, proposal)| proposal.size());
        taken
    }

    fn take(&mut self, at: Position) -> Option<Early<P>> {
        let proposal = &self.proposals[slot(at.cid)];
        if proposal.as_ref().is_some_and(|(kept, _)| *kept == at) {
            return self.take_proposal(at.cid).map(|(at, proposal)| Early::Propose(at, proposal));
        }
        let votes = &mut self.votes[vote_slot(at.cid)];
        if votes.at == Some(at) {
            if let Some(digest) = votes.write.take() {
                return Some(Early::Write(Vote { at, digest }));
            }
            if let Some(digest) = votes.accept.take() {
                return Some(Early::Accept(Vote { at, digest }));
            }
        }
        let refusal = &mut self.refusals[slot(at.cid)];
        if refusal.is_some_and(|kept| kept.at == at) {
            return refusal.take().map(Early::Refuse);
        }
        None
    }
}
