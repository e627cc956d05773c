//! What must hold whatever happens: agreement, validity, order, exactly-once, honest replies.
//!
//! Owns the canonical history: the first correct member to decide an instance writes it, all others are
//! compared with it. Always true: nothing here is told who would like what; only what correct members
//! do is judged. Must not: touch the run.

pub mod history;

use std::collections::BTreeMap;

use tetrarch_consensus::batch::Selection;
use tetrarch_consensus::payload::SharedBytes;
use tetrarch_consensus::{
    Batch, ClientId, ConsensusId, Context, Digest, Evidence, Regency, ReplicaId, Sequence, View,
    ViewId, ViewRequest,
};

use crate::service::{Answer, Operation};
use history::History;

/// Something that must never happen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which property.
    pub property: Property,
    /// What happened.
    pub text: String,
}

/// What is checked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Property {
    /// One digest per instance, one result per batch.
    Agreement,
    /// What is executed was asked for by its client.
    Validity,
    /// Instances without gaps, time growing.
    Order,
    /// Requests in the order of their sessions, each once.
    ExactlyOnce,
    /// What clients see fits one order that respects real time.
    Linearizability,
    /// No correct member is accused.
    Evidence,
    /// Leaders change only when correct members want it.
    Regency,
    /// Everything ends once the network is good.
    Liveness,
    /// Tables and traffic stay bounded.
    Resources,
    /// A good disk's log has what was synced, and nothing that was never written.
    Durability,
}

/// What a member decided in one instance.
#[derive(Clone, Debug)]
pub struct Decided {
    /// Instance and time.
    pub context: Context,
    /// Digest of the batch.
    pub digest: Digest,
    /// Client, number and digest of each request executed, in order.
    pub executed: Vec<(ClientId, Sequence, Digest)>,
}

#[derive(Clone, Debug)]
struct Decision {
    digest: Digest,
    timestamp_ns: u64,
    executed: Vec<(ClientId, Sequence, Digest)>,
    /// Digest of the service after the batch, once known.
    state: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct MemberLog {
    decided: u64,
    executed: u64,
    regency: Regency,
}

/// The checks of one run.
#[derive(Debug)]
pub struct Checker {
    view: View,
    correct: u64,
    correct_clients: u32,
    canonical: Vec<Decision>,
    sessions: BTreeMap<ClientId, Sequence>,
    members: Vec<MemberLog>,
    /// What correct clients asked for under a number: one body for each view it was sent in.
    issued: BTreeMap<(ClientId, Sequence), Vec<Digest>>,
    provable: BTreeMap<Digest, u64>,
    answers: BTreeMap<(ClientId, Sequence), Answer>,
    /// Digest of the checkpoint at an instance.
    checkpoints: BTreeMap<ConsensusId, [u8; 32]>,
    /// Views that correct members were in, with the first instance of each.
    views: BTreeMap<ViewId, (ViewRequest, ConsensusId)>,
    wanted: Regency,
    mutant: bool,
    /// What clients did.
    pub history: History,
    violations: Vec<Violation>,
}

impl Checker {
    /// Checks for a run with these members; `correct` is a mask, client identities below
    /// `correct_clients` are correct.
    /// Of a `mutant`, a protocol with a check switched off, only broken safety counts.
    pub fn new(view: View, correct: u64, correct_clients: u32, mutant: bool) -> Self {
        let members = vec![MemberLog::default(); view.n()];
        Self {
            view,
            correct,
            correct_clients,
            canonical: Vec::new(),
            sessions: BTreeMap::new(),
            members,
            issued: BTreeMap::new(),
            provable: BTreeMap::new(),
            answers: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            views: BTreeMap::new(),
            wanted: Regency(0),
            mutant,
            history: History::default(),
            violations: Vec::new(),
        }
    }

    /// The first violation.
    pub fn first_violation(&self) -> Option<&Violation> {
        self.violations.first()
    }

    /// Notes a violation that was found elsewhere.
    pub fn fail(&mut self, property: Property, text: String) {
        use Property::{Agreement, Durability, ExactlyOnce, Linearizability, Order, Validity};
        let safety = [Agreement, Validity, Order, ExactlyOnce, Linearizability, Durability];
        if self.mutant && !safety.contains(&property) {
            return;
        }
        self.violations.push(Violation { property, text });
    }

    /// Decided instances in the canonical history.
    pub fn decisions(&self) -> usize {
        self.canonical.len()
    }

    /// Requests executed in the canonical history.
    pub fn executions(&self) -> usize {
        self.answers.len()
    }

    /// A correct client made this request.
    pub fn issued(&mut self, client: ClientId, sequence: Sequence, digest: Digest) {
        self.issued.entry((client, sequence)).or_default().push(digest);
    }

    /// A faulty client made a proof that convinces the members in `mask`.
    pub fn provable(&mut self, digest: Digest, mask: u64) {
        *self.provable.entry(digest).or_default() |= mask;
    }

    /// A member lost its memory and starts again.
    pub fn forget(&mut self, member: usize) {
        self.members[member] = MemberLog::default();
    }

    /// A member wants the decided batch executed. `clock_ns` is the latest correct clock, and
    /// `skew_ns` how far ahead of it a timestamp may be.
    pub fn decided(
        &mut self,
        member: usize,
        context: &Context,
        (batch, selection): (&Batch<SharedBytes>, &Selection),
        (clock_ns, skew_ns): (u64, u64),
    ) {
        let executed = batch
            .requests()
            .enumerate()
            .filter(|(index, _)| selection.contains(*index))
            .map(|(_, view)| (view.client, view.sequence, view.digest))
            .collect();
        // The batch's time, unless another value is decided below than the one it was made after.
        let below = context.cid.0.checked_sub(2).map(|index| index as usize);
        let before = below.and_then(|index| self.canonical.get(index));
        let floor = before.map_or(0, |before| before.timestamp_ns + 1);
        if context.timestamp_ns != batch.timestamp_ns.max(floor) {
            let text = format!("member {member} gives a batch another time: {context:?}");
            return self.fail(Property::Order, text);
        }
        let decided = Decided { context: *context, digest: batch.digest, executed };
        self.judge(member, decided, (clock_ns, skew_ns));
    }

    /// As [`Checker::decided`], when only what was executed is known.
    pub fn judge(&mut self, member: usize, decided: Decided, (clock_ns, skew_ns): (u64, u64)) {
        let Decided { context, digest, executed } = decided;
        let log = &mut self.members[member];
        let expected = log.decided + 1;
        log.decided = context.cid.0;
        if context.cid.0 != expected {
            let text = format!("member {member} executes {context:?} instead of cid {expected}");
            return self.fail(Property::Order, text);
        }
        let timestamp_ns = context.timestamp_ns;
        let decision = Decision { digest, timestamp_ns, executed, state: None };
        match self.canonical.get(expected as usize - 1) {
            Some(first) => {
                if first.digest != decision.digest
                    || first.executed != decision.executed
                    || first.timestamp_ns != timestamp_ns
                {
                    let text = format!(
                        "cid {expected}: member {member} has {:?} at {} with {:?}, an earlier \
                         one has {:?} at {} with {:?}",
                        decision.digest,
                        decision.timestamp_ns,
                        decision.executed,
                        first.digest,
                        first.timestamp_ns,
                        first.executed
                    );
                    self.fail(Property::Agreement, text);
                }
            }
            None => {
                if timestamp_ns > clock_ns.saturating_add(skew_ns) {
                    let ahead = timestamp_ns - clock_ns;
                    let text = format!("cid {expected} is {ahead} ns ahead of all correct clocks");
                    self.fail(Property::Validity, text);
                }
                self.extend(decision);
            }
        }
    }

    fn extend(&mut self, decision: Decision) {
        let cid = self.canonical.len() + 1;
        let last = self.canonical.last().map_or(0, |last| last.timestamp_ns);
        if decision.timestamp_ns <= last {
            self.fail(Property::Order, format!("cid {cid}: time does not grow"));
        }
        for &(client, sequence, digest) in &decision.executed {
            let before = self.sessions.insert(client, sequence).unwrap_or_default();
            if !sequence.follows(before) {
                let text = format!("cid {cid}: {client} runs {sequence} after {before}");
                self.fail(Property::ExactlyOnce, text);
            }
            self.check_origin(cid, client, sequence, digest);
        }
        self.canonical.push(decision);
    }

    fn check_origin(&mut self, cid: usize, client: ClientId, sequence: Sequence, digest: Digest) {
        if client.identity() < self.correct_clients {
            let issued = self.issued.get(&(client, sequence));
            if !issued.is_some_and(|digests| digests.contains(&digest)) {
                let text = format!("cid {cid}: {client} never asked for {sequence} {digest:?}");
                self.fail(Property::Validity, text);
            }
        } else if self.provable.get(&digest).copied().unwrap_or_default() & self.correct == 0 {
            let text =
                format!("cid {cid}: {client} proved {sequence} {digest:?} to no correct member");
            self.fail(Property::Validity, text);
        }
    }

    /// A member executed an instance: its service is now `state`, and gave these answers.
    pub fn executed(
        &mut self,
        member: usize,
        cid: ConsensusId,
        state: u64,
        answers: &[(ClientId, Sequence, Operation, Answer)],
    ) {
        self.members[member].executed = cid.0;
        let Some(decision) = self.canonical.get_mut(cid.0 as usize - 1) else { return };
        match decision.state {
            None => decision.state = Some(state),
            Some(first) if first != state => {
                let text = format!("cid {cid}: member {member} has another state than the first");
                return self.fail(Property::Agreement, text);
            }
            Some(_) => return,
        }
        for &(client, sequence, operation, answer) in answers {
            self.answers.insert((client, sequence), answer);
            self.history.ordered(client, sequence, operation, answer);
        }
    }

    /// A member has a checkpoint with this digest.
    pub fn checkpoint(&mut self, member: usize, cid: ConsensusId, digest: [u8; 32]) {
        if *self.checkpoints.entry(cid).or_insert(digest) != digest {
            let text = format!("cid {cid}: member {member} has another checkpoint than the first");
            self.fail(Property::Agreement, text);
        }
    }

    /// A member goes on behind `cid` without what lies between.
    pub fn skips(&mut self, member: usize, cid: ConsensusId) {
        let log = &mut self.members[member];
        let before = std::mem::replace(&mut log.decided, cid.0);
        if cid.0 <= before || cid.0 as usize > self.canonical.len() {
            let text = format!("member {member} goes from cid {before} to {cid}");
            self.fail(Property::Order, text);
        }
    }

    /// The service of a member is now what it was behind `cid` at others.
    pub fn replaced(&mut self, member: usize, cid: ConsensusId, state: u64) {
        self.members[member].executed = cid.0;
        self.compare_state(member, cid, state);
    }

    /// A member that was down goes on behind `cid`, with the service as it was there.
    pub fn resumes(&mut self, member: usize, cid: ConsensusId, state: u64) {
        (self.members[member].decided, self.members[member].executed) = (cid.0, cid.0);
        self.compare_state(member, cid, state);
    }

    fn compare_state(&mut self, member: usize, cid: ConsensusId, state: u64) {
        let known = self.canonical.get(cid.0 as usize - 1).and_then(|decision| decision.state);
        if known != Some(state) {
            let text = format!("cid {cid}: member {member} goes on with another state");
            self.fail(Property::Agreement, text);
        }
    }

    /// A correct client accepted an answer to an ordered request.
    pub fn returned(&mut self, client: ClientId, sequence: Sequence, answer: Answer) {
        let executed = self.answers.get(&(client, sequence));
        if executed != Some(&answer) {
            let text = format!("{client} got {answer:?} for {sequence}, executed: {executed:?}");
            self.fail(Property::Linearizability, text);
        }
    }

    /// A correct member wants this regency.
    pub fn wanted(&mut self, regency: Regency) {
        self.wanted = self.wanted.max(regency);
    }

    /// A correct member installed a regency.
    pub fn installed(&mut self, member: usize, view: &View, regency: Regency, leader: ReplicaId) {
        let before = std::mem::replace(&mut self.members[member].regency, regency);
        if regency <= before || leader != view.leader(regency) {
            let text = format!("member {member} goes from regency {before} to {regency}, {leader}");
            self.fail(Property::Regency, text);
        }
        if regency > self.wanted {
            let text = format!(
                "member {member} installs regency {regency}; correct members want {} at most",
                self.wanted
            );
            self.fail(Property::Regency, text);
        }
    }

    /// A correct member is in this view from now on, and has everything before `since`.
    pub fn entered(&mut self, member: usize, entered: &ViewRequest, since: ConsensusId) {
        self.members[member].regency = Regency(0);
        let first = self.views.entry(entered.next.id());
        let (known, start) = first.or_insert_with(|| (entered.clone(), since));
        if known.next != entered.next || *start != since {
            let text = format!(
                "member {member} enters {:?} at {since}, another one {:?} at {start}",
                entered.next, known.next
            );
            self.fail(Property::Agreement, text);
        }
    }

    /// The newest view that a correct member is in, if there is a later one than the first.
    pub fn newest_view(&self) -> Option<&ViewRequest> {
        self.views.last_key_value().map(|(_, (entered, _))| entered)
    }

    /// A correct member accuses somebody.
    pub fn accused(&mut self, by: usize, evidence: &Evidence) {
        let correct = |id: &ReplicaId| {
            self.view.index_of(*id).is_some_and(|at| self.correct & (1 << at) != 0)
        };
        let wrong = match evidence {
            Evidence::Equivocation { member, .. }
            | Evidence::InvalidProposal { member, .. }
            | Evidence::FalseChunk { member, .. }
            | Evidence::FalseOffer { member, .. }
            | Evidence::InvalidSynchronization { member, .. } => correct(member),
            // A network that loses enough makes any leader look like that.
            Evidence::IncompleteProposal { .. } => false,
            // A faulty leader can break the proofs of a correct client's requests.
            Evidence::HalfValidProof { client, .. } => {
                let all_correct = self.view.members().iter().all(correct);
                all_correct && client.identity() < self.correct_clients
            }
        };
        if wrong {
            let text = format!("member {by} accuses a correct one: {evidence:?}");
            self.fail(Property::Evidence, text);
        }
    }

    /// Compares what clients saw with the canonical history. Once, at the end.
    pub fn finish(&mut self) {
        for text in self.history.check() {
            self.fail(Property::Linearizability, text);
        }
    }
}

#[cfg(test)]
mod tests;
