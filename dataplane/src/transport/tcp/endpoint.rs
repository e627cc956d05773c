//! One core's sockets.
//!
//! Owns the connection table and the event loop's state. Always true: a connection is in the table
//! from its first byte to its removal, and its place is used again only after its `Closed` event was
//! taken; who is ready is in a queue, once. Must not: block outside `park`.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};

use super::TcpConfig;
use super::backoff::Backoff;
use super::conn::{Conn, RxTurn, TxTurn};
use super::dial::Dial;
use super::reassembly::{Reassembly, Sink};
use super::tx_queue::{SCRATCH_SIZE, TxQueue};
use crate::arena::FramePool;
use crate::burst::Burst;
use crate::endpoint::{
    ConnEvent, ConnId, Endpoint, EndpointCounts, MESSAGE_SIZE_MAX_UNAUTHENTICATED, RawOutgoing,
    RawReceived, Waker,
};
use crate::limits::HEADER_SIZE;
use crate::types::{Instant, OpenError};

const LISTENER: Token = Token(usize::MAX - 1);
const WAKER: Token = Token(usize::MAX);
/// Kernel events taken at a time.
const EVENTS_MAX: usize = 256;
/// The kernel is asked for events at least every so many bursts, also when there is work.
const POLL_EVERY: u32 = 8;
/// How long to wait for a slot or buffer before looking again: nobody tells us.
const STALL_RETRY: Duration = Duration::from_millis(1);

/// What outlives the connections of a place: buffers that need not be allocated again.
struct Place {
    generation: u16,
    conn: Option<Box<Conn>>,
    reassembly: Reassembly,
    tx: TxQueue,
}

/// How other threads end a `park`.
struct WakeState {
    waker: mio::Waker,
    /// Somebody called `wake` since the last `park` returned.
    pending: AtomicBool,
    parked: AtomicBool,
    /// The owner waits for our descriptor itself, so we cannot know when it sleeps.
    watched: AtomicBool,
}

/// The TCP endpoint of one core.
pub struct TcpEndpoint {
    pub(super) config: TcpConfig,
    pool: FramePool,
    pub(super) poll: Poll,
    ready: Events,
    pub(super) listener: Option<mio::net::TcpListener>,
    pub(super) listener_ready: bool,
    /// The system was out of file descriptors; try again then.
    pub(super) accept_again: Option<Instant>,
    places: Vec<Place>,
    pub(super) free: Vec<u16>,
    pub(super) dials: Vec<Dial>,
    pub(super) events: VecDeque<ConnEvent>,
    /// Connections to read from, each once.
    rx_queue: VecDeque<ConnId>,
    /// Connections to write to, each once.
    tx_queue: VecDeque<ConnId>,
    /// Connections of others in the order they came; may contain those authenticated or gone.
    pub(super) oldest: VecDeque<ConnId>,
    pub(super) live: usize,
    pub(super) unauthenticated: usize,
    buffers: Vec<Box<[u8]>>,
    scratch: Box<[u8]>,
    wake: Arc<WakeState>,
    pub(super) counts: EndpointCounts,
    /// Of the last flush.
    pub(super) now: Instant,
    bursts: u32,
    /// All that is ready to be read waits for a slot or a buffer.
    stalled: bool,
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
        let [pending, parked, watched] = [(); 3].map(|()| AtomicBool::new(false));
        let places = config.places();
        let salt = u64::from(std::process::id());
        let dial = |&(peer, address)| {
            let backoff = Backoff::new(config.backoff_min, config.backoff_max, peer, salt);
            Dial::new(peer, address, backoff)
        };
        let place = || Place {
            generation: 0,
            conn: None,
            reassembly: Reassembly::new(),
            tx: TxQueue::new(),
        };
        Ok(Self {
            dials: config.dial.iter().map(dial).collect(),
            pool,
            poll,
            ready: Events::with_capacity(EVENTS_MAX),
            listener_ready: listener.is_some(),
            listener,
            accept_again: None,
            places: std::iter::repeat_with(place).take(places).collect(),
            // Low places first: tables of the users stay short.
            free: (0..places as u16).rev().collect(),
            events: VecDeque::with_capacity(2 * places),
            rx_queue: VecDeque::with_capacity(places),
            tx_queue: VecDeque::with_capacity(places),
            oldest: VecDeque::with_capacity(2 * config.unauthenticated_max + 1),
            live: 0,
            unauthenticated: 0,
            buffers: (0..config.receive_buffers)
                .map(|_| vec![0; config.receive_buffer_size].into_boxed_slice())
                .collect(),
            scratch: vec![0; SCRATCH_SIZE].into_boxed_slice(),
            wake: Arc::new(WakeState { waker, pending, parked, watched }),
            counts: EndpointCounts::default(),
            now: Instant(0),
            bursts: 0,
            stalled: false,
            config,
        })
    }

    pub(super) fn conn(&self, id: ConnId) -> Option<&Conn> {
        self.places.get(id.index())?.conn.as_deref().filter(|conn| conn.id == id)
    }

    pub(super) fn conn_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.places.get_mut(id.index())?.conn.as_deref_mut().filter(|conn| conn.id == id)
    }

    /// The name of the next use of a free place.
    pub(super) fn next_id(&mut self, place: u16) -> ConnId {
        let state = &mut self.places[usize::from(place)];
        state.generation = state.generation.wrapping_add(1);
        ConnId::new(place, state.generation)
    }

    pub(super) fn insert(&mut self, conn: Conn) {
        let index = conn.id.index();
        self.places[index].conn = Some(Box::new(conn));
        self.live += 1;
    }

    /// Close a connection and forget it. If its `Opened` was announced, its `Closed` will be.
    pub(super) fn remove(&mut self, id: ConnId) {
        if self.conn(id).is_none() {
            return;
        }
        let place = &mut self.places[id.index()];
        let Some(mut conn) = place.conn.take() else {
            return;
        };
        place.reassembly.reset();
        place.tx.reset();
        self.live -= 1;
        if let Some(held) = conn.held.take() {
            self.buffers.push(held.buffer);
        }
        // Closing the descriptor would deregister it as well; an error changes nothing.
        let _ = self.poll.registry().deregister(&mut conn.stream);
        match conn.dial {
            Some(dial) => self.dial_later(dial),
            None if !conn.authenticated => self.unauthenticated -= 1,
            None => {}
        }
        if conn.connecting {
            self.free.push(id.index() as u16);
        } else {
            self.events.push_back(ConnEvent::Closed { conn: id });
        }
    }

    pub(super) fn queue_rx(&mut self, id: ConnId) {
        if let Some(conn) = self.conn_mut(id)
            && !conn.rx_queued
        {
            conn.rx_queued = true;
            self.rx_queue.push_back(id);
            self.stalled = false;
        }
    }

    fn queue_tx(&mut self, id: ConnId) {
        if let Some(conn) = self.conn_mut(id)
            && !conn.tx_queued
        {
            conn.tx_queued = true;
            self.tx_queue.push_back(id);
        }
    }

    /// Ask the kernel what is ready, waiting at most `limit`.
    fn poll_kernel(&mut self, limit: Duration) {
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
        let Some(conn) = self.places.get_mut(index).and_then(|place| place.conn.as_deref_mut())
        else {
            return;
        };
        let id = conn.id;
        if conn.connecting {
            return self.finish_connecting(id);
        }
        let ending = event.is_read_closed() || event.is_error();
        conn.ending |= ending;
        if event.is_readable() || ending {
            conn.readable = true;
            self.queue_rx(id);
        }
        if event.is_writable() {
            if let Some(conn) = self.conn_mut(id) {
                conn.writable = true;
            }
            self.queue_tx(id);
        }
    }

    /// Give each connection that is ready one turn, until `into` is full.
    fn read_ready(&mut self, into: &mut Burst<RawReceived>) {
        let mut waiting = 0;
        self.stalled = false;
        for _ in 0..self.rx_queue.len() {
            if into.is_full() {
                return;
            }
            let Some(id) = self.rx_queue.pop_front() else {
                break;
            };
            let config = &self.config;
            let Some(place) = self.places.get_mut(id.index()) else {
                continue;
            };
            let Some(conn) = place.conn.as_deref_mut().filter(|conn| conn.id == id) else {
                continue;
            };
            conn.rx_queued = false;
            let mut sink = Sink { conn: id, limit: conn.limit, pool: &self.pool, into };
            let outcome = conn.rx_turn(
                &mut place.reassembly,
                &mut self.buffers,
                config.turn_bytes_max,
                &mut sink,
                &mut self.counts,
            );
            match outcome {
                RxTurn::Idle => {}
                RxTurn::More => self.queue_rx(id),
                RxTurn::Stalled | RxTurn::NoBuffer => {
                    if outcome == RxTurn::Stalled {
                        self.counts.pool_exhausted += 1;
                    }
                    waiting += 1;
                    self.queue_rx(id);
                }
                RxTurn::Ended => self.remove(id),
                RxTurn::Malformed => {
                    self.counts.malformed += 1;
                    self.remove(id);
                }
            }
        }
        self.stalled = waiting > 0 && waiting == self.rx_queue.len();
    }

    /// Is there work that needs no event?
    fn work_waits(&self) -> bool {
        let read = !self.rx_queue.is_empty() && !self.stalled;
        read || !self.events.is_empty() || self.accept_possible()
    }
}

impl Endpoint for TcpEndpoint {
    fn rx_burst(&mut self, into: &mut Burst<RawReceived>) -> usize {
        let before = into.len();
        self.bursts = self.bursts.wrapping_add(1);
        if self.rx_queue.is_empty() || self.stalled || self.bursts.is_multiple_of(POLL_EVERY) {
            self.poll_kernel(Duration::ZERO);
        }
        if self.accept_possible() {
            self.accept_ready();
        }
        self.read_ready(into);
        into.len() - before
    }

    fn tx(&mut self, out: RawOutgoing) -> Result<(), RawOutgoing> {
        let id = out.conn;
        let (messages_max, bytes_max) = (self.config.tx_messages_max, self.config.tx_bytes_max);
        let open = self.conn(id).is_some_and(|conn| !conn.connecting);
        let pushed = match self.places.get_mut(id.index()) {
            Some(place) if open => place.tx.push(out, messages_max, bytes_max),
            _ => Err(out),
        };
        match pushed {
            Ok(()) => self.queue_tx(id),
            Err(_) => self.counts.tx_refused += 1,
        }
        pushed
    }

    fn events(&mut self) -> Option<ConnEvent> {
        let event = self.events.pop_front()?;
        if let ConnEvent::Closed { conn } = event {
            self.free.push(conn.index() as u16);
        }
        Some(event)
    }

    fn close(&mut self, conn: ConnId) {
        self.remove(conn);
    }

    fn set_message_size_max(&mut self, conn: ConnId, size: u32) {
        // What no slot can hold would wait for ever.
        let slot = u32::try_from(self.pool.slot_size_max() + HEADER_SIZE).unwrap_or(u32::MAX);
        let messages_max = self.config.tx_messages_max;
        let Some(state) = self.conn_mut(conn) else {
            return;
        };
        state.limit = size.min(slot);
        if size <= MESSAGE_SIZE_MAX_UNAUTHENTICATED || state.authenticated {
            return;
        }
        state.authenticated = true;
        match state.dial {
            Some(dial) => self.dials[dial].backoff.reset(),
            None => self.unauthenticated -= 1,
        }
        self.places[conn.index()].tx.reserve(messages_max);
    }

    fn flush(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.dial_due();
        for _ in 0..self.tx_queue.len() {
            let Some(id) = self.tx_queue.pop_front() else {
                break;
            };
            let Some(place) = self.places.get_mut(id.index()) else {
                continue;
            };
            let Some(conn) = place.conn.as_deref_mut().filter(|conn| conn.id == id) else {
                continue;
            };
            conn.tx_queued = false;
            let bytes_max = self.config.turn_bytes_max;
            match conn.tx_turn(&mut place.tx, &mut self.scratch, bytes_max, &mut self.counts) {
                TxTurn::Idle => {}
                TxTurn::More => self.queue_tx(id),
                TxTurn::Failed => {
                    // What it sent before it failed may still be read: reading finds the end.
                    place.tx.reset();
                    (conn.writable, conn.readable, conn.ending) = (false, true, true);
                    self.queue_rx(id);
                }
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let more = (!self.tx_queue.is_empty()).then_some(self.now);
        [self.next_dial(), self.accept_again, more].into_iter().flatten().min()
    }

    fn park(&mut self, limit: Duration) {
        if self.work_waits() {
            return;
        }
        self.wake.parked.store(true, Ordering::SeqCst);
        if !self.wake.pending.swap(false, Ordering::SeqCst) {
            let limit = if self.stalled { limit.min(STALL_RETRY) } else { limit };
            self.poll_kernel(limit);
        }
        self.wake.parked.store(false, Ordering::SeqCst);
        self.wake.pending.store(false, Ordering::SeqCst);
    }

    fn poll_fd(&self) -> Option<RawFd> {
        self.wake.watched.store(true, Ordering::SeqCst);
        Some(self.poll.as_raw_fd())
    }

    fn has_work(&self) -> bool {
        self.work_waits()
    }

    fn waker(&self) -> Waker {
        let wake = Arc::clone(&self.wake);
        Waker::new(move || {
            wake.pending.store(true, Ordering::SeqCst);
            // A system call only if somebody may sleep. If it fails, the sleep ends at its limit.
            if wake.parked.load(Ordering::SeqCst) || wake.watched.load(Ordering::SeqCst) {
                let _ = wake.waker.wake();
            }
        })
    }

    fn counts(&self) -> EndpointCounts {
        self.counts
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
