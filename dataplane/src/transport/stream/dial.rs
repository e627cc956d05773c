//! Peers that we dial, again and again.
//!
//! Owns the state of each attempt. Always true: at most one connection or attempt per entry. Must
//! not: give up.

use std::net::SocketAddr;

use super::TcpConfig;
use super::backoff::Backoff;
use super::table::{Conn, Table};
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
    /// An entry that is due at once.
    pub(in crate::transport) fn of(
        (peer, address): (PeerId, SocketAddr),
        config: &TcpConfig,
    ) -> Self {
        let salt = u64::from(std::process::id());
        let backoff = Backoff::new(config.backoff_min, config.backoff_max, peer, salt);
        Self { peer, address, backoff, state: DialState::Waiting(Instant(0)) }
    }

    fn is_to(&self, (peer, address): (PeerId, SocketAddr)) -> bool {
        (self.peer, self.address) == (peer, address)
    }

    /// Its peer proved who it is.
    pub(in crate::transport) fn succeeded(&mut self) {
        self.backoff.reset();
    }
}

impl<S> Table<S> {
    /// Connections and attempts of entries that are not `wanted`.
    pub(in crate::transport) fn unwanted_dials(
        &self,
        wanted: &[(PeerId, SocketAddr)],
    ) -> Vec<ConnId> {
        let is_wanted = |dial: &Dial| wanted.iter().any(|entry| dial.is_to(*entry));
        let of = |conn: &Conn<S>| conn.dial.filter(|at| !is_wanted(&self.dials[*at]));
        self.conns().filter(|conn| of(conn).is_some()).map(|conn| conn.id).collect()
    }

    /// Makes `wanted` the list of those to dial. Entries that stay keep their state; those that go have
    /// no connection any more.
    pub(in crate::transport) fn set_dials(&mut self, wanted: &[(PeerId, SocketAddr)]) {
        let mut old: Vec<_> = std::mem::take(&mut self.dials).into_iter().map(Some).collect();
        let mut places = vec![None; old.len()];
        for entry in wanted {
            let is_same = |dial: &Option<Dial>| dial.as_ref().is_some_and(|it| it.is_to(*entry));
            let kept = old.iter().position(is_same);
            let dial = kept.and_then(|at| {
                places[at] = Some(self.dials.len());
                old[at].take()
            });
            self.dials.push(dial.unwrap_or_else(|| Dial::of(*entry, &self.config)));
        }
        for conn in self.conns_mut() {
            if let Some(at) = conn.dial {
                assert!(places[at].is_some(), "whoever is not wanted was removed");
                conn.dial = places[at];
            }
        }
    }

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
