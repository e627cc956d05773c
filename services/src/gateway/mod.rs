//! Redis clients on one side, a cluster's sessions on the other.
//!
//! One thread, one epoll loop. Each connection is one session of the cluster, so that its commands
//! take effect in their order. Always true: no connection makes the gateway keep more than a fixed
//! amount of memory, and none can keep the others waiting. Must not: keep any data; whatever a
//! client was told is in the cluster.

pub mod cluster;
mod connection;
mod convert;
pub mod driver;
mod info;
pub mod local;
mod pipeline;
mod session;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::resp::Limits;
use cluster::{Cluster, Completion, Facts};
use connection::{Connection, Turn};
use session::{Counters, Session, Shared};

/// Which commands are ordered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReadMode {
    /// All. A connection can ask for the other mode by READONLY.
    #[default]
    Ordered,
    /// Those that write; the others are answered from the replicas' current state when enough of
    /// them agree. A connection can ask for the other mode by READWRITE.
    ReadOnly,
}

/// How the gateway listens.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Where Redis clients connect.
    pub listen: SocketAddr,
    /// How connections start.
    pub read_mode: ReadMode,
    /// Connections at a time; never more than the cluster has sessions for this client.
    pub max_connections: usize,
    /// What a client may send.
    pub limits: Limits,
}

impl GatewayConfig {
    /// The usual limits.
    pub fn new(listen: SocketAddr) -> Self {
        let (read_mode, limits) = (ReadMode::default(), Limits::default());
        Self { listen, read_mode, max_connections: 1024, limits }
    }
}

/// Why the gateway cannot run.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another address or stop what uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The system refuses to say what is ready.
    #[error("cannot wait for connections: {0}")]
    Poll(#[from] io::Error),
}

/// The longest wait: how soon the gateway notices that it should stop.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// How old INFO's facts may be.
const FACTS_AGE_MAX: Duration = Duration::from_millis(200);
const EVENTS_MAX: usize = 256;

const LISTENER: Token = Token(0);
const CLUSTER: Token = Token(1);
const FIRST_CONNECTION: usize = 2;

/// Serves Redis clients until `stop` is set.
///
/// # Errors
/// [`GatewayError`]. Trouble with single connections only ends those.
pub fn run(
    config: &GatewayConfig,
    cluster: &mut dyn Cluster,
    stop: &AtomicBool,
) -> Result<(), GatewayError> {
    let mut gateway = Gateway::bind(config, cluster)?;
    while !stop.load(Ordering::Relaxed) {
        gateway.turn(cluster, WAIT_MAX)?;
    }
    Ok(())
}

#[derive(Debug)]
enum Slot {
    Free,
    Live {
        connection: Box<Connection>,
        /// Is it in the queue?
        queued: bool,
    },
    /// The client is gone; the session is free again when its operations are back.
    Draining {
        in_flight: usize,
    },
}

/// The loop's state, for those who want to turn it themselves.
#[derive(Debug)]
pub struct Gateway {
    poll: Poll,
    events: Events,
    listener: TcpListener,
    address: SocketAddr,
    read_mode: ReadMode,
    limits: Limits,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Connections with something to do.
    queue: VecDeque<u32>,
    completions: Vec<Completion>,
    counters: Counters,
    facts: Facts,
    facts_at: Instant,
    /// Accepting failed for want of something: tried again without an event.
    accept_again: bool,
}

impl Gateway {
    /// Starts to listen.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub fn bind(config: &GatewayConfig, cluster: &dyn Cluster) -> Result<Self, GatewayError> {
        let refused = |source| GatewayError::Listen { address: config.listen, source };
        let mut listener = TcpListener::bind(config.listen).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        if let Some(fd) = cluster.fd() {
            poll.registry().register(&mut SourceFd(&fd), CLUSTER, Interest::READABLE)?;
        }
        let sessions = config.max_connections.min(cluster.sessions() as usize);
        let numbers = 0..u32::try_from(sessions).unwrap_or(u32::MAX);
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            listener,
            address,
            read_mode: config.read_mode,
            limits: config.limits,
            slots: numbers.clone().map(|_| Slot::Free).collect(),
            // The lowest first.
            free: numbers.rev().collect(),
            queue: VecDeque::new(),
            completions: Vec::new(),
            counters: Counters {
                started_s: info::now_s(),
                port: address.port(),
                ..Counters::default()
            },
            facts: cluster.facts(),
            facts_at: Instant::now(),
            accept_again: false,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits at most `wait` for something to do, and does it.
    ///
    /// # Errors
    /// The system refuses to say what is ready.
    pub fn turn(&mut self, cluster: &mut dyn Cluster, wait: Duration) -> Result<(), GatewayError> {
        let wait = if self.queue.is_empty() {
            cluster.patience().map_or(wait, |patience| patience.min(wait))
        } else {
            Duration::ZERO
        };
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        let mut accept = std::mem::take(&mut self.accept_again);
        let ready: Vec<(usize, bool, bool)> = self.events.iter().map(readiness).collect();
        for (token, readable, writable) in ready {
            match token.checked_sub(FIRST_CONNECTION) {
                Some(slot) => self.mark(slot, readable, writable),
                None => accept |= token == LISTENER.0,
            }
        }
        if accept {
            self.accept();
        }
        if self.facts_at.elapsed() > FACTS_AGE_MAX {
            self.facts = cluster.facts();
            self.facts_at = Instant::now();
        }
        for _ in 0..self.queue.len() {
            let Some(slot) = self.queue.pop_front() else { break };
            self.turn_connection(slot, cluster);
        }
        cluster.poll(&mut self.completions);
        self.complete();
        Ok(())
    }

    fn mark(&mut self, slot: usize, readable: bool, writable: bool) {
        let Some(Slot::Live { connection, .. }) = self.slots.get_mut(slot) else { return };
        connection.readable |= readable;
        connection.writable |= writable;
        self.enqueue(slot as u32);
    }

    fn enqueue(&mut self, slot: u32) {
        if let Some(Slot::Live { queued, .. }) = self.slots.get_mut(slot as usize)
            && !std::mem::replace(queued, true)
        {
            self.queue.push_back(slot);
        }
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((socket, peer)) => self.admit(socket, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => {
                    // Out of descriptors or memory: no event tells when that is over.
                    self.accept_again = true;
                    return;
                }
            }
        }
    }

    fn admit(&mut self, mut socket: TcpStream, peer: SocketAddr) {
        self.counters.connections_total += 1;
        let Some(slot) = self.free.pop() else {
            self.counters.connections_refused += 1;
            // Best effort: a new socket has room for a line.
            let _ = socket.write(b"-ERR max number of clients reached\r\n");
            return;
        };
        let token = Token(slot as usize + FIRST_CONNECTION);
        let both = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(&mut socket, token, both).is_err() {
            self.counters.connections_refused += 1;
            self.free.push(slot);
            return;
        }
        // Without it a reply may wait for the acknowledgement of the one before; slower, not wrong.
        let _ = socket.set_nodelay(true);
        let reads_unordered = self.read_mode == ReadMode::ReadOnly;
        let id = self.counters.connections_total;
        let session = Session::new(id, peer.to_string(), reads_unordered);
        let connection = Box::new(Connection::new(socket, session, self.limits));
        self.slots[slot as usize] = Slot::Live { connection, queued: false };
        self.counters.connections += 1;
        self.enqueue(slot);
    }

    fn turn_connection(&mut self, slot: u32, cluster: &mut dyn Cluster) {
        let shared = Shared {
            facts: &self.facts,
            counters: &self.counters,
            connections_max: self.slots.len(),
        };
        let Some(Slot::Live { connection, queued }) = self.slots.get_mut(slot as usize) else {
            return;
        };
        *queued = false;
        let turn = connection.turn(&shared, cluster, slot, |group| tag(slot, group));
        let (commands, failed) = connection.take_counts();
        self.counters.commands += commands;
        self.counters.protocol_errors += u64::from(failed);
        match turn {
            Turn::Wait => {}
            Turn::Again => self.enqueue(slot),
            Turn::Gone => self.close(slot),
        }
    }

    fn close(&mut self, slot: u32) {
        let Some(Slot::Live { connection, .. }) = self.slots.get_mut(slot as usize) else {
            return;
        };
        // Closing the socket removes it from the poll in any case.
        let _ = self.poll.registry().deregister(connection.socket());
        let in_flight = connection.pipeline.in_flight();
        self.counters.connections -= 1;
        self.slots[slot as usize] = Slot::Draining { in_flight };
        self.release(slot);
    }

    /// Frees a session that nothing is in flight for.
    fn release(&mut self, slot: u32) {
        if let Slot::Draining { in_flight: 0 } = self.slots[slot as usize] {
            self.slots[slot as usize] = Slot::Free;
            self.free.push(slot);
        }
    }

    fn complete(&mut self) {
        if self.completions.is_empty() {
            return;
        }
        for at in 0..self.completions.len() {
            let Completion { tag, outcome } = &mut self.completions[at];
            let (slot, group) = ((*tag >> 32) as u32, *tag as u32);
            match self.slots.get_mut(slot as usize) {
                Some(Slot::Live { connection, .. }) => {
                    let outcome = match outcome {
                        Ok(reply) => Ok(std::mem::take(reply)),
                        Err(failure) => Err(*failure),
                    };
                    connection.pipeline.complete(group, outcome);
                    self.enqueue(slot);
                }
                Some(Slot::Draining { in_flight }) => {
                    *in_flight = in_flight.saturating_sub(1);
                    self.release(slot);
                }
                _ => {}
            }
        }
        self.completions.clear();
        for slot in 0..self.slots.len() {
            if matches!(&self.slots[slot], Slot::Live { connection, .. } if connection.busy) {
                self.enqueue(slot as u32);
            }
        }
    }
}

fn tag(slot: u32, group: u32) -> u64 {
    u64::from(slot) << 32 | u64::from(group)
}

fn readiness(event: &Event) -> (usize, bool, bool) {
    // A closed or failed socket is seen by reading it.
    let readable = event.is_readable() || event.is_read_closed() || event.is_error();
    (event.token().0, readable, event.is_writable())
}
