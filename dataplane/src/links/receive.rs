//! From raw messages to authentic ones, a burst at a time.
//!
//! Owns the order of the checks: what costs least comes first, the tag before anything is believed,
//! the digests of the whole burst side by side. Always true: the sequence window moves only for a
//! good tag. Must not: hand out a message whose digest was not compared.

use super::session::{Conn, Session, State};
use super::{CONTROL_KIND_MIN, Cause, KIND_HELLO, KIND_PING, KIND_REPLY, Links, Received};
use crate::burst::Burst;
use crate::crypto::hash::{body_digest, digest_burst};
use crate::crypto::mac::{MacItem, verify_each};
use crate::endpoint::{ConnEvent, ConnId, HeaderBytes, RawReceived};
use crate::frame::Frame;
use crate::handshake::{self, HandshakeError};
use crate::header::{Header, SENDER_CLIENT, covered};
use crate::limits::{BURST_MAX, SEQUENCE_MAX};
use crate::reject::Reject;
use crate::types::{Digest, Instant, PeerId};

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
        let (mut left, mut count) = (room, 0);
        while left > 0 && !self.raw.is_empty() {
            let run = self.look_at(left);
            if run > 0 {
                count += self.take(run, into);
            } else if let Some(raw) = self.raw.pop_front() {
                count += self.on_raw(raw, into);
            }
            left -= run.max(1);
        }
        if self.raw.is_empty() {
            self.close_closed();
        }
        count
    }

    /// Read the headers of the next messages, at most `max`, as long as they belong to sessions that
    /// are up and nothing about them closes a connection. Returns how many they are.
    fn look_at(&mut self, max: usize) -> usize {
        self.candidates.clear();
        for raw in self.raw.iter().take(max) {
            let Some(session) = session_up(&self.conns, raw.conn) else {
                break;
            };
            let candidate = match Header::parse(&raw.header) {
                Ok(header) if header.payload_size() != raw.body.size() => break,
                Ok(header) => check(session, self.cluster, &header).map(|()| header),
                // Some bits may have been hit on the way.
                Err(reason) => Err(reason),
            };
            self.candidates.push(candidate);
        }
        self.candidates.len()
    }

    /// Take the messages that were looked at: all tags, then all digests, then one by one.
    fn take(&mut self, run: usize, into: &mut Burst<Received>) -> usize {
        let (conns, raw, headers) = (&self.conns, &self.raw, &self.candidates);
        let good = verify_each(run, |i| {
            let (Ok(header), raw) = (&headers[i], raw.get(i)?) else {
                return None;
            };
            let key = &session_up(conns, raw.conn)?.keys.rx;
            let proof = raw.body.bytes().get(header.body_size()..)?;
            let (sequence, tag) = (header.sequence, &header.tag);
            Some(MacItem { key, sequence, header: covered(&raw.header), proof, tag })
        });
        let mut bodies: [&[u8]; BURST_MAX] = [&[]; BURST_MAX];
        let mut hashed = 0;
        for (i, (candidate, raw)) in headers.iter().zip(raw).enumerate() {
            if let Ok(header) = candidate
                && good >> i & 1 == 1
                && header.kind < CONTROL_KIND_MIN
            {
                bodies[hashed] = raw.body.bytes().get(..header.body_size()).unwrap_or(&[]);
                hashed += 1;
            }
        }
        digest_burst(&bodies[..hashed], &mut self.digests[..hashed]);
        self.hand_out(run, good, into)
    }

    /// Bit i of `good` says whether the tag of message i is; `self.digests` are of the good ones that
    /// are not the links' own. The sequence window moves in the order of arrival.
    fn hand_out(&mut self, run: usize, good: u64, into: &mut Burst<Received>) -> usize {
        let mut digests = self.digests.iter();
        let mut count = 0;
        let candidates = self.candidates.iter().zip(self.raw.drain_front(run));
        for (i, (candidate, raw)) in candidates.enumerate() {
            let header = match candidate {
                Ok(header) if good >> i & 1 == 1 => header,
                Ok(_) => {
                    self.rejects.add(Reject::BadTag);
                    continue;
                }
                Err(reason) => {
                    self.rejects.add(*reason);
                    continue;
                }
            };
            let digest = if header.kind < CONTROL_KIND_MIN { digests.next() } else { None };
            let Some(session) = session_up_mut(&mut self.conns, raw.conn) else {
                unreachable!("nothing changes a session between the look at its message and here")
            };
            if !session.window.accept(header.sequence) {
                self.rejects.add(Reject::Replay);
                continue;
            }
            session.last_rx = self.now;
            let received = Received { peer: session.peer, header: *header, frame: raw.body };
            match fate(&received, digest) {
                Ok(true) => count += usize::from(into.push(received).is_ok()),
                Ok(false) => {}
                Err(reason) => self.rejects.add(reason),
            }
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

    /// One message that may change a connection. Returns how many messages were appended.
    fn on_raw(&mut self, raw: RawReceived, into: &mut Burst<Received>) -> usize {
        let header = match Header::parse(&raw.header) {
            Ok(header) => header,
            Err(reason) => {
                self.on_unreadable(raw.conn, reason);
                return 0;
            }
        };
        if header.payload_size() != raw.body.size() {
            self.drop_conn(raw.conn, Reject::BadSize);
            return 0;
        }
        let Some(conn) = self.conn(raw.conn) else {
            self.rejects.add(Reject::NoSession);
            return 0;
        };
        match &conn.state {
            State::Up(_) | State::Unconfirmed(_) => return self.on_first(&header, raw, into),
            State::AwaitHello if header.kind == KIND_HELLO => self.on_hello(&header, raw),
            State::AwaitReply(_) if header.kind == KIND_REPLY => self.on_reply(&header, raw),
            _ => self.drop_conn(raw.conn, Reject::HandshakeFailed),
        }
        0
    }

    /// A header that breaks the format: within a session some bits may have been hit on the way;
    /// whoever begins like that has nothing to say.
    fn on_unreadable(&mut self, id: ConnId, reason: Reject) {
        match self.conn(id).map(|conn| &conn.state) {
            Some(State::Up(_) | State::Unconfirmed(_)) => self.rejects.add(reason),
            _ => self.drop_conn(id, reason),
        }
    }

    /// The first message of a session: if its tag is good, the session is up.
    fn on_first(&mut self, header: &Header, raw: RawReceived, into: &mut Burst<Received>) -> usize {
        let (cluster, now, id) = (self.cluster, self.now, raw.conn);
        let Some(Conn { state: State::Up(session) | State::Unconfirmed(session), .. }) =
            self.conn(id)
        else {
            self.rejects.add(Reject::NoSession);
            return 0;
        };
        let peer = session.peer;
        if let Err(reason) = verify(session, cluster, header, &raw.header, raw.body.bytes()) {
            self.rejects.add(reason);
            return 0;
        }
        session.last_rx = now;
        self.confirm(id);
        let received = Received { peer, header: *header, frame: raw.body };
        let digest = body_digest(received.body());
        match fate(&received, Some(&digest)) {
            Ok(true) => usize::from(into.push(received).is_ok()),
            Ok(false) => 0,
            Err(reason) => {
                self.rejects.add(reason);
                0
            }
        }
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

/// The session of a connection that is up.
fn session_up(conns: &[Option<Box<Conn>>], id: ConnId) -> Option<&Session> {
    match conns.get(id.index())?.as_deref()? {
        Conn { id: own, state: State::Up(session), .. } if *own == id => Some(session),
        _ => None,
    }
}

fn session_up_mut(conns: &mut [Option<Box<Conn>>], id: ConnId) -> Option<&mut Session> {
    match conns.get_mut(id.index())?.as_deref_mut()? {
        Conn { id: own, state: State::Up(session), .. } if *own == id => Some(session),
        _ => None,
    }
}

/// Could this be a new message of this session? What costs least comes first; tag and digest follow.
fn check(session: &Session, cluster: u64, header: &Header) -> Result<(), Reject> {
    if header.cluster != cluster {
        return Err(Reject::WrongCluster);
    }
    if header.sender != sender_field(session.peer) {
        return Err(Reject::NotAllowed);
    }
    if header.sequence > SEQUENCE_MAX || !session.window.is_new(header.sequence) {
        return Err(Reject::Replay);
    }
    Ok(())
}

/// Is this a new message of this session? The digest of the body is checked later.
fn verify(
    session: &mut Session,
    cluster: u64,
    header: &Header,
    bytes: &HeaderBytes,
    payload: &[u8],
) -> Result<(), Reject> {
    check(session, cluster, header)?;
    let (_, proof) = header.split(payload)?;
    if !session.keys.rx.verify(header.sequence, covered(bytes), proof, &header.tag) {
        return Err(Reject::BadTag);
    }
    if session.window.accept(header.sequence) { Ok(()) } else { Err(Reject::Replay) }
}

/// Does an authentic message reach the user? `digest` is of its body, where one is needed.
fn fate(received: &Received, digest: Option<&Digest>) -> Result<bool, Reject> {
    if received.header.kind < CONTROL_KIND_MIN {
        let good = digest == Some(&received.header.body_digest);
        return if good { Ok(true) } else { Err(Reject::BadDigest) };
    }
    let ping = received.header.kind == KIND_PING && received.frame.is_empty();
    if ping { Ok(false) } else { Err(Reject::UnknownKind) }
}
