//! Connections of others.
//!
//! Owns admission. Always true: the number of connections, and of those whose owner is not known,
//! stays within the limits however many knock; running out of file descriptors costs a pause, not a
//! core. Must not: decide who is authenticated.

use std::io::ErrorKind;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Token};

use super::conn::Conn;
use super::endpoint::TcpEndpoint;
use crate::endpoint::{ConnEvent, ConnId};

/// Connections accepted before other work has its turn.
const ACCEPTS_PER_TURN: usize = 64;
/// How long to leave the listening socket alone when the system has no file descriptor left.
const PAUSE: Duration = Duration::from_millis(100);
/// An unauthenticated connection is not evicted before it had this long for its handshake.
const GRACE: Duration = Duration::from_millis(250);

impl TcpEndpoint {
    /// Accept what knocks, if any.
    pub(super) fn accept_ready(&mut self) {
        for _ in 0..ACCEPTS_PER_TURN {
            if !self.accept_possible() {
                return;
            }
            self.accept_again = None;
            let Some(listener) = &self.listener else {
                return;
            };
            match listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.listener_ready = false,
                Err(error) if is_exhausted(&error) => {
                    self.counts.accept_failed += 1;
                    self.accept_again = Some(self.now + PAUSE);
                }
                // The one who knocked is gone already.
                Err(_) => {}
            }
        }
    }

    /// Is there anything to accept, and is it time?
    pub(super) fn accept_possible(&self) -> bool {
        self.listener_ready && self.accept_again.is_none_or(|at| at <= self.now)
    }

    /// Take a connection into the table, or close it.
    fn admit(&mut self, mut stream: TcpStream) {
        let full = self.live >= self.config.connections_max
            || self.unauthenticated >= self.config.unauthenticated_max;
        if full && !self.evict_oldest() {
            self.counts.refused += 1;
            return;
        }
        let Some(place) = self.free.pop() else {
            self.counts.refused += 1;
            return;
        };
        let id = self.next_id(place);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(&mut stream, Token(id.index()), interest).is_err() {
            self.counts.refused += 1;
            self.free.push(place);
            return;
        }
        // Without it small messages wait for each other; a socket that refuses still works.
        let _ = stream.set_nodelay(true);
        let mut conn = Conn::new(stream, id, None, false, self.now);
        (conn.readable, conn.writable) = (true, true);
        self.insert(conn);
        self.counts.accepted += 1;
        self.unauthenticated += 1;
        self.remember_unauthenticated(id);
        self.events.push_back(ConnEvent::Opened { conn: id, outgoing: None });
        self.queue_rx(id);
    }

    fn remember_unauthenticated(&mut self, id: ConnId) {
        if self.oldest.len() == self.oldest.capacity() {
            let mut oldest = std::mem::take(&mut self.oldest);
            oldest.retain(|id| self.is_unauthenticated(*id));
            self.oldest = oldest;
        }
        self.oldest.push_back(id);
    }

    fn is_unauthenticated(&self, id: ConnId) -> bool {
        self.conn(id).is_some_and(|conn| conn.dial.is_none() && !conn.authenticated)
    }

    /// Close the oldest connection whose owner is not known, if it had its chance.
    fn evict_oldest(&mut self) -> bool {
        while let Some(id) = self.oldest.front().copied() {
            if !self.is_unauthenticated(id) {
                self.oldest.pop_front();
                continue;
            }
            let opened = self.conn(id).map_or(self.now, |conn| conn.opened);
            if self.now.since(opened) < GRACE {
                return false;
            }
            self.oldest.pop_front();
            self.counts.evicted += 1;
            self.remove(id);
            return true;
        }
        false
    }
}

/// Is the system out of file descriptors or memory, rather than the connection broken?
fn is_exhausted(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
