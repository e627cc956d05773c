//! Peers that we dial, again and again.
//!
//! Owns the state of each attempt. Always true: at most one connection or attempt per entry. Must
//! not: give up.

use std::net::SocketAddr;

use super::backoff::Backoff;
use super::table::Table;
use crate::endpoint::{ConnEvent, ConnId};
use crate::types::{Instant, PeerId};

/// One peer to dial.
pub(in crate::transport) struct Dial {
    peer: PeerId,
    pub(in crate::transport) address: SocketAddr,
    backoff: Backoff,
    state: DialState,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DialState {
    /// The next attempt is due at this time.
    Waiting(Instant),
    /// An attempt that fails at this time.
    Connecting(ConnId, Instant),
    /// Established, not necessarily authenticated.
    Open,
}

/// What an entry asks for.
pub(in crate::transport) enum DialStep {
    /// Begin an attempt: [`Table::begin_dial`], or [`Table::fail_dial`].
    Begin,
    /// This attempt took too long: remove it.
    GiveUp(ConnId),
}

impl Dial {
    pub(in crate::transport) fn new(peer: PeerId, address: SocketAddr, backoff: Backoff) -> Self {
        Self { peer, address, backoff, state: DialState::Waiting(Instant(0)) }
    }

    /// Its peer proved who it is.
    pub(in crate::transport) fn succeeded(&mut self) {
        self.backoff.reset();
    }
}

impl<S> Table<S> {
    /// What is due for entry `index`.
    pub(in crate::transport) fn dial_step(&mut self, index: usize) -> Option<DialStep> {
        let now = self.now;
        match self.dials[index].state {
            DialState::Waiting(at) if at <= now => Some(DialStep::Begin),
            DialState::Connecting(id, limit) if limit <= now => {
                self.counts.dial_failed += 1;
                Some(DialStep::GiveUp(id))
            }
            _ => None,
        }
    }

    /// The next time [`Table::dial_step`] has something to do.
    pub(in crate::transport) fn next_dial(&self) -> Option<Instant> {
        let times = self.dials.iter().filter_map(|dial| match dial.state {
            DialState::Waiting(at) | DialState::Connecting(_, at) => Some(at),
            DialState::Open => None,
        });
        times.min()
    }

    /// An attempt has begun as connection `id`, which [`Table::take_place`] named.
    pub(in crate::transport) fn begin_dial(&mut self, index: usize, id: ConnId, io: S) {
        let limit = self.now + self.config.connect_timeout;
        self.dials[index].state = DialState::Connecting(id, limit);
        self.insert(id, Some(index), io);
    }

    /// An attempt could not begin, for want of a place or a socket.
    pub(in crate::transport) fn fail_dial(&mut self, index: usize) {
        self.counts.dial_failed += 1;
        self.dial_later(index);
    }

    /// Wait before the next attempt.
    pub(in crate::transport) fn dial_later(&mut self, index: usize) {
        let now = self.now;
        let dial = &mut self.dials[index];
        dial.state = DialState::Waiting(dial.backoff.next(now));
    }

    /// The attempt of connection `id` has succeeded.
    pub(in crate::transport) fn dialled(&mut self, id: ConnId) {
        let Some(conn) = self.conn_mut(id) else {
            return;
        };
        conn.connecting = false;
        let Some(index) = conn.dial else {
            return;
        };
        self.counts.dialled += 1;
        self.dials[index].state = DialState::Open;
        let outgoing = Some(self.dials[index].peer);
        self.events.push_back(ConnEvent::Opened { conn: id, outgoing });
    }
}
