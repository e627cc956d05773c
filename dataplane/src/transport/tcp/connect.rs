//! Connections come: accepting, and what became of dialling.
//!
//! Owns nothing. Always true: running out of file descriptors costs a pause, not a core. Must not:
//! decide who is authenticated.

use std::io::ErrorKind;

use mio::net::TcpStream;
use mio::{Interest, Token};

use super::conn::Socket;
use super::endpoint::TcpEndpoint;
use crate::endpoint::ConnId;
use crate::transport::stream::device::Device;
use crate::transport::stream::table::{ACCEPT_PAUSE, is_exhausted};

/// Connections accepted before other work has its turn.
const ACCEPTS_PER_TURN: usize = 64;

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
                Err(error) if error.raw_os_error().is_some_and(is_exhausted) => {
                    self.table.counts.accept_failed += 1;
                    self.accept_again = Some(self.table.now + ACCEPT_PAUSE);
                }
                // The one who knocked is gone already.
                Err(_) => {}
            }
        }
    }

    /// Is there anything to accept, and is it time?
    pub(super) fn accept_possible(&self) -> bool {
        self.listener_ready && self.accept_again.is_none_or(|at| at <= self.table.now)
    }

    /// Take a connection into the table, or close it.
    fn admit(&mut self, mut stream: TcpStream) {
        let Some(id) = self.place_for_guest() else {
            return;
        };
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(&mut stream, Token(id.index()), interest).is_err() {
            self.table.counts.refused += 1;
            self.table.give_back(id);
            return;
        }
        // Without it small messages wait for each other; a socket that refuses still works.
        let _ = stream.set_nodelay(true);
        let mut socket = Socket::new(stream);
        (socket.readable, socket.writable) = (true, true);
        self.table.insert_guest(id, socket);
        self.table.queue_rx(id);
    }

    /// The kernel reports something about an attempt: is it established, failed, or neither?
    pub(super) fn finish_connecting(&mut self, id: ConnId) {
        let Some(conn) = self.table.conn_mut(id) else {
            return;
        };
        let socket = &mut conn.io;
        if !matches!(socket.stream.take_error(), Ok(None)) {
            self.table.counts.dial_failed += 1;
            return self.remove(id);
        }
        if socket.stream.peer_addr().is_err() {
            return;
        }
        (socket.readable, socket.writable) = (true, true);
        // Without it small messages wait for each other; a socket that refuses still works.
        let _ = socket.stream.set_nodelay(true);
        self.table.dialled(id);
        self.table.queue_rx(id);
    }
}
