//! Who the peers are, changed while links run.
//!
//! Owns what becomes of connections when the directory, or a key of ours, changes. Always true: who
//! is not in the directory has no session, and nothing that was queued for it is kept; a handshake
//! begun with a key that is not the peer's any more does not complete. Must not: wait for anybody.
//!
//! Members learn of a change at different times, and need their links meanwhile. So a link that is up
//! outlives a change of the peer's key by [`LinkConfig::rekey_after`](super::LinkConfig), and whose own
//! key changes holds the one before (or after) it, too: who still knows only the one is answered with it.

use std::net::SocketAddr;

use super::Links;
use super::session::{Conn, PeerState, State};
use crate::crypto::keys::StaticSecret;
use crate::endpoint::ConnId;
use crate::handshake::{self, Accepted, Directory, HandshakeError, Identity};
use crate::limits::BURST_MAX;
use crate::reject::Reject;
use crate::types::PeerId;

/// What becomes of a connection.
enum Fate {
    /// It stays, of the peer that has this number now.
    Kept(Option<usize>),
    /// The same, for a while: its peer has another key.
    Outlives(usize),
    /// Its peer is gone, or the key of its handshake.
    Ends,
}

impl Links {
    /// From now on the peers are those of `directory`, and those of `dials`, each named once and in
    /// the directory, are dialled. Links of peers that stay with their keys stay (unless they are
    /// dialled at another address now), so do for a while those of peers with new keys. All others
    /// end: what waits for them is given back, and [`Links::event`] says `Down`.
    ///
    /// Takes time and memory by the size of the directory: for changes of configuration.
    pub fn set_peers(&mut self, directory: Directory, dials: &[(PeerId, SocketAddr)]) {
        self.endpoint.set_dials(dials);
        let old = std::mem::replace(&mut self.directory, directory);
        self.move_states(&old);
        for at in 0..self.conns.len() {
            let Some(conn) = self.conns[at].as_deref() else { continue };
            let (id, fate) = (conn.id, self.fate(conn, &old));
            match fate {
                Fate::Kept(index) => self.renumber(id, index),
                Fate::Outlives(index) => {
                    self.renumber(id, Some(index));
                    self.end_later(id);
                }
                Fate::Ends => self.end(id),
            }
        }
        if self.opened.front().is_some_and(|it| self.directory.index_of(it.peer).is_none()) {
            // The rest of one bundle: all of one peer.
            self.opened.clear();
        }
        self.diagnoses.set_peer_count(self.directory.len());
        self.changed.reserve(self.directory.len());
        let listed = 2 * BURST_MAX.max(self.directory.len());
        self.unsealed.reserve(listed.saturating_sub(self.unsealed.len()));
    }

    /// From now on our key is `secret`. `other`, the one before or the one that comes after it, answers
    /// those who know us by that, and is presented to those who refuse the first. Links stay as they are.
    pub fn set_secret(&mut self, secret: StaticSecret, other: Option<StaticSecret>) {
        let peer = self.identity.peer;
        self.identity = Identity { peer, secret };
        self.other_identity = other.map(|secret| Identity { peer, secret });
        for state in &mut self.peers {
            state.refused = false;
        }
    }

    /// The states of peers, at their new places. Of those that are gone the user is told.
    fn move_states(&mut self, old: &Directory) {
        let states = std::mem::take(&mut self.peers);
        self.peers.resize_with(self.directory.len(), PeerState::default);
        self.changed.clear();
        for (index, mut state) in states.into_iter().enumerate() {
            let Some(peer) = old.peer_at(index) else { continue };
            match self.directory.index_of(peer) {
                Some(new) => {
                    if state.queued {
                        self.changed.push_back(new);
                    }
                    state.refused = false;
                    self.peers[new] = state;
                }
                None if state.announced => self.gone.push_back(peer),
                None => {}
            }
        }
    }

    fn fate(&self, conn: &Conn, old: &Directory) -> Fate {
        let dialled = match &conn.state {
            State::AwaitHello | State::HelloQueued => conn.outgoing,
            State::AwaitReply(dialler) => Some(dialler.peer()),
            State::Unconfirmed(session) | State::Up(session) => Some(session.peer),
        };
        // Who has not spoken is asked by the new directory when it does.
        let Some(peer) = dialled else { return Fate::Kept(None) };
        let Some(index) = self.directory.index_of(peer) else { return Fate::Ends };
        let key = |of: &Directory| of.key_of(peer).map(|key| *key.as_bytes());
        match conn.state {
            _ if key(old) == key(&self.directory) => Fate::Kept(Some(index)),
            State::Up(_) => Fate::Outlives(index),
            _ => Fate::Ends,
        }
    }

    fn renumber(&mut self, id: ConnId, index: Option<usize>) {
        if let (Some(conn), Some(index)) = (self.conn(id), index)
            && let State::Unconfirmed(session) | State::Up(session) = &mut conn.state
        {
            session.index = index;
        }
    }

    fn end_later(&mut self, id: ConnId) {
        let at = self.now + self.config.rekey_after;
        if let Some(Conn { state: State::Up(session), .. }) = self.conn(id) {
            session.ends.get_or_insert(at);
        }
        self.check_at(at);
    }

    /// Ends a connection whose peer may not have a state any more.
    fn end(&mut self, id: ConnId) {
        self.endpoint.close(id);
        let Some(conn) = self.conns[id.index()].take() else { return };
        match conn.state {
            State::Up(_) => {}
            _ => {
                self.rejects.add(Reject::HandshakeFailed);
                self.half_open = self.half_open.saturating_sub(1);
            }
        }
    }

    /// The accepting side of a handshake, with either key of ours.
    pub(super) fn accept(&self, hello: &[u8]) -> Result<Accepted, HandshakeError> {
        let accept = |identity| handshake::accept(identity, &self.directory, self.cluster, hello);
        match (accept(&self.identity), &self.other_identity) {
            (Err(HandshakeError::Undecryptable), Some(other)) => accept(other),
            (result, _) => result,
        }
    }

    /// With which key of ours `peer` is dialled.
    pub(super) fn identity_for(&self, peer: PeerId) -> &Identity {
        let state = self.directory.index_of(peer).map(|index| &self.peers[index]);
        match &self.other_identity {
            Some(other) if state.is_some_and(|state| state.refused) => other,
            _ => &self.identity,
        }
    }

    /// `peer` did not answer the key of ours with which it was dialled.
    pub(super) fn try_other_key(&mut self, peer: PeerId) {
        if let Some(index) = self.directory.index_of(peer) {
            self.peers[index].refused ^= true;
        }
    }
}
