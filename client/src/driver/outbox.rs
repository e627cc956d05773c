//! Requests on their way out: hashed in bursts, proved, and queued to every member.
//!
//! Owns what the core wants sent and the links have not taken. Always true: a message is hashed and
//! proved once, whatever the number of members. Must not: drop what only lacks memory.

use std::collections::VecDeque;
use std::time::Duration;

use tetrarch_consensus::message::kind;
use tetrarch_consensus::smr::client::To;
use tetrarch_consensus::{ClientId, Payload};
use tetrarch_dataplane::crypto::hash::digest_burst;
use tetrarch_dataplane::frame::{Frame, FramePool};
use tetrarch_dataplane::limits::BURST_MAX;
use tetrarch_dataplane::links::{Links, Outgoing};
use tetrarch_dataplane::types::{Digest, PeerId};

use super::DriverCounts;
use crate::payload::Bytes;
use crate::proofs::Prover;

/// When memory for a message is looked for again.
pub(super) const RETRY: Duration = Duration::from_millis(1);

struct Entry {
    to: To,
    client: ClientId,
    body: Bytes,
    sign: bool,
}

/// What has to be sent.
pub(super) struct Outbox {
    prover: Prover,
    pool: FramePool,
    entries: VecDeque<Entry>,
}

impl Outbox {
    pub(super) fn new(prover: Prover, pool: FramePool) -> Self {
        Self { prover, pool, entries: VecDeque::with_capacity(BURST_MAX) }
    }

    pub(super) fn push(&mut self, to: To, client: ClientId, body: Bytes, sign: bool) {
        self.entries.push_back(Entry { to, client, body, sign });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Is there enough to fill the lanes of the hash?
    pub(super) fn is_burst(&self) -> bool {
        self.entries.len() >= BURST_MAX
    }

    /// Hands everything to the links, as long as there is memory for messages.
    pub(super) fn flush(
        &mut self,
        links: &mut Links,
        members: &[PeerId],
        counts: &mut DriverCounts,
    ) {
        while !self.entries.is_empty() {
            let count = self.entries.len().min(BURST_MAX);
            let mut bodies: [&[u8]; BURST_MAX] = [&[]; BURST_MAX];
            for (body, entry) in bodies.iter_mut().zip(&self.entries) {
                *body = entry.body.bytes();
            }
            let mut digests = [Digest::default(); BURST_MAX];
            digest_burst(&bodies[..count], &mut digests[..count]);
            for digest in &digests[..count] {
                let Some(entry) = self.entries.front() else { return };
                let Some(message) = self.message(entry, digest) else { return };
                let (to, client) = (entry.to, entry.client);
                self.entries.pop_front();
                send(links, members, to, client, &message, counts);
            }
        }
    }

    /// Body and proof in one frame. `None` without memory.
    fn message(&self, entry: &Entry, digest: &Digest) -> Option<Message> {
        let body = entry.body.bytes();
        let (auth, proof_size) = self.prover.layout(entry.sign);
        let size = body.len() + proof_size;
        let mut frame = self.pool.alloc(size)?;
        let (start, proof) = frame.bytes_mut()[..size].split_at_mut(body.len());
        start.copy_from_slice(body);
        self.prover.write(entry.sign, digest, proof);
        let frame = frame.freeze(u32::try_from(size).ok()?);
        Some(Message { auth, proof_size: proof_size as u16, digest: *digest, frame })
    }
}

struct Message {
    auth: u8,
    proof_size: u16,
    digest: Digest,
    frame: Frame,
}

fn send(
    links: &mut Links,
    members: &[PeerId],
    to: To,
    client: ClientId,
    message: &Message,
    counts: &mut DriverCounts,
) {
    let mut one = |to: PeerId| {
        let taken = links.tx(Outgoing {
            to,
            kind: kind::REQUEST,
            auth: message.auth,
            session: client.0,
            proof_size: message.proof_size,
            body_digest: Some(message.digest),
            frame: Some(message.frame.clone()),
        });
        if taken {
            counts.sent += 1;
        } else {
            counts.unsent += 1;
        }
    };
    match to {
        To::All => members.iter().for_each(|member| one(*member)),
        To::One(member) => one(PeerId::replica(member.0)),
    }
}
