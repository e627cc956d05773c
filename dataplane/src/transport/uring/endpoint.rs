//! One core's ring and its connections.
//!
//! Owns the event loop's state. Always true: all that the kernel may read or write outlives its last
//! use, also when the endpoint is dropped; a completion only notes what happened, and connections
//! come and go when nothing of theirs is being transmitted. Must not: block outside `park`.

use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::AtomicI32;
use std::time::Duration;

use mio::net::TcpStream;

use super::batch::Batch;
use super::buffers::{Buffers, Chain, GROUP};
use super::event::Event;
use super::key::Key;
use super::ring::{Completion, Ring};
use super::zero_copy::ZeroCopy;
use crate::arena::FramePool;
use crate::burst::Burst;
use crate::endpoint::{
    ConnEvent, ConnId, Endpoint, EndpointCounts, RawOutgoing, RawReceived, Waker,
};
use crate::transport::stream::TcpConfig;
use crate::transport::stream::device::{Device, POLL_EVERY, RxTurn, STALL_RETRY};
use crate::transport::stream::reassembly::{Sink, Stop};
use crate::transport::stream::table::{ACCEPT_PAUSE, Parts, Table, is_exhausted};
use crate::transport::stream::wake::Wake;
use crate::types::{Instant, PeerId};

/// What the kernel calls a connection.
pub(super) enum Handle {
    /// Being dialled: still an ordinary socket.
    Dialling(TcpStream),
    /// A registered file.
    Registered(u32),
}

/// What the table keeps for a connection.
pub(in crate::transport) struct Socket {
    pub(super) handle: Handle,
    /// A multishot receive is with the kernel.
    pub(super) receiving: bool,
    /// It was asked to end.
    cancelling: bool,
    /// The other side closed, or the socket failed: no bytes follow those in `held`.
    ended: bool,
    /// The kernel may take bytes.
    writable: bool,
    /// A poll for that is with the kernel.
    pub(super) polling: bool,
    /// Bytes transmitted in this flush.
    sent_in_turn: usize,
    /// Bytes that were received and not taken.
    pub(super) held: Chain,
}

impl Socket {
    pub(super) fn new(handle: Handle) -> Self {
        Self {
            handle,
            receiving: false,
            cancelling: false,
            ended: false,
            writable: true,
            polling: false,
            sent_in_turn: 0,
            held: Chain::new(),
        }
    }

    fn file(&self) -> Option<u32> {
        match self.handle {
            Handle::Registered(file) => Some(file),
            Handle::Dialling(_) => None,
        }
    }
}

/// What happened to the table's advantage or disadvantage, to be looked at between transmissions.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arrival {
    /// Somebody connected: a registered file.
    Accepted(u32),
    /// A dialled connection is established, or has failed.
    Connected(ConnId),
}

/// What the kernel reads and writes. Freed only when it is known to be done.
pub(super) struct Memory {
    pub(super) buffers: Buffers,
    pub(super) batch: Batch,
    pub(super) zero_copy: ZeroCopy,
    /// Where the kernel writes the number of a registered file.
    pub(super) installed: Box<AtomicI32>,
}

/// The io_uring endpoint of one core.
///
/// It belongs to the thread that first uses it, be it to receive, flush or park: the ring admits no
/// other. Until then it may be moved.
pub struct UringEndpoint {
    pub(super) table: Table<Socket>,
    pool: FramePool,
    pub(super) ring: Ring,
    pub(super) memory: ManuallyDrop<Memory>,
    listener: Option<TcpListener>,
    /// A multishot accept is with the kernel.
    accepting: bool,
    /// The system had nothing for one more connection; try again then.
    accept_again: Option<Instant>,
    pub(super) arrivals: VecDeque<Arrival>,
    /// Of [`Key::Install`].
    pub(super) install_result: Option<i32>,
    wake: Wake<Event>,
    /// The poll of the wake's descriptor is with the kernel.
    wake_armed: bool,
    /// Chunks of one connection before it has to wait for its messages to be taken.
    held_max: usize,
    bursts: u32,
}

impl UringEndpoint {
    pub(super) fn new(
        config: TcpConfig,
        listener: Option<TcpListener>,
        pool: FramePool,
        ring: Ring,
        memory: Memory,
        event: Event,
    ) -> Self {
        Self {
            arrivals: VecDeque::with_capacity(config.places()),
            table: Table::new(config),
            pool,
            ring,
            held_max: (memory.buffers.count() / 4).max(2),
            memory: ManuallyDrop::new(memory),
            listener,
            accepting: false,
            accept_again: None,
            install_result: None,
            wake: Wake::new(event),
            wake_armed: false,
            bursts: 0,
        }
    }

    /// Give the kernel what it should always have.
    fn arm(&mut self) {
        self.ring.own();
        if !self.wake_armed {
            self.ring.poll_readable(Key::Wake, self.wake.signal().as_raw_fd());
            self.wake_armed = true;
        }
        if let Some(listener) = &self.listener
            && !self.accepting
            && self.accept_again.is_none_or(|at| at <= self.table.now)
        {
            self.accept_again = None;
            self.ring.accept(Key::Accept, listener.as_raw_fd());
            self.accepting = true;
        }
    }

    /// Note what the kernel completed. Returns how much that was.
    pub(super) fn reap(&mut self) -> usize {
        let mut count = 0;
        while let Some(completion) = self.ring.completion() {
            self.on_completion(completion);
            count += 1;
        }
        count
    }

    /// Reap; enter the kernel for it only if that can bring something.
    fn look(&mut self) {
        if self.reap() == 0 && self.ring.is_due() {
            // If it cannot be now, it is due again.
            let _ = self.ring.submit();
            self.reap();
        }
    }

    fn on_completion(&mut self, completion: Completion) {
        let Completion { key, result, more, .. } = completion;
        match key {
            Key::Forgotten => {}
            Key::Wake => self.wake_armed = more,
            Key::Accept => self.on_accept(result, more),
            Key::Receive(id) => self.on_receive(id, completion),
            Key::Writable(id) => {
                if let Some(conn) = self.table.conn_mut(id) {
                    (conn.io.polling, conn.io.writable) = (false, true);
                    self.table.queue_tx(id);
                }
            }
            Key::Connect(id) => self.arrivals.push_back(Arrival::Connected(id)),
            Key::Install(_) => self.install_result = Some(result),
            Key::Send(at) => self.memory.batch.complete(at, result),
            Key::SendZeroCopy(flight) => {
                let memory = &mut *self.memory;
                if !completion.released
                    && let Some(at) = memory.zero_copy.place(flight)
                {
                    memory.batch.complete(at, result);
                }
                if !more {
                    memory.zero_copy.end(flight);
                }
            }
        }
    }

    fn on_accept(&mut self, result: i32, more: bool) {
        self.accepting = more;
        match u32::try_from(result) {
            Ok(file) => self.arrivals.push_back(Arrival::Accepted(file)),
            // Out of memory, or no registered file is free: then the kernel has closed the one who
            // knocked. The others wait.
            Err(_) if is_exhausted(-result) => {
                self.table.counts.accept_failed += 1;
                self.accept_again = Some(self.table.now + ACCEPT_PAUSE);
            }
            // The one who knocked is gone already.
            Err(_) => {}
        }
    }

    fn on_receive(&mut self, id: ConnId, completion: Completion) {
        let Completion { result, more, buffer, .. } = completion;
        let buffers = &mut self.memory.buffers;
        let Some(conn) = self.table.conn_mut(id) else {
            if let Some(chunk) = buffer {
                buffers.refuse(chunk);
            }
            return;
        };
        let socket = &mut conn.io;
        match (buffer, result) {
            (Some(chunk), 1..) => buffers.filled(chunk, result as usize, &mut socket.held),
            (Some(chunk), _) => buffers.refuse(chunk),
            (None, _) => {}
        }
        if !more {
            (socket.receiving, socket.cancelling) = (false, false);
            // Out of buffers and told to pause: it goes on when what is held was taken.
            socket.ended |= result <= 0 && !matches!(-result, libc::ENOBUFS | libc::ECANCELED);
        } else if socket.held.len() >= self.held_max && !socket.cancelling {
            socket.cancelling = true;
            self.ring.cancel(Key::Receive(id));
        }
        self.table.queue_rx(id);
    }

    /// Take what a connection received, until a limit is reached; then let it receive more.
    pub(super) fn receive(&mut self, id: ConnId, into: &mut Burst<RawReceived>) -> RxTurn {
        let bytes_max = self.table.config.turn_bytes_max;
        let buffers = &mut self.memory.buffers;
        let Some(Parts { conn, reassembly, counts, .. }) = self.table.parts(id) else {
            return RxTurn::Idle;
        };
        let socket = &mut conn.io;
        let mut bytes = 0;
        while let Some(chunk) = buffers.first(&socket.held) {
            if bytes >= bytes_max {
                return RxTurn::More;
            }
            let mut input = chunk;
            let mut sink = Sink { conn: id, limit: conn.limit, pool: &self.pool, into };
            let stop = reassembly.take_counted(&mut input, &mut sink, counts);
            let taken = chunk.len() - input.len();
            buffers.consume(&mut socket.held, taken);
            bytes += taken;
            match stop {
                Some(Stop::NeedMore) => {}
                Some(Stop::Full) => return RxTurn::More,
                Some(Stop::PoolExhausted) => return RxTurn::Stalled,
                None => return RxTurn::Malformed,
            }
        }
        match socket.handle {
            _ if socket.ended => RxTurn::Ended,
            Handle::Registered(file) if !socket.receiving => {
                if !buffers.any_with_kernel() {
                    return RxTurn::NoBuffer;
                }
                socket.receiving = true;
                self.ring.receive(Key::Receive(id), file, GROUP);
                RxTurn::Idle
            }
            _ => RxTurn::Idle,
        }
    }

    /// Transmit what is queued: each connection one turn, all of them together.
    fn transmit(&mut self) {
        let mut turns = self.table.tx_waiting();
        while turns > 0 {
            self.memory.batch.begin();
            while turns > 0 && self.memory.batch.has_room() {
                let Some(id) = self.table.next_tx() else {
                    turns = 0;
                    break;
                };
                turns -= 1;
                self.add_to_batch(id);
            }
            if self.memory.batch.is_empty() {
                return;
            }
            // Results come with the submission. Should the kernel be short of memory, they come
            // with a later one; until then nothing may touch what it reads.
            let _ = self.ring.submit();
            self.reap();
            while !self.memory.batch.is_complete() {
                self.ring.wait(STALL_RETRY);
                self.reap();
            }
            turns += self.settle_batch();
        }
    }

    fn add_to_batch(&mut self, id: ConnId) {
        let Memory { batch, zero_copy, .. } = &mut *self.memory;
        let Some(Parts { conn, tx, .. }) = self.table.parts(id) else {
            return;
        };
        let Some(file) = conn.io.file() else {
            return;
        };
        if !conn.io.writable || tx.is_empty() {
            return;
        }
        let body_max = zero_copy.body_max();
        if let Some((frame, from)) = tx.large_body(body_max)
            && let Some(place) = zero_copy.reserve(frame)
        {
            // SAFETY: the flight holds the frame until it is released.
            let at = unsafe { batch.add_zero_copy(&mut self.ring, file, id, (frame, from), place) };
            return zero_copy.begin(place.0, frame.clone(), at);
        }
        // SAFETY: `transmit` returns to others only when the batch is complete, and on the way there
        // `on_completion` changes no transmit queue. The queue is not empty, and begins with bytes
        // below the limit: else `large_body` had found them.
        unsafe { batch.add(&mut self.ring, file, id, tx, body_max) };
    }

    /// Look at the results of a complete batch. Returns how many connections have more to send.
    fn settle_batch(&mut self) -> usize {
        let mut again = 0;
        let bytes_max = self.table.config.turn_bytes_max;
        for at in 0.. {
            let Some(sent) = self.memory.batch.sent(at) else {
                break;
            };
            let Some(Parts { conn, tx, counts, .. }) = self.table.parts(sent.conn) else {
                continue;
            };
            let socket = &mut conn.io;
            let taken = match usize::try_from(sent.result) {
                Ok(bytes) => bytes,
                Err(_) if matches!(-sent.result, libc::EAGAIN | libc::EINTR) => 0,
                Err(_) => {
                    // What it sent before it failed may still be read: receiving finds the end.
                    tx.reset();
                    socket.writable = false;
                    continue;
                }
            };
            counts.tx_bytes += taken as u64;
            counts.tx_messages += tx.advance(taken) as u64;
            socket.sent_in_turn += taken;
            if taken < sent.offered {
                socket.writable = false;
                if let Some(file) = socket.file()
                    && !socket.polling
                {
                    socket.polling = true;
                    self.ring.poll_writable(Key::Writable(sent.conn), file);
                }
            } else if tx.is_empty() {
                socket.sent_in_turn = 0;
            } else if socket.sent_in_turn < bytes_max {
                self.table.queue_tx(sent.conn);
                again += 1;
            } else {
                socket.sent_in_turn = 0;
                self.table.queue_tx(sent.conn);
            }
        }
        again
    }

    /// Is there work that needs no completion?
    fn work_waits(&self) -> bool {
        let read = self.table.rx_waiting() > 0 && !self.table.stalled;
        read || !self.table.events.is_empty() || !self.arrivals.is_empty()
    }
}

impl Endpoint for UringEndpoint {
    fn rx_burst(&mut self, into: &mut Burst<RawReceived>) -> usize {
        let before = into.len();
        self.arm();
        self.bursts = self.bursts.wrapping_add(1);
        let idle = self.table.rx_waiting() == 0 || self.table.stalled;
        if idle || self.bursts.is_multiple_of(POLL_EVERY) {
            self.look();
        }
        self.welcome();
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
        self.arm();
        self.dial_due();
        self.transmit();
        if self.ring.is_due() {
            // If it cannot be now, it is due again.
            let _ = self.ring.submit();
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let more = (self.table.tx_waiting() > 0).then_some(self.table.now);
        [self.table.next_dial(), self.accept_again, more].into_iter().flatten().min()
    }

    fn park(&mut self, limit: Duration) {
        self.arm();
        if self.work_waits() {
            return;
        }
        if self.wake.lie_down() && self.reap() == 0 {
            let limit = if self.table.stalled { limit.min(STALL_RETRY) } else { limit };
            self.ring.wait(limit);
            self.reap();
        }
        self.wake.rise();
    }

    fn poll_fd(&self) -> Option<RawFd> {
        self.wake.watch();
        Some(self.ring.as_raw_fd())
    }

    fn has_work(&self) -> bool {
        self.work_waits() || self.ring.has_completion()
    }

    fn waker(&self) -> Waker {
        self.wake.waker()
    }

    fn counts(&self) -> EndpointCounts {
        self.table.counts
    }
}

impl Drop for UringEndpoint {
    fn drop(&mut self) {
        if self.ring.quiesce() {
            // SAFETY: dropped once, here, and not used afterwards: the kernel has let go of it, and
            // the other fields do not refer to it. Otherwise it is leaked, which is safe.
            unsafe { ManuallyDrop::drop(&mut self.memory) }
        }
    }
}
