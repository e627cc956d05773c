//! One suite that every transport must pass.
//!
//! Owns the contract of [`Endpoint`] as executable checks. Always true: a check fails by panicking
//! with what was expected; a transport that hangs fails after [`PATIENCE`]. Must not: depend on how
//! fast the machine is.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use crate::arena::{Arena, ArenaSpec, FramePool, SlotClass};
use crate::burst::Burst;
use crate::clock::{Clock, SystemClock};
use crate::endpoint::{ConnEvent, ConnId, Endpoint, HeaderBytes, RawOutgoing, RawReceived};
use crate::header::Header;
use crate::limits::{BODY_SIZE_MAX, FRAME_SIZE_MAX, HEADER_SIZE};
use crate::types::{Instant, PeerId};

/// How long a check waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Two endpoints, of which one keeps dialling the other.
pub struct Pair {
    /// Dials exactly one peer.
    pub dialler: Box<dyn Endpoint>,
    /// Is dialled.
    pub acceptor: Box<dyn Endpoint>,
    /// Where, for [`Endpoint::set_dials`]; the dialler calls it replica 0.
    pub address: SocketAddr,
    /// The acceptor sees an attempt that has begun, even one that is given up at once. Not so where
    /// several steps lead to a connection.
    pub knocks_at_once: bool,
}

/// Run all checks. `make` opens a new pair that receives into the given pools (dialler's first); it
/// is called once per check.
///
/// # Panics
/// If the transport breaks the contract.
pub fn run(make: &mut dyn FnMut(FramePool, FramePool) -> Pair) {
    sizes(&mut Rig::new(make, &CLASSES));
    many_messages_both_ways(&mut Rig::new(make, &CLASSES));
    backpressure(&mut Rig::new(make, &CLASSES));
    exhausted_pool(&mut Rig::new(make, &[(256, 8)]));
    too_large(&mut Rig::new(make, &CLASSES));
    close_and_reopen(&mut Rig::new(make, &CLASSES));
    other_dials(&mut Rig::new(make, &CLASSES));
    wake(&mut Rig::new(make, &CLASSES));
}

const CLASSES: [(u32, u32); 3] = [(512, 2048), (16384, 64), (BODY_SIZE_MAX as u32, 4)];

/// A header whose sequence names the message.
fn header(sequence: u64, body_size: usize) -> HeaderBytes {
    let header = Header {
        kind: 1,
        auth: 0,
        size: (HEADER_SIZE + body_size) as u32,
        sender: 0,
        proof_size: 0,
        cluster: 1,
        session: 0,
        sequence,
        body_digest: [0; 32],
        tag: [0; 16],
    };
    header.to_bytes()
}

/// The byte at `at` of the body of message `sequence`.
fn byte(sequence: u64, at: usize) -> u8 {
    (sequence as usize).wrapping_mul(31).wrapping_add(at.wrapping_mul(7) ^ (at >> 8)) as u8
}

/// One side of the pair.
struct Side {
    endpoint: Box<dyn Endpoint>,
    arena: Arena,
    conn: Option<ConnId>,
    closed: usize,
    received: Burst<RawReceived>,
    clock: SystemClock,
}

impl Side {
    fn new(endpoint: Box<dyn Endpoint>, arena: Arena, clock: SystemClock) -> Self {
        let received = Burst::with_capacity(64);
        Self { endpoint, arena, conn: None, closed: 0, received, clock }
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Receive, note events, transmit.
    fn turn(&mut self) {
        self.endpoint.rx_burst(&mut self.received);
        while let Some(event) = self.endpoint.events() {
            match event {
                ConnEvent::Opened { conn, .. } => {
                    assert!(self.conn.is_none(), "one connection at a time");
                    self.endpoint.set_message_size_max(conn, FRAME_SIZE_MAX as u32);
                    self.conn = Some(conn);
                }
                ConnEvent::Closed { conn } => {
                    assert_eq!(self.conn, Some(conn), "only what was opened closes");
                    self.closed += 1;
                    self.conn = None;
                }
            }
        }
        let now = self.now();
        self.endpoint.flush(now);
    }

    /// Queue message number `sequence`. `false`: refused.
    fn send(&mut self, sequence: u64, size: usize) -> bool {
        let Some(conn) = self.conn else {
            return false;
        };
        let body = if size == 0 {
            None
        } else {
            let Some(mut frame) = self.arena.pool().alloc(size) else {
                return false;
            };
            for (at, value) in frame.bytes_mut()[..size].iter_mut().enumerate() {
                *value = byte(sequence, at);
            }
            Some(frame.freeze(size as u32))
        };
        self.endpoint.tx(RawOutgoing { conn, header: header(sequence, size), body }).is_ok()
    }

    /// Take the oldest received message, which must be number `sequence` and unaltered.
    fn expect(&mut self, sequence: u64, size: usize) -> bool {
        let Some(message) = self.received.pop_front() else {
            return false;
        };
        assert_eq!(message.header, header(sequence, size), "message {sequence} in its place");
        let bytes = message.body.bytes();
        assert_eq!(bytes.len(), size, "size of message {sequence}");
        let wrong = bytes.iter().enumerate().position(|(at, value)| *value != byte(sequence, at));
        assert_eq!(wrong, None, "first wrong byte of message {sequence} of {size} bytes");
        true
    }
}

/// A connected pair.
struct Rig {
    a: Side,
    b: Side,
    address: SocketAddr,
    knocks_at_once: bool,
    clock: SystemClock,
}

impl Rig {
    fn new(make: &mut dyn FnMut(FramePool, FramePool) -> Pair, classes: &[(u32, u32)]) -> Self {
        let class = |&(slot_size, count)| SlotClass { slot_size, count };
        let spec = ArenaSpec { classes: classes.iter().map(class).collect() };
        let arena = || Arena::heap(&spec).expect("the suite's pools are small");
        let (a, b) = (arena(), arena());
        let pair = make(a.pool(), b.pool());
        let clock = SystemClock::new();
        let mut rig = Self {
            a: Side::new(pair.dialler, a, clock),
            b: Side::new(pair.acceptor, b, clock),
            address: pair.address,
            knocks_at_once: pair.knocks_at_once,
            clock,
        };
        rig.connect();
        rig
    }

    fn turn(&mut self) {
        self.a.turn();
        self.b.turn();
    }

    /// Turn until `done`.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let limit = self.clock.now() + PATIENCE;
        loop {
            self.turn();
            if done(self) {
                return;
            }
            assert!(self.clock.now() < limit, "timed out: {what}");
            // On one core the kernel and other threads need time too.
            self.b.endpoint.park(Duration::from_millis(1));
        }
    }

    fn connect(&mut self) {
        self.until("both sides open", |rig| rig.a.conn.is_some() && rig.b.conn.is_some());
    }

    /// Send and receive messages of these sizes, from a to b, as many at a time as fit.
    fn transfer(&mut self, sizes: &[usize]) {
        let (mut sent, mut received) = (0, 0);
        self.until("all messages arrive", |rig| {
            while sent < sizes.len() && rig.a.send(sent as u64, sizes[sent]) {
                sent += 1;
            }
            while received < sizes.len() && rig.b.expect(received as u64, sizes[received]) {
                received += 1;
            }
            received == sizes.len()
        });
    }
}

/// Every size arrives whole, from nothing to the largest.
fn sizes(rig: &mut Rig) {
    let edges = [64, 416, 512, 928, 1024, 4096, 16384, 65536, 128 * 1024, 1 << 20];
    let mut sizes = vec![0, 1, 2];
    sizes.extend(edges.iter().flat_map(|edge| [edge - 1, *edge, edge + 1]));
    sizes.extend([BODY_SIZE_MAX - 1, BODY_SIZE_MAX, 0, 100]);
    rig.transfer(&sizes);
}

/// Order holds for many messages in both directions at once.
fn many_messages_both_ways(rig: &mut Rig) {
    const COUNT: u64 = 20_000;
    let size = |sequence: u64| (sequence as usize * 37) % 400;
    let (mut sent, mut received) = ([0; 2], [0; 2]);
    rig.until("all messages arrive", |rig| {
        for (side, (sent, received)) in
            [&mut rig.a, &mut rig.b].into_iter().zip(sent.iter_mut().zip(&mut received))
        {
            while *sent < COUNT && side.send(*sent, size(*sent)) {
                *sent += 1;
            }
            while *received < COUNT && side.expect(*received, size(*received)) {
                *received += 1;
            }
        }
        received == [COUNT; 2]
    });
    assert!(rig.a.endpoint.counts().tx_messages >= COUNT);
    assert!(rig.b.endpoint.counts().rx_messages >= COUNT);
}

/// A receiver that does not take anything makes the sender's queue refuse; nothing that was taken is
/// lost.
fn backpressure(rig: &mut Rig) {
    let size = 8192;
    let mut sent = 0;
    let mut refused = 0;
    let limit = rig.clock.now() + PATIENCE;
    // Refused many times in a row, with chances to transmit between them: everything is full.
    while refused < 50 {
        if rig.a.send(sent, size) {
            (sent, refused) = (sent + 1, 0);
        } else {
            refused += 1;
            rig.a.turn();
        }
        assert!(rig.clock.now() < limit, "a queue is bounded");
        assert!(sent < 1_000_000, "a queue is bounded");
    }
    assert!(sent > 0);
    let mut received = 0;
    rig.until("all that was taken arrives", |rig| {
        while received < sent && rig.b.expect(received, size) {
            received += 1;
        }
        received == sent
    });
}

/// Without free slots messages wait; they arrive when slots are free again.
fn exhausted_pool(rig: &mut Rig) {
    const COUNT: u64 = 64;
    let mut kept = Vec::new();
    let mut sent = 0;
    rig.until("the pool runs dry", |rig| {
        while sent < COUNT && rig.a.send(sent, 200) {
            sent += 1;
        }
        kept.extend(rig.b.received.drain());
        rig.b.arena.free_slots() == 0 && rig.b.endpoint.counts().pool_exhausted > 0
    });
    for _ in 0..10 {
        rig.turn();
        assert_eq!(rig.b.received.len(), 0, "there is no slot for more");
        rig.b.endpoint.park(Duration::from_millis(1));
    }
    for message in kept.drain(..) {
        let pushed = rig.b.received.push(message);
        assert!(pushed.is_ok(), "the pool is smaller than the burst");
    }
    let mut received = 0;
    rig.until("the rest arrives", |rig| {
        while sent < COUNT && rig.a.send(sent, 200) {
            sent += 1;
        }
        while received < COUNT && rig.b.expect(received, 200) {
            received += 1;
        }
        received == COUNT
    });
    assert_eq!(rig.b.arena.free_slots(), rig.b.arena.total_slots(), "no slot is lost");
}

/// A message above the connection's limit closes it; the one before still arrives.
fn too_large(rig: &mut Rig) {
    let Some(conn) = rig.b.conn else {
        return;
    };
    rig.b.endpoint.set_message_size_max(conn, 1000);
    assert!(rig.a.send(0, 1000 - HEADER_SIZE) && rig.a.send(1, 1001 - HEADER_SIZE));
    rig.until("both sides close", |rig| rig.a.closed == 1 && rig.b.closed == 1);
    assert!(rig.b.expect(0, 1000 - HEADER_SIZE), "the message within the limit arrives");
    assert!(rig.b.received.is_empty());
    assert_eq!(rig.b.endpoint.counts().malformed, 1);
}

/// A closed connection is dialled again under a new name; messages before the end arrive.
fn close_and_reopen(rig: &mut Rig) {
    for round in 0..3 {
        rig.transfer(&[10, 20, 30]);
        let (old_a, old_b) = (rig.a.conn, rig.b.conn);
        if round % 2 == 0 {
            assert!(rig.a.send(0, 40));
            rig.until("the last message arrives", |rig| rig.b.expect(0, 40));
            old_a.into_iter().for_each(|conn| rig.a.endpoint.close(conn));
        } else {
            old_b.into_iter().for_each(|conn| rig.b.endpoint.close(conn));
        }
        let closed = round + 1;
        rig.until("both sides close", |rig| rig.a.closed == closed && rig.b.closed == closed);
        rig.connect();
        assert_ne!(rig.a.conn, old_a, "names are not used again at once");
        assert_ne!(rig.b.conn, old_b, "names are not used again at once");
        if let Some(old) = old_a {
            let out = RawOutgoing { conn: old, header: header(0, 0), body: None };
            assert!(rig.a.endpoint.tx(out).is_err(), "an old name is nobody");
            rig.a.endpoint.close(old);
        }
    }
    rig.transfer(&[1, 2, 3]);
}

/// Who is dialled changes: an entry that stays keeps its connection, others lose theirs, whether it is
/// made or still being made.
fn other_dials(rig: &mut Rig) {
    let (one, two) = ((PeerId::replica(0), rig.address), (PeerId::replica(7), rig.address));
    let conn = rig.a.conn;
    rig.a.endpoint.set_dials(&[one]);
    rig.transfer(&[10, 20, 30]);
    assert_eq!((rig.a.conn, rig.a.closed, rig.b.closed), (conn, 0, 0));
    let mut closed = 0;
    for dials in [vec![], vec![two], vec![], vec![one]] {
        // What is queued when its entry goes is given back.
        assert!(rig.a.conn.is_none() || rig.a.send(0, 100));
        let was_open = rig.a.conn.is_some();
        rig.a.endpoint.set_dials(&dials);
        closed += usize::from(was_open);
        rig.until("both sides close", |rig| {
            rig.b.received.clear();
            rig.a.closed == closed && rig.b.closed == closed
        });
        let dialled = rig.a.endpoint.counts().dialled;
        if dials.is_empty() {
            for _ in 0..5 {
                rig.turn();
                rig.b.endpoint.park(Duration::from_millis(1));
            }
            assert_eq!(rig.a.endpoint.counts().dialled, dialled, "nobody is dialled");
            assert_eq!(rig.a.arena.free_slots(), rig.a.arena.total_slots(), "nothing is kept");
        } else {
            // An attempt that has begun, and is not wanted any more.
            let (now, before) = (rig.a.now(), rig.b.closed);
            rig.a.endpoint.flush(now);
            rig.a.endpoint.set_dials(&[]);
            rig.until("it is closed", |rig| {
                let seen = rig.b.closed > before || !rig.knocks_at_once;
                seen && rig.a.conn.is_none() && rig.b.conn.is_none()
            });
            rig.a.endpoint.set_dials(&dials);
            rig.connect();
            (rig.a.closed, rig.b.closed, closed) = (0, 0, 0);
            rig.transfer(&[1, 2, 3]);
        }
    }
}

/// Another thread ends a park.
fn wake(rig: &mut Rig) {
    let waker = rig.b.endpoint.waker();
    // Before: the next park returns at once.
    waker.wake();
    let limit = rig.clock.now() + PATIENCE;
    rig.b.endpoint.park(2 * PATIENCE);
    // During: the thread wakes until it is told to stop, so no timing is assumed.
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Acquire) {
                thread::sleep(Duration::from_millis(5));
                waker.wake();
            }
        });
        for _ in 0..5 {
            rig.b.endpoint.park(2 * PATIENCE);
        }
        stop.store(true, std::sync::atomic::Ordering::Release);
    });
    assert!(rig.clock.now() < limit, "a wake ends a park");
}

#[cfg(test)]
mod tests;
