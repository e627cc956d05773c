//! One core's queue pairs.
//!
//! Owns the event loop's state. Always true: all that the device may read or write outlives the queue pair on
//! whose behalf it does; a completion only notes what happened, connections come and go elsewhere. Must not:
//! block outside `park`.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::chunks::Chunks;
use super::credits::RESERVE;
use super::socket::{Held, Socket, WINDOW_FIRST};
use super::verbs::{Completion, CompletionQueue, Domain, EventChannel, ReceiveWork};
use super::work::Work;
use super::{Listener, RdmaConfig, Registered};
use crate::arena::FramePool;
use crate::burst::Burst;
use crate::endpoint::{
    ConnEvent, ConnId, Endpoint, EndpointCounts, MESSAGE_SIZE_MAX_UNAUTHENTICATED, RawOutgoing,
    RawReceived, Waker,
};
use crate::transport::stream::device::{Device, POLL_EVERY, RxTurn, STALL_RETRY};
use crate::transport::stream::reassembly::{Sink, Stop};
use crate::transport::stream::table::{Parts, Table};
use crate::transport::stream::wake::Wake;
use crate::types::{Instant, OpenError, PeerId};

const COMPLETIONS: Token = Token(0);
const CONNECTIONS: Token = Token(1);
const LISTENER: Token = Token(2);
const WAKER: Token = Token(3);
/// Completions of sends that the queue has room for.
const SENDS_WANTED: usize = 8192;
/// Fewer would be of no use.
const SENDS_LEAST: usize = 128;

/// What an endpoint is made of.
pub(super) struct Opening {
    pub(super) config: RdmaConfig,
    pub(super) domain: Arc<Domain>,
    pub(super) listener: Option<Arc<Listener>>,
    pub(super) registered: Vec<Arc<Registered>>,
    pub(super) source: SocketAddr,
    pub(super) pool: FramePool,
}

/// The RDMA endpoint of one core.
pub struct RdmaEndpoint {
    /// First, so that queue pairs go before what they use.
    pub(super) table: Table<Socket>,
    pub(super) config: RdmaConfig,
    pub(super) source: SocketAddr,
    pool: FramePool,
    pub(super) receive: Chunks,
    pub(super) send: Chunks,
    pub(super) registered: Vec<Arc<Registered>>,
    pub(super) queue: CompletionQueue,
    /// The queue will tell of the next completion.
    armed: bool,
    pub(super) channel: Arc<EventChannel>,
    pub(super) channel_ready: bool,
    pub(super) listener: Option<Arc<Listener>>,
    pub(super) listener_ready: bool,
    pub(super) domain: Arc<Domain>,
    /// Sends of all connections that are not done.
    pub(super) sends: usize,
    pub(super) sends_max: usize,
    /// Connections that wait for a send chunk or a place in the queue.
    pub(super) starved: VecDeque<ConnId>,
    completions: Vec<Completion>,
    pub(super) work: Vec<ReceiveWork>,
    poll: Poll,
    ready: Events,
    wake: Wake<mio::Waker>,
    /// The owner waits for our descriptor itself.
    watched: Cell<bool>,
    bursts: u32,
}

impl RdmaEndpoint {
    pub(super) fn new(opening: Opening) -> Result<Self, OpenError> {
        let Opening { config, domain, listener, registered, source, pool } = opening;
        let failed = |source: io::Error| OpenError::System {
            action: format!("open a completion queue of {}", domain.device().name()),
            source,
            remedy: "raise the limits of open files (ulimit -n) and locked memory (ulimit -l)"
                .into(),
        };
        let most = domain.device().completions_max().map_err(failed)?;
        let size = (config.receive_chunks + SENDS_WANTED).min(most);
        let sends_max = size.saturating_sub(config.receive_chunks);
        if sends_max < SENDS_LEAST {
            return Err(OpenError::BadValue {
                field: "rdma.receive_chunks".into(),
                value: config.receive_chunks.to_string(),
                problem: format!("a queue of {} holds {most} completions", domain.device().name()),
                remedy: format!("use {} or fewer", most.saturating_sub(SENDS_LEAST)),
            });
        }
        let queue = CompletionQueue::new(&domain, size).map_err(failed)?;
        let channel = EventChannel::new().map_err(failed)?;
        let poll = Poll::new().map_err(failed)?;
        let watch = |fd: RawFd, token| {
            poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE)
        };
        watch(queue.fd(), COMPLETIONS).map_err(failed)?;
        watch(channel.fd(), CONNECTIONS).map_err(failed)?;
        if let Some(listener) = &listener {
            watch(listener.channel.fd(), LISTENER).map_err(failed)?;
        }
        let waker = mio::Waker::new(poll.registry(), WAKER).map_err(failed)?;
        let receives = config.window + RESERVE as usize;
        Ok(Self {
            table: Table::new(config.tcp.clone()),
            source,
            pool,
            receive: Chunks::new(&domain, config.receive_chunks, config.chunk_size)?,
            send: Chunks::new(&domain, config.send_chunks, config.chunk_size)?,
            registered,
            queue,
            armed: false,
            channel,
            channel_ready: true,
            listener_ready: listener.is_some(),
            listener,
            domain,
            sends: 0,
            sends_max,
            starved: VecDeque::with_capacity(config.tcp.places()),
            completions: Vec::with_capacity(64),
            work: Vec::with_capacity(receives),
            poll,
            ready: Events::with_capacity(8),
            wake: Wake::new(waker),
            watched: Cell::new(false),
            bursts: 0,
            config,
        })
    }

    /// Ask the kernel what is ready, waiting at most `limit`.
    fn poll_kernel(&mut self, limit: Duration) {
        if self.poll.poll(&mut self.ready, Some(limit)).is_err() {
            // Interrupted by a signal; there is no other reason once it was opened.
            return;
        }
        for event in &self.ready {
            match event.token() {
                COMPLETIONS => self.armed &= !self.queue.take_notices(),
                CONNECTIONS => self.channel_ready = true,
                LISTENER => self.listener_ready = true,
                _ => {}
            }
        }
    }

    /// Have the queue tell of the next completion. Returns how many were there already.
    fn arm(&mut self) -> usize {
        if self.armed {
            return 0;
        }
        // If it fails the device is gone, and a sleep ends at its limit.
        self.armed = self.queue.arm().is_ok();
        self.reap()
    }

    /// Note what the device completed. Returns how much that was.
    pub(super) fn reap(&mut self) -> usize {
        let mut sum = 0;
        loop {
            let mut completions = std::mem::take(&mut self.completions);
            let count = self.queue.poll(|completion| completions.push(completion));
            for completion in completions.drain(..) {
                self.on_completion(completion);
            }
            self.completions = completions;
            sum += count;
            if count == 0 {
                return sum;
            }
        }
    }

    fn on_completion(&mut self, completion: Completion) {
        match Work::from_bits(completion.work) {
            Work::Receive { conn, chunk } => self.on_received(conn, chunk, completion),
            Work::Send { conn, number } => self.on_sent(conn, number, completion.ok),
        }
    }

    fn on_received(&mut self, id: ConnId, chunk: u16, completion: Completion) {
        // Of one that is gone the chunk was given back already.
        let Some(conn) = self.table.conn_mut(id) else {
            return;
        };
        let socket = &mut conn.io;
        self.receive.back(chunk);
        // Without a number it is no send of ours.
        let number = completion.number.filter(|_| completion.ok);
        let Some(given) = number.filter(|given| socket.credits.given(*given).is_ok()) else {
            (socket.ended, socket.malformed) = (true, socket.malformed || completion.ok);
            return self.table.queue_rx(id);
        };
        let may_send = given > 0 || !socket.ready;
        socket.ready = true;
        if completion.size == 0 {
            self.post(id, [chunk]);
        } else if socket.credits.received().is_ok() {
            socket.held.push_back(Held { chunk, start: 0, end: completion.size });
            self.table.queue_rx(id);
        } else {
            (socket.ended, socket.malformed) = (true, true);
            self.table.queue_rx(id);
        }
        if may_send {
            self.table.queue_tx(id);
        }
    }

    fn on_sent(&mut self, id: ConnId, number: u32, ok: bool) {
        let Some(conn) = self.table.conn_mut(id) else {
            return;
        };
        let socket = &mut conn.io;
        let before = socket.flights.room();
        socket.flights.end(number, |chunk| self.send.give(chunk));
        self.sends -= socket.flights.room() - before;
        if ok {
            self.table.queue_tx(id);
        } else {
            socket.ended = true;
            self.table.queue_rx(id);
        }
        self.feed_starved();
    }

    /// Send chunks are free: those who wait for one have a turn.
    pub(super) fn feed_starved(&mut self) {
        while let Some(id) = self.starved.pop_front() {
            if let Some(conn) = self.table.conn_mut(id) {
                conn.io.starved = false;
                self.table.queue_tx(id);
            }
        }
    }

    /// Let the device receive into these chunks of a connection.
    fn post(&mut self, id: ConnId, chunks: impl IntoIterator<Item = u16>) {
        let Some(conn) = self.table.conn_mut(id) else {
            return;
        };
        if !conn.io.post(id, &mut self.receive, &mut self.work, chunks) {
            self.table.queue_rx(id);
        }
    }

    /// Take what a connection received, until a limit is reached.
    fn take_held(&mut self, id: ConnId, into: &mut Burst<RawReceived>) -> RxTurn {
        let bytes_max = self.config.tcp.turn_bytes_max;
        let Some(Parts { conn, reassembly, counts, .. }) = self.table.parts(id) else {
            return RxTurn::Idle;
        };
        let socket = &mut conn.io;
        let mut bytes = 0;
        while let Some(held) = socket.held.front_mut() {
            if bytes >= bytes_max {
                return RxTurn::More;
            }
            let mut input = &self.receive.bytes(held.chunk)[held.start as usize..held.end as usize];
            let before = input.len();
            let mut sink = Sink { conn: id, limit: conn.limit, pool: &self.pool, into };
            let stop = reassembly.take_counted(&mut input, &mut sink, counts);
            let count = before - input.len();
            bytes += count;
            held.start += count as u32;
            if held.start == held.end {
                socket.taken.push(held.chunk);
                socket.held.pop_front();
            }
            match stop {
                Some(Stop::NeedMore) => {}
                Some(Stop::Full) => return RxTurn::More,
                Some(Stop::PoolExhausted) => return RxTurn::Stalled,
                None => return RxTurn::Malformed,
            }
        }
        match socket {
            Socket { malformed: true, .. } => RxTurn::Malformed,
            Socket { ended: true, .. } => RxTurn::Ended,
            _ => RxTurn::Idle,
        }
    }

    /// Post again what was taken of a connection, and see that the other side learns of it.
    fn return_taken(&mut self, id: ConnId) {
        let Some(conn) = self.table.conn_mut(id) else {
            return;
        };
        let socket = &mut conn.io;
        if socket.taken.is_empty() || socket.ended {
            return;
        }
        let mut taken = std::mem::take(&mut socket.taken);
        socket.credits.freed(taken.len() as u32);
        let posted = socket.post(id, &mut self.receive, &mut self.work, taken.drain(..));
        socket.taken = taken;
        if socket.credits.update_due() {
            self.table.queue_tx(id);
        }
        if !posted {
            self.table.queue_rx(id);
        }
    }

    /// One who is known gets a larger window, as far as there are chunks beside those for others to come.
    fn grow(&mut self, id: ConnId) {
        let others = self.config.tcp.unauthenticated_max * (WINDOW_FIRST + RESERVE) as usize;
        let Some(conn) = self.table.conn_mut(id).filter(|conn| !conn.io.grown && !conn.io.ended)
        else {
            return;
        };
        let wanted = self.config.window - WINDOW_FIRST as usize;
        let count = wanted.min(self.receive.free().saturating_sub(others));
        conn.io.grown = true;
        conn.io.grow(id, &mut self.receive, &mut self.work, count);
        self.table.queue_rx(id);
        self.table.queue_tx(id);
    }

    /// Is there work that needs no notice?
    fn work_waits(&self) -> bool {
        let read = self.table.rx_waiting() > 0 && !self.table.stalled;
        read || !self.table.events.is_empty() || self.channel_ready || self.listener_ready
    }
}

impl Device for RdmaEndpoint {
    type Socket = Socket;

    fn table(&mut self) -> &mut Table<Socket> {
        &mut self.table
    }

    fn connect(&mut self, id: ConnId, address: SocketAddr) -> Option<Socket> {
        self.begin_connecting(id, address)
    }

    fn rx_turn(&mut self, id: ConnId, into: &mut Burst<RawReceived>) -> RxTurn {
        let turn = self.take_held(id, into);
        self.return_taken(id);
        turn
    }

    fn remove(&mut self, id: ConnId) {
        if let Some(conn) = self.table.remove(id) {
            self.release(conn.io);
        }
    }
}

impl Endpoint for RdmaEndpoint {
    fn rx_burst(&mut self, into: &mut Burst<RawReceived>) -> usize {
        let before = into.len();
        self.bursts = self.bursts.wrapping_add(1);
        let idle = self.table.rx_waiting() == 0 || self.table.stalled;
        if (idle && self.watched.get()) || self.bursts.is_multiple_of(POLL_EVERY) {
            self.poll_kernel(Duration::ZERO);
        }
        self.reap();
        self.follow_connections();
        if self.watched.get() {
            self.arm();
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
        if size > MESSAGE_SIZE_MAX_UNAUTHENTICATED {
            self.grow(conn);
        }
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
            self.transmit(id);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let more = (self.table.tx_waiting() > 0).then_some(self.table.now);
        [self.table.next_dial(), more].into_iter().flatten().min()
    }

    fn park(&mut self, limit: Duration) {
        if self.work_waits() || self.arm() > 0 {
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
        self.watched.set(true);
        Some(self.poll.as_raw_fd())
    }

    fn has_work(&self) -> bool {
        self.work_waits() || (self.watched.get() && !self.armed)
    }

    fn waker(&self) -> Waker {
        self.wake.waker()
    }

    fn counts(&self) -> EndpointCounts {
        self.table.counts
    }
}
