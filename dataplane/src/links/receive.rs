//! From raw messages to authentic ones, a burst at a time.
//!
//! Owns the order of the checks: what costs least comes first, the tag before anything is believed,
//! the digests of the whole burst side by side. Always true: the sequence window moves only for a
//! good tag; of a bundle everything is handed out, in order, or nothing. Must not: hand out a message
//! whose digest was not computed, and compared if it came with one.

use super::bundle::{self, Inner};
use super::session::{Conn, Session, State};
use super::{
    CONTROL_KIND_MIN, Cause, KIND_BUNDLE, KIND_HELLO, KIND_PING, KIND_REPLY, Links, Received,
};
use crate::arena::FramePool;
use crate::burst::Burst;
use crate::crypto::hash::digest_burst;
use crate::crypto::mac::{MacItem, verify_each};
use crate::endpoint::{ConnEvent, ConnId, RawReceived};
use crate::frame::Frame;
use crate::handshake::HandshakeError;
use crate::header::{Header, SENDER_CLIENT, covered};
use crate::limits::{BUNDLE_MESSAGES_MAX, BUNDLE_SIZE_MAX, BURST_MAX, SEQUENCE_MAX};
use crate::reject::Reject;
use crate::types::{Digest, Instant, PeerId};

/// Messages that are checked together at most: a burst whose last one is a bundle of many.
pub(super) const CHECKED_MAX: usize = BURST_MAX + BUNDLE_MESSAGES_MAX - 1;

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
        self.held.reap();
        let room = into.room().min(BURST_MAX);
        let rest = self.opened.len().min(room);
        for received in self.opened.drain_front(rest) {
            hand_to(into, received);
        }
        let (mut count, mut fetched) = (rest, false);
        while count < room {
            if self.raw.is_empty() {
                self.close_closed();
                if fetched {
                    break;
                }
                fetched = true;
                self.endpoint.rx_burst(&mut self.raw);
                self.take_events();
            }
            let run = self.look_at(room - count);
            if run > 0 {
                count += self.take(run, room - count, into);
            } else if let Some(raw) = self.raw.pop_front() {
                self.on_raw(raw);
            }
        }
        if self.raw.is_empty() && self.opened.is_empty() {
            self.close_closed();
        }
        count
    }

    /// Read the headers of the next messages, as long as they belong to sessions that are up and
    /// nothing about them closes a connection: at most `max`, or fewer that announce as many with
    /// those inside. Returns how many they are.
    fn look_at(&mut self, max: usize) -> usize {
        self.candidates.clear();
        let mut messages = 0;
        for raw in &self.raw {
            let Some(session) = session_up(&self.conns, raw.conn) else {
                break;
            };
            let candidate = match Header::parse(&raw.header) {
                Ok(header) if header.payload_size() != raw.body.size() => break,
                Ok(header) => check(session, self.cluster, &header).map(|count| {
                    messages += count;
                    header
                }),
                // Some bits may have been hit on the way.
                Err(reason) => Err(reason),
            };
            self.candidates.push(candidate);
            if messages >= max || self.candidates.len() == BURST_MAX {
                break;
            }
        }
        self.candidates.len()
    }

    /// Take the messages that were looked at: all tags, then all digests, then one by one; `room` of
    /// them into `into`, what is left of the last bundle aside.
    fn take(&mut self, run: usize, room: usize, into: &mut Burst<Received>) -> usize {
        let (conns, raw, headers) = (&self.conns, &self.raw, &self.candidates);
        let good = verify_each(run, |i| {
            let (Ok(header), raw) = (&headers[i], raw.get(i)?) else {
                return None;
            };
            let key = &session_up(conns, raw.conn)?.keys.rx;
            let proof = tagged_trailer(header, raw.body.bytes());
            let (sequence, tag) = (header.sequence, &header.tag);
            Some(MacItem { key, sequence, header: covered(&raw.header), proof, tag })
        });
        self.hash(good);
        self.hand_out(run, room, good, into)
    }

    /// The digests of all messages that could be handed out. A bundle that is none is not looked at
    /// again.
    fn hash(&mut self, good: u64) {
        let mut bodies: [&[u8]; CHECKED_MAX] = [&[]; CHECKED_MAX];
        let mut hashed = 0;
        self.parts.clear();
        for (i, (candidate, raw)) in self.candidates.iter_mut().zip(&self.raw).enumerate() {
            let Ok(header) = candidate else { continue };
            if good >> i & 1 == 0 {
                continue;
            }
            let payload = raw.body.bytes();
            if header.kind == KIND_BUNDLE {
                let (first, parts) = (hashed, self.parts.len());
                let parsed = bundle::parse(payload, inner_count(header), |inner| {
                    bodies[hashed] = inner.body();
                    hashed += 1;
                    self.parts.push(Part::of(&inner));
                });
                if let Err(reason) = parsed {
                    (*candidate, hashed) = (Err(reason), first);
                    self.parts.truncate(parts);
                }
            } else if header.kind < CONTROL_KIND_MIN {
                bodies[hashed] = payload.get(..header.body_size()).unwrap_or(&[]);
                hashed += 1;
            }
        }
        digest_burst(&bodies[..hashed], &mut self.digests[..hashed]);
    }

    /// Bit i of `good` says whether the tag of message i is; `self.digests` are of the good ones that
    /// are not the links' own. The sequence window moves in the order of arrival.
    fn hand_out(
        &mut self,
        run: usize,
        room: usize,
        good: u64,
        into: &mut Burst<Received>,
    ) -> usize {
        let (mut digests, mut parts) = (&self.digests[..], &self.parts[..]);
        let mut out = Out { room, count: 0, into, rest: &mut self.opened };
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
            let digests = take_first(&mut digests, hashed_count(header));
            let inside = if header.kind == KIND_BUNDLE { digests.len() } else { 0 };
            let parts = take_first(&mut parts, inside);
            let Some(session) = session_up_mut(&mut self.conns, raw.conn) else {
                unreachable!("nothing changes a session between the look at its message and here")
            };
            if !session.window.accept(header.sequence) {
                self.rejects.add(Reject::Replay);
                continue;
            }
            session.last_rx = self.now;
            let peer = session.peer;
            if header.kind == KIND_BUNDLE {
                // Parts of a bundle, or, when too many are held, copies.
                let pool = (!self.held.add(&raw.body)).then_some(&self.pool);
                let lost = out.unpack(peer, &raw.body, parts, digests, pool);
                self.rejects.add_many(Reject::PoolExhausted, lost);
                self.bundles.rx += 1;
                continue;
            }
            match fate(header, &raw.body, digests) {
                Ok(Some(body_digest)) => out.push(Received {
                    peer,
                    kind: header.kind,
                    auth: header.auth,
                    proof_size: header.proof_size,
                    session: header.session,
                    body_digest: *body_digest,
                    frame: raw.body,
                }),
                Ok(None) => {}
                Err(reason) => self.rejects.add(reason),
            }
        }
        out.count
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

    /// One message that may change a connection.
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
            State::Up(_) => self.rejects.add(Reject::Malformed),
            State::Unconfirmed(_) => self.on_first(&header, raw),
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

    /// The first message of a session: if its tag is good, the session is up, and the message is the
    /// first of those to look at.
    fn on_first(&mut self, header: &Header, raw: RawReceived) {
        let cluster = self.cluster;
        let Some(Conn { state: State::Unconfirmed(session), .. }) = self.conn(raw.conn) else {
            return self.rejects.add(Reject::NoSession);
        };
        if let Err(reason) = check(session, cluster, header) {
            return self.rejects.add(reason);
        }
        let trailer = tagged_trailer(header, raw.body.bytes());
        if !session.keys.rx.verify(header.sequence, covered(&raw.header), trailer, &header.tag) {
            return self.rejects.add(Reject::BadTag);
        }
        self.confirm(raw.conn);
        let kept = self.raw.push_front(raw);
        debug_assert!(kept.is_ok(), "it was there");
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
        let accepted = match self.accept(hello.bytes()) {
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
pub(super) fn session_up(conns: &[Option<Box<Conn>>], id: ConnId) -> Option<&Session> {
    match conns.get(id.index())?.as_deref()? {
        Conn { id: own, state: State::Up(session), .. } if *own == id => Some(session),
        _ => None,
    }
}

pub(super) fn session_up_mut(conns: &mut [Option<Box<Conn>>], id: ConnId) -> Option<&mut Session> {
    match conns.get_mut(id.index())?.as_deref_mut()? {
        Conn { id: own, state: State::Up(session), .. } if *own == id => Some(session),
        _ => None,
    }
}

/// Could this be a new message of this session? What costs least comes first; tag and digest follow.
/// How many messages it is, with those inside.
fn check(session: &Session, cluster: u64, header: &Header) -> Result<usize, Reject> {
    if header.cluster != cluster {
        return Err(Reject::WrongCluster);
    }
    if header.sender != sender_field(session.peer) {
        return Err(Reject::NotAllowed);
    }
    if header.sequence > SEQUENCE_MAX || !session.window.is_new(header.sequence) {
        return Err(Reject::Replay);
    }
    if header.kind == KIND_BUNDLE { bundle::announced(header) } else { Ok(1) }
}

/// What the tag covers after the header: the proof, as the body is covered through its digest; of a
/// bundle, everything.
pub(super) fn tagged_trailer<'a>(header: &Header, payload: &'a [u8]) -> &'a [u8] {
    if header.kind == KIND_BUNDLE {
        return payload;
    }
    payload.get(header.body_size()..).unwrap_or(&[])
}

/// Of a bundle whose header was checked.
fn inner_count(header: &Header) -> usize {
    header.session as usize
}

/// How many digests are of this message and those inside.
fn hashed_count(header: &Header) -> usize {
    match header.kind {
        KIND_BUNDLE => inner_count(header),
        kind => usize::from(kind < CONTROL_KIND_MIN),
    }
}

/// Cuts the first `count` off.
fn take_first<'a, T>(all: &mut &'a [T], count: usize) -> &'a [T] {
    let (first, rest) = all.split_at(count);
    *all = rest;
    first
}

/// Does an authentic message reach the user? Its digest if so. `digests` has that of its body, where
/// one is needed.
fn fate<'a>(
    header: &Header,
    frame: &Frame,
    digests: &'a [Digest],
) -> Result<Option<&'a Digest>, Reject> {
    match digests.first() {
        Some(digest) if *digest == header.body_digest => Ok(Some(digest)),
        Some(_) => Err(Reject::BadDigest),
        None if header.kind == KIND_PING && frame.is_empty() => Ok(None),
        None => Err(Reject::UnknownKind),
    }
}

/// A message inside a bundle that was parsed. Offsets in a bundle fit 16 bits.
pub(super) struct Part {
    kind: u8,
    auth: u8,
    proof_size: u16,
    start: u16,
    size: u16,
    session: u64,
}

impl Part {
    fn of(inner: &Inner<'_>) -> Self {
        let Inner { kind, auth, proof_size, session, start, payload } = *inner;
        let (start, size) = (start as u16, payload.len() as u16);
        Self { kind, auth, proof_size, start, size, session }
    }
}

const _: () = assert!(BUNDLE_SIZE_MAX <= u16::MAX as usize);

/// Where messages go: `room` of them to the user, the rest to the next call.
struct Out<'a> {
    room: usize,
    count: usize,
    into: &'a mut Burst<Received>,
    rest: &'a mut Burst<Received>,
}

impl Out<'_> {
    fn push(&mut self, received: Received) {
        if self.count < self.room {
            self.count += 1;
            hand_to(self.into, received);
        } else {
            hand_to(self.rest, received);
        }
    }

    /// Every message of a bundle: in its slot, or with `pool` in slots of their own. Returns how many
    /// there was no slot for.
    fn unpack(
        &mut self,
        peer: PeerId,
        bundle: &Frame,
        parts: &[Part],
        digests: &[Digest],
        pool: Option<&FramePool>,
    ) -> u64 {
        let mut lost = 0;
        for (part, body_digest) in parts.iter().zip(digests) {
            let Part { kind, auth, proof_size, session, start, size } = *part;
            let mut frame = bundle.slice(usize::from(start), usize::from(size));
            if let (Some(pool), Some(part)) = (pool, &frame) {
                frame = pool.copy_from(part.bytes());
            }
            let Some(frame) = frame else {
                lost += 1;
                continue;
            };
            let body_digest = *body_digest;
            self.push(Received { peer, kind, auth, proof_size, session, body_digest, frame });
        }
        lost
    }
}

/// The caller made sure that there is room.
fn hand_to(into: &mut Burst<Received>, received: Received) {
    let kept = into.push(received);
    debug_assert!(kept.is_ok(), "there is room for what is taken");
}
