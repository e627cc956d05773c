//! From raw messages to authentic ones, a burst at a time.
//!
//! Owns the order of the checks: what costs least comes first, the tag before anything is believed,
//! the digests of the whole burst side by side. Always true: the sequence window moves only for a
//! good tag. Must not: hand out a message whose digest was not compared.

use super::session::{Session, State};
use super::{CONTROL_KIND_MIN, Cause, KIND_HELLO, KIND_PING, KIND_REPLY, Links, Received};
use crate::burst::Burst;
use crate::crypto::hash::digest_burst;
use crate::endpoint::{ConnEvent, ConnId, HeaderBytes, RawReceived};
use crate::frame::Frame;
use crate::handshake::{self, HandshakeError};
use crate::header::{Header, SENDER_CLIENT, covered};
use crate::limits::{BURST_MAX, SEQUENCE_MAX};
use crate::reject::Reject;
use crate::types::{Instant, PeerId};

/// The sender field that messages of `peer` carry.
pub(super) fn sender_field(peer: PeerId) -> u16 {
    if peer.is_client() {
        SENDER_CLIENT
    } else {
        u16::try_from(peer.index()).unwrap_or(SENDER_CLIENT)
    }
}

impl Links {
    /// Append authentic messages to `into` until it is full or nothing more is there; at most
    /// [`BURST_MAX`] a call. Also works on handshakes. Returns how many messages were appended.
    pub fn rx_burst(&mut self, now: Instant, into: &mut Burst<Received>) -> usize {
        self.now = self.now.max(now);
        self.accept_hellos();
        let room = into.room().min(BURST_MAX);
        if room == 0 {
            return 0;
        }
        if self.raw.is_empty() {
            self.close_closed();
            self.endpoint.rx_burst(&mut self.raw);
            self.take_events();
        }
        for _ in 0..room {
            let Some(raw) = self.raw.pop_front() else {
                break;
            };
            self.on_raw(raw);
        }
        let count = self.deliver(into);
        if self.raw.is_empty() {
            self.close_closed();
        }
        count
    }

    fn take_events(&mut self) {
        while let Some(event) = self.endpoint.events() {
            match event {
                ConnEvent::Opened { conn, outgoing } => self.on_opened(conn, outgoing),
                // Its last messages are in `raw`: they come first.
                ConnEvent::Closed { conn } => self.closed.push(conn),
            }
        }
    }

    fn close_closed(&mut self) {
        while let Some(conn) = self.closed.pop() {
            self.on_closed(conn);
        }
    }

    fn on_raw(&mut self, raw: RawReceived) {
        let header = match Header::parse(&raw.header) {
            Ok(header) => header,
            Err(reason) => return self.on_unreadable(raw.conn, reason),
        };
        if header.payload_size() != raw.body.size() {
            return self.drop_conn(raw.conn, Reject::BadSize);
        }
        let Some(conn) = self.conn(raw.conn) else {
            return self.rejects.add(Reject::NoSession);
        };
        match &conn.state {
            State::Up(_) | State::Unconfirmed(_) => self.on_session_message(&header, raw),
            State::AwaitHello if header.kind == KIND_HELLO => self.on_hello(&header, raw),
            State::AwaitReply(_) if header.kind == KIND_REPLY => self.on_reply(&header, raw),
            _ => self.drop_conn(raw.conn, Reject::HandshakeFailed),
        }
    }

    /// A header that breaks the format: within a session some bits may have been hit on the way;
    /// whoever begins like that has nothing to say.
    fn on_unreadable(&mut self, id: ConnId, reason: Reject) {
        match self.conn(id).map(|conn| &conn.state) {
            Some(State::Up(_) | State::Unconfirmed(_)) => self.rejects.add(reason),
            _ => self.drop_conn(id, reason),
        }
    }

    /// Tag, sequence, then either a control message or a candidate for delivery.
    fn on_session_message(&mut self, header: &Header, raw: RawReceived) {
        let (cluster, now, id) = (self.cluster, self.now, raw.conn);
        let Some(conn) = self.conn(id) else {
            return self.rejects.add(Reject::NoSession);
        };
        let (State::Up(session) | State::Unconfirmed(session)) = &mut conn.state else {
            return self.rejects.add(Reject::NoSession);
        };
        let peer = session.peer;
        if let Err(reason) = verify(session, cluster, header, &raw.header, raw.body.bytes()) {
            return self.rejects.add(reason);
        }
        session.last_rx = now;
        if matches!(conn.state, State::Unconfirmed(_)) {
            self.confirm(id);
        }
        if header.kind < CONTROL_KIND_MIN {
            let message = Received { peer, header: *header, frame: raw.body };
            self.candidates.push(message);
        } else if header.kind != KIND_PING || !raw.body.is_empty() {
            self.rejects.add(Reject::UnknownKind);
        }
    }

    /// Compare the digests of all candidates and hand out the good ones.
    fn deliver(&mut self, into: &mut Burst<Received>) -> usize {
        let count = self.candidates.len();
        if count == 0 {
            return 0;
        }
        let mut bodies: [&[u8]; BURST_MAX] = [&[]; BURST_MAX];
        for (body, candidate) in bodies.iter_mut().zip(&self.candidates) {
            *body = candidate.body();
        }
        digest_burst(&bodies[..count], &mut self.digests[..count]);
        let mut delivered = 0;
        for (candidate, digest) in self.candidates.drain(..).zip(&self.digests) {
            if candidate.header.body_digest != *digest {
                self.rejects.add(Reject::BadDigest);
            } else if into.push(candidate).is_ok() {
                delivered += 1;
            }
        }
        delivered
    }

    /// Message 1: wait for a turn, as its key agreement is the most anybody can make us compute.
    fn on_hello(&mut self, header: &Header, raw: RawReceived) {
        if header.cluster != self.cluster {
            let cause = Cause::WrongCluster { theirs: header.cluster, ours: self.cluster };
            self.diagnose(None, cause);
            return self.drop_conn(raw.conn, Reject::WrongCluster);
        }
        if self.hellos.len() >= self.config.half_open_max {
            return self.drop_conn(raw.conn, Reject::TooManyConnections);
        }
        if let Some(conn) = self.conn(raw.conn) {
            conn.state = State::HelloQueued;
            self.hellos.push_back((raw.conn, raw.body));
        }
    }

    /// Compute as many waiting handshakes as a turn may.
    fn accept_hellos(&mut self) {
        for _ in 0..self.config.handshakes_per_turn.max(1) {
            let Some((id, hello)) = self.hellos.pop_front() else {
                return;
            };
            if self.conn(id).is_some() {
                self.accept_hello(id, hello);
            }
        }
    }

    fn accept_hello(&mut self, id: ConnId, hello: Frame) {
        let accepted =
            handshake::accept(&self.identity, &self.directory, self.cluster, hello.bytes());
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(error) => return self.fail_handshake(id, claimed(&error), error),
        };
        let Some(index) = self.directory.index_of(accepted.peer) else {
            return self.drop_conn(id, Reject::UnknownPeer);
        };
        let session = Session::new(accepted.peer, index, accepted.keys, &self.config, self.now);
        if self.send_handshake(id, KIND_REPLY, &accepted.reply)
            && let Some(conn) = self.conn(id)
        {
            conn.state = State::Unconfirmed(session);
        }
    }

    /// Message 2: the acceptor is who we dialled. A ping under the new keys proves us.
    fn on_reply(&mut self, header: &Header, raw: RawReceived) {
        if header.cluster != self.cluster {
            let cause = Cause::WrongCluster { theirs: header.cluster, ours: self.cluster };
            self.diagnose(None, cause);
            return self.drop_conn(raw.conn, Reject::WrongCluster);
        }
        let Some(conn) = self.conn(raw.conn) else {
            return;
        };
        let dialler = match std::mem::replace(&mut conn.state, State::AwaitHello) {
            State::AwaitReply(dialler) => dialler,
            other => {
                conn.state = other;
                return;
            }
        };
        let peer = dialler.peer();
        let keys = match dialler.finish(raw.body.bytes()) {
            Ok(keys) => keys,
            Err(error) => return self.fail_handshake(raw.conn, Some(peer), error),
        };
        let Some(index) = self.directory.index_of(peer) else {
            return self.drop_conn(raw.conn, Reject::UnknownPeer);
        };
        let session = Session::new(peer, index, keys, &self.config, self.now);
        if let Some(conn) = self.conn(raw.conn) {
            conn.state = State::Unconfirmed(session);
        }
        self.raise_limit(raw.conn, peer);
        self.send_ping(raw.conn);
    }

    pub(super) fn fail_handshake(
        &mut self,
        id: ConnId,
        peer: Option<PeerId>,
        error: HandshakeError,
    ) {
        self.diagnose(peer, Cause::Handshake(error));
        let reason = match error {
            HandshakeError::UnknownPeer { .. } | HandshakeError::UnknownKey { .. } => {
                Reject::UnknownPeer
            }
            _ => Reject::HandshakeFailed,
        };
        self.drop_conn(id, reason);
    }
}

/// Whom the failed handshake is about.
fn claimed(error: &HandshakeError) -> Option<PeerId> {
    match *error {
        HandshakeError::UnknownPeer { claimed }
        | HandshakeError::UnknownKey { claimed }
        | HandshakeError::WrongKey { claimed, .. } => Some(claimed),
        _ => None,
    }
}

/// Is this a new message of this session? The digest of the body is checked later, in a burst.
fn verify(
    session: &mut Session,
    cluster: u64,
    header: &Header,
    bytes: &HeaderBytes,
    payload: &[u8],
) -> Result<(), Reject> {
    if header.cluster != cluster {
        return Err(Reject::WrongCluster);
    }
    if header.sender != sender_field(session.peer) {
        return Err(Reject::NotAllowed);
    }
    if header.sequence > SEQUENCE_MAX || !session.window.is_new(header.sequence) {
        return Err(Reject::Replay);
    }
    let (_, proof) = header.split(payload)?;
    if !session.keys.rx.verify(header.sequence, covered(bytes), proof, &header.tag) {
        return Err(Reject::BadTag);
    }
    if session.window.accept(header.sequence) { Ok(()) } else { Err(Reject::Replay) }
}
