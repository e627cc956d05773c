//! Connections come and go: accepting and dialling.
//!
//! Owns nothing. Always true: running out of file descriptors costs a pause, not a core. Must not:
//! decide who is authenticated.

use std::io::ErrorKind;

use mio::net::TcpStream;
use mio::{Interest, Token};

use super::conn::Socket;
use super::endpoint::TcpEndpoint;
use crate::endpoint::ConnId;
use crate::transport::stream::dial::DialStep;
use crate::transport::stream::table::{ACCEPT_PAUSE, Admission, is_exhausted};

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
        loop {
            match self.table.admission() {
                Admission::Admit => break,
                Admission::Evict(oldest) => self.remove(oldest),
                Admission::Refuse => return,
            }
        }
        let Some(id) = self.table.take_place() else {
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

    /// Begin the attempts that are due, end those that take too long.
    pub(super) fn dial_due(&mut self) {
        for index in 0..self.table.dials.len() {
            match self.table.dial_step(index) {
                Some(DialStep::Begin) => self.dial(index),
                Some(DialStep::GiveUp(id)) => self.remove(id),
                None => {}
            }
        }
    }

    fn dial(&mut self, index: usize) {
        let Some(id) = self.table.take_place() else {
            return self.table.dial_later(index);
        };
        let stream = TcpStream::connect(self.table.dials[index].address).and_then(|mut stream| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(id.index()), interest)?;
            Ok(stream)
        });
        match stream {
            Ok(stream) => self.table.begin_dial(index, id, Socket::new(stream)),
            Err(_) => {
                self.table.give_back(id);
                self.table.fail_dial(index);
            }
        }
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
