//! Clients in the world: what they say and hear.
//!
//! Always true: every proof that a client makes is known to the checker before anybody sees it. Must
//! not: tell clients anything that is not a reply.

use tetrarch_consensus::membership::VIEW_MANAGER;
use tetrarch_consensus::{ClientId, Digest, Sequence};

use super::{Event, World};
use crate::client::{Reply, Wish};
use crate::rng::mix;
use crate::service::Answer;
use crate::trace::Log;

impl World {
    pub(super) fn reply(&mut self, member: usize, mut reply: Reply) {
        if self.nodes[member].adversary.is_some() {
            match self.rng.below(4) {
                // All faulty members tell the same lie.
                0 => reply.answer.value = mix(reply.answer.value),
                1 => reply.answer.version = reply.answer.version.saturating_sub(1),
                2 => return,
                _ => {}
            }
        }
        let route = self.net.route_client(self.now);
        for at in route.first.into_iter().chain(route.second) {
            self.push(at, Event::Reply { member, reply });
        }
    }

    pub(super) fn on_reply(&mut self, member: usize, reply: &Reply) {
        let identity = reply.client.identity() as usize;
        self.trace.event(self.now, &[3, member as u64, reply.client.0, reply.sequence.0]);
        self.trace.line(self.now, Log::Full, || {
            format!(
                "{member}->c{} REPLY {} read_only={} {:?}",
                reply.client, reply.sequence, reply.read_only, reply.answer
            )
        });
        if reply.client.identity() == VIEW_MANAGER {
            self.on_manager_reply(member, reply);
        } else if let Some(client) = self.clients.get_mut(identity) {
            let mut wishes = Vec::new();
            client.on_reply(self.now, member, reply, &mut wishes);
            self.fulfil(identity, wishes);
        } else if let Some(rascal) = self.rascals.get_mut(identity - self.clients.len()) {
            rascal.on_reply(reply);
        }
    }

    pub(super) fn on_client(&mut self, index: usize) {
        let mut wishes = Vec::new();
        self.clients[index].wake(self.now, &mut wishes);
        self.fulfil(index, wishes);
    }

    pub(super) fn fulfil(&mut self, index: usize, wishes: Vec<Wish>) {
        let id = self.clients[index].id();
        for wish in wishes {
            match wish {
                Wish::Send(request) => {
                    self.trace.line(self.now, Log::Full, || {
                        format!(
                            "c{id}-> REQUEST {} {:?} read_only={} auth={}",
                            request.sequence, request.digest, request.read_only, request.auth
                        )
                    });
                    for member in 0..self.view.n() {
                        let route = self.net.route_client(self.now);
                        for at in route.first.into_iter().chain(route.second) {
                            let request = request.clone();
                            self.push(at, Event::Request { member, request });
                        }
                    }
                }
                Wish::Invoked { token, operation } => {
                    self.checker.history.invoked(id, token, operation, self.now);
                }
                Wish::Ordered { token, sequence, digest } => {
                    self.note_ordered(id, token, sequence, digest);
                }
                Wish::Returned { token, answer, read_only } => {
                    self.note_returned(id, token, answer, read_only);
                }
                Wish::Restarted => self.coverage.count("client restarts"),
                Wish::Resent => self.coverage.count("client retransmissions"),
                Wish::FellBack => self.coverage.count("reads that had to be ordered"),
            }
        }
        self.schedule_client(index);
    }

    fn note_ordered(&mut self, id: ClientId, token: u64, sequence: Sequence, digest: Digest) {
        self.checker.issued(id, sequence, digest);
        self.checker.history.numbered(id, token, sequence);
    }

    fn note_returned(&mut self, id: ClientId, token: u64, answer: Answer, read_only: bool) {
        self.trace.event(self.now, &[4, id.0, token, answer.version, answer.value]);
        self.trace.line(self.now, Log::Full, || format!("c{id} has {answer:?} for op {token}"));
        self.coverage.count(if read_only { "reads returned" } else { "operations returned" });
        if !read_only && let Some(sequence) = self.checker.history.number(id, token) {
            self.checker.returned(id, sequence, answer);
        }
        self.checker.history.returned(id, token, answer, self.now);
    }

    pub(super) fn schedule_client(&mut self, index: usize) {
        let at = self.clients[index].next_deadline();
        if at != self.client_wakes[index] {
            self.client_wakes[index] = at;
            if let Some(at) = at {
                self.push(at.max(self.now), Event::Client { index, at });
            }
        }
    }

    pub(super) fn on_rascal(&mut self, index: usize) {
        if self.calm {
            return;
        }
        let newest = self.checker.newest_view().map(|newest| newest.next.view().clone());
        let view = newest.unwrap_or_else(|| self.view.clone());
        let leader = self.view.index_of(view.leader(self.newest_regency()));
        let mut shots = Vec::new();
        self.rascals[index].enter(view.id());
        self.rascals[index].act(leader.expect("a leader is a member"), &mut shots);
        for shot in shots {
            self.coverage.count("requests of faulty clients");
            self.checker.provable(shot.request.digest, shot.convinces);
            for member in (0..self.view.n()).filter(|at| shot.audience & (1 << at) != 0) {
                let route = self.net.route_client(self.now);
                if let Some(at) = route.first {
                    let request = shot.request.clone();
                    self.push(at, Event::Request { member, request });
                }
            }
        }
        let pause = self.rascals[index].pause(self.options.timeout);
        self.push(self.now + pause, Event::Rascal { index });
    }
}
