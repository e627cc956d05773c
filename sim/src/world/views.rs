//! Views in the world: the View Manager, members that join, and what clients hear of it.
//!
//! Always true: a step is asked for when the view before it works somewhere, and those that join run by
//! then; every answer to the View Manager is what the protocol has to answer. Must not: tell members
//! anything that is not a request.

use tetrarch_consensus::membership::{Member, VIEW_MANAGER};
use tetrarch_consensus::message::{Request, proof};
use tetrarch_consensus::payload::SharedBytes;
use tetrarch_consensus::{
    ClientId, Instant, Membership, RequestView, Sequence, Verified, ViewAnswer, ViewId, ViewRequest,
};

use super::member::Host;
use super::{Disks, Event, World};
use crate::changes::Step;
use crate::checker::Property;
use crate::client::{Reply, request_in};
use crate::service::Answer;
use crate::trace::Log;

/// Of which cluster all memberships are.
const CLUSTER: u64 = 7;

/// What an answer has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    Accepted(ViewId),
    Refused,
}

/// A request of the View Manager that has no answer yet.
struct Asked {
    sequence: Sequence,
    operation: Vec<u8>,
    expected: Expected,
    answers: Vec<(usize, Answer)>,
}

/// The View Manager.
pub(super) struct Manager {
    asked: Option<Asked>,
    counter: u32,
    /// The last step that was accepted, as it was asked for.
    last: Option<ViewRequest>,
    /// One that it signed and that was refused, or will be.
    refused: Option<ViewRequest>,
    next: usize,
    refused_last: bool,
}

impl Manager {
    pub(super) fn new() -> Self {
        Self { asked: None, counter: 0, last: None, refused: None, next: 1, refused_last: false }
    }

    /// Has it no answer to wait for?
    pub(super) fn is_done(&self) -> bool {
        self.asked.is_none()
    }
}

/// A view's answer as the simulated clients see answers.
pub(super) fn answer_of(answer: ViewAnswer) -> Answer {
    let bytes = answer.to_bytes();
    let half = |at: usize| {
        let half = bytes[at..at + 8].try_into().expect("half of sixteen bytes");
        u64::from_le_bytes(half)
    };
    Answer { version: half(0), value: half(8) }
}

fn view_answer(answer: Answer) -> Option<ViewAnswer> {
    let mut bytes = [0; ViewAnswer::SIZE];
    bytes[..8].copy_from_slice(&answer.version.to_le_bytes());
    bytes[8..].copy_from_slice(&answer.value.to_le_bytes());
    ViewAnswer::decode(&bytes).ok()
}

/// The view that a request was made for.
pub(super) fn view_of(view: &RequestView<'_>) -> ViewId {
    let bytes = view.body.get(16..20).and_then(|bytes| bytes.try_into().ok());
    ViewId(bytes.map_or(0, u32::from_le_bytes))
}

impl World {
    /// The membership that step `at` leads to.
    pub(super) fn membership(&self, at: usize) -> Option<Membership> {
        let step = self.options.changes.as_ref()?.views.get(at)?;
        Some(self.membership_of(ViewId(at as u32), step, CLUSTER))
    }

    fn membership_of(&self, view: ViewId, step: &Step, cluster: u64) -> Membership {
        let member = |&place: &usize| Member {
            id: self.options.ids[place],
            address: format!("member-{place}:1"),
            static_key: [place as u8; 32],
            signing_key: [place as u8; 32],
        };
        let members = step.members.iter().map(member).collect();
        Membership::new(cluster, view, step.f, self.options.model, members)
            .expect("the options hold possible memberships")
    }

    /// Which members there are at the newest view that somebody honest is in, as places in the world.
    pub(super) fn newest_members(&self) -> Vec<usize> {
        let all = || (0..self.view.n()).collect();
        let first =
            || self.options.changes.as_ref().map(|changes| changes.views[0].members.clone());
        match self.checker.newest_view() {
            Some(newest) => self.places(newest.next.view().members()),
            None => first().unwrap_or_else(all),
        }
    }

    pub(super) fn places(&self, ids: &[tetrarch_consensus::ReplicaId]) -> Vec<usize> {
        ids.iter().filter_map(|id| self.view.index_of(*id)).collect()
    }

    /// The newest view that somebody honest is in.
    pub(super) fn newest_view(&self) -> ViewId {
        self.checker.newest_view().map_or(ViewId(0), |newest| newest.next.id())
    }

    /// Is every honest member of the newest view in it?
    pub(super) fn views_are_level(&self) -> bool {
        if self.options.changes.is_none() {
            return true;
        }
        let newest = self.newest_view();
        let there = |host: &Host| host.core.view().id() == newest && !host.core.is_joining();
        let members = self.newest_members();
        let honest = members.iter().map(|&at| &self.nodes[at]);
        let mut honest = honest.filter(|node| node.adversary.is_none() && node.healed);
        self.manager.is_done() && honest.all(|node| node.hosts.iter().all(there))
    }

    pub(super) fn on_manager(&mut self) {
        let timeout = self.options.timeout;
        let mut pause = timeout / 2;
        if self.manager.asked.is_some() || (!self.calm && self.ask_for_next()) {
            self.ask();
        } else if self.calm {
            return;
        } else {
            pause = timeout / 4;
        }
        self.push(self.now + pause, Event::Manager);
    }

    /// Decides what to ask for next, if it is time. True if there is something.
    fn ask_for_next(&mut self) -> bool {
        let Some(changes) = self.options.changes.clone() else { return false };
        let newest = self.newest_view();
        if newest.0 as usize + 1 != self.manager.next {
            return false;
        }
        if !self.manager.refused_last && self.rng.chance(changes.refused) {
            self.manager.refused_last = true;
            let operation = self.refused_operation(newest);
            return self.note_asked(operation, Expected::Refused);
        }
        let at = self.manager.next;
        let Some(next) = self.membership(at) else { return false };
        let before = &changes.views[at - 1].members;
        let joins: Vec<usize> =
            changes.views[at].members.iter().copied().filter(|it| !before.contains(it)).collect();
        let free = |&at: &usize| {
            let node = &self.nodes[at];
            node.hosts.is_empty() || node.retired
        };
        if !joins.iter().all(free) {
            self.coverage.count("views that waited for a member to retire");
            return false;
        }
        for member in joins {
            self.join(member, at);
        }
        self.manager.refused_last = false;
        self.manager.next += 1;
        let request = ViewRequest { signature: self.keys.sign_view(&next), next };
        self.manager.last = Some(request.clone());
        let mut operation = Vec::new();
        request.encode(&mut operation);
        self.trace.line(self.now, Log::Short, || {
            format!(
                "view manager: asks for {:?}",
                self.options.changes.as_ref().map(|it| &it.views[at])
            )
        });
        self.note_asked(operation, Expected::Accepted(ViewId(at as u32)))
    }

    fn note_asked(&mut self, operation: Vec<u8>, expected: Expected) -> bool {
        self.manager.counter += 1;
        let sequence = Sequence::new(1, self.manager.counter);
        self.manager.asked = Some(Asked { sequence, operation, expected, answers: Vec::new() });
        true
    }

    /// Something that is signed and must be refused: what was asked for before, a view that is not the
    /// next one, too large a step, another cluster.
    fn refused_operation(&mut self, newest: ViewId) -> Vec<u8> {
        self.coverage.count("views to be refused");
        let changes = self.options.changes.clone().expect("there is a View Manager");
        let here = changes.views[newest.0 as usize].clone();
        let strangers = (0..self.view.n()).filter(|at| !here.members.contains(at));
        let strangers: Vec<usize> = strangers.take(here.members.len()).collect();
        let replaced = here.members.iter().copied().skip(strangers.len()).chain(strangers);
        let mut members: Vec<usize> = replaced.collect();
        members.sort_unstable();
        let next = ViewId(newest.0 + 1);
        let request = match (self.rng.below(4), self.manager.last.clone()) {
            (0, Some(last)) => last,
            (1, _) => {
                let next = self.membership_of(next, &here, CLUSTER + 1);
                ViewRequest { signature: self.keys.sign_view(&next), next }
            }
            (2, _)
                if members.len() - here.members.len().min(members.len()) == 0
                    && self.view.n() >= 2 * here.members.len() =>
            {
                let next = self.membership_of(next, &Step { members, f: here.f }, CLUSTER);
                ViewRequest { signature: self.keys.sign_view(&next), next }
            }
            _ => {
                let next = self.membership_of(ViewId(newest.0 + 2), &here, CLUSTER);
                ViewRequest { signature: self.keys.sign_view(&next), next }
            }
        };
        let mut operation = Vec::new();
        request.encode(&mut operation);
        self.manager.refused = Some(request);
        operation
    }

    /// Sends what is asked for, and now and then something that nobody may believe.
    fn ask(&mut self) {
        let Some(asked) = &self.manager.asked else { return };
        let (sequence, operation) = (asked.sequence, asked.operation.clone());
        let view = self.newest_view();
        let request = self.manager_request(view, sequence, &operation);
        self.checker.provable(request.digest, u64::MAX);
        if self.rng.chance(200) {
            let mut forged = operation;
            let at = self.rng.index(forged.len());
            forged[at] ^= 1 + self.rng.below(255) as u8;
            self.coverage.count("views that nobody signed");
            let forged = self.manager_request(view, sequence, &forged);
            self.send_everybody(&forged);
        }
        self.send_everybody(&request);
    }

    fn manager_request(
        &self,
        view: ViewId,
        sequence: Sequence,
        operation: &[u8],
    ) -> Request<SharedBytes> {
        let client = ClientId::new(VIEW_MANAGER, 0);
        request_in(view, client, sequence, false, operation, |digest| {
            (proof::SIGNATURE, self.keys.signature(VIEW_MANAGER, digest))
        })
    }

    fn send_everybody(&mut self, request: &Request<SharedBytes>) {
        for member in 0..self.view.n() {
            let route = self.net.route_client(self.now);
            for at in route.first.into_iter().chain(route.second) {
                let request = request.clone();
                self.push(at, Event::Request { member, request });
            }
        }
    }

    /// The View Manager hears from `member`.
    pub(super) fn on_manager_reply(&mut self, member: usize, reply: &Reply) {
        let members = self.newest_members();
        let f = self.checker.newest_view().map_or(1, |it| it.next.view().quorums().f());
        let Some(asked) = &mut self.manager.asked else { return };
        if reply.sequence != asked.sequence || !members.contains(&member) {
            return;
        }
        asked.answers.retain(|(from, _)| *from != member);
        asked.answers.push((member, reply.answer));
        let equal = asked.answers.iter().filter(|(_, answer)| *answer == reply.answer).count();
        if equal <= f {
            return;
        }
        let expected = asked.expected;
        self.manager.asked = None;
        let answer = view_answer(reply.answer);
        let right = match (expected, answer) {
            (Expected::Accepted(view), Some(ViewAnswer::Accepted { view: got, .. })) => view == got,
            (Expected::Refused, Some(ViewAnswer::Refused(_))) => true,
            _ => false,
        };
        self.coverage.count("answers to the view manager");
        if !right {
            let text = format!("the View Manager is told {answer:?}, not {expected:?}");
            self.checker.fail(Property::Validity, text);
        }
        let pause = self.options.changes.as_ref().map_or(self.options.timeout, |it| it.pause);
        let pause = self.rng.long_tailed(pause);
        self.pause_manager(self.now + pause);
    }

    /// Nothing is asked for until then: what wakes the View Manager earlier finds nothing to do.
    fn pause_manager(&mut self, until: Instant) {
        self.manager_rests = until;
    }

    /// Starts a member outside the view, in the step that names it.
    fn join(&mut self, member: usize, step: usize) {
        self.coverage.count("members that join");
        let node = &mut self.nodes[member];
        (node.hosts, node.disk, node.retired) = (Vec::new(), None, false);
        node.lost_disk = false;
        node.life += 1;
        node.begins_in = step;
        self.checker.forget(member);
        let twins = self.nodes[member].adversary.as_ref().is_some_and(|it| it.twins);
        for _ in 0..1 + usize::from(twins) {
            let config = self.config(member, false);
            let (pool, now) = (self.pool(), self.nodes[member].local(self.now));
            let mut host = Host::new(config, pool, now);
            if self.options.disks != Disks::None && self.nodes[member].adversary.is_none() {
                host.start_journal(self.new_journal(member, false));
            }
            self.nodes[member].hosts.push(host);
        }
        let life = self.nodes[member].life;
        for host in 0..self.nodes[member].hosts.len() {
            self.push(self.now, Event::Wake { member, host, life, at: Instant(0) });
        }
        for peer in (0..self.view.n()).filter(|&peer| peer != member) {
            for (member, peer) in [(member, peer), (peer, member)] {
                let life = self.nodes[member].life;
                self.push(self.now, Event::Connected { member, peer, life });
            }
        }
    }

    /// A client that is in an earlier view than `member` is told of the later one.
    pub(super) fn tell_view(&mut self, member: usize, client: ClientId) {
        let Some(host) = self.nodes[member].hosts.first() else { return };
        let Some(mut news) = host.core.signed_membership().cloned() else { return };
        if news.next.id() != host.core.view().id() || host.core.is_joining() {
            return;
        }
        // A faulty member tells of what the View Manager signed and nobody accepted.
        if self.nodes[member].adversary.is_some()
            && let Some(refused) = self.manager.refused.clone()
            && self.rng.chance(700)
        {
            self.coverage.count("clients told of a view that never was");
            news = refused;
        }
        let route = self.net.route_client(self.now);
        if let Some(at) = route.first {
            let index = client.identity() as usize;
            self.push(at, Event::News { member, index, news: Box::new(news) });
        }
    }

    pub(super) fn on_news(&mut self, member: usize, index: usize, news: &ViewRequest) {
        let genuine = self.keys.view_is_signed(news) && news.next.cluster() == CLUSTER;
        if !genuine || index >= self.clients.len() {
            return;
        }
        let (news, mut wishes) = (Verified::vouch(news.clone()), Vec::new());
        if self.clients[index].on_news(self.now, member, &news, &mut wishes) {
            self.coverage.count("clients that follow to another view");
        }
        self.fulfil(index, wishes);
    }
}
