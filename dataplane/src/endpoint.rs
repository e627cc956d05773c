//! What a transport is: an [`Endpoint`] moves whole messages between *connections*.
//!
//! Owns the traits every back end implements, connection names and the counters they share. Always
//! true: an endpoint belongs to one core; it never blocks outside [`Endpoint::park`], never loses a
//! message it has begun to deliver, and holds bounded memory whatever the other side does. Must not:
//! know keys, peers' rights or protocols; who is at the other end is the business of
//! [`links`](crate::links).

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use crate::arena::{Arena, ArenaSpec, FramePool};
use crate::burst::Burst;
use crate::frame::Frame;
use crate::header::peek_size;
use crate::limits::HEADER_SIZE;
use crate::reject::Reject;
use crate::types::{Instant, OpenError, PeerId};

pub use crate::header::HeaderBytes;

/// Bytes of one message from a peer that has not proved who it is: a handshake message, or the
/// first ping under fresh keys, with room to spare.
pub const MESSAGE_SIZE_MAX_UNAUTHENTICATED: u32 = 512;

/// A connection of one endpoint. The low half is the place in the endpoint's table, the high half
/// changes whenever the place is used again, so that an old name never means a new connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u32);

impl ConnId {
    /// The name of use number `generation` of place `index`.
    pub fn new(index: u16, generation: u16) -> Self {
        Self(u32::from(generation) << 16 | u32::from(index))
    }

    /// The place in the endpoint's table: small, dense, used again after the connection's
    /// [`ConnEvent::Closed`] was taken.
    pub fn index(self) -> usize {
        (self.0 & 0xffff) as usize
    }

    /// Which use of the place this is.
    pub fn generation(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "conn {}.{}", self.index(), self.generation())
    }
}

/// How many bytes the message with this header has, for a transport that cuts a stream: magic,
/// version and sizes are checked, all else is left to the links.
///
/// # Errors
/// `BadMagic`, `BadVersion`, `BadSize`: nothing that follows can be understood.
pub fn framed_size(bytes: &HeaderBytes) -> Result<u32, Reject> {
    peek_size(bytes)
}

/// What happened to a connection.
///
/// Order: `Opened` can be taken no later than after the [`Endpoint::rx_burst`] that returns the first
/// message of the connection. `Closed` becomes visible only after the last message that will ever
/// be delivered was returned. The place of a connection is not used again before its `Closed` was
/// taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnEvent {
    /// Bytes can flow.
    Opened {
        /// Its name.
        conn: ConnId,
        /// The peer we dialled; `None` when the other side dialled us. A dialled peer is a claim of
        /// our own configuration and proves nothing about who answers.
        outgoing: Option<PeerId>,
    },
    /// Nothing more will come. Also follows our own [`Endpoint::close`].
    Closed {
        /// Its name.
        conn: ConnId,
    },
}

/// A whole message as it arrived: nothing about it is proved.
#[derive(Clone)]
pub struct RawReceived {
    /// Where it came from.
    pub conn: ConnId,
    /// The link header; its `size` equals header plus `body`, no more was checked.
    pub header: HeaderBytes,
    /// Body and proof.
    pub body: Frame,
}

/// A whole message to transmit.
pub struct RawOutgoing {
    /// Where to.
    pub conn: ConnId,
    /// The link header by value: it differs from peer to peer.
    pub header: HeaderBytes,
    /// Body and proof by reference, shared by all peers of a broadcast.
    pub body: Option<Frame>,
}

impl RawOutgoing {
    /// Bytes on the wire.
    pub fn size(&self) -> usize {
        HEADER_SIZE + self.body.as_ref().map_or(0, |body| body.bytes().len())
    }
}

/// What a transport promises. Read at start, never on the data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// The largest message, header included, in bytes.
    pub message_size_max: u32,
    /// More than this many messages in a call gain nothing.
    pub burst_max: u16,
    /// Messages of a connection arrive in order and exactly once as long as it is open.
    pub reliable: bool,
}

/// Wakes an endpoint that is parked, from any thread. Cheap when it is not parked.
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// A waker that calls `wake`.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// End the current [`Endpoint::park`], or make the next one return at once.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

/// What an endpoint has seen since it was opened. All numbers only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointCounts {
    /// Whole messages delivered upwards.
    pub rx_messages: u64,
    /// Their bytes, headers included.
    pub rx_bytes: u64,
    /// Whole messages handed to the device.
    pub tx_messages: u64,
    /// Their bytes, headers included.
    pub tx_bytes: u64,
    /// Messages refused because a connection's transmit queue was full or it was closed.
    pub tx_refused: u64,
    /// Connections accepted from outside.
    pub accepted: u64,
    /// Connections closed as soon as they were accepted, because a limit was reached.
    pub refused: u64,
    /// Unauthenticated connections closed to make place for newer ones.
    pub evicted: u64,
    /// Connections we dialled that were established.
    pub dialled: u64,
    /// Dial attempts that failed.
    pub dial_failed: u64,
    /// Connections closed because the bytes were no message, or one above the limit.
    pub malformed: u64,
    /// Times a connection waited because no frame was free.
    pub pool_exhausted: u64,
    /// Times `accept` failed for lack of file descriptors or memory.
    pub accept_failed: u64,
}

impl EndpointCounts {
    /// One whole message was delivered, with a body of `body_size` bytes.
    pub(crate) fn note_rx(&mut self, body_size: usize) {
        self.rx_messages += 1;
        self.rx_bytes += (HEADER_SIZE + body_size) as u64;
    }
}

/// Control path of a back end: may allocate, block, and fail with words.
pub trait Transport: Send {
    /// For people: `tcp`, `memory`.
    fn name(&self) -> &'static str;
    /// What it promises.
    fn caps(&self) -> Caps;
    /// Memory this device can move without copying.
    ///
    /// # Errors
    /// The memory is not to be had; the text says what to change.
    fn arena(&mut self, spec: &ArenaSpec) -> Result<Arena, OpenError>;
    /// Open the data path of one core. Received messages are written to slots of `rx`.
    ///
    /// # Errors
    /// The device or address is not to be had; the text says what to change.
    fn open(&mut self, core: usize, rx: FramePool) -> Result<Box<dyn Endpoint>, OpenError>;
}

/// Data path: one socket set or queue pair, owned by one core. Never shared, never locked, never
/// fails: a dead peer is silence. It may be moved to the thread that will use it, and stays with that
/// one from its first use on: a kernel ring admits no other.
///
/// A turn of its owner is `rx_burst`, `events`, work, `tx`, `flush`. Whoever only sends has to
/// receive as well: `rx_burst` (or `park`) is where an endpoint learns that a connection takes bytes
/// again, or is gone.
pub trait Endpoint: Send {
    /// Append received messages until `into` is full, nothing is there, or no slot is free (then
    /// the messages wait in the device). Returns how many.
    fn rx_burst(&mut self, into: &mut Burst<RawReceived>) -> usize;
    /// Queue one message; [`Endpoint::flush`] transmits it.
    ///
    /// # Errors
    /// Gives the message back when the connection's queue is full or the connection is closed.
    fn tx(&mut self, out: RawOutgoing) -> Result<(), RawOutgoing>;
    /// The next event, oldest first.
    fn events(&mut self) -> Option<ConnEvent>;
    /// Close a connection, dropping what it has not transmitted. Its `Closed` event follows. A
    /// dialled peer is dialled again after the back-off. Unknown and old names are ignored.
    fn close(&mut self, conn: ConnId);
    /// Dial these peers from now on, each named once, and no others. Where peer and address stay, so
    /// does the connection; the connections of other entries are closed, as by [`Endpoint::close`]. On
    /// a switch in memory the port of an address counts. May allocate: the list changes rarely.
    fn set_dials(&mut self, dials: &[(PeerId, SocketAddr)]);
    /// Set the largest message accepted from `conn`. A new connection has
    /// [`MESSAGE_SIZE_MAX_UNAUTHENTICATED`];
    /// raising it also tells the endpoint that the peer proved who it is, so that the connection
    /// is no longer evicted and the back-off of a dialled one starts anew.
    fn set_message_size_max(&mut self, conn: ConnId, size: u32);
    /// Bytes of the largest body it can receive: those of the largest slot of its pool.
    fn body_size_max(&self) -> usize;
    /// Transmit, dial, accept again: everything that is due at `now`.
    fn flush(&mut self, now: Instant);
    /// When [`Endpoint::flush`] wants to be called even if nothing arrives.
    fn next_deadline(&self) -> Option<Instant>;
    /// Wait for work at most `limit`. Returns at once if there is some already.
    fn park(&mut self, limit: Duration);
    /// Wakes [`Endpoint::park`] from another thread.
    fn waker(&self) -> Waker;
    /// A descriptor that becomes readable (edge triggered) when [`Endpoint::park`] would end, for an
    /// owner that waits for other things as well; it may wait while [`Endpoint::has_work`] is false.
    /// `None` when there is nothing of the kind.
    fn poll_fd(&self) -> Option<RawFd> {
        None
    }
    /// Would [`Endpoint::park`] return at once?
    fn has_work(&self) -> bool {
        false
    }
    /// What was seen so far.
    fn counts(&self) -> EndpointCounts;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_name_keeps_place_and_use_apart() {
        let conn = ConnId::new(0xfffe, 0x8001);
        assert_eq!((conn.index(), conn.generation()), (0xfffe, 0x8001));
        assert_ne!(conn, ConnId::new(0xfffe, 0x8002));
    }
}
