//! From messages to tagged bytes on a connection.
//!
//! Owns sequence numbers, and what waits to share a header with others. Always true: a sequence is
//! used once under a key, also when the transport refuses the message; messages to one peer leave in
//! the order in which they were given. Must not: wait; what does not fit is dropped and counted.

use super::bundle::OpenBundle;
use super::receive::{sender_field, session_up, session_up_mut, tagged_trailer};
use super::session::{Session, State};
use super::{CONTROL_KIND_MIN, KIND_BUNDLE, KIND_HELLO, KIND_PING, Links, Outgoing, Small};
use crate::crypto::hash::{body_digest, digest_burst};
use crate::endpoint::{ConnId, HeaderBytes, RawOutgoing};
use crate::frame::Frame;
use crate::handshake::Dialler;
use crate::header::{Header, covered, set_tag};
use crate::limits::{
    BODY_SIZE_MAX, BUNDLED_SIZE_MAX, BURST_MAX, HEADER_SIZE, PROOF_SIZE_MAX, SEQUENCE_MAX, TAG_SIZE,
};
use crate::reject::Reject;
use crate::types::{Digest, Instant, PeerId};

/// What a session was given to send and has not left yet.
pub(super) enum Unsealed {
    Nothing,
    /// It leaves alone if no other follows.
    One(Outgoing),
    /// Two or more.
    Open(OpenBundle),
    /// So many, which the transport had no room for.
    Closed(usize, Frame),
}

/// The transport has no room for a message; here is its body.
pub(super) struct Full(Option<Frame>);

impl Outgoing {
    pub(super) fn as_small(&self) -> Small<'_> {
        let Self { to, kind, auth, session, proof_size, .. } = *self;
        Small { to, kind, auth, session, proof_size, payload: self.payload() }
    }

    fn payload(&self) -> &[u8] {
        self.frame.as_ref().map_or(&[], Frame::bytes)
    }

    fn body(&self) -> &[u8] {
        let payload = self.payload();
        let size = payload.len().saturating_sub(usize::from(self.proof_size));
        payload.get(..size).unwrap_or(payload)
    }

    fn is_message(&self) -> bool {
        let size = self.payload().len();
        self.kind < CONTROL_KIND_MIN
            && size <= BODY_SIZE_MAX
            && usize::from(self.proof_size) <= size.min(PROOF_SIZE_MAX)
    }
}

impl Links {
    /// Queue a message for its peer; [`Links::flush`] transmits it. Small ones of a turn leave
    /// together. `false`: it was dropped and counted, because there is no session, the queue is full,
    /// or it is no message (a reserved kind, a proof larger than the frame, too many bytes).
    pub fn tx(&mut self, out: Outgoing) -> bool {
        if !out.is_message() {
            self.rejects.add(Reject::Malformed);
            return false;
        }
        let Some(id) = self.directory.index_of(out.to).and_then(|index| self.peers[index].conn)
        else {
            self.rejects.add(Reject::NoSession);
            return false;
        };
        let taken = if out.payload().len() > BUNDLED_SIZE_MAX {
            self.seal(id) && self.send_alone(id, out).is_none()
        } else {
            self.add(id, out)
        };
        if !taken {
            self.rejects.add(Reject::QueueFull);
        }
        taken
    }

    /// Add a copy of a message to the bundle that is being written for its peer. `false`: there is none,
    /// or no room in it; nothing was counted, and [`Links::tx`] is for the message.
    #[inline]
    pub fn join(&mut self, message: &Small<'_>) -> bool {
        let index = self.directory.index_of(message.to);
        let id = index.and_then(|index| self.peers.get(index)?.conn);
        match id.and_then(|id| session_up_mut(&mut self.conns, id)) {
            Some(Session { unsealed: Unsealed::Open(bundle), .. }) => bundle.push(message),
            _ => false,
        }
    }

    /// Let a small message wait for others of this turn. `false`: there is no room.
    fn add(&mut self, id: ConnId, out: Outgoing) -> bool {
        let Some(session) = session_up_mut(&mut self.conns, id) else { return false };
        match &mut session.unsealed {
            Unsealed::Nothing => {}
            Unsealed::Open(bundle) => {
                if bundle.push(&out.as_small()) {
                    return true;
                }
            }
            Unsealed::One(first) => {
                if let Some(bundle) = OpenBundle::of(first, &out, &self.pool) {
                    session.unsealed = Unsealed::Open(bundle);
                    return true;
                }
            }
            Unsealed::Closed(..) => {}
        }
        // What waits has no place for it.
        self.seal(id) && self.begin(id, out)
    }

    fn begin(&mut self, id: ConnId, out: Outgoing) -> bool {
        let Some(session) = session_up_mut(&mut self.conns, id) else { return false };
        session.unsealed = Unsealed::One(out);
        if !std::mem::replace(&mut session.is_listed, true) {
            self.unsealed.push(id);
            if self.unsealed.len().is_multiple_of(BURST_MAX) {
                self.seal_all();
            }
        }
        true
    }

    /// Transmit what is queued, and everything that is due at `now`: dialling, pings, time limits.
    pub fn flush(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.seal_all();
        // Not only where messages come: now what they were for is done.
        self.held.reap();
        if self.now >= self.next_check {
            self.check_deadlines();
        }
        self.endpoint.flush(self.now);
    }

    /// Send what waits in all sessions. Those whose transport has no room stay in the list.
    fn seal_all(&mut self) {
        if self.unsealed.is_empty() {
            return;
        }
        if self.unsealed.len() > 1 {
            self.hash_lone();
        }
        let mut kept = 0;
        for at in 0..self.unsealed.len() {
            let id = self.unsealed[at];
            if self.seal(id) {
                if let Some(session) = self.session(id) {
                    session.is_listed = false;
                }
            } else {
                self.unsealed[kept] = id;
                kept += 1;
            }
        }
        self.unsealed.truncate(kept);
    }

    /// The digests of messages that leave alone, side by side. Others need none.
    fn hash_lone(&mut self) {
        let mut bodies: [&[u8]; BURST_MAX] = [&[]; BURST_MAX];
        let mut places = [0; BURST_MAX];
        let mut count = 0;
        for (at, id) in self.unsealed.iter().enumerate().take(BURST_MAX) {
            if let Some(out) = lone(session_up(&self.conns, *id)) {
                (bodies[count], places[count]) = (out.body(), at);
                count += 1;
            }
        }
        let mut digests = [Digest::default(); BURST_MAX];
        digest_burst(&bodies[..count], &mut digests[..count]);
        for (at, digest) in places[..count].iter().zip(digests) {
            if let Some(Session { unsealed: Unsealed::One(out), .. }) =
                self.session(self.unsealed[*at])
            {
                out.body_digest = Some(digest);
            }
        }
    }

    /// Send what waits in a session. `false`: the transport has no room, and it waits on.
    fn seal(&mut self, id: ConnId) -> bool {
        let Some(session) = self.session(id) else { return true };
        let (count, frame) = match std::mem::replace(&mut session.unsealed, Unsealed::Nothing) {
            Unsealed::Nothing => return true,
            Unsealed::One(out) => {
                let back = self.send_alone(id, out).map(Unsealed::One);
                return back.is_none_or(|out| self.wait_on(id, out));
            }
            Unsealed::Open(bundle) => (bundle.count(), bundle.close(&self.pool)),
            Unsealed::Closed(count, frame) => (count, frame),
        };
        let header = self.header(KIND_BUNDLE, frame.size(), Digest::default());
        match self.send_tagged(id, Header { session: count as u64, ..header }, Some(frame)) {
            Err(Full(Some(frame))) => self.wait_on(id, Unsealed::Closed(count, frame)),
            _ => {
                self.bundles.tx += 1;
                true
            }
        }
    }

    fn wait_on(&mut self, id: ConnId, unsealed: Unsealed) -> bool {
        if let Some(session) = self.session(id) {
            session.unsealed = unsealed;
        }
        false
    }

    /// Gives the message back if the transport has no room.
    fn send_alone(&mut self, id: ConnId, mut out: Outgoing) -> Option<Outgoing> {
        let body_digest = out.body_digest.unwrap_or_else(|| body_digest(out.body()));
        let header = Header {
            auth: out.auth,
            proof_size: out.proof_size,
            session: out.session,
            ..self.header(out.kind, out.payload().len(), body_digest)
        };
        let Full(frame) = self.send_tagged(id, header, out.frame.take()).err()?;
        Some(Outgoing { frame, body_digest: Some(body_digest), ..out })
    }

    pub(super) fn send_tagged(
        &mut self,
        id: ConnId,
        header: Header,
        frame: Option<Frame>,
    ) -> Result<(), Full> {
        let now = self.now;
        let Some(session) = self.session(id).filter(|it| it.tx_sequence < SEQUENCE_MAX) else {
            // Without a session, or at the end of its numbers: keys are fresh at every connection.
            self.drop_conn(id, Reject::NoSession);
            return Ok(());
        };
        let payload = frame.as_ref().map_or(&[][..], Frame::bytes);
        let header = tagged(session, header, payload);
        session.last_tx = now;
        let sent = self.endpoint.tx(RawOutgoing { conn: id, header, body: frame });
        sent.map_err(|out| Full(out.body))
    }

    /// The session of a connection, confirmed or not.
    fn session(&mut self, id: ConnId) -> Option<&mut Session> {
        match &mut self.conn(id)?.state {
            State::Up(session) | State::Unconfirmed(session) => Some(session),
            _ => None,
        }
    }

    /// An empty message: keeps the link alive and confirms its keys.
    pub(super) fn send_ping(&mut self, id: ConnId) {
        let header = self.header(KIND_PING, 0, self.empty_digest);
        if self.send_tagged(id, header, None).is_err() {
            self.rejects.add(Reject::QueueFull);
        }
    }

    /// Message 1 to a peer we dialled.
    pub(super) fn send_hello(&mut self, id: ConnId, peer: PeerId) {
        let identity = self.identity_for(peer);
        match Dialler::start(identity, &self.directory, self.cluster, peer) {
            Ok((dialler, hello)) => {
                if self.send_handshake(id, KIND_HELLO, &hello)
                    && let Some(conn) = self.conn(id)
                {
                    conn.state = State::AwaitReply(dialler);
                }
            }
            Err(error) => self.fail_handshake(id, Some(peer), error),
        }
    }

    /// Send a handshake message, or close the connection if that is not possible now.
    pub(super) fn send_handshake(&mut self, id: ConnId, kind: u8, message: &[u8]) -> bool {
        let Some(mut frame) = self.pool.alloc(message.len()) else {
            self.drop_conn(id, Reject::PoolExhausted);
            return false;
        };
        frame.bytes_mut()[..message.len()].copy_from_slice(message);
        let body = Some(frame.freeze(message.len() as u32));
        let header = self.header(kind, message.len(), body_digest(message)).to_bytes();
        if self.endpoint.tx(RawOutgoing { conn: id, header, body }).is_err() {
            self.drop_conn(id, Reject::QueueFull);
            return false;
        }
        true
    }

    /// The header of a message of ours without proof and session.
    fn header(&self, kind: u8, size: usize, body_digest: Digest) -> Header {
        Header {
            kind,
            auth: 0,
            size: (HEADER_SIZE + size) as u32,
            sender: sender_field(self.identity.peer),
            proof_size: 0,
            cluster: self.cluster,
            session: 0,
            sequence: 0,
            body_digest,
            tag: [0; TAG_SIZE],
        }
    }
}

/// The message of a session that leaves alone and has no digest.
fn lone(session: Option<&Session>) -> Option<&Outgoing> {
    match &session?.unsealed {
        Unsealed::One(out) if out.body_digest.is_none() => Some(out),
        _ => None,
    }
}

/// The written header of a message, with its sequence and tag.
fn tagged(session: &mut Session, mut header: Header, payload: &[u8]) -> HeaderBytes {
    session.tx_sequence += 1;
    header.sequence = session.tx_sequence;
    let mut bytes = header.to_bytes();
    let trailer = tagged_trailer(&header, payload);
    let tag = session.keys.tx.tag(header.sequence, covered(&bytes), trailer);
    set_tag(&mut bytes, &tag);
    bytes
}
