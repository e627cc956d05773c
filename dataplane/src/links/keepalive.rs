//! Time limits of links.
//!
//! Owns when to look at the connections again. Always true: between two looks no limit passes
//! unnoticed, because every change that brings a limit forward says so to `check_at`. Must not: read
//! a clock.

use super::session::State;
use super::{Cause, Links};
use crate::endpoint::ConnId;
use crate::reject::Reject;
use crate::types::Instant;

/// What a connection needs now.
enum Due {
    HandshakeTimeout,
    /// Nothing came for too long, or the peer has another key since long enough.
    End,
    Ping,
    Nothing(Instant),
}

impl Links {
    /// Make sure that the connections are looked at no later than `at`.
    pub(super) fn check_at(&mut self, at: Instant) {
        self.next_check = self.next_check.min(at);
    }

    /// Look at every connection. Costs their number, but happens only when the earliest limit known
    /// at the last look has passed.
    pub(super) fn check_deadlines(&mut self) {
        let mut next = self.now + self.config.keepalive_interval;
        for index in 0..self.conns.len() {
            let Some(id) = self.conns[index].as_ref().map(|conn| conn.id) else {
                continue;
            };
            match self.due(id) {
                Due::HandshakeTimeout => self.on_handshake_timeout(id),
                Due::End => {
                    self.endpoint.close(id);
                    self.forget(id);
                }
                Due::Ping => self.send_ping(id),
                Due::Nothing(at) => next = next.min(at),
            }
        }
        self.next_check = next;
    }

    fn due(&mut self, id: ConnId) -> Due {
        let (now, keepalive) = (self.now, self.config.keepalive_interval);
        let (idle, handshake) = (self.config.idle_timeout, self.config.handshake_timeout);
        let Some(conn) = self.conn(id) else {
            return Due::Nothing(now + keepalive);
        };
        let State::Up(session) = &conn.state else {
            let limit = conn.opened + handshake;
            return if now >= limit { Due::HandshakeTimeout } else { Due::Nothing(limit) };
        };
        let (end, ping) = (session.last_rx + idle, session.last_tx + keepalive);
        let end = session.ends.map_or(end, |at| at.min(end));
        if now >= end {
            Due::End
        } else if now >= ping {
            Due::Ping
        } else {
            Due::Nothing(end.min(ping))
        }
    }

    fn on_handshake_timeout(&mut self, id: ConnId) {
        if let Some(peer) = self.conn(id).and_then(|conn| conn.outgoing) {
            self.diagnose(Some(peer), Cause::Timeout);
        }
        self.drop_conn(id, Reject::HandshakeTimeout);
    }
}
