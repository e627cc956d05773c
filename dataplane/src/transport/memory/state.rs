//! The tables of a switch.
//!
//! Owns ports, connections and queues. Always true: both ends of an open connection name each
//! other; a queue never exceeds its limit. Must not: wait.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::{Delivery, InFlight, Port, SwitchConfig};
use crate::endpoint::{ConnEvent, ConnId, HeaderBytes, MESSAGE_SIZE_MAX_UNAUTHENTICATED};
use crate::frame::Frame;
use crate::types::{Instant, PeerId};

/// Wakes one endpoint.
#[derive(Default)]
pub(super) struct Signal {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    pub(super) fn raise(&self) {
        let mut raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever waits was told already, and has not lowered it yet.
        if !*raised {
            *raised = true;
            self.changed.notify_one();
        }
    }

    /// Wait until raised, at most `limit`, and lower it.
    pub(super) fn wait(&self, limit: Duration) {
        let raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut raised, _) = self
            .changed
            .wait_timeout_while(raised, limit, |raised| !*raised)
            .unwrap_or_else(PoisonError::into_inner);
        *raised = false;
    }
}

/// What waits at a receiver, in order.
pub(super) enum Item {
    Message { conn: ConnId, header: HeaderBytes, body: Option<Frame>, flip: Option<(u32, u8)> },
    Closed { conn: ConnId },
}

/// One end of an open connection.
pub(super) struct End {
    pub(super) remote: Port,
    pub(super) remote_conn: ConnId,
    pub(super) size_max: u32,
    /// Messages that wait for this end to receive them.
    pub(super) queued: usize,
    /// Messages this end has sent that the switch holds.
    pub(super) held: usize,
    /// The dial this end was made by.
    dial: Option<usize>,
}

struct Place {
    generation: u16,
    end: Option<End>,
    /// Its `Closed` has not been taken.
    closing: bool,
}

struct Dial {
    to: Port,
    peer: PeerId,
    conn: Option<ConnId>,
    next: Instant,
}

#[derive(Default)]
pub(super) struct PortState {
    signal: Option<Arc<Signal>>,
    places: Vec<Place>,
    pub(super) events: VecDeque<ConnEvent>,
    pub(super) queue: VecDeque<Item>,
    dials: Vec<Dial>,
    now: Instant,
}

impl PortState {
    pub(super) fn end(&mut self, conn: ConnId) -> Option<&mut End> {
        let place = self.places.get_mut(conn.index())?;
        if place.generation == conn.generation() { place.end.as_mut() } else { None }
    }

    /// The `Closed` of this connection was taken: its place may be used again.
    pub(super) fn free(&mut self, conn: ConnId) {
        if let Some(place) = self.places.get_mut(conn.index()) {
            place.closing = false;
        }
    }

    fn raise(&self) {
        if let Some(signal) = &self.signal {
            signal.raise();
        }
    }

    fn open(&mut self, end: End, connections_max: usize) -> Option<ConnId> {
        let free = self.places.iter().position(|place| place.end.is_none() && !place.closing);
        let index = match free {
            Some(index) => index,
            None if self.places.len() < connections_max.min(usize::from(u16::MAX)) => {
                self.places.push(Place { generation: 0, end: None, closing: false });
                self.places.len() - 1
            }
            None => return None,
        };
        let place = &mut self.places[index];
        place.generation = place.generation.wrapping_add(1);
        place.end = Some(end);
        Some(ConnId::new(index as u16, place.generation))
    }
}

pub(super) struct State {
    config: SwitchConfig,
    ports: Vec<PortState>,
    cuts: BTreeSet<(Port, Port)>,
    held: VecDeque<InFlight>,
}

impl State {
    pub(super) fn new(config: SwitchConfig) -> Self {
        Self { config, ports: Vec::new(), cuts: BTreeSet::new(), held: VecDeque::new() }
    }

    pub(super) fn delivery(&self) -> Delivery {
        self.config.delivery
    }

    pub(super) fn port(&mut self, port: Port) -> &mut PortState {
        let index = usize::from(port.0);
        if self.ports.len() <= index {
            self.ports.resize_with(index + 1, PortState::default);
        }
        &mut self.ports[index]
    }

    pub(super) fn attach(&mut self, port: Port) -> Option<Arc<Signal>> {
        let state = self.port(port);
        if state.signal.is_some() {
            return None;
        }
        let signal = Arc::new(Signal::default());
        state.signal = Some(Arc::clone(&signal));
        for dial in &mut state.dials {
            dial.next = Instant(0);
        }
        Some(signal)
    }

    pub(super) fn detach(&mut self, port: Port) {
        for index in 0..self.port(port).places.len() {
            let generation = self.port(port).places[index].generation;
            self.close(port, ConnId::new(index as u16, generation));
        }
        let state = self.port(port);
        state.signal = None;
        state.queue.clear();
        state.events.clear();
        for place in &mut state.places {
            place.closing = false;
        }
    }

    pub(super) fn add_dial(&mut self, from: Port, to: Port, peer: PeerId) {
        self.port(from).dials.push(Dial { to, peer, conn: None, next: Instant(0) });
    }

    /// Dial these and no others: where peer and port stay, so does the connection.
    pub(super) fn set_dials(&mut self, from: Port, wanted: &[(PeerId, Port)]) {
        let is_wanted = |dial: &Dial| wanted.contains(&(dial.peer, dial.to));
        let gone = |dial: &Dial| if is_wanted(dial) { None } else { dial.conn };
        let gone: Vec<_> = self.port(from).dials.iter().filter_map(gone).collect();
        for conn in gone {
            self.close(from, conn);
        }
        let state = self.port(from);
        let mut old: Vec<_> = std::mem::take(&mut state.dials).into_iter().map(Some).collect();
        for (peer, to) in wanted {
            let is_same = |dial: &Option<Dial>| {
                dial.as_ref().is_some_and(|dial| (dial.peer, dial.to) == (*peer, *to))
            };
            let kept = old.iter().position(is_same).and_then(|at| old[at].take());
            let new = Dial { to: *to, peer: *peer, conn: None, next: Instant(0) };
            let dial = kept.unwrap_or(new);
            let at = state.dials.len();
            if let Some(end) = dial.conn.and_then(|conn| state.end(conn)) {
                end.dial = Some(at);
            }
            state.dials.push(dial);
        }
    }

    pub(super) fn cut(&mut self, a: Port, b: Port) {
        self.cuts.insert((a.min(b), a.max(b)));
        for index in 0..self.port(a).places.len() {
            let place = &self.port(a).places[index];
            let conn = ConnId::new(index as u16, place.generation);
            if place.end.as_ref().is_some_and(|end| end.remote == b) {
                self.close(a, conn);
            }
        }
    }

    pub(super) fn heal(&mut self, a: Port, b: Port) {
        self.cuts.remove(&(a.min(b), a.max(b)));
    }

    /// Make the connections that `port` wants and does not have.
    pub(super) fn dial_due(&mut self, port: Port, now: Instant) {
        let redial = self.config.redial;
        self.port(port).now = now;
        for index in 0..self.port(port).dials.len() {
            let dial = &mut self.port(port).dials[index];
            if dial.conn.is_some() || now < dial.next {
                continue;
            }
            dial.next = now + redial;
            let (to, peer) = (dial.to, dial.peer);
            let opened = self.connect(port, to, peer, index);
            self.port(port).dials[index].conn = opened;
        }
    }

    /// The next time a port wants to dial.
    pub(super) fn next_dial(&mut self, port: Port) -> Option<Instant> {
        let waiting = self.port(port).dials.iter().filter(|dial| dial.conn.is_none());
        waiting.map(|dial| dial.next).min()
    }

    fn connect(&mut self, from: Port, to: Port, peer: PeerId, dial: usize) -> Option<ConnId> {
        if self.cuts.contains(&(from.min(to), from.max(to))) || self.port(to).signal.is_none() {
            return None;
        }
        let max = self.config.connections_max;
        let end = |remote, dial| End {
            remote,
            remote_conn: ConnId(0),
            size_max: MESSAGE_SIZE_MAX_UNAUTHENTICATED,
            queued: 0,
            held: 0,
            dial,
        };
        let ours = self.port(from).open(end(to, Some(dial)), max)?;
        let Some(theirs) = self.port(to).open(end(from, None), max) else {
            self.port(from).places[ours.index()].end = None;
            return None;
        };
        for (port, conn, remote_conn) in [(from, ours, theirs), (to, theirs, ours)] {
            if let Some(end) = self.port(port).end(conn) {
                end.remote_conn = remote_conn;
            }
        }
        let opened = ConnEvent::Opened { conn: ours, outgoing: Some(peer) };
        self.port(from).events.push_back(opened);
        self.port(to).events.push_back(ConnEvent::Opened { conn: theirs, outgoing: None });
        self.port(from).raise();
        self.port(to).raise();
        Some(ours)
    }

    /// Close both ends. What the one who closes has not received is gone; the other side receives
    /// what waits there first.
    pub(super) fn close(&mut self, port: Port, conn: ConnId) {
        let Some(end) = self.close_end(port, conn) else {
            return;
        };
        let state = self.port(port);
        state.queue.retain(|item| !matches!(item, Item::Message { conn: of, .. } if *of == conn));
        state.events.push_back(ConnEvent::Closed { conn });
        state.raise();
        if self.close_end(end.remote, end.remote_conn).is_some() {
            let remote = self.port(end.remote);
            remote.queue.push_back(Item::Closed { conn: end.remote_conn });
            remote.raise();
        }
    }

    fn close_end(&mut self, port: Port, conn: ConnId) -> Option<End> {
        let redial = self.config.redial;
        let state = self.port(port);
        state.end(conn)?;
        let place = &mut state.places[conn.index()];
        place.closing = true;
        let end = place.end.take()?;
        if let Some(dial) = end.dial.and_then(|dial| state.dials.get_mut(dial)) {
            dial.conn = None;
            dial.next = state.now + redial;
        }
        Some(end)
    }

    /// Send from an end; `Err` gives back what does not fit.
    pub(super) fn send(
        &mut self,
        port: Port,
        conn: ConnId,
        header: HeaderBytes,
        body: Option<Frame>,
    ) -> Result<(), Option<Frame>> {
        let (delivery, queue_max) = (self.config.delivery, self.config.queue_max);
        let Some(end) = self.port(port).end(conn) else {
            return Err(body);
        };
        let (to, to_conn) = (end.remote, end.remote_conn);
        if delivery == Delivery::Held {
            if end.held >= queue_max {
                return Err(body);
            }
            end.held += 1;
            let flip = None;
            self.held.push_back(InFlight { from: port, to, conn: to_conn, header, body, flip });
            return Ok(());
        }
        if self.port(to).end(to_conn).is_none_or(|end| end.queued >= queue_max) {
            return Err(body);
        }
        self.deliver(to, Item::Message { conn: to_conn, header, body, flip: None });
        Ok(())
    }

    pub(super) fn take(&mut self) -> Option<InFlight> {
        let message = self.held.pop_front()?;
        if let Some(end) = self.port(message.to).end(message.conn) {
            let (sender, sender_conn) = (end.remote, end.remote_conn);
            if let Some(end) = self.port(sender).end(sender_conn) {
                end.held = end.held.saturating_sub(1);
            }
        }
        Some(message)
    }

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    pub(super) fn deliver(&mut self, to: Port, item: Item) -> bool {
        let queue_max = self.config.queue_max;
        let Item::Message { conn, .. } = &item else {
            return false;
        };
        let state = self.port(to);
        match state.end(*conn) {
            Some(end) if end.queued < queue_max => end.queued += 1,
            _ => return false,
        }
        state.queue.push_back(item);
        state.raise();
        true
    }
}
