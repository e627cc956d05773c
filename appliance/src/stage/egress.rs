//! Egress: from what the core wants sent to messages on links.
//!
//! Owns the encoding of what leaves. Always true: a body is written once and hashed at most once,
//! however many peers it goes to; a state leaves signed; nothing waits for a slow peer. Must not: keep a
//! message that a link did not take: the protocol repeats what matters (rule LAG.1).

use tetrarch_consensus::message::reply::{
    DIGEST_REPLY_SIZE, REPLY_HEADER_SIZE, ReplyHeader, Status, write_digest_reply,
};
use tetrarch_consensus::message::{SignedState, codec, kind, proof};
use tetrarch_consensus::{
    ClientId, Digest, Lsn, Message, Recipients, ReplicaId, Sequence, View, ViewId, spec,
};
use tetrarch_dataplane::burst::Burst;
use tetrarch_dataplane::crypto::hash::{body_digest, digest_burst};
use tetrarch_dataplane::crypto::signature::SigningKey;
use tetrarch_dataplane::frame::{Frame, FramePool};
use tetrarch_dataplane::limits::{BUNDLED_SIZE_MAX, BURST_MAX};
use tetrarch_dataplane::links::{Links, Outgoing, Small};
use tetrarch_dataplane::reject::{Reject, RejectCounts};
use tetrarch_dataplane::ring::Consumer;
use tetrarch_dataplane::types::PeerId;

use super::{Answer, Outbound};
use crate::checkpoint::transfer::Parcel;
use crate::keyring::ViewKeys;
use crate::payload::FramePayload;
use crate::proofs::sign_state;

/// What was sent, for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Messages that links took.
    pub messages: u64,
    /// Messages that links did not take.
    pub dropped: u64,
}

/// Encodes and hands to links.
pub struct Egress {
    own: ReplicaId,
    view: View,
    cluster: u64,
    signing_key: SigningKey,
    pool: FramePool,
    /// Those of a burst that are hashed: their digests leave in their place, or they are too large to
    /// share a header.
    hashed: Burst<Answer>,
    sent: Sent,
    rejects: RejectCounts,
}

impl Egress {
    /// Egress of member `own` of `view`, whose signatures are for `cluster`. Bodies are written into frames of `pool`.
    pub fn new(
        own: ReplicaId,
        view: View,
        cluster: u64,
        signing_key: SigningKey,
        pool: FramePool,
    ) -> Self {
        Self {
            own,
            view,
            cluster,
            signing_key,
            pool,
            hashed: Burst::with_capacity(BURST_MAX),
            sent: Sent::default(),
            rejects: RejectCounts::new(),
        }
    }

    /// Sends to the members of another view from now on, and signs with the keys that it names.
    pub fn enter(&mut self, keys: &ViewKeys) {
        self.view = keys.view().clone();
        self.signing_key = keys.signing_key().clone();
    }

    /// What was sent so far.
    pub fn sent(&self) -> Sent {
        self.sent
    }

    /// What was not sent for lack of frames.
    pub fn rejects(&self) -> &RejectCounts {
        &self.rejects
    }

    /// Sends one message. A message to this replica itself comes back as the second value.
    pub fn send(&mut self, links: &mut Links, outbound: Outbound) -> Option<Message<FramePayload>> {
        let Outbound { to, mut message, after: _ } = outbound;
        if let Message::StopData(signed) = &mut message {
            self.sign(signed);
        }
        if to == Recipients::One(self.own) {
            return Some(message);
        }
        let Some(frame) = self.encode(&message) else {
            // The pool is empty: the message is lost as on a bad wire, and repeated like there.
            self.rejects.add(Reject::PoolExhausted);
            return None;
        };
        // The links compute it where it is needed; once here is less than once for each of them.
        let needed = to == Recipients::Others || frame.size() > BUNDLED_SIZE_MAX;
        let trailer_size = codec::trailer_size(message.kind());
        let compute = || body_digest(&frame.bytes()[..frame.size() - trailer_size]);
        let known = codec::known_digest(&message).map(|digest| digest.0);
        let body_digest = known.or_else(|| needed.then(compute));
        let out = Outgoing {
            to: PeerId::replica(self.own.0),
            kind: message.kind(),
            auth: proof::NONE,
            session: 0,
            proof_size: trailer_size as u16,
            body_digest,
            frame: Some(frame),
        };
        match to {
            Recipients::One(member) => {
                self.transmit(links, Outgoing { to: PeerId::replica(member.0), ..out });
            }
            Recipients::Others => {
                for index in 0..self.view.n() {
                    let member = self.view.members()[index];
                    if member != self.own {
                        let to = PeerId::replica(member.0);
                        self.transmit(links, Outgoing { to, ..out.clone() });
                    }
                }
            }
        }
        None
    }

    /// Sends up to a burst of answers of which all that they tell is `durable`. Returns how many. Those
    /// whose digests are needed are hashed side by side.
    pub fn answer(
        &mut self,
        links: &mut Links,
        replies: &mut Consumer<Answer>,
        durable: Lsn,
    ) -> usize {
        spec!("DUR.3");
        let mut count = 0;
        if durable == Lsn(u64::MAX) {
            for answer in replies.burst(BURST_MAX) {
                self.answer_one(links, answer);
                count += 1;
            }
        } else {
            while count < BURST_MAX
                && replies.front().is_some_and(|answer| answer.after <= durable)
                && let Some(answer) = replies.pop()
            {
                self.answer_one(links, answer);
                count += 1;
            }
        }
        if !self.hashed.is_empty() {
            self.answer_hashed(links);
        }
        count
    }

    /// Sends an answer, or keeps it until its digest is known.
    #[inline]
    fn answer_one(&mut self, links: &mut Links, answer: Answer) {
        if answer.whole && answer.body.size() <= BUNDLED_SIZE_MAX {
            self.reply(links, answer.client, answer.body, None);
        } else {
            let kept = self.hashed.push(answer);
            debug_assert!(kept.is_ok(), "as much room as a burst");
        }
    }

    fn answer_hashed(&mut self, links: &mut Links) {
        let mut digests = [[0; 32]; BURST_MAX];
        hash(&self.hashed, &mut digests);
        for digest in &digests[..self.hashed.len()] {
            let Some(Answer { client, body, whole, .. }) = self.hashed.pop_front() else { break };
            let short = if whole { None } else { self.shorten(&body, digest) };
            match short {
                Some(short) => self.reply(links, client, short, None),
                None => self.reply(links, client, body, Some(*digest)),
            }
        }
    }

    /// What is sent instead of a reply that somebody else sends whole. Without memory for it, the
    /// whole one leaves: it says the same.
    fn shorten(&self, whole: &Frame, digest: &[u8; 32]) -> Option<Frame> {
        spec!("CLI.7");
        let mut frame = self.pool.alloc(DIGEST_REPLY_SIZE)?;
        let out = &mut frame.bytes_mut()[..DIGEST_REPLY_SIZE];
        write_digest_reply(whole.bytes(), &Digest(*digest), out);
        Some(frame.freeze(DIGEST_REPLY_SIZE as u32))
    }

    /// Sends a chunk of a checkpoint.
    pub fn chunk(&mut self, links: &mut Links, parcel: Parcel) {
        let Parcel { to, frame, digest } = parcel;
        let to = PeerId::replica(to.0);
        let (kind, auth, session) = (kind::CHUNK, proof::NONE, 0);
        let proof_size = codec::trailer_size(kind) as u16;
        let (body_digest, frame) = (Some(digest), Some(frame));
        self.transmit(links, Outgoing { to, kind, auth, session, proof_size, body_digest, frame });
    }

    /// Tells a client that its request will not be executed as it is: now, or ever. `result` is what
    /// else there is to say.
    pub fn refuse(
        &mut self,
        links: &mut Links,
        (client, sequence, read_only): (ClientId, Sequence, bool),
        status: Status,
        result: &[u8],
    ) {
        let size = REPLY_HEADER_SIZE + result.len();
        let Some(mut frame) = self.pool.alloc(size) else {
            self.rejects.add(Reject::PoolExhausted);
            return;
        };
        let view: ViewId = self.view.id();
        let (digest, result_size) = (false, result.len() as u32);
        ReplyHeader { client, sequence, view, read_only, digest, status, result_size }
            .write(frame.bytes_mut());
        frame.bytes_mut()[REPLY_HEADER_SIZE..size].copy_from_slice(result);
        let body = frame.freeze(size as u32);
        self.reply(links, client, body, None);
    }

    /// To the client, with others that go there if there are any.
    #[inline]
    fn reply(
        &mut self,
        links: &mut Links,
        client: ClientId,
        body: Frame,
        body_digest: Option<[u8; 32]>,
    ) {
        let to = PeerId::client(client.identity());
        let (kind, auth, session, proof_size) = (kind::REPLY, proof::NONE, client.0, 0);
        let payload = body.bytes();
        if links.join(&Small { to, kind, auth, session, proof_size, payload }) {
            self.sent.messages += 1;
            return;
        }
        let frame = Some(body);
        let out = Outgoing { to, kind, auth, session, proof_size, body_digest, frame };
        self.transmit(links, out);
    }

    fn transmit(&mut self, links: &mut Links, out: Outgoing) {
        // A peer that is away is no reject: it learns what it missed when it is back.
        if links.is_up(out.to) && links.tx(out) {
            self.sent.messages += 1;
        } else {
            self.sent.dropped += 1;
        }
    }

    fn encode(&self, message: &Message<FramePayload>) -> Option<Frame> {
        let size = codec::encoded_size(message);
        let mut frame = self.pool.alloc(size)?;
        codec::encode(message, frame.bytes_mut());
        // `alloc` gave a slot of at least `size` bytes, and slots are below 2^32.
        Some(frame.freeze(size as u32))
    }

    fn sign(&self, signed: &mut SignedState) {
        sign_state(self.cluster, signed, &self.signing_key);
    }
}

/// The digests of a burst of replies, side by side.
fn hash(answers: &Burst<Answer>, digests: &mut [[u8; 32]; BURST_MAX]) {
    let mut bodies: [&[u8]; BURST_MAX] = [&[]; BURST_MAX];
    for (body, answer) in bodies.iter_mut().zip(answers) {
        *body = answer.body.bytes();
    }
    digest_burst(&bodies[..answers.len()], &mut digests[..answers.len()]);
}
