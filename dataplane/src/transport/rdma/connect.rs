//! Connections come and go.
//!
//! Owns nothing. Always true: one who knocks costs six chunks and a queue pair, within the limits, or nothing;
//! what a connection had is given back when its queue pair is gone. Must not: decide who is authenticated.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::RdmaConfig;
use super::credits::RESERVE;
use super::endpoint::RdmaEndpoint;
use super::flights::SENDS_MAX;
use super::hello::Hello;
use super::socket::{Socket, WINDOW_FIRST};
use super::verbs::{CmEvent, CmKind, CompletionQueue, Domain, EventChannel, Id, QpSpec};
use crate::endpoint::ConnId;
use crate::transport::stream::device::Device;

/// Events taken before other work has its turn.
const EVENTS_PER_TURN: usize = 64;
/// Bytes that a send should be able to copy at once: a header and a small body.
const INLINE: u32 = 192;
/// Marks the name of a connection, which may be 0.
const NAMED: u64 = 1 << 32;

fn name(id: ConnId) -> u64 {
    NAMED | u64::from(id.0)
}

impl RdmaEndpoint {
    /// Begin an attempt. `None`: that failed at once.
    pub(super) fn begin_connecting(&mut self, id: ConnId, address: SocketAddr) -> Option<Socket> {
        let mut made = Id::new(&self.channel).ok()?;
        made.set_name(name(id));
        made.resolve_address(Some(self.source), address, limit_ms(&self.config)).ok()?;
        Some(Socket::new(made, self.config.window))
    }

    /// Act on what happened to connections, if anything did.
    pub(super) fn follow_connections(&mut self) {
        if self.channel_ready {
            let channel = Arc::clone(&self.channel);
            self.channel_ready = follow(&channel, |event| self.on_event(event));
        }
        if self.listener_ready
            && let Some(listener) = self.listener.clone()
        {
            self.listener_ready = follow(&listener.channel, |event| self.on_knock(event));
        }
    }

    fn on_event(&mut self, event: CmEvent) {
        let id = ConnId(event.name as u32);
        let Some(conn) = self.table.conn_mut(id).filter(|_| event.name & NAMED != 0) else {
            return;
        };
        let (connecting, limit_ms) = (conn.connecting, limit_ms(&self.config));
        let went_on = match event.kind {
            CmKind::AddressResolved => {
                // The way to the peer may lead through another device: it is not ours to use.
                conn.io.id.device() == Some(self.domain.device())
                    && conn.io.id.resolve_route(limit_ms).is_ok()
            }
            CmKind::RouteResolved => self.dial_with_queue_pair(id).is_some(),
            CmKind::Established if connecting => self.on_answer(id, &event),
            CmKind::Established => {
                conn.io.ready = true;
                self.table.queue_tx(id);
                true
            }
            CmKind::Failed | CmKind::Disconnected => false,
            CmKind::Request | CmKind::Other => true,
        };
        if went_on {
            return;
        }
        if connecting {
            self.table.counts.dial_failed += 1;
            return self.remove(id);
        }
        // What came before the end is to be delivered: see that it is known first.
        self.reap();
        if let Some(conn) = self.table.conn_mut(id) {
            conn.io.ended = true;
            self.table.queue_rx(id);
        }
    }

    fn hello(&self) -> Hello {
        Hello { chunk_size: self.config.chunk_size as u32, credits: WINDOW_FIRST as u16 }
    }

    /// The way to a dialled peer is known.
    fn dial_with_queue_pair(&mut self, id: ConnId) -> Option<()> {
        self.equip(id)?;
        let hello = self.hello().to_bytes();
        self.table.conn_mut(id)?.io.id.connect(&hello).ok()
    }

    /// A dialled peer has answered.
    fn on_answer(&mut self, id: ConnId, event: &CmEvent) -> bool {
        let chunk_size = self.config.chunk_size;
        let Some(hello) = Hello::parse(event.private()) else {
            self.table.counts.malformed += 1;
            return false;
        };
        if let Some(conn) = self.table.conn_mut(id) {
            conn.io.begin(hello, chunk_size);
            conn.io.ready = true;
        }
        self.table.dialled(id);
        self.table.queue_tx(id);
        true
    }

    /// Make the queue pair of a connection that is in the table, with the first receives.
    fn equip(&mut self, id: ConnId) -> Option<()> {
        let Self { table, config, domain, queue, receive, work, .. } = self;
        let socket = &mut table.conn_mut(id)?.io;
        make_pair(socket, config, domain, queue).ok()?;
        let posted = socket.post_first(id, receive, work);
        posted.then_some(())
    }

    /// Somebody knocked.
    fn on_knock(&mut self, event: CmEvent) {
        let hello = Hello::parse(event.private());
        let Some(mut knocking) = event.request else {
            return;
        };
        let Some(hello) = hello else {
            self.table.counts.malformed += 1;
            return knocking.reject();
        };
        if knocking.device() != Some(self.domain.device()) {
            self.table.counts.refused += 1;
            return knocking.reject();
        }
        let Some(id) = self.place_for_guest() else {
            return knocking.reject();
        };
        knocking.set_name(name(id));
        let mut socket = Socket::new(knocking, self.config.window);
        if self.welcome(id, &mut socket, hello).is_some() {
            self.table.insert_guest(id, socket);
        } else {
            self.table.counts.refused += 1;
            socket.id.reject();
            self.table.give_back(id);
            self.release(socket);
        }
    }

    /// Answer one who knocked and got a place.
    fn welcome(&mut self, id: ConnId, socket: &mut Socket, hello: Hello) -> Option<()> {
        let answer = self.hello().to_bytes();
        socket.id.migrate(&self.channel).ok()?;
        let Self { config, domain, queue, receive, work, .. } = self;
        make_pair(socket, config, domain, queue).ok()?;
        if !socket.post_first(id, receive, work) {
            return None;
        }
        socket.begin(hello, config.chunk_size);
        socket.id.accept(&answer).ok()
    }

    /// Give back all that a connection had. The other side is told, if it can be.
    pub(super) fn release(&mut self, socket: Socket) {
        let Socket { id, chunks, mut flights, .. } = socket;
        id.disconnect();
        // With it the queue pair goes, and the device is done with all that follows.
        drop(id);
        chunks.into_iter().for_each(|chunk| self.receive.give(chunk));
        self.sends -= SENDS_MAX - flights.room();
        flights.end_all(|chunk| self.send.give(chunk));
        // What it left in the queue must not take the places of others.
        self.reap();
        self.feed_starved();
    }
}

/// For a step of connecting; the attempt as a whole has a limit of its own.
fn limit_ms(config: &RdmaConfig) -> i32 {
    i32::try_from(config.tcp.connect_timeout.as_millis()).unwrap_or(i32::MAX)
}

/// Hand the next events of a channel to `act`. `true`: there may be more.
fn follow(channel: &Arc<EventChannel>, mut act: impl FnMut(CmEvent)) -> bool {
    for _ in 0..EVENTS_PER_TURN {
        match channel.next() {
            Some(event) => act(event),
            None => return false,
        }
    }
    true
}

/// Give a connection its queue pair.
fn make_pair(
    socket: &mut Socket,
    config: &RdmaConfig,
    domain: &Arc<Domain>,
    queue: &CompletionQueue,
) -> io::Result<()> {
    let spec = QpSpec {
        sends: SENDS_MAX as u32,
        receives: config.window as u32 + RESERVE,
        inline: INLINE,
    };
    socket.id.set_ack_timeout(config.ack_timeout)?;
    if let Some(class) = config.traffic_class {
        socket.id.set_traffic_class(class)?;
    }
    socket.inline = socket.id.create_queue_pair(domain, queue, spec)? as usize;
    Ok(())
}
