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
use tetrarch_dataplane::limits::{BUNDLED_SIZE_MAX, BURST_MAX};
use tetrarch_dataplane::links::{Links, Outgoing, Small};
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

    /// The members are others, for whom `prover` proves. What was to be sent to those of before is not:
    /// the core gives all of it again.
    pub(super) fn follow(&mut self, prover: Prover) {
        self.prover = prover;
        self.entries.clear();
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
                if !self.send(entry, digest, links, members, counts) {
                    return;
                }
                self.entries.pop_front();
            }
        }
    }

    /// Body and proof, to whom they go. `false`: there is no memory for them now; members that they were
    /// handed to will see them twice.
    fn send(
        &self,
        entry: &Entry,
        digest: &Digest,
        links: &mut Links,
        members: &[PeerId],
        counts: &mut DriverCounts,
    ) -> bool {
        let (auth, proof_size) = self.prover.layout(entry.sign);
        let size = entry.body.bytes().len() + proof_size;
        let mut scratch = [0; BUNDLED_SIZE_MAX];
        let (mut small, mut frame) = (None, None);
        if let Some(out) = scratch.get_mut(..size) {
            self.write(entry, digest, out);
            small = Some(&*out);
        } else {
            let Some(mut out) = self.pool.alloc(size) else { return false };
            self.write(entry, digest, &mut out.bytes_mut()[..size]);
            frame = Some(out.freeze(size as u32));
        }
        let (session, proof_size) = (entry.client.0, proof_size as u16);
        let mut letter = Letter { auth, session, proof_size, digest, small, frame };
        let one = match entry.to {
            To::All => None,
            To::One(member) => Some(PeerId::replica(member.0)),
        };
        for &to in one.as_ref().map_or(members, std::slice::from_ref) {
            match letter.hand_to(links, to, &self.pool) {
                Some(true) => counts.sent += 1,
                Some(false) => counts.unsent += 1,
                None => return false,
            }
        }
        true
    }

    /// Body and proof; `out` is as large as both.
    fn write(&self, entry: &Entry, digest: &Digest, out: &mut [u8]) {
        let body = entry.body.bytes();
        let (start, proof) = out.split_at_mut(body.len());
        start.copy_from_slice(body);
        self.prover.write(entry.sign, digest, proof);
    }
}

/// A request and its proof, on their way.
struct Letter<'a> {
    auth: u8,
    session: u64,
    proof_size: u16,
    digest: &'a Digest,
    /// The bytes of one that can share a header.
    small: Option<&'a [u8]>,
    /// The bytes in memory of their own, once somebody needs that.
    frame: Option<Frame>,
}

impl Letter<'_> {
    /// Did the link take it? `None` without memory.
    fn hand_to(&mut self, links: &mut Links, to: PeerId, pool: &FramePool) -> Option<bool> {
        let Self { auth, session, proof_size, .. } = *self;
        let kind = kind::REQUEST;
        if let Some(payload) = self.small {
            if links.join(&Small { to, kind, auth, session, proof_size, payload }) {
                return Some(true);
            }
            if self.frame.is_none() {
                self.frame = Some(pool.copy_from(payload)?);
            }
        }
        let (body_digest, frame) = (Some(*self.digest), self.frame.clone());
        Some(links.tx(Outgoing { to, kind, auth, session, proof_size, body_digest, frame }))
    }
}
