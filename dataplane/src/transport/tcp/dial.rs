//! Peers that we dial, again and again.
//!
//! Owns the state of each attempt. Always true: at most one connection or attempt per entry. Must
//! not: give up.

use std::net::SocketAddr;

use mio::Interest;
use mio::Token;
use mio::net::TcpStream;

use super::backoff::Backoff;
use super::conn::Conn;
use super::endpoint::TcpEndpoint;
use crate::endpoint::{ConnEvent, ConnId};
use crate::types::{Instant, PeerId};

/// One peer to dial.
pub(super) struct Dial {
    pub(super) peer: PeerId,
    address: SocketAddr,
    pub(super) backoff: Backoff,
    pub(super) state: DialState,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DialState {
    /// The next attempt is due at this time.
    Waiting(Instant),
    /// An attempt that fails at this time.
    Connecting(ConnId, Instant),
    /// Established, not necessarily authenticated.
    Open,
}

impl Dial {
    pub(super) fn new(peer: PeerId, address: SocketAddr, backoff: Backoff) -> Self {
        Self { peer, address, backoff, state: DialState::Waiting(Instant(0)) }
    }
}

impl TcpEndpoint {
    /// Begin the attempts that are due, end those that take too long.
    pub(super) fn dial_due(&mut self) {
        let now = self.now;
        for index in 0..self.dials.len() {
            match self.dials[index].state {
                DialState::Waiting(at) if at <= now => self.dial(index),
                DialState::Connecting(id, limit) if limit <= now => {
                    self.counts.dial_failed += 1;
                    self.remove(id);
                }
                _ => {}
            }
        }
    }

    /// The next time [`TcpEndpoint::dial_due`] has something to do.
    pub(super) fn next_dial(&self) -> Option<Instant> {
        let times = self.dials.iter().filter_map(|dial| match dial.state {
            DialState::Waiting(at) | DialState::Connecting(_, at) => Some(at),
            DialState::Open => None,
        });
        times.min()
    }

    fn dial(&mut self, index: usize) {
        let Some(place) = self.free.pop() else {
            return self.dial_later(index);
        };
        let id = self.next_id(place);
        let stream = TcpStream::connect(self.dials[index].address).and_then(|mut stream| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(id.index()), interest)?;
            Ok(stream)
        });
        match stream {
            Ok(stream) => {
                let limit = self.now + self.config.connect_timeout;
                self.dials[index].state = DialState::Connecting(id, limit);
                self.insert(Conn::new(stream, id, Some(index), true, self.now));
            }
            Err(_) => {
                self.counts.dial_failed += 1;
                self.free.push(place);
                self.dial_later(index);
            }
        }
    }

    /// Wait before the next attempt.
    pub(super) fn dial_later(&mut self, index: usize) {
        let now = self.now;
        let dial = &mut self.dials[index];
        dial.state = DialState::Waiting(dial.backoff.next(now));
    }

    /// The kernel reports something about an attempt: is it established, failed, or neither?
    pub(super) fn finish_connecting(&mut self, id: ConnId) {
        let Some(conn) = self.conn_mut(id) else {
            return;
        };
        let failed = !matches!(conn.stream.take_error(), Ok(None));
        let connected = !failed && conn.stream.peer_addr().is_ok();
        if failed {
            self.counts.dial_failed += 1;
            return self.remove(id);
        }
        if !connected {
            return;
        }
        conn.connecting = false;
        (conn.readable, conn.writable) = (true, true);
        // Without it small messages wait for each other; a socket that refuses still works.
        let _ = conn.stream.set_nodelay(true);
        let Some(index) = conn.dial else {
            return;
        };
        self.counts.dialled += 1;
        self.dials[index].state = DialState::Open;
        let outgoing = Some(self.dials[index].peer);
        self.events.push_back(ConnEvent::Opened { conn: id, outgoing });
        self.queue_rx(id);
    }
}
