//! Completing proposals that came without bodies, and asking for what is missing.
//!
//! Owns when to look and when to ask. Always true: a proposal that waits holds up nothing but this
//! replica's own WRITE for it. Must not: judge a proposal; once it is whole it goes the way of every
//! other.

use crate::action::{Action, Evidence, Recipients};
use crate::batch::{Batch, SparseBatch};
use crate::message::{Bodies, FetchBodies, Message, Request};
use crate::payload::Payload;
use crate::protocol::Actions;
use crate::smr::ignored::Ignored;
use crate::smr::replica::Replica;
use crate::smr::requests::{Admission, Room};
use crate::spec;
use crate::types::{ClientId, ConsensusId, Digest, Instant, Sequence};
use crate::vp::assembly::Completion;
use crate::vp::instance::{Instance, Verdict};
use crate::vp::window::Window;

/// What part of the patience is left when others have shown that the bodies can be had.
const HASTE: u32 = 8;
/// The pause between two questions grows at most this many times twofold.
const GROWTH_MAX: u32 = 5;

/// A leader's value as it arrived.
#[derive(Clone, Debug)]
pub(crate) enum Proposal<P> {
    Whole(Batch<P>),
    Sparse(SparseBatch<P>),
}

impl<P: Payload> Proposal<P> {
    /// Of the whole batch.
    pub(crate) fn digest(&self) -> Digest {
        match self {
            Self::Whole(batch) => batch.digest,
            Self::Sparse(batch) => batch.digest,
        }
    }

    /// Encoded bytes.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Whole(batch) => batch.payload().bytes().len(),
            Self::Sparse(batch) => batch.payload().bytes().len(),
        }
    }
}

impl<P: Payload> Replica<P> {
    /// The leader's value for open instance `cid`, now that it is known to be its first one.
    pub(super) fn keep_proposal(
        &mut self,
        cid: ConsensusId,
        proposal: Proposal<P>,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("BODY.2");
        let ask_at = self.now + self.patience();
        let open = self.window.at_mut(cid);
        match proposal {
            Proposal::Whole(batch) => open.keep(batch),
            Proposal::Sparse(batch) if open.batch(&batch.digest).is_none() => {
                open.assembly.start(batch, ask_at);
                self.assemble(cid, actions);
                if self.window.at(cid).assembly.waiting().is_some() {
                    self.incomplete_to = self.incomplete_to.max(cid);
                }
            }
            Proposal::Sparse(_) => {}
        }
    }

    /// Could a correct leader have sent this? Proofs longer than any client's would make the batch
    /// larger than it may be.
    pub(super) fn is_bounded(&self, proposal: &Proposal<P>) -> bool {
        match proposal {
            Proposal::Whole(_) => true,
            Proposal::Sparse(batch) => {
                batch.requests().all(|(_, view)| self.requests.may_be_proof(view.proof))
            }
        }
    }

    /// The open instances whose proposals wait for bodies, the lowest first.
    fn incomplete(&self) -> impl Iterator<Item = &Instance<P>> {
        incomplete(&self.window, self.incomplete_to)
    }

    fn find_incomplete(&self, wanted: impl Fn(&Instance<P>) -> bool) -> Option<ConsensusId> {
        self.incomplete().find(|open| wanted(open)).map(|open| open.at.cid)
    }

    /// Takes a request in, and says whether a proposal was waiting for it. `first_of`: the member that has
    /// waited for it longer than for any other.
    #[inline(always)]
    pub(super) fn admit(
        &mut self,
        request: Request<P>,
        first_of: Option<usize>,
        actions: &mut Actions<Action<P>>,
    ) -> (Admission, bool) {
        let (client, sequence) = (request.client, request.sequence);
        let Self { now, window, requests, complaints, incomplete_to, .. } = self;
        let (config, regency) = (&self.config, self.regency);
        let room = |request: &Request<P>| {
            spec!("BODY.8", "SMR.14");
            if incomplete(window, *incomplete_to).any(|open| open.assembly.lacks(request)) {
                Room::Awaited
            } else if config.view.leader(regency) == config.id {
                Room::Leader
            } else {
                Room::Follower
            }
        };
        let admission = match first_of {
            None => requests.admit(*now, request, complaints, room),
            Some(member) => requests.admit_first(*now, member, request, complaints, room),
        };
        let awaited = self.is_incomplete()
            && admission == Admission::Accepted
            && self.complete_with(client, sequence, actions);
        (admission, awaited)
    }

    /// Completes the proposals that were waiting for this request, which is there now. False when none
    /// was.
    #[cold]
    fn complete_with(
        &mut self,
        client: ClientId,
        sequence: Sequence,
        actions: &mut Actions<Action<P>>,
    ) -> bool {
        let mut awaited = false;
        let awaits = |open: &Instance<P>| {
            let missing = open.assembly.missing();
            missing.is_some_and(|it| it.client == client && it.sequence == sequence)
        };
        while let Some(cid) = self.find_incomplete(awaits) {
            awaited = true;
            if !self.assemble(cid, actions) {
                break;
            }
        }
        awaited
    }

    /// Could an open instance wait for bodies? Almost never.
    #[inline]
    fn is_incomplete(&self) -> bool {
        self.incomplete_to >= self.window.start()
    }

    /// Completes the proposal that waits in instance `cid`, if everything is there. False when the same
    /// body is missing as before.
    fn assemble(&mut self, cid: ConsensusId, actions: &mut Actions<Action<P>>) -> bool {
        let compare = self.config.checks.body_digests;
        let Self { window, requests, pool, .. } = self;
        let assembly = &mut window.at_mut(cid).assembly;
        let missing = assembly.missing().copied();
        let completion = assembly.complete(requests, &mut **pool, compare);
        let moved = assembly.missing() != missing.as_ref();
        self.on_completion(cid, completion, actions);
        moved
    }

    fn on_completion(
        &mut self,
        cid: ConsensusId,
        completion: Completion<P>,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("BODY.7");
        let retry_at = self.now + self.memory_pause();
        let open = self.window.at_mut(cid);
        match completion {
            Completion::Missing => {}
            Completion::NoMemory => open.assembly.ask_at = retry_at,
            Completion::Whole(batch) => open.keep(batch),
            Completion::TooLarge => {
                open.assembly.clear();
                open.verdict = Verdict::Impossible;
                self.report_impossible(cid, actions);
            }
        }
    }

    /// When to ask for what is missing.
    pub(super) fn ask_for_bodies_at(&self) -> Option<Instant> {
        self.incomplete().map(|open| open.assembly.ask_at).min()
    }

    /// Others voted for a proposal that is not complete here, so it can be had, and this replica's vote
    /// may be the one that is needed.
    pub(super) fn hasten_bodies(&mut self) {
        spec!("BODY.4");
        let one_correct = self.quorums.one_correct();
        let soon = self.now + self.patience() / HASTE;
        let can_be_had = |open: &Instance<P>| {
            let votes = |digest| open.writes.count(&digest).max(open.accepts.count(&digest));
            open.assembly.asked == 0
                && open.assembly.ask_at > soon
                && open.assembly.waiting().is_some_and(|digest| votes(digest) >= one_correct)
        };
        while let Some(cid) = self.find_incomplete(can_be_had) {
            self.window.at_mut(cid).assembly.ask_at = soon;
        }
    }

    /// What is missing had time to come by itself, or was asked for in vain.
    pub(super) fn on_bodies_deadline(&mut self, actions: &mut Actions<Action<P>>) {
        let now = self.now;
        while let Some(cid) = self.find_incomplete(|open| open.assembly.ask_at <= now) {
            self.ask_for_bodies(cid, actions);
        }
    }

    /// Another look at the proposal that waits in instance `cid`, and a question if that does not help.
    fn ask_for_bodies(&mut self, cid: ConsensusId, actions: &mut Actions<Action<P>>) {
        spec!("BODY.4");
        let open = self.window.at_mut(cid);
        let (at, digest, decided) = (open.at, open.proposal, open.decided);
        if decided.is_some_and(|decided| Some(decided.digest) != digest) {
            return open.assembly.clear();
        }
        self.assemble(cid, actions);
        let (now, patience) = (self.now, self.patience());
        let Self { window, requests, .. } = self;
        let assembly = &mut window.at_mut(cid).assembly;
        let (Some(digest), Some(_)) = (assembly.waiting(), assembly.missing()) else {
            return;
        };
        let which = assembly.wanted(requests);
        let asked = assembly.asked;
        assembly.asked = asked.saturating_add(1);
        assembly.ask_at = now + patience.saturating_mul(1 << asked.min(GROWTH_MAX));
        let to = match asked {
            0 => Recipients::One(self.leader()),
            _ => Recipients::Others,
        };
        self.send(to, Message::FetchBodies(FetchBodies { at, digest, which }), actions);
    }

    pub(super) fn on_bodies(&mut self, bodies: &Bodies<P>, actions: &mut Actions<Action<P>>) {
        spec!("BODY.5");
        let expected = self.window.get(bodies.at.cid).is_some_and(|open| {
            open.at == bodies.at
                && open.assembly.asked > 0
                && open.assembly.waiting() == Some(bodies.digest)
        });
        if !expected {
            return self.ignored.add(Ignored::NotNeeded);
        }
        let cid = bodies.at.cid;
        let compare = self.config.checks.body_digests;
        let Self { window, requests, pool, selected, .. } = self;
        let assembly = &mut window.at_mut(cid).assembly;
        let outcome = assembly.take(&bodies.requests, requests, &mut **pool, selected, compare);
        selected.clear();
        match outcome {
            None => self.ignored.add(Ignored::Invalid),
            Some(Completion::Missing) => {
                self.assemble(cid, actions);
            }
            Some(outcome) => self.on_completion(cid, outcome, actions),
        }
    }

    /// The leader is asked to go while a proposal of it is not complete: says whose body was missing.
    pub(super) fn report_incomplete(&self, actions: &mut Actions<Action<P>>) {
        spec!("BODY.3");
        if let Some(open) = self.incomplete().next()
            && let Some(missing) = open.assembly.missing()
        {
            let (member, client, at) = (self.leader(), missing.client, open.at);
            actions.push(Action::Report(Evidence::IncompleteProposal { member, client, at }));
        }
    }
}

/// The open instances whose proposals wait for bodies, the lowest first; none above `highest`. Almost
/// always none, which is seen at once.
fn incomplete<P: Payload>(
    window: &Window<P>,
    highest: ConsensusId,
) -> impl Iterator<Item = &Instance<P>> {
    let some = highest >= window.start();
    let open = some.then(|| window.iter()).into_iter().flatten();
    open.filter(|open| open.assembly.waiting().is_some())
}
