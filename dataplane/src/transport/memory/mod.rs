//! Endpoints of one process, connected by a switch.
//!
//! Owns the switch that a simulator or a test holds. Always true: what happens depends on the order
//! of calls only, never on time, addresses or hash order; queues are bounded. Must not: be used
//! where throughput counts (there is one lock).
//!
//! With [`Delivery::Immediate`] a message is at the other side as soon as it was queued: for tests,
//! also across threads. With [`Delivery::Held`] it stays in the switch until the owner takes it with
//! [`Switch::take`], and delays, drops, duplicates, alters or delivers it.

mod endpoint;
mod state;

pub use endpoint::MemoryEndpoint;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::arena::{Arena, ArenaSpec, FramePool};
use crate::endpoint::{Caps, ConnId, Endpoint, HeaderBytes, Transport};
use crate::frame::Frame;
use crate::limits::{BURST_MAX, FRAME_SIZE_MAX, HEADER_SIZE};
use crate::types::{OpenError, PeerId};

use state::{Item, State};

/// An address on a switch. Small numbers: the switch keeps a table up to the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub u16);

impl Port {
    /// What [`Endpoint::set_dials`] calls it.
    pub fn address(self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.0).into()
    }
}

/// Who moves messages from one side to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The switch, at once.
    Immediate,
    /// The owner of the switch, message by message.
    Held,
}

/// Limits and times of a switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchConfig {
    /// Who moves messages.
    pub delivery: Delivery,
    /// Messages waiting per connection and direction, in the switch and at the receiver each.
    pub queue_max: usize,
    /// Connections per port.
    pub connections_max: usize,
    /// How long a port waits before it dials again.
    pub redial: Duration,
}

impl Default for SwitchConfig {
    fn default() -> Self {
        Self {
            delivery: Delivery::Immediate,
            queue_max: 1024,
            connections_max: 1024,
            redial: Duration::from_millis(50),
        }
    }
}

/// A message between two ports, in the hands of the owner of the switch.
#[derive(Clone)]
pub struct InFlight {
    /// Who sent it.
    pub from: Port,
    /// To whom.
    pub to: Port,
    /// The connection, by the receiver's name.
    conn: ConnId,
    /// The link header; may be altered.
    pub header: HeaderBytes,
    /// Body and proof. Shared with the sender: alter it with [`InFlight::flip`].
    pub body: Option<Frame>,
    flip: Option<(u32, u8)>,
}

impl InFlight {
    /// Bytes on the wire.
    pub fn size(&self) -> usize {
        HEADER_SIZE + self.body.as_ref().map_or(0, Frame::size)
    }

    /// Alter one byte on delivery: exclusive-or with `mask` at `at`, counted from the first byte of
    /// the header, modulo the size.
    pub fn flip(&mut self, at: usize, mask: u8) {
        let at = at % self.size();
        match at.checked_sub(HEADER_SIZE) {
            None => self.header[at] ^= mask,
            Some(at) => self.flip = Some((at as u32, mask)),
        }
    }
}

/// Connects the endpoints of one process. Clones are the same switch.
///
/// ```
/// use tetrarch_dataplane::arena::{Arena, ArenaSpec, SlotClass};
/// use tetrarch_dataplane::endpoint::{ConnEvent, Endpoint};
/// use tetrarch_dataplane::transport::memory::{Port, Switch, SwitchConfig};
/// use tetrarch_dataplane::types::{Instant, PeerId};
///
/// # fn main() -> Result<(), tetrarch_dataplane::types::OpenError> {
/// let spec = ArenaSpec { classes: vec![SlotClass { slot_size: 2048, count: 64 }] };
/// let arena = Arena::heap(&spec)?;
/// let switch = Switch::new(SwitchConfig::default());
/// let mut a = switch.attach(Port(0), arena.pool())?;
/// let mut b = switch.attach(Port(1), arena.pool())?;
/// switch.dial(Port(1), Port(0), PeerId::replica(0));
/// b.flush(Instant(0));
/// assert!(matches!(a.events(), Some(ConnEvent::Opened { outgoing: None, .. })));
/// assert!(matches!(b.events(), Some(ConnEvent::Opened { outgoing: Some(_), .. })));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Switch {
    state: Arc<Mutex<State>>,
}

impl Switch {
    /// A switch without endpoints.
    pub fn new(config: SwitchConfig) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(config))) }
    }

    /// The endpoint at `port`, receiving into `rx`. Dropping it closes its connections and makes
    /// the port free again: that is how a simulated node crashes.
    ///
    /// # Errors
    /// The port has an endpoint.
    pub fn attach(&self, port: Port, rx: FramePool) -> Result<MemoryEndpoint, OpenError> {
        let signal = self.lock().attach(port).ok_or_else(|| OpenError::BadValue {
            field: "memory.port".into(),
            value: port.0.to_string(),
            problem: "the port has an endpoint".into(),
            remedy: "drop that one first, or choose another port".into(),
        })?;
        Ok(MemoryEndpoint::new(self.clone(), port, rx, signal))
    }

    /// From now on the endpoint at `from` keeps a connection to whoever is at `to`, whom it calls
    /// `peer`: made in its next `flush`, made again when it was closed.
    pub fn dial(&self, from: Port, to: Port, peer: PeerId) {
        self.lock().add_dial(from, to, peer);
    }

    /// Close what is open between two ports and refuse new connections until [`Switch::heal`].
    /// Messages on the way are lost.
    pub fn cut(&self, a: Port, b: Port) {
        self.lock().cut(a, b);
    }

    /// Undo [`Switch::cut`].
    pub fn heal(&self, a: Port, b: Port) {
        self.lock().heal(a, b);
    }

    /// With [`Delivery::Held`]: take the message that waits longest.
    pub fn take(&self) -> Option<InFlight> {
        self.lock().take()
    }

    /// With [`Delivery::Held`]: messages that wait to be taken.
    pub fn held(&self) -> usize {
        self.lock().held()
    }

    /// Hand a message to its receiver, in any order, as often as wanted. `false`: the connection is
    /// gone or the receiver's queue is full, and the message is lost.
    pub fn deliver(&self, message: InFlight) -> bool {
        let InFlight { to, conn, header, body, flip, .. } = message;
        self.lock().deliver(to, Item::Message { conn, header, body, flip })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No call leaves the state half changed: a panic elsewhere does not make it wrong.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A [`Transport`] for one port of a switch.
pub struct MemoryTransport {
    switch: Switch,
    port: Port,
}

impl MemoryTransport {
    /// The transport at `port`, dialling the given ports.
    pub fn new(switch: &Switch, port: Port, dial: &[(PeerId, Port)]) -> Self {
        for (peer, to) in dial {
            switch.dial(port, *to, *peer);
        }
        Self { switch: switch.clone(), port }
    }
}

impl Transport for MemoryTransport {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn caps(&self) -> Caps {
        Caps {
            message_size_max: FRAME_SIZE_MAX as u32,
            burst_max: BURST_MAX as u16,
            reliable: self.switch.lock().delivery() == Delivery::Immediate,
        }
    }

    fn arena(&mut self, spec: &ArenaSpec) -> Result<Arena, OpenError> {
        Arena::heap(spec)
    }

    fn open(&mut self, _core: usize, rx: FramePool) -> Result<Box<dyn Endpoint>, OpenError> {
        Ok(Box::new(self.switch.attach(self.port, rx)?))
    }
}
