//! Leaving bodies out of proposals, and sending them to those who ask.
//!
//! Owns who lacks which clients' bodies, and what was answered to whom. Always true: bodies are left out
//! only of clients whose lackers together are fewer than one-correct, and a member that asks again
//! and again costs no more than the answers it may have. Must not: wait for bodies; `assembly` does.

use alloc::vec::Vec;
use core::time::Duration;

use crate::action::{Action, Recipients};
use crate::batch::{Batch, Selection, SparseBatch};
use crate::config::Config;
use crate::limits::{BODIES_SIZE_MAX, LACKING_TIMEOUTS};
use crate::message::{Bodies, FetchBodies, Message, Position, Propose, ProposeSparse};
use crate::payload::Payload;
use crate::protocol::Actions;
use crate::quorum::Quorums;
use crate::smr::ignored::Ignored;
use crate::smr::replica::Replica;
use crate::spec;
use crate::types::{Instant, ReplicaSet};

/// Who lacks the bodies of which clients, as far as they asked this replica. Fixed size: one set for
/// each client in the cluster's client list.
#[derive(Clone, Debug)]
pub struct Lacking {
    clients: Vec<ReplicaSet>,
    is_empty: bool,
    forget_at: Instant,
    period: Duration,
    quorums: Quorums,
}

impl Lacking {
    /// Nobody lacks anything.
    pub fn new(config: &Config, now: Instant) -> Self {
        let period = config.request_timeout.saturating_mul(LACKING_TIMEOUTS);
        Self {
            clients: alloc::vec![ReplicaSet::EMPTY; config.clients_max as usize],
            is_empty: true,
            forget_at: now + period,
            period,
            quorums: config.view.quorums(),
        }
    }

    /// The member at `member_index` lacks a body of the client with this identity.
    pub fn insert(&mut self, member_index: usize, identity: u32) {
        spec!("BODY.6");
        if let Some(lackers) = self.clients.get_mut(identity as usize) {
            lackers.insert(member_index);
            self.is_empty = false;
        }
    }

    /// Another regency begins: what its leader sends may arrive better.
    pub fn forget(&mut self, now: Instant) {
        spec!("BODY.6");
        if !self.is_empty {
            self.clients.fill(ReplicaSet::EMPTY);
            self.is_empty = true;
        }
        self.forget_at = now + self.period;
    }

    /// Forgets everything now and then: a link that was slow once is not slow for ever.
    fn expire(&mut self, now: Instant) {
        if now >= self.forget_at {
            self.forget(now);
        }
    }

    /// Which requests of `batch` a leader may send without their bodies: those with more than
    /// `inline_body_max` bytes, as long as the lackers of their clients together are fewer than
    /// one-correct. `None` when none may.
    pub fn omissible<P: Payload>(
        &self,
        batch: &Batch<P>,
        inline_body_max: usize,
    ) -> Option<Selection> {
        spec!("BODY.1", "BODY.6");
        // Every request has a body.
        if inline_body_max == 0 && self.is_empty {
            return (!batch.is_empty()).then(|| Selection::first(batch.len()));
        }
        let mut omitted = Selection::NONE;
        let mut together = ReplicaSet::EMPTY;
        for (index, outline) in batch.outlines().enumerate() {
            if outline.body_size <= inline_body_max {
                continue;
            }
            if !self.is_empty {
                let lackers = self.clients.get(outline.client.identity() as usize);
                let union = together.union(lackers.copied().unwrap_or(ReplicaSet::EMPTY));
                if union.count() >= self.quorums.one_correct() {
                    continue;
                }
                together = union;
            }
            omitted.insert(index);
        }
        (omitted != Selection::NONE).then_some(omitted)
    }
}

/// What one member was sent last.
#[derive(Clone, Copy, Debug)]
struct Given {
    at: Option<Position>,
    when: Instant,
    size: usize,
}

/// What was answered to whom: a limit for members that ask again and again.
#[derive(Debug)]
pub(super) struct Answers {
    given: Vec<Given>,
}

impl Answers {
    pub(super) fn new(n: usize) -> Self {
        Self { given: alloc::vec![Given { at: None, when: Instant(0), size: 0 }; n] }
    }

    /// May the member at `index` have an answer for `at` now?
    fn may_have(&mut self, index: usize, at: Position, now: Instant, patience: Duration) -> bool {
        spec!("BODY.5");
        let given = &mut self.given[index];
        if now >= given.when + patience {
            *given = Given { at: None, when: now, size: 0 };
        }
        given.at != Some(at) && given.size < BODIES_SIZE_MAX
    }

    fn note(&mut self, index: usize, at: Position, size: usize) {
        let given = &mut self.given[index];
        given.at = Some(at);
        given.size += size;
    }
}

impl<P: Payload> Replica<P> {
    /// The proposal of `batch` as it is sent for the first time.
    pub(super) fn proposal_of(&mut self, at: Position, batch: &Batch<P>) -> Message<P> {
        spec!("BODY.1", "BODY.6");
        self.lacking.expire(self.now);
        let omitted = self.lacking.omissible(batch, self.config.inline_body_max);
        let sparse = omitted.and_then(|omitted| SparseBatch::of(batch, &omitted, &mut *self.pool));
        match sparse {
            Some(batch) => Message::ProposeSparse(ProposeSparse { at, batch }),
            // Nothing to leave out, or no memory for another form of it.
            None => Message::Propose(Propose { at, batch: batch.clone() }),
        }
    }

    pub(super) fn on_fetch_bodies(
        &mut self,
        index: usize,
        fetch: &FetchBodies,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("BODY.5", "BODY.6");
        if fetch.at.view != self.config.view.id() {
            return self.ignored.add(Ignored::OtherView);
        }
        let patience = self.patience();
        if !self.answers.may_have(index, fetch.at, self.now, patience) {
            return self.ignored.add(Ignored::NotNeeded);
        }
        let Some(batch) = self.batch_of(fetch.at.cid, &fetch.digest) else {
            return self.ignored.add(Ignored::Stale);
        };
        let leads = self.is_leader() && fetch.at.epoch == self.regency.epoch();
        let mut asked = core::mem::take(&mut self.selected);
        for (_, view) in batch.requests().enumerate().filter(|(at, _)| fetch.which.contains(*at)) {
            if leads {
                self.lacking.insert(index, view.client.identity());
            }
            asked.push(batch.request(&view));
        }
        let requests = match asked.is_empty() {
            true => None,
            false => Batch::build(&mut *self.pool, 0, &asked),
        };
        asked.clear();
        self.selected = asked;
        let Some(requests) = requests else {
            return;
        };
        self.answers.note(index, fetch.at, requests.payload().bytes().len());
        let bodies = Bodies { at: fetch.at, digest: fetch.digest, requests };
        let to = Recipients::One(self.config.view.members()[index]);
        self.send(to, Message::Bodies(bodies), actions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{REQUEST_HEADER_SIZE, RequestHeader};
    use crate::config::{FaultModel, View};
    use crate::message::Request;
    use crate::payload::{HeapPool, SharedBytes};
    use crate::types::{ClientId, ConsensusId, Digest, Epoch, ReplicaId, Sequence, ViewId};

    fn config(n: u16, f: usize, model: FaultModel) -> Config {
        let members = (0..n).map(ReplicaId).collect();
        let view = View::new(ViewId(0), members, f, model).expect("enough members");
        Config { clients_max: 4, ..Config::new(ReplicaId(0), view) }
    }

    /// One request of each of these clients, with operations of these sizes.
    fn batch(requests: &[(u32, usize)]) -> Batch<SharedBytes> {
        let requests: Vec<_> = requests
            .iter()
            .map(|&(identity, size)| {
                let (client, sequence) = (ClientId::new(identity, 0), Sequence::new(1, 1));
                let mut body = alloc::vec![0; REQUEST_HEADER_SIZE + size];
                let operation_size = size as u32;
                let replier = crate::batch::Replier::EVERYONE;
                RequestHeader {
                    client,
                    sequence,
                    view: 0,
                    read_only: false,
                    replier,
                    unanswered: 0,
                    operation_size,
                }
                .write(&mut body);
                Request {
                    client,
                    sequence,
                    digest: Digest(*blake3::hash(&body).as_bytes()),
                    read_only: false,
                    auth: 0,
                    body_size: body.len() as u32,
                    payload: SharedBytes::from(&body[..]),
                }
            })
            .collect();
        Batch::build(&mut HeapPool, 1, &requests).expect("heap")
    }

    fn omitted(lacking: &Lacking, batch: &Batch<SharedBytes>, most: usize) -> Vec<usize> {
        let omitted = lacking.omissible(batch, most).unwrap_or(Selection::NONE);
        (0..batch.len()).filter(|at| omitted.contains(*at)).collect()
    }

    // rule: BODY.1
    #[test]
    fn body_1_larger_bodies_are_left_out() {
        let lacking = Lacking::new(&config(4, 1, FaultModel::Byzantine), Instant(0));
        let batch = batch(&[(0, 10), (1, 0), (2, 11)]);
        assert_eq!(omitted(&lacking, &batch, REQUEST_HEADER_SIZE + 10), [2]);
        assert_eq!(omitted(&lacking, &batch, 0), [0, 1, 2]);
        assert_eq!(lacking.omissible(&batch, REQUEST_HEADER_SIZE + 11), None);
    }

    // rule: BODY.6
    #[test]
    fn body_6_lackers_count_together_and_few_of_them_change_nothing() {
        let mut lacking = Lacking::new(&config(7, 2, FaultModel::Byzantine), Instant(0));
        let batch = batch(&[(0, 1), (1, 1), (2, 1)]);
        for identity in 0..4 {
            lacking.insert(5, identity);
            lacking.insert(6, identity);
        }
        lacking.insert(9, 99);
        assert_eq!(omitted(&lacking, &batch, 0), [0, 1, 2], "two members are not one-correct");
        lacking.insert(1, 1);
        assert_eq!(omitted(&lacking, &batch, 0), [0, 2], "three lack client 1");
        lacking.forget(Instant(5));
        lacking.insert(1, 0);
        lacking.insert(2, 1);
        lacking.insert(3, 2);
        assert_eq!(omitted(&lacking, &batch, 0), [0, 1], "with client 2 they would be three");
    }

    // rule: BODY.6
    #[test]
    fn body_6_what_members_lack_is_forgotten() {
        let config = config(3, 1, FaultModel::Crash);
        let mut lacking = Lacking::new(&config, Instant(0));
        let batch = batch(&[(0, 1)]);
        lacking.insert(1, 0);
        assert_eq!(
            lacking.omissible(&batch, 0),
            None,
            "one is one-correct when members only crash"
        );
        lacking.expire(Instant(0) + config.request_timeout * (LACKING_TIMEOUTS - 1));
        assert_eq!(lacking.omissible(&batch, 0), None);
        lacking.expire(Instant(0) + config.request_timeout * LACKING_TIMEOUTS);
        assert_eq!(omitted(&lacking, &batch, 0), [0]);
    }

    // rule: BODY.5
    #[test]
    fn body_5_a_member_has_one_answer_a_position_and_so_many_bytes_a_patience() {
        let patience = Duration::from_millis(10);
        let mut answers = Answers::new(2);
        let at = |cid| Position { view: ViewId(0), cid: ConsensusId(cid), epoch: Epoch(0) };
        let (start, soon) = (Instant(1_000_000_000), Instant(1_005_000_000));
        assert!(answers.may_have(0, at(1), start, patience));
        answers.note(0, at(1), BODIES_SIZE_MAX / 2);
        assert!(!answers.may_have(0, at(1), soon, patience), "again");
        assert!(answers.may_have(1, at(1), soon, patience), "another member");
        assert!(answers.may_have(0, at(2), soon, patience), "another position");
        answers.note(0, at(2), BODIES_SIZE_MAX / 2);
        assert!(!answers.may_have(0, at(3), soon, patience), "too many bytes");
        assert!(answers.may_have(0, at(2), start + patience, patience), "later");
    }
}
