//! One core's sockets.
//!
//! Owns the event loop's state. Always true: a socket is registered as long as its connection is in
//! the table. Must not: block outside `park`.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::TcpConfig;
use super::conn::{Socket, TxTurn};
use super::fine_wait::fine_wait;
use crate::arena::FramePool;
use crate::burst::Burst;
use crate::endpoint::{
    ConnEvent, ConnId, Endpoint, EndpointCounts, RawOutgoing, RawReceived, Waker,
};
use crate::transport::stream::device::{Device, POLL_EVERY, RxTurn, STALL_RETRY};
use crate::transport::stream::reassembly::Sink;
use crate::transport::stream::table::{Parts, Table};
use crate::transport::stream::tx_queue::SCRATCH_SIZE;
use crate::transport::stream::wake::{Signal, Wake};
use crate::types::{Instant, OpenError, PeerId};

const LISTENER: Token = Token(usize::MAX - 1);
const WAKER: Token = Token(usize::MAX);
/// Kernel events taken at a time.
const EVENTS_MAX: usize = 256;

impl Signal for mio::Waker {
    fn signal(&self) {
        let _ = self.wake();
    }
}

/// The TCP endpoint of one core.
pub struct TcpEndpoint {
    pub(super) table: Table<Socket>,
    pool: FramePool,
    pub(super) poll: Poll,
    ready: Events,
    pub(super) listener: Option<mio::net::TcpListener>,
    pub(super) listener_ready: bool,
    /// The system was out of file descriptors; try again then.
    pub(super) accept_again: Option<Instant>,
    buffers: Vec<Box<[u8]>>,
    scratch: Box<[u8]>,
    wake: Wake<mio::Waker>,
    bursts: u32,
}

impl TcpEndpoint {
    pub(super) fn new(
        config: TcpConfig,
        listener: Option<TcpListener>,
        pool: FramePool,
    ) -> Result<Self, OpenError> {
        let failed = |source: io::Error| OpenError::System {
            action: "open an epoll instance".into(),
            source,
            remedy: "raise the limit of open files (ulimit -n)".into(),
        };
        let poll = Poll::new().map_err(failed)?;
        let mut listener = listener.map(mio::net::TcpListener::from_std);
        if let Some(listener) = &mut listener {
            poll.registry().register(listener, LISTENER, Interest::READABLE).map_err(failed)?;
        }
        let waker = mio::Waker::new(poll.registry(), WAKER).map_err(failed)?;
        Ok(Self {
            pool,
            poll,
            ready: Events::with_capacity(EVENTS_MAX),
            listener_ready: listener.is_some(),
            listener,
            accept_again: None,
            buffers: (0..config.receive_buffers)
                .map(|_| vec![0; config.receive_buffer_size].into_boxed_slice())
                .collect(),
            scratch: vec![0; SCRATCH_SIZE].into_boxed_slice(),
            wake: Wake::new(waker),
            bursts: 0,
            table: Table::new(config),
        })
    }

    /// Ask the kernel what is ready, waiting at most `limit`.
    fn poll_kernel(&mut self, limit: Duration) {
        let limit = fine_wait(self.poll.as_raw_fd(), limit);
        if self.poll.poll(&mut self.ready, Some(limit)).is_err() {
            // Interrupted by a signal; there is no other reason once it was opened.
            return;
        }
        let ready = std::mem::replace(&mut self.ready, Events::with_capacity(0));
        for event in &ready {
            match event.token() {
                WAKER => {}
                LISTENER => self.listener_ready = true,
                Token(index) => self.on_ready(index, event),
            }
        }
        self.ready = ready;
    }

    fn on_ready(&mut self, index: usize, event: &mio::event::Event) {
        let Some(conn) = self.table.at(index) else {
            return;
        };
        let id = conn.id;
        if conn.connecting {
            return self.finish_connecting(id);
        }
        let ending = event.is_read_closed() || event.is_error();
        let (readable, writable) = (event.is_readable() || ending, event.is_writable());
        let socket = &mut conn.io;
        socket.ending |= ending;
        socket.readable |= readable;
        socket.writable |= writable;
        if readable {
            self.table.queue_rx(id);
        }
        if writable {
            self.table.queue_tx(id);
        }
    }

    /// Is there work that needs no event?
    fn work_waits(&self) -> bool {
        let read = self.table.rx_waiting() > 0 && !self.table.stalled;
        read || !self.table.events.is_empty() || self.accept_possible()
    }
}

impl Device for TcpEndpoint {
    type Socket = Socket;

    fn table(&mut self) -> &mut Table<Socket> {
        &mut self.table
    }

    fn connect(&mut self, id: ConnId, address: SocketAddr) -> Option<Socket> {
        let mut stream = TcpStream::connect(address).ok()?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(id.index()), interest).ok()?;
        Some(Socket::new(stream))
    }

    fn rx_turn(&mut self, id: ConnId, into: &mut Burst<RawReceived>) -> RxTurn {
        let bytes_max = self.table.config.turn_bytes_max;
        let Some(Parts { conn, reassembly, counts, .. }) = self.table.parts(id) else {
            return RxTurn::Idle;
        };
        let mut sink = Sink { conn: id, limit: conn.limit, pool: &self.pool, into };
        conn.io.rx_turn(reassembly, &mut self.buffers, bytes_max, &mut sink, counts)
    }

    fn remove(&mut self, id: ConnId) {
        let Some(mut conn) = self.table.remove(id) else {
            return;
        };
        if let Some(held) = conn.io.held.take() {
            self.buffers.push(held.buffer);
        }
        // Closing the descriptor would deregister it as well; an error changes nothing.
        let _ = self.poll.registry().deregister(&mut conn.io.stream);
    }
}

impl Endpoint for TcpEndpoint {
    fn rx_burst(&mut self, into: &mut Burst<RawReceived>) -> usize {
        let before = into.len();
        self.bursts = self.bursts.wrapping_add(1);
        let idle = self.table.rx_waiting() == 0 || self.table.stalled;
        if idle || self.bursts.is_multiple_of(POLL_EVERY) {
            self.poll_kernel(Duration::ZERO);
        }
        if self.accept_possible() {
            self.accept_ready();
        }
        self.take_received(into);
        into.len() - before
    }

    fn tx(&mut self, out: RawOutgoing) -> Result<(), RawOutgoing> {
        self.table.tx(out)
    }

    fn events(&mut self) -> Option<ConnEvent> {
        self.table.event()
    }

    fn close(&mut self, conn: ConnId) {
        self.remove(conn);
    }

    fn set_dials(&mut self, dials: &[(PeerId, SocketAddr)]) {
        self.change_dials(dials);
    }

    fn set_message_size_max(&mut self, conn: ConnId, size: u32) {
        self.table.set_message_size_max(conn, size, self.pool.slot_size_max());
    }

    fn body_size_max(&self) -> usize {
        self.pool.slot_size_max()
    }

    fn flush(&mut self, now: Instant) {
        self.table.now = self.table.now.max(now);
        self.dial_due();
        for _ in 0..self.table.tx_waiting() {
            let Some(id) = self.table.next_tx() else {
                break;
            };
            let bytes_max = self.table.config.turn_bytes_max;
            let Some(Parts { conn, tx, counts, .. }) = self.table.parts(id) else {
                continue;
            };
            let socket = &mut conn.io;
            match socket.tx_turn(tx, &mut self.scratch, bytes_max, counts) {
                TxTurn::Idle => {}
                TxTurn::More => self.table.queue_tx(id),
                TxTurn::Failed => {
                    // What it sent before it failed may still be read: reading finds the end.
                    tx.reset();
                    (socket.writable, socket.readable, socket.ending) = (false, true, true);
                    self.table.queue_rx(id);
                }
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let more = (self.table.tx_waiting() > 0).then_some(self.table.now);
        [self.table.next_dial(), self.accept_again, more].into_iter().flatten().min()
    }

    fn park(&mut self, limit: Duration) {
        if self.work_waits() {
            return;
        }
        if self.wake.lie_down() {
            let limit = if self.table.stalled { limit.min(STALL_RETRY) } else { limit };
            self.poll_kernel(limit);
        }
        self.wake.rise();
    }

    fn poll_fd(&self) -> Option<RawFd> {
        self.wake.watch();
        Some(self.poll.as_raw_fd())
    }

    fn has_work(&self) -> bool {
        self.work_waits()
    }

    fn waker(&self) -> Waker {
        self.wake.waker()
    }

    fn counts(&self) -> EndpointCounts {
        self.table.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::{Arena, ArenaSpec, SlotClass};
    use crate::endpoint::Transport;
    use crate::transport::tcp::TcpTransport;

    /// An owner that waits for the descriptor learns of connections and of wakes.
    #[test]
    fn the_descriptor_is_readable_when_park_would_end() {
        let classes = vec![SlotClass { slot_size: 512, count: 8 }];
        let arena = Arena::heap(&ArenaSpec { classes }).unwrap();
        let listen = Some(([127, 0, 0, 1], 0).into());
        let mut transport =
            TcpTransport::new(TcpConfig { listen, ..TcpConfig::default() }).unwrap();
        let mut endpoint = transport.open(0, arena.pool()).unwrap();
        let mut outer = Poll::new().unwrap();
        let fd = endpoint.poll_fd().unwrap();
        let mut source = mio::unix::SourceFd(&fd);
        outer.registry().register(&mut source, Token(0), Interest::READABLE).unwrap();
        let mut events = Events::with_capacity(4);
        let mut into = Burst::with_capacity(8);
        let mut settle = |endpoint: &mut Box<dyn Endpoint>| {
            endpoint.flush(Instant(1));
            while endpoint.rx_burst(&mut into) > 0 || endpoint.has_work() {
                while endpoint.events().is_some() {}
            }
        };
        settle(&mut endpoint);
        endpoint.waker().wake();
        outer.poll(&mut events, Some(Duration::from_secs(60))).unwrap();
        assert!(!events.is_empty(), "a wake is seen");
        settle(&mut endpoint);
        let _knock = std::net::TcpStream::connect(transport.local_address().unwrap()).unwrap();
        outer.poll(&mut events, Some(Duration::from_secs(60))).unwrap();
        assert!(!events.is_empty(), "a connection is seen");
        settle(&mut endpoint);
        assert_eq!(endpoint.counts().accepted, 1);
    }
}
