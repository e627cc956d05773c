//! Connections come and go: accepting, dialling and closing.
//!
//! Owns nothing. Always true: a connection that is gone has given back its chunks, and the kernel
//! was asked to end what it does for it. Must not: decide who is authenticated.

use std::net::{SocketAddr, TcpStream as Connected};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use io_uring::opcode;
use mio::net::TcpStream;

use super::endpoint::{Arrival, Handle, Socket, UringEndpoint};
use super::key::Key;
use crate::burst::Burst;
use crate::endpoint::{ConnId, RawReceived};
use crate::transport::stream::device::{Device, RxTurn};
use crate::transport::stream::table::Table;

/// The kernel chooses the number of the registered file.
const ANY_FILE: i32 = -1;
/// How long to wait for a file to be registered before looking again.
const RETRY: Duration = Duration::from_millis(1);

impl UringEndpoint {
    /// Look at who connected, and at what became of our attempts.
    pub(super) fn welcome(&mut self) {
        for _ in 0..self.arrivals.len() {
            match self.arrivals.pop_front() {
                Some(Arrival::Accepted(file)) => self.admit(file),
                Some(Arrival::Connected(id)) => self.finish_connecting(id),
                None => return,
            }
        }
    }

    /// Take a connection into the table, or close it.
    fn admit(&mut self, file: u32) {
        let Some(id) = self.place_for_guest() else {
            return self.ring.close(file);
        };
        self.table.insert_guest(id, Socket::new(Handle::Registered(file)));
        // Its turn begins to receive.
        self.table.queue_rx(id);
    }

    /// The kernel reports something about an attempt: is it established, failed, or neither?
    fn finish_connecting(&mut self, id: ConnId) {
        let Some(conn) = self.table.conn_mut(id) else {
            return;
        };
        let Handle::Dialling(stream) = &conn.io.handle else {
            return;
        };
        if !matches!(stream.take_error(), Ok(None)) {
            self.table.counts.dial_failed += 1;
            return self.remove(id);
        }
        if stream.peer_addr().is_err() {
            return self.ring.poll_connected(Key::Connect(id), stream.as_raw_fd());
        }
        // Without it small messages wait for each other; a socket that refuses still works.
        let _ = stream.set_nodelay(true);
        let Some(file) = self.register(id) else {
            self.table.counts.dial_failed += 1;
            return self.remove(id);
        };
        if let Some(conn) = self.table.conn_mut(id) {
            // The registered file keeps the connection; the descriptor is not needed any more.
            conn.io.handle = Handle::Registered(file);
        }
        self.table.dialled(id);
        self.table.queue_rx(id);
    }

    /// Make the socket of a dialled connection a registered file. `None`: there is no room.
    fn register(&mut self, id: ConnId) -> Option<u32> {
        let conn = self.table.conn_mut(id)?;
        let Handle::Dialling(stream) = &conn.io.handle else {
            return None;
        };
        // A second descriptor of the same socket. With it, "do not block" is switched off for both:
        // the ring neither blocks on a socket nor wants to be told that it would.
        let socket = Connected::from(stream.as_fd().try_clone_to_owned().ok()?);
        socket.set_nonblocking(false).ok()?;
        let number = &*self.memory.installed;
        number.store(socket.as_raw_fd(), Ordering::Relaxed);
        let update = opcode::FilesUpdate::new(number.as_ptr(), 1).offset(ANY_FILE);
        let entry = update.build().user_data(Key::Install(id).encode());
        self.install_result = None;
        // SAFETY: the kernel reads and writes one number, which is on the heap until the ring is
        // quiet, and which nobody else touches before the completion: this function waits for it.
        unsafe { self.ring.push(&entry) };
        let _ = self.ring.submit();
        self.reap();
        while self.install_result.is_none() {
            self.ring.wait(RETRY);
            self.reap();
        }
        let file = self.memory.installed.load(Ordering::Relaxed);
        (self.install_result == Some(1)).then(|| u32::try_from(file).ok())?
    }
}

impl Device for UringEndpoint {
    type Socket = Socket;

    fn table(&mut self) -> &mut Table<Socket> {
        &mut self.table
    }

    fn connect(&mut self, id: ConnId, address: SocketAddr) -> Option<Socket> {
        let stream = TcpStream::connect(address).ok()?;
        self.ring.poll_connected(Key::Connect(id), stream.as_raw_fd());
        Some(Socket::new(Handle::Dialling(stream)))
    }

    fn rx_turn(&mut self, id: ConnId, into: &mut Burst<RawReceived>) -> RxTurn {
        self.receive(id, into)
    }

    fn remove(&mut self, id: ConnId) {
        let Some(mut conn) = self.table.remove(id) else {
            return;
        };
        self.memory.buffers.discard(&mut conn.io.held);
        if conn.io.receiving {
            self.ring.cancel(Key::Receive(id));
        }
        if conn.io.polling {
            self.ring.cancel(Key::Writable(id));
        }
        match conn.io.handle {
            Handle::Registered(file) => self.ring.close(file),
            // The descriptor is closed here; the kernel's poll has its own hold on the socket.
            Handle::Dialling(_) => self.ring.cancel(Key::Connect(id)),
        }
    }
}
