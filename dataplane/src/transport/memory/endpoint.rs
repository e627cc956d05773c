//! One port's endpoint.
//!
//! Owns its end of the connections. Always true: a received message is a copy in the receiver's own
//! pool, as on a real network. Must not: look at other ports.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::state::{Item, PortState, Signal};
use super::{Port, Switch};
use crate::arena::FramePool;
use crate::burst::Burst;
use crate::endpoint::{
    ConnEvent, ConnId, Endpoint, EndpointCounts, RawOutgoing, RawReceived, Waker, framed_size,
};
use crate::frame::Frame;
use crate::types::{Instant, PeerId};

/// The endpoint at a port of a [`Switch`].
pub struct MemoryEndpoint {
    switch: Switch,
    port: Port,
    pool: FramePool,
    signal: Arc<Signal>,
    counts: EndpointCounts,
    /// The oldest message waits for a slot.
    stalled: bool,
}

/// What became of the oldest item.
enum Taken {
    Message(RawReceived),
    Malformed(ConnId),
    Skipped,
    Stalled,
    Nothing,
}

impl MemoryEndpoint {
    pub(super) fn new(switch: Switch, port: Port, pool: FramePool, signal: Arc<Signal>) -> Self {
        let counts = EndpointCounts::default();
        Self { switch, port, pool, signal, counts, stalled: false }
    }

    /// Its address on the switch.
    pub fn port(&self) -> Port {
        self.port
    }
}

impl Drop for MemoryEndpoint {
    fn drop(&mut self) {
        self.switch.lock().detach(self.port);
    }
}

impl Endpoint for MemoryEndpoint {
    fn rx_burst(&mut self, into: &mut Burst<RawReceived>) -> usize {
        let before = into.len();
        self.stalled = false;
        let mut state = self.switch.lock();
        while !into.is_full() {
            match take(state.port(self.port), &self.pool) {
                Taken::Message(message) => {
                    self.counts.rx_messages += 1;
                    self.counts.rx_bytes += (message.header.len() + message.body.size()) as u64;
                    let pushed = into.push(message);
                    debug_assert!(pushed.is_ok(), "there was room");
                }
                Taken::Malformed(conn) => {
                    self.counts.malformed += 1;
                    state.close(self.port, conn);
                }
                Taken::Skipped => {}
                Taken::Stalled => {
                    self.counts.pool_exhausted += 1;
                    self.stalled = true;
                    break;
                }
                Taken::Nothing => break,
            }
        }
        into.len() - before
    }

    fn tx(&mut self, out: RawOutgoing) -> Result<(), RawOutgoing> {
        let RawOutgoing { conn, header, body } = out;
        let size = header.len() + body.as_ref().map_or(0, Frame::size);
        match self.switch.lock().send(self.port, conn, header, body) {
            Ok(()) => {
                self.counts.tx_messages += 1;
                self.counts.tx_bytes += size as u64;
                Ok(())
            }
            Err(body) => {
                self.counts.tx_refused += 1;
                Err(RawOutgoing { conn, header, body })
            }
        }
    }

    fn events(&mut self) -> Option<ConnEvent> {
        let mut state = self.switch.lock();
        let port = state.port(self.port);
        let event = port.events.pop_front()?;
        match event {
            ConnEvent::Opened { outgoing: Some(_), .. } => self.counts.dialled += 1,
            ConnEvent::Opened { outgoing: None, .. } => self.counts.accepted += 1,
            ConnEvent::Closed { conn } => port.free(conn),
        }
        Some(event)
    }

    fn close(&mut self, conn: ConnId) {
        self.switch.lock().close(self.port, conn);
    }

    fn set_dials(&mut self, dials: &[(PeerId, SocketAddr)]) {
        let dials: Vec<_> = dials.iter().map(|(peer, to)| (*peer, Port(to.port()))).collect();
        self.switch.lock().set_dials(self.port, &dials);
    }

    fn set_message_size_max(&mut self, conn: ConnId, size: u32) {
        if let Some(end) = self.switch.lock().port(self.port).end(conn) {
            end.size_max = size;
        }
    }

    fn body_size_max(&self) -> usize {
        self.pool.slot_size_max()
    }

    fn flush(&mut self, now: Instant) {
        self.switch.lock().dial_due(self.port, now);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.switch.lock().next_dial(self.port)
    }

    fn park(&mut self, limit: Duration) {
        {
            let mut state = self.switch.lock();
            let port = state.port(self.port);
            if !port.events.is_empty() || (!port.queue.is_empty() && !self.stalled) {
                return;
            }
        }
        // Nobody tells us when a slot is free: look again soon.
        let limit = if self.stalled { limit.min(Duration::from_millis(1)) } else { limit };
        self.signal.wait(limit);
    }

    fn waker(&self) -> Waker {
        let signal = Arc::clone(&self.signal);
        Waker::new(move || signal.raise())
    }

    fn counts(&self) -> EndpointCounts {
        self.counts
    }
}

fn take(port: &mut PortState, pool: &FramePool) -> Taken {
    let (conn, header, body, flip) = match port.queue.pop_front() {
        None => return Taken::Nothing,
        Some(Item::Closed { conn }) => {
            port.events.push_back(ConnEvent::Closed { conn });
            return Taken::Skipped;
        }
        Some(Item::Message { conn, header, body, flip }) => (conn, header, body, flip),
    };
    let size = header.len() + body.as_ref().map_or(0, Frame::size);
    let limit = port.end(conn).map(|end| end.size_max as usize);
    // After the other side closed there is no end, but what it sent before still counts.
    let framed = framed_size(&header).is_ok_and(|framed| framed as usize == size);
    let fits = size <= limit.unwrap_or(usize::MAX) && size - header.len() <= pool.slot_size_max();
    if !framed || !fits {
        return Taken::Malformed(conn);
    }
    let Some(frame) = copy(&body, flip, pool) else {
        port.queue.push_front(Item::Message { conn, header, body, flip });
        return Taken::Stalled;
    };
    if let Some(end) = port.end(conn) {
        end.queued = end.queued.saturating_sub(1);
    }
    Taken::Message(RawReceived { conn, header, body: frame })
}

fn copy(body: &Option<Frame>, flip: Option<(u32, u8)>, pool: &FramePool) -> Option<Frame> {
    let bytes = body.as_ref().map_or(&[][..], Frame::bytes);
    let mut frame = pool.alloc(bytes.len())?;
    let copy = &mut frame.bytes_mut()[..bytes.len()];
    copy.copy_from_slice(bytes);
    if let Some((at, mask)) = flip
        && let Some(byte) = copy.get_mut(at as usize)
    {
        *byte ^= mask;
    }
    Some(frame.freeze(bytes.len() as u32))
}
