//! The connections of one endpoint.
//!
//! Owns their names, limits and events, and who waits for a turn. Always true: a connection is in
//! the table from its first byte to its removal, and its place is used again only after its `Closed`
//! event was taken; who is ready is in a queue, once; the number of connections, and of those whose
//! owner is not known, stays within the limits however many knock. Must not: do IO, or decide who is
//! authenticated.

use std::collections::VecDeque;
use std::time::Duration;

use super::TcpConfig;
use super::dial::Dial;
use super::reassembly::Reassembly;
use super::tx_queue::TxQueue;
use crate::endpoint::{
    ConnEvent, ConnId, EndpointCounts, MESSAGE_SIZE_MAX_UNAUTHENTICATED, RawOutgoing,
};
use crate::limits::HEADER_SIZE;
use crate::types::Instant;

/// An unauthenticated connection is not evicted before it had this long for its handshake.
const GRACE: Duration = Duration::from_millis(250);
/// How long to leave the listening socket alone when the system has nothing for a new connection.
pub(in crate::transport) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection, from the first attempt to dial or its acceptance.
pub(in crate::transport) struct Conn<S> {
    pub(in crate::transport) id: ConnId,
    /// Which entry of the list of peers to dial made it.
    pub(in crate::transport) dial: Option<usize>,
    /// Dialled and not established.
    pub(in crate::transport) connecting: bool,
    /// The user raised its limit.
    authenticated: bool,
    opened: Instant,
    /// The largest message accepted.
    pub(in crate::transport) limit: u32,
    /// It is in the queue of those to read from.
    rx_queued: bool,
    /// It is in the queue of those to write to.
    tx_queued: bool,
    /// What the transport knows of it.
    pub(in crate::transport) io: S,
}

/// What outlives the connections of a place: buffers that need not be allocated again.
struct Place<S> {
    generation: u16,
    conn: Option<Box<Conn<S>>>,
    reassembly: Reassembly,
    tx: TxQueue,
}

/// All that concerns one connection, to work on.
pub(in crate::transport) struct Parts<'a, S> {
    pub(in crate::transport) conn: &'a mut Conn<S>,
    pub(in crate::transport) reassembly: &'a mut Reassembly,
    pub(in crate::transport) tx: &'a mut TxQueue,
    pub(in crate::transport) counts: &'a mut EndpointCounts,
}

/// What to do with one who knocks.
pub(in crate::transport) enum Admission {
    /// There is room.
    Admit,
    /// Remove this one first, then ask again.
    Evict(ConnId),
    /// Close it; it was counted.
    Refuse,
}

/// The connection table of one endpoint.
pub(in crate::transport) struct Table<S> {
    pub(in crate::transport) config: TcpConfig,
    places: Vec<Place<S>>,
    free: Vec<u16>,
    pub(in crate::transport) dials: Vec<Dial>,
    pub(in crate::transport) events: VecDeque<ConnEvent>,
    /// Connections to read from, each once.
    rx_queue: VecDeque<ConnId>,
    /// Connections to write to, each once.
    tx_queue: VecDeque<ConnId>,
    /// Connections of others in the order they came; may contain those authenticated or gone.
    oldest: VecDeque<ConnId>,
    live: usize,
    unauthenticated: usize,
    pub(in crate::transport) counts: EndpointCounts,
    /// Of the last flush.
    pub(in crate::transport) now: Instant,
    /// All that is ready to be read waits for a slot or a buffer.
    pub(in crate::transport) stalled: bool,
}

impl<S> Table<S> {
    pub(in crate::transport) fn new(config: TcpConfig) -> Self {
        let places = config.places();
        let dial = |entry: &_| Dial::of(*entry, &config);
        let place = || Place {
            generation: 0,
            conn: None,
            reassembly: Reassembly::new(),
            tx: TxQueue::new(),
        };
        Self {
            dials: config.dial.iter().map(dial).collect(),
            places: std::iter::repeat_with(place).take(places).collect(),
            // Low places first: tables of the users stay short.
            free: (0..places as u16).rev().collect(),
            events: VecDeque::with_capacity(2 * places),
            rx_queue: VecDeque::with_capacity(places),
            tx_queue: VecDeque::with_capacity(places),
            oldest: VecDeque::with_capacity(2 * config.unauthenticated_max + 1),
            live: 0,
            unauthenticated: 0,
            counts: EndpointCounts::default(),
            now: Instant(0),
            stalled: false,
            config,
        }
    }

    pub(in crate::transport) fn conn(&self, id: ConnId) -> Option<&Conn<S>> {
        self.places.get(id.index())?.conn.as_deref().filter(|conn| conn.id == id)
    }

    pub(in crate::transport) fn conn_mut(&mut self, id: ConnId) -> Option<&mut Conn<S>> {
        self.places.get_mut(id.index())?.conn.as_deref_mut().filter(|conn| conn.id == id)
    }

    pub(super) fn conns(&self) -> impl Iterator<Item = &Conn<S>> {
        self.places.iter().filter_map(|place| place.conn.as_deref())
    }

    pub(super) fn conns_mut(&mut self) -> impl Iterator<Item = &mut Conn<S>> {
        self.places.iter_mut().filter_map(|place| place.conn.as_deref_mut())
    }

    /// The connection that has a place now.
    pub(in crate::transport) fn at(&mut self, index: usize) -> Option<&mut Conn<S>> {
        self.places.get_mut(index)?.conn.as_deref_mut()
    }

    pub(in crate::transport) fn parts(&mut self, id: ConnId) -> Option<Parts<'_, S>> {
        let Place { conn, reassembly, tx, .. } = self.places.get_mut(id.index())?;
        let conn = conn.as_deref_mut().filter(|conn| conn.id == id)?;
        Some(Parts { conn, reassembly, tx, counts: &mut self.counts })
    }

    /// The name of a new connection, to be inserted or [given back](Table::give_back).
    pub(in crate::transport) fn take_place(&mut self) -> Option<ConnId> {
        let place = self.free.pop()?;
        let state = &mut self.places[usize::from(place)];
        state.generation = state.generation.wrapping_add(1);
        Some(ConnId::new(place, state.generation))
    }

    pub(in crate::transport) fn give_back(&mut self, id: ConnId) {
        self.free.push(id.index() as u16);
    }

    pub(super) fn insert(&mut self, id: ConnId, dial: Option<usize>, io: S) {
        self.places[id.index()].conn = Some(Box::new(Conn {
            id,
            dial,
            connecting: dial.is_some(),
            authenticated: false,
            opened: self.now,
            limit: MESSAGE_SIZE_MAX_UNAUTHENTICATED,
            rx_queued: false,
            tx_queued: false,
            io,
        }));
        self.live += 1;
    }

    /// Forget a connection. If its `Opened` was announced, its `Closed` will be. What the transport
    /// knew of it is returned, to be closed.
    pub(in crate::transport) fn remove(&mut self, id: ConnId) -> Option<Conn<S>> {
        self.conn(id)?;
        let place = &mut self.places[id.index()];
        let conn = place.conn.take()?;
        place.reassembly.reset();
        place.tx.reset();
        self.live -= 1;
        match conn.dial {
            Some(dial) => self.dial_later(dial),
            None if !conn.authenticated => self.unauthenticated -= 1,
            None => {}
        }
        if conn.connecting {
            self.give_back(id);
        } else {
            self.events.push_back(ConnEvent::Closed { conn: id });
        }
        Some(*conn)
    }

    /// May one more connection of others come in?
    pub(in crate::transport) fn admission(&mut self) -> Admission {
        let full = self.live >= self.config.connections_max
            || self.unauthenticated >= self.config.unauthenticated_max;
        if !full && !self.free.is_empty() {
            return Admission::Admit;
        }
        match full.then(|| self.evictable()).flatten() {
            Some(id) => Admission::Evict(id),
            None => {
                self.counts.refused += 1;
                Admission::Refuse
            }
        }
    }

    /// Insert a connection of others, which was [admitted](Table::admission).
    pub(in crate::transport) fn insert_guest(&mut self, id: ConnId, io: S) {
        self.insert(id, None, io);
        self.counts.accepted += 1;
        self.unauthenticated += 1;
        self.remember_unauthenticated(id);
        self.events.push_back(ConnEvent::Opened { conn: id, outgoing: None });
    }

    fn remember_unauthenticated(&mut self, id: ConnId) {
        if self.oldest.len() == self.oldest.capacity() {
            let mut oldest = std::mem::take(&mut self.oldest);
            oldest.retain(|id| self.is_unauthenticated(*id));
            self.oldest = oldest;
        }
        self.oldest.push_back(id);
    }

    fn is_unauthenticated(&self, id: ConnId) -> bool {
        self.conn(id).is_some_and(|conn| conn.dial.is_none() && !conn.authenticated)
    }

    /// The oldest connection whose owner is not known, if it had its chance.
    fn evictable(&mut self) -> Option<ConnId> {
        while let Some(id) = self.oldest.front().copied() {
            if !self.is_unauthenticated(id) {
                self.oldest.pop_front();
                continue;
            }
            let opened = self.conn(id).map_or(self.now, |conn| conn.opened);
            if self.now.since(opened) < GRACE {
                return None;
            }
            self.oldest.pop_front();
            self.counts.evicted += 1;
            return Some(id);
        }
        None
    }

    pub(in crate::transport) fn queue_rx(&mut self, id: ConnId) {
        if let Some(conn) = self.conn_mut(id)
            && !conn.rx_queued
        {
            conn.rx_queued = true;
            self.rx_queue.push_back(id);
            self.stalled = false;
        }
    }

    pub(in crate::transport) fn queue_tx(&mut self, id: ConnId) {
        if let Some(conn) = self.conn_mut(id)
            && !conn.tx_queued
        {
            conn.tx_queued = true;
            self.tx_queue.push_back(id);
        }
    }

    /// How many wait to be read from; some may be gone.
    pub(in crate::transport) fn rx_waiting(&self) -> usize {
        self.rx_queue.len()
    }

    /// How many wait to be written to; some may be gone.
    pub(in crate::transport) fn tx_waiting(&self) -> usize {
        self.tx_queue.len()
    }

    /// The next in the queue of those to read from, taken out of it.
    pub(in crate::transport) fn next_rx(&mut self) -> Option<ConnId> {
        let id = self.rx_queue.pop_front()?;
        if let Some(conn) = self.conn_mut(id) {
            conn.rx_queued = false;
        }
        Some(id)
    }

    /// The next in the queue of those to write to, taken out of it.
    pub(in crate::transport) fn next_tx(&mut self) -> Option<ConnId> {
        let id = self.tx_queue.pop_front()?;
        if let Some(conn) = self.conn_mut(id) {
            conn.tx_queued = false;
        }
        Some(id)
    }

    /// As [`Endpoint::tx`](crate::endpoint::Endpoint::tx).
    pub(in crate::transport) fn tx(&mut self, out: RawOutgoing) -> Result<(), RawOutgoing> {
        let id = out.conn;
        let (messages_max, bytes_max) = (self.config.tx_messages_max, self.config.tx_bytes_max);
        let pushed = match self.parts(id) {
            Some(parts) if !parts.conn.connecting => parts.tx.push(out, messages_max, bytes_max),
            _ => Err(out),
        };
        match pushed {
            Ok(()) => self.queue_tx(id),
            Err(_) => self.counts.tx_refused += 1,
        }
        pushed
    }

    /// The next event, oldest first.
    pub(in crate::transport) fn event(&mut self) -> Option<ConnEvent> {
        let event = self.events.pop_front()?;
        if let ConnEvent::Closed { conn } = event {
            self.give_back(conn);
        }
        Some(event)
    }

    /// As [`Endpoint::set_message_size_max`](crate::endpoint::Endpoint::set_message_size_max), for
    /// slots of at most `slot_size_max` bytes.
    pub(in crate::transport) fn set_message_size_max(
        &mut self,
        id: ConnId,
        size: u32,
        slot_size_max: usize,
    ) {
        // What no slot can hold would wait for ever.
        let slot = u32::try_from(slot_size_max + HEADER_SIZE).unwrap_or(u32::MAX);
        let messages_max = self.config.tx_messages_max;
        let Some(Parts { conn, tx, .. }) = self.parts(id) else {
            return;
        };
        conn.limit = size.min(slot);
        if size <= MESSAGE_SIZE_MAX_UNAUTHENTICATED || conn.authenticated {
            return;
        }
        conn.authenticated = true;
        tx.reserve(messages_max);
        match conn.dial {
            Some(dial) => self.dials[dial].succeeded(),
            None => self.unauthenticated -= 1,
        }
    }
}

/// Is the system out of file descriptors or memory, rather than the connection broken?
pub(in crate::transport) fn is_exhausted(error: i32) -> bool {
    matches!(error, libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
}
