//! What a Byzantine member tells clients.
//!
//! Owns a copy of the registers, so that it knows the truth it bends. Always true: it follows the
//! decided batches, like a correct member, and every reply is well formed. Must not: send.

use tetrarch_consensus::batch::Selection;
use tetrarch_consensus::message::reply::{
    DIGEST_REPLY_SIZE, REPLY_HEADER_SIZE, ReplyHeader, Status, write_digest_reply,
};
use tetrarch_consensus::payload::SharedBytes;
use tetrarch_consensus::{Batch, ClientId, Digest, RequestView, ViewId};
use tetrarch_dataplane::crypto::hash::body_digest;

use super::machine::encode;
use crate::rng::{Rng, mix};
use crate::service::{Answer, Operation, Service};

/// See the module.
#[derive(Debug)]
pub struct Gossip {
    /// The member's place in the view.
    me: usize,
    view: ViewId,
    service: Service,
    /// Every request of this client is answered Busy, and not otherwise.
    starved: Option<u32>,
    honest: bool,
}

impl Gossip {
    /// The member at place `me` of `view`, which starves one client or none.
    pub fn new(me: usize, view: ViewId, starved: Option<u32>) -> Self {
        Self { me, view, service: Service::default(), starved, honest: false }
    }

    /// What it says to a request before anybody can have executed it, if anything: that it has no
    /// room, to one client always and to the others now and then.
    pub fn greet(&self, request: &RequestView<'_>, rng: &mut Rng) -> Option<Vec<u8>> {
        let starved = self.starves(request);
        let busy = !self.honest && (starved || rng.chance(150));
        busy.then(|| self.header(request, false, Status::Busy, 0))
    }

    fn starves(&self, request: &RequestView<'_>) -> bool {
        !self.honest && self.starved == Some(request.client.identity())
    }

    /// From now on tells the truth.
    pub fn retire(&mut self) {
        self.honest = true;
    }

    /// Executes the selected requests of a decided batch. The replies it feels like sending.
    pub fn execute(
        &mut self,
        batch: &Batch<SharedBytes>,
        run: &Selection,
        rng: &mut Rng,
    ) -> Vec<(ClientId, Vec<u8>)> {
        let mut replies = Vec::new();
        for (_, request) in batch.requests().enumerate().filter(|(at, _)| run.contains(*at)) {
            let Some(operation) = Operation::decode(request.operation) else { continue };
            let answer = self.service.execute(operation);
            let reply = self.bend(&request, false, answer, rng);
            replies.extend(reply.map(|reply| (request.client, reply)));
        }
        replies
    }

    /// What it feels like answering to a read-only request.
    pub fn query(&self, request: &RequestView<'_>, rng: &mut Rng) -> Option<Vec<u8>> {
        let operation = Operation::decode(request.operation)?;
        self.bend(request, true, self.service.query(operation), rng)
    }

    fn bend(
        &self,
        request: &RequestView<'_>,
        read_only: bool,
        truth: Answer,
        rng: &mut Rng,
    ) -> Option<Vec<u8>> {
        if self.starves(request) {
            return Some(self.header(request, read_only, Status::Busy, 0));
        }
        let lie = Answer { value: mix(truth.value), ..truth };
        let whole = request.replier().includes(self.me);
        let (answer, whole) = match rng.below(8) {
            _ if self.honest => (truth, whole),
            0 => (truth, whole),
            // The truth, but not in the form that was asked for.
            1 | 2 => (truth, !whole),
            // A lie, in either form.
            3 | 4 => (lie, whole),
            5 => (lie, !whole),
            _ => return None,
        };
        let body = self.reply(request, read_only, answer);
        if whole {
            return Some(body);
        }
        let mut short = vec![0; DIGEST_REPLY_SIZE];
        write_digest_reply(&body, &Digest(body_digest(&body)), &mut short);
        Some(short)
    }

    fn reply(&self, request: &RequestView<'_>, read_only: bool, answer: Answer) -> Vec<u8> {
        let result = encode(answer);
        let mut body = self.header(request, read_only, Status::Ok, result.len());
        body.extend_from_slice(&result);
        body
    }

    fn header(
        &self,
        request: &RequestView<'_>,
        read_only: bool,
        status: Status,
        result_size: usize,
    ) -> Vec<u8> {
        let mut body = vec![0; REPLY_HEADER_SIZE];
        let header = ReplyHeader {
            client: request.client,
            sequence: request.sequence,
            view: self.view,
            read_only,
            digest: false,
            status,
            result_size: result_size as u32,
        };
        header.write(&mut body);
        body
    }
}
