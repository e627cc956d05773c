//! From messages to tagged bytes on a connection.
//!
//! Owns sequence numbers. Always true: a sequence is used once under a key, also when the transport
//! refuses the message. Must not: wait; what does not fit is dropped and counted.

use super::receive::sender_field;
use super::session::{Session, State};
use super::{CONTROL_KIND_MIN, KIND_HELLO, KIND_PING, Links, Outgoing};
use crate::crypto::hash::body_digest;
use crate::endpoint::{ConnId, HeaderBytes, RawOutgoing};
use crate::frame::Frame;
use crate::handshake::Dialler;
use crate::header::{Header, covered, set_tag};
use crate::limits::{BODY_SIZE_MAX, HEADER_SIZE, SEQUENCE_MAX, TAG_SIZE};
use crate::reject::Reject;
use crate::types::{Instant, PeerId};

impl Links {
    /// Tag a message and queue it for its peer; [`Links::flush`] transmits it. `false`: it was
    /// dropped and counted, because there is no session, the queue is full, or it is no message
    /// (a reserved kind, a proof larger than the frame, too many bytes).
    pub fn tx(&mut self, out: Outgoing) -> bool {
        let size = out.frame.as_ref().map_or(0, Frame::size);
        if out.kind >= CONTROL_KIND_MIN
            || size > BODY_SIZE_MAX
            || usize::from(out.proof_size) > size.min(crate::limits::PROOF_SIZE_MAX)
        {
            self.rejects.add(Reject::Malformed);
            return false;
        }
        let Some(id) = self.directory.index_of(out.to).and_then(|index| self.peers[index].conn)
        else {
            self.rejects.add(Reject::NoSession);
            return false;
        };
        let header = Header {
            kind: out.kind,
            auth: out.auth,
            size: (HEADER_SIZE + size) as u32,
            sender: sender_field(self.identity.peer),
            proof_size: out.proof_size,
            cluster: self.cluster,
            session: out.session,
            sequence: 0,
            body_digest: out.body_digest,
            tag: [0; TAG_SIZE],
        };
        self.send_tagged(id, header, out.frame)
    }

    /// Transmit what is queued, and everything that is due at `now`: dialling, pings, time limits.
    pub fn flush(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.now >= self.next_check {
            self.check_deadlines();
        }
        self.endpoint.flush(self.now);
    }

    fn send_tagged(&mut self, id: ConnId, header: Header, frame: Option<Frame>) -> bool {
        let now = self.now;
        let Some(conn) = self.conn(id) else {
            self.rejects.add(Reject::NoSession);
            return false;
        };
        let (State::Up(session) | State::Unconfirmed(session)) = &mut conn.state else {
            self.rejects.add(Reject::NoSession);
            return false;
        };
        if session.tx_sequence >= SEQUENCE_MAX {
            // Keys are fresh at every connection: begin a new one.
            self.drop_conn(id, Reject::NoSession);
            return false;
        }
        let payload = frame.as_ref().map_or(&[][..], Frame::bytes);
        let header = seal(session, header, payload);
        session.last_tx = now;
        if self.endpoint.tx(RawOutgoing { conn: id, header, body: frame }).is_err() {
            self.rejects.add(Reject::QueueFull);
            return false;
        }
        true
    }

    /// An empty message: keeps the link alive and confirms its keys.
    pub(super) fn send_ping(&mut self, id: ConnId) {
        let header = self.control_header(KIND_PING, 0, self.empty_digest);
        self.send_tagged(id, header, None);
    }

    /// Message 1 to a peer we dialled.
    pub(super) fn send_hello(&mut self, id: ConnId, peer: PeerId) {
        match Dialler::start(&self.identity, &self.directory, self.cluster, peer) {
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
        let header = self.control_header(kind, message.len(), body_digest(message)).to_bytes();
        if self.endpoint.tx(RawOutgoing { conn: id, header, body }).is_err() {
            self.drop_conn(id, Reject::QueueFull);
            return false;
        }
        true
    }

    fn control_header(&self, kind: u8, size: usize, digest: crate::types::Digest) -> Header {
        Header {
            kind,
            auth: 0,
            size: (HEADER_SIZE + size) as u32,
            sender: sender_field(self.identity.peer),
            proof_size: 0,
            cluster: self.cluster,
            session: 0,
            sequence: 0,
            body_digest: digest,
            tag: [0; TAG_SIZE],
        }
    }
}

/// Give a message its sequence and tag.
fn seal(session: &mut Session, mut header: Header, payload: &[u8]) -> HeaderBytes {
    session.tx_sequence += 1;
    header.sequence = session.tx_sequence;
    let mut bytes = header.to_bytes();
    let proof = &payload[payload.len() - usize::from(header.proof_size)..];
    let tag = session.keys.tx.tag(header.sequence, covered(&bytes), proof);
    set_tag(&mut bytes, &tag);
    bytes
}
