//! What the links remember about a connection and about a peer.
//!
//! Owns the states of a connection and their transitions that close or replace. Always true: a peer
//! points at a connection exactly if that connection is up as this peer. Must not: parse messages.

use super::replay::ReplayWindow;
use super::transmit::Unsealed;
use super::{Cause, LinkConfig, Links};
use crate::endpoint::{ConnId, MESSAGE_SIZE_MAX_UNAUTHENTICATED};
use crate::handshake::{Dialler, SessionKeys};
use crate::reject::Reject;
use crate::types::{Instant, PeerId};

/// One connection.
pub(super) struct Conn {
    pub(super) id: ConnId,
    /// Whom we dialled.
    pub(super) outgoing: Option<PeerId>,
    pub(super) opened: Instant,
    pub(super) state: State,
}

/// How far a connection is.
pub(super) enum State {
    /// Dialled by the other side, which has not spoken.
    AwaitHello,
    /// Its first message waits for its turn.
    HelloQueued,
    /// We sent message 1.
    AwaitReply(Dialler),
    /// Keys are agreed; no message under them has arrived.
    Unconfirmed(Session),
    /// Messages flow.
    Up(Session),
}

/// Keys and sequences of one connection.
pub(super) struct Session {
    pub(super) peer: PeerId,
    /// Of the peer, in the directory.
    pub(super) index: usize,
    pub(super) keys: SessionKeys,
    /// The last sequence sent.
    pub(super) tx_sequence: u64,
    pub(super) window: ReplayWindow,
    pub(super) last_rx: Instant,
    pub(super) last_tx: Instant,
    /// The peer has another key since it was made: when it ends.
    pub(super) ends: Option<Instant>,
    /// Small messages that leave at the flush at the latest.
    pub(super) unsealed: Unsealed,
    /// It is in the list of those that may have some.
    pub(super) is_listed: bool,
}

impl Session {
    pub(super) fn new(
        peer: PeerId,
        index: usize,
        keys: SessionKeys,
        config: &LinkConfig,
        now: Instant,
    ) -> Self {
        let window = ReplayWindow::new(config.replay);
        Self {
            peer,
            index,
            keys,
            tx_sequence: 0,
            window,
            last_rx: now,
            last_tx: now,
            ends: None,
            unsealed: Unsealed::Nothing,
            is_listed: false,
        }
    }
}

/// What is known about a peer of the directory.
#[derive(Default)]
pub(super) struct PeerState {
    /// The connection that is up.
    pub(super) conn: Option<ConnId>,
    /// The user was told that it is up.
    pub(super) announced: bool,
    /// The connection was replaced since the user was told.
    pub(super) replaced: bool,
    /// It is in the queue of changes.
    pub(super) queued: bool,
    /// It refused the one key of ours when we dialled it: the next time it is the other's turn.
    pub(super) refused: bool,
}

impl Links {
    pub(super) fn conn(&mut self, id: ConnId) -> Option<&mut Conn> {
        let conn = self.conns.get_mut(id.index())?.as_deref_mut()?;
        (conn.id == id).then_some(conn)
    }

    /// A connection was opened: begin the handshake if we dialled, wait for it otherwise.
    pub(super) fn on_opened(&mut self, id: ConnId, outgoing: Option<PeerId>) {
        if self.conns.len() <= id.index() {
            self.conns.resize_with(id.index() + 1, || None);
        }
        // Dialled connections are few and ours: only the others are limited.
        if outgoing.is_none() && self.half_open >= self.config.half_open_max {
            self.rejects.add(Reject::TooManyConnections);
            self.endpoint.close(id);
            return;
        }
        self.endpoint.set_message_size_max(id, MESSAGE_SIZE_MAX_UNAUTHENTICATED);
        let state = State::AwaitHello;
        let conn = Conn { id, outgoing, opened: self.now, state };
        self.conns[id.index()] = Some(Box::new(conn));
        self.half_open += 1;
        self.check_at(self.now + self.config.handshake_timeout);
        if let Some(peer) = outgoing {
            self.send_hello(id, peer);
        }
    }

    /// The other side closed, or the transport did.
    pub(super) fn on_closed(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else {
            return;
        };
        if let State::AwaitReply(dialler) = &conn.state {
            let peer = dialler.peer();
            self.diagnose(Some(peer), Cause::ClosedDuringHandshake);
            self.try_other_key(peer);
        }
        self.forget(id);
    }

    /// Close a connection for a counted reason.
    pub(super) fn drop_conn(&mut self, id: ConnId, reason: Reject) {
        self.rejects.add(reason);
        self.endpoint.close(id);
        self.forget(id);
    }

    /// Remove a connection from the table and from its peer.
    pub(super) fn forget(&mut self, id: ConnId) {
        if self.conn(id).is_none() {
            return;
        }
        let Some(conn) = self.conns[id.index()].take() else {
            return;
        };
        match conn.state {
            State::Up(session) => {
                let state = &mut self.peers[session.index];
                if state.conn == Some(id) {
                    state.conn = None;
                    self.note_change(session.index);
                }
            }
            _ => self.half_open = self.half_open.saturating_sub(1),
        }
    }

    /// The first message under fresh keys arrived: the peer is who it says it is, now.
    pub(super) fn confirm(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else {
            return;
        };
        let dialled = conn.outgoing.is_some();
        let (peer, index) = match std::mem::replace(&mut conn.state, State::AwaitHello) {
            State::Unconfirmed(session) => {
                let who = (session.peer, session.index);
                conn.state = State::Up(session);
                who
            }
            other => {
                conn.state = other;
                return;
            }
        };
        self.half_open = self.half_open.saturating_sub(1);
        self.check_at(self.now + self.config.keepalive_interval.min(self.config.idle_timeout));
        let state = &mut self.peers[index];
        let old = state.conn.replace(id);
        if let Some(old) = old {
            state.replaced = true;
            self.endpoint.close(old);
            if self.conn(old).is_some() {
                self.conns[old.index()] = None;
            }
        }
        self.note_change(index);
        if !dialled {
            // The dialler has raised its limit already: our answer to message 1 proved us.
            self.raise_limit(id, peer);
            self.send_ping(id);
        }
    }

    /// Accept from now on what an authenticated `peer` may send.
    pub(super) fn raise_limit(&mut self, id: ConnId, peer: PeerId) {
        let size = if peer.is_client() {
            self.config.message_size_max_client
        } else {
            self.config.message_size_max_replica
        };
        self.endpoint.set_message_size_max(id, size);
    }

    fn note_change(&mut self, index: usize) {
        if !self.peers[index].queued {
            self.peers[index].queued = true;
            self.changed.push_back(index);
        }
    }

    pub(super) fn diagnose(&mut self, peer: Option<PeerId>, cause: Cause) {
        let index = peer.and_then(|peer| self.directory.index_of(peer));
        self.diagnoses.add(self.now, index, peer, cause);
    }
}
