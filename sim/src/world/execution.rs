//! Requests that reach a member, and the execution of what it decides.
//!
//! Always true: a batch is executed once, in order, and answered by the member in the view that it is in. Must
//! not: decide what is executed.

use tetrarch_consensus::limits::SESSION_WINDOW;
use tetrarch_consensus::message::Request;
use tetrarch_consensus::payload::SharedBytes;
use tetrarch_consensus::{ClientId, Input, Sequence, Verified};

use super::disk::Held;
use super::member::Job;
use super::transfer::Work;
use super::{World, views};
use crate::client::Reply;
use crate::ingress;
use crate::service::{Answer, Operation};

impl World {
    pub(super) fn on_request(&mut self, member: usize, request: Request<SharedBytes>) {
        if self.nodes[member].adversary.is_some() && !request.read_only {
            self.dossier.hear_request(&request);
        }
        if !ingress::admit_request(&self.keys, member, &request) {
            self.coverage.count("requests refused by ingress");
            return;
        }
        let Some(host) = self.nodes[member].hosts.first() else { return };
        let (view, own) = (views::view_of(&request.view()), host.core.view().id());
        if view != own {
            self.coverage.count("requests of another view");
            if view < own {
                self.tell_view(member, request.client);
            }
            return;
        }
        if request.read_only {
            return self.query(member, &request);
        }
        for host in 0..self.nodes[member].hosts.len() {
            let request = Verified::vouch(request.clone());
            self.step(member, host, Input::Request(request));
        }
    }

    fn query(&mut self, member: usize, request: &Request<SharedBytes>) {
        let Some(host) = self.nodes[member].hosts.first() else { return };
        if !host.core.may_answer_reads() {
            return;
        }
        let Some(operation) = Operation::decode(request.view().operation) else { return };
        let answer = host.service.query(operation);
        let (client, sequence) = (request.client, request.sequence);
        let after = self.nodes[member].hosts[0].executed_after;
        let view = host.core.view().id();
        let reply = Reply { client, sequence, read_only: true, answer, view };
        self.tell_after(member, 0, after, Held::Reply(reply));
    }

    pub(super) fn on_executed(&mut self, member: usize, host: usize) {
        let Some(entry) = self.nodes[member].hosts.get_mut(host) else { return };
        let job = match entry.jobs.pop_front() {
            Some(Work::Batch(job)) => job,
            Some(Work::Install { cid, image, after }) => {
                return self.replace_state(member, host, cid, &image, after);
            }
            None => return,
        };
        let view_answer = self.apply_view_answer(member, host, &job);
        let answers = self.apply(member, host, &job);
        let answers =
            answers.into_iter().map(|(client, sequence, _, answer)| (client, sequence, answer));
        for (client, sequence, answer) in answers.chain(view_answer) {
            let view = self.nodes[member].hosts[host].core.view().id();
            let reply = Reply { client, sequence, read_only: false, answer, view };
            self.tell_after(member, host, job.after, Held::Reply(reply));
        }
        if let Some((base, ordered)) = &job.checkpoint {
            self.start_checkpoint(member, host, *base, ordered);
        }
        self.step(member, host, Input::Executed(job.context.cid));
    }

    /// The answer to the View Manager, if the batch is its request: kept like any other.
    pub(super) fn apply_view_answer(
        &mut self,
        member: usize,
        host: usize,
        job: &Job,
    ) -> Option<(ClientId, Sequence, Answer)> {
        let answer = views::answer_of(job.view_answer?);
        let view = job.batch.requests().next()?;
        let entry = &mut self.nodes[member].hosts[host];
        let kept = entry.replies.entry(view.client).or_default();
        if kept.len() == SESSION_WINDOW {
            kept.pop_front();
        }
        kept.push_back((view.sequence, answer));
        Some((view.client, view.sequence, answer))
    }

    /// Executes a batch.
    pub(super) fn apply(
        &mut self,
        member: usize,
        host: usize,
        job: &Job,
    ) -> Vec<(ClientId, Sequence, Operation, Answer)> {
        let honest = self.nodes[member].adversary.is_none();
        let entry = &mut self.nodes[member].hosts[host];
        let mut answers = Vec::new();
        for (index, view) in job.batch.requests().enumerate() {
            if !job.selection.contains(index) {
                continue;
            }
            // Ingress lets no proposal with an unknown operation through: only a mutant gets here.
            let Some(operation) = Operation::decode(view.operation) else { continue };
            let answer = entry.service.execute(operation);
            answers.push((view.client, view.sequence, operation, answer));
            let kept = entry.replies.entry(view.client).or_default();
            if kept.len() == SESSION_WINDOW {
                kept.pop_front();
            }
            kept.push_back((view.sequence, answer));
        }
        entry.executed = job.context.cid;
        entry.executed_after = entry.executed_after.max(job.after);
        let state = entry.service.digest();
        if honest {
            self.checker.executed(member, job.context.cid, state, &answers);
        }
        answers
    }

    pub(super) fn resend_reply(
        &mut self,
        member: usize,
        host: usize,
        client: ClientId,
        sequence: Sequence,
    ) {
        let replies = self.nodes[member].hosts[host].replies.get(&client);
        let known = replies.and_then(|kept| kept.iter().find(|(number, _)| *number == sequence));
        if let Some(&(_, answer)) = known {
            let after = self.nodes[member].hosts[host].executed_after;
            let view = self.nodes[member].hosts[host].core.view().id();
            let reply = Reply { client, sequence, read_only: false, answer, view };
            self.tell_after(member, host, after, Held::Reply(reply));
        }
    }
}
