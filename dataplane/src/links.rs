//! Authenticated links to peers, over any endpoint.
//!
//! Owns sessions: handshakes, link keys, sequences, keep-alive. Always true: what
//! [`Links::rx_burst`] yields came from the named peer under fresh keys, once, unaltered, for our
//! cluster; there is at most one session per peer; what an unauthenticated peer can make us hold or
//! compute is bounded. Must not: read a clock (the caller says what time it is), or know what kinds
//! below [`CONTROL_KIND_MIN`] mean.
//!
//! Who the peers are changes with [`Links::set_peers`] while links run (docs/adr/0032).
//!
//! A turn of the owner is [`Links::rx_burst`], [`Links::event`], work, [`Links::tx`],
//! [`Links::flush`], and [`Links::park`] when there was nothing to do. Small messages of one turn to
//! one peer share a header and a tag (docs/adr/0022).

pub mod bundle;
mod diagnosis;
mod held;
mod keepalive;
mod peers;
mod receive;
mod replay;
mod session;
#[cfg(test)]
mod tests;
mod transmit;

pub use diagnosis::{Cause, Diagnosis};
pub use replay::ReplayPolicy;

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::time::Duration;

use crate::arena::FramePool;
use crate::burst::Burst;
use crate::endpoint::{ConnId, Endpoint, EndpointCounts, RawReceived, Waker};
use crate::frame::Frame;
use crate::handshake::{Directory, Identity};
use crate::header::Header;
use crate::limits::{BUNDLE_MESSAGES_MAX, BUNDLE_SIZE_MAX, BURST_MAX, FRAME_SIZE_MAX, HEADER_SIZE};
use crate::reject::{Reject, RejectCounts};
use crate::types::{Digest, Instant, OpenError, PeerId};

use diagnosis::DiagnosisLog;
use held::HeldBundles;
use session::{Conn, PeerState};

/// Kinds from here on belong to the links and never reach their user.
pub const CONTROL_KIND_MIN: u8 = 250;
/// Handshake message 1.
pub const KIND_HELLO: u8 = 250;
/// Handshake message 2.
pub const KIND_REPLY: u8 = 251;
/// An empty message that keeps a link alive and confirms keys.
pub const KIND_PING: u8 = 252;
/// Several small messages.
pub const KIND_BUNDLE: u8 = 253;

/// When a transport that had no room is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(1);

/// Limits and times of the links of one core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// The largest message accepted from a replica, header included, in bytes; at least a bundle.
    pub message_size_max_replica: u32,
    /// The largest message accepted from a client, header included, in bytes. A client may hold one
    /// slot of this size half-filled, so keep it near the largest request; at least a bundle.
    pub message_size_max_client: u32,
    /// A connection that has not proved who it is after this long is closed.
    pub handshake_timeout: Duration,
    /// Connections in a handshake at a time; further ones are closed at once.
    pub half_open_max: usize,
    /// Key agreements computed per call of [`Links::rx_burst`], each about 200 microseconds.
    pub handshakes_per_turn: usize,
    /// When nothing was sent to a peer for this long, a ping is.
    pub keepalive_interval: Duration,
    /// When nothing came from a peer for this long, its connection is closed.
    pub idle_timeout: Duration,
    /// A link outlives the key of the peer that it was made with for this long: by then both sides
    /// know the new one, and the link is made again with it.
    pub rekey_after: Duration,
    /// Which sequences are accepted.
    pub replay: ReplayPolicy,
    /// Received bundles that may be held by somebody who keeps a message of theirs. Beyond that each
    /// message is copied to a slot of its own: a kept message of a few bytes never holds more than
    /// that many times [`BUNDLE_SIZE_MAX`] in all.
    pub held_bundles_max: usize,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            message_size_max_replica: FRAME_SIZE_MAX as u32,
            message_size_max_client: 256 * 1024,
            handshake_timeout: Duration::from_secs(3),
            half_open_max: 128,
            handshakes_per_turn: 4,
            keepalive_interval: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(5),
            rekey_after: Duration::from_secs(2),
            replay: ReplayPolicy::Increasing,
            // Two MiB, and as many messages as several full batches.
            held_bundles_max: 512,
        }
    }
}

impl LinkConfig {
    fn check(&self) -> Result<(), OpenError> {
        let least = HEADER_SIZE + BUNDLE_SIZE_MAX;
        let limits = [
            ("message_size_max_replica", self.message_size_max_replica),
            ("message_size_max_client", self.message_size_max_client),
        ];
        for (field, value) in limits {
            if (value as usize) < least {
                return Err(OpenError::BadValue {
                    field: field.into(),
                    value: value.to_string(),
                    problem: "every peer may send bundles, which can be larger".into(),
                    remedy: format!("use {least} or more"),
                });
            }
        }
        Ok(())
    }
}

/// Can a bundle arrive where bodies have at most `size` bytes?
fn check_room(size: usize) -> Result<(), OpenError> {
    if size >= BUNDLE_SIZE_MAX {
        return Ok(());
    }
    Err(OpenError::BadValue {
        field: "arena.classes".into(),
        value: format!("slots of at most {size} bytes to receive into"),
        problem: "every peer may send bundles, which can be larger".into(),
        remedy: format!("add a class of slots of {BUNDLE_SIZE_MAX} bytes or more"),
    })
}

/// A peer's link came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// Messages can be exchanged.
    Up(PeerId),
    /// No session any more. A new connection of the same peer shows as `Down`, then `Up`.
    Down(PeerId),
}

/// An authentic message.
#[derive(Clone)]
pub struct Received {
    /// Who sent it, by its key.
    pub peer: PeerId,
    /// Below [`CONTROL_KIND_MIN`]. What it, `auth` and `session` mean is for the user to check.
    pub kind: u8,
    /// What sort of proof follows the body.
    pub auth: u8,
    /// How many of the last bytes of `frame` are proof; not more than there are.
    pub proof_size: u16,
    /// As the sender set it.
    pub session: u64,
    /// [`body_digest`](crate::crypto::hash::body_digest) of the bytes before the proof, computed here.
    pub body_digest: Digest,
    /// Body and proof.
    pub frame: Frame,
}

impl Received {
    /// The bytes before the proof.
    pub fn body(&self) -> &[u8] {
        let bytes = self.frame.bytes();
        bytes.get(..self.body_size()).unwrap_or(bytes)
    }

    /// How many bytes are before the proof.
    pub fn body_size(&self) -> usize {
        self.frame.size().saturating_sub(usize::from(self.proof_size))
    }

    /// The transferable proof; empty if there is none.
    pub fn proof(&self) -> &[u8] {
        self.frame.bytes().get(self.body_size()..).unwrap_or(&[])
    }
}

/// A message to send; clone `frame` for a broadcast (it shares the slot).
#[derive(Clone)]
pub struct Outgoing {
    /// To whom.
    pub to: PeerId,
    /// Below [`CONTROL_KIND_MIN`].
    pub kind: u8,
    /// What sort of proof follows the body.
    pub auth: u8,
    /// Goes into the header as it is.
    pub session: u64,
    /// How many of the last bytes of `frame` are proof.
    pub proof_size: u16,
    /// [`body_digest`](crate::crypto::hash::body_digest) of the bytes before the proof, if the caller
    /// knows it; a wrong one makes the receiver drop the message. `None`: computed here if it is
    /// needed, which it is not for a small message that others follow
    /// ([`BUNDLED_SIZE_MAX`](crate::limits::BUNDLED_SIZE_MAX)). For a large one to many peers, or many
    /// large ones, compute it before, once or side by side.
    pub body_digest: Option<Digest>,
    /// Body and proof; `None` is an empty body.
    pub frame: Option<Frame>,
}

/// A small message whose bytes the caller keeps, see [`Links::join`]. The fields are those of
/// [`Outgoing`].
#[derive(Clone, Copy, Debug)]
pub struct Small<'a> {
    /// To whom.
    pub to: PeerId,
    /// Below [`CONTROL_KIND_MIN`].
    pub kind: u8,
    /// What sort of proof follows the body.
    pub auth: u8,
    /// Goes with the message as it is.
    pub session: u64,
    /// How many of the last bytes of `payload` are proof.
    pub proof_size: u16,
    /// Body and proof.
    pub payload: &'a [u8],
}

/// How often messages shared a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BundleCounts {
    /// Bundles received whose messages were handed out.
    pub rx: u64,
    /// Bundles handed to the endpoint.
    pub tx: u64,
}

/// Sessions with all peers of one endpoint.
///
/// ```no_run
/// # use tetrarch_dataplane::{arena::*, burst::Burst, clock::*, crypto::{hash, keys::*}};
/// # use tetrarch_dataplane::{endpoint::*, handshake::*, links::*, transport::tcp::*, types::*};
/// # fn main() -> Result<(), OpenError> {
/// # let (secret, ours, theirs): (StaticSecret, StaticPublic, StaticPublic) = unreachable!();
/// let config = TcpConfig {
///     listen: Some(([127, 0, 0, 1], 9001).into()),
///     dial: vec![(PeerId::replica(0), ([127, 0, 0, 1], 9000).into())],
///     ..TcpConfig::default()
/// };
/// let mut transport = TcpTransport::new(config)?;
/// let arena = transport.arena(&ArenaSpec { classes: vec![SlotClass { slot_size: 8192, count: 1024 }] })?;
/// let endpoint = transport.open(0, arena.pool())?;
/// let identity = Identity { peer: PeerId::replica(1), secret };
/// let directory = Directory::new([(PeerId::replica(0), theirs), (PeerId::replica(1), ours)])?;
/// let cluster = 7;
/// let mut links =
///     Links::new(endpoint, identity, directory, cluster, LinkConfig::default(), arena.pool())?;
///
/// let clock = SystemClock::new();
/// let mut received = Burst::with_capacity(64);
/// loop {
///     let count = links.rx_burst(clock.now(), &mut received);
///     for message in received.drain() {
///         links.tx(Outgoing {
///             to: message.peer,
///             kind: message.kind,
///             auth: 0,
///             session: 0,
///             proof_size: 0,
///             body_digest: None,
///             frame: Some(message.frame),
///         });
///     }
///     while let Some(event) = links.event() {
///         println!("{event:?}");
///     }
///     links.flush(clock.now());
///     if count == 0 {
///         links.park(std::time::Duration::from_millis(1));
///     }
/// }
/// # }
/// ```
pub struct Links {
    endpoint: Box<dyn Endpoint>,
    identity: Identity,
    /// With the key of ours before or after that one.
    other_identity: Option<Identity>,
    directory: Directory,
    cluster: u64,
    config: LinkConfig,
    pool: FramePool,
    /// The latest time the caller gave.
    now: Instant,
    /// By [`ConnId::index`].
    conns: Vec<Option<Box<Conn>>>,
    /// By [`Directory::index_of`].
    peers: Vec<PeerState>,
    /// Connections without a session, their own handshake slots included.
    half_open: usize,
    /// Messages taken from the endpoint and not looked at yet.
    raw: Burst<RawReceived>,
    /// Headers of the messages that are being checked, or why one is dropped; only of use within a call.
    candidates: Vec<Result<Header, Reject>>,
    /// Of the messages that are being checked, those inside bundles included; reused.
    digests: Vec<Digest>,
    /// Where those inside bundles are; only of use within a call.
    parts: Vec<receive::Part>,
    /// The rest of a bundle whose first messages were handed out.
    opened: Burst<Received>,
    held: HeldBundles,
    /// Connections with messages that wait for the flush, or for room; some of them for nothing any
    /// more.
    unsealed: Vec<ConnId>,
    bundles: BundleCounts,
    /// Closed by the other side; their last messages may still be in `raw`.
    closed: Vec<ConnId>,
    /// First handshake messages that wait for their turn to be computed; at most `half_open_max`.
    hellos: VecDeque<(ConnId, Frame)>,
    /// Directory indices whose state the user has not been told; each at most once.
    changed: VecDeque<usize>,
    /// Peers that were removed while the user thought that they are up.
    gone: VecDeque<PeerId>,
    rejects: RejectCounts,
    diagnoses: DiagnosisLog,
    /// No handshake, keep-alive or idle limit is reached before.
    next_check: Instant,
    empty_digest: Digest,
}

impl Links {
    /// Sessions over `endpoint` as `identity`, with the peers of `directory`. `pool` supplies the
    /// slots of handshake messages that we send.
    ///
    /// Do not send from the pool that the endpoint receives into: two peers that fill theirs with
    /// messages for each other could then receive none, and would wait for each other until the
    /// idle timeout.
    ///
    /// # Errors
    /// `BadValue` if a limit of `config`, or the largest slot that `endpoint` receives into, is below
    /// the size of a bundle: every peer may send one, and it would be lost without a word.
    pub fn new(
        endpoint: Box<dyn Endpoint>,
        identity: Identity,
        directory: Directory,
        cluster: u64,
        config: LinkConfig,
        pool: FramePool,
    ) -> Result<Self, OpenError> {
        config.check()?;
        check_room(endpoint.body_size_max())?;
        // One for each session, and those of sessions that ended since the last flush.
        let listed = 2 * BURST_MAX.max(directory.len());
        let peers = (0..directory.len()).map(|_| PeerState::default()).collect();
        let diagnoses = DiagnosisLog::new(directory.len());
        let changed = VecDeque::with_capacity(directory.len());
        let hellos = VecDeque::with_capacity(config.half_open_max);
        Ok(Self {
            endpoint,
            identity,
            other_identity: None,
            directory,
            cluster,
            held: HeldBundles::new(config.held_bundles_max),
            config,
            pool,
            now: Instant(0),
            conns: Vec::new(),
            peers,
            half_open: 0,
            raw: Burst::with_capacity(BURST_MAX),
            candidates: Vec::with_capacity(BURST_MAX),
            digests: vec![Digest::default(); receive::CHECKED_MAX],
            parts: Vec::with_capacity(receive::CHECKED_MAX),
            opened: Burst::with_capacity(BUNDLE_MESSAGES_MAX),
            unsealed: Vec::with_capacity(listed),
            bundles: BundleCounts::default(),
            closed: Vec::new(),
            hellos,
            changed,
            gone: VecDeque::new(),
            rejects: RejectCounts::new(),
            diagnoses,
            next_check: Instant(u64::MAX),
            empty_digest: crate::crypto::hash::body_digest(&[]),
        })
    }

    /// The next change of a link. Changes that were not taken in time are merged: a peer that went
    /// and came back shows as one `Down` and one `Up`.
    pub fn event(&mut self) -> Option<LinkEvent> {
        if let Some(peer) = self.gone.pop_front() {
            return Some(LinkEvent::Down(peer));
        }
        while let Some(index) = self.changed.pop_front() {
            let Some(peer) = self.directory.peer_at(index) else {
                continue;
            };
            let state = &mut self.peers[index];
            let (was, is) = (state.announced, state.conn.is_some());
            state.queued = false;
            if was && is && state.replaced {
                // Down now, and once more for Up.
                (state.announced, state.replaced, state.queued) = (false, false, true);
                self.changed.push_front(index);
                return Some(LinkEvent::Down(peer));
            }
            (state.announced, state.replaced) = (is, false);
            match (was, is) {
                (true, false) => return Some(LinkEvent::Down(peer)),
                (false, true) => return Some(LinkEvent::Up(peer)),
                // Came and went since the last time: nobody has to know.
                _ => {}
            }
        }
        None
    }

    /// Is there a session with `peer` now? May be ahead of [`Links::event`].
    pub fn is_up(&self, peer: PeerId) -> bool {
        self.directory.index_of(peer).is_some_and(|index| self.peers[index].conn.is_some())
    }

    /// Peers with a session now.
    pub fn up_count(&self) -> usize {
        self.peers.iter().filter(|peer| peer.conn.is_some()).count()
    }

    /// Whose links these are.
    pub fn local(&self) -> PeerId {
        self.identity.peer
    }

    /// When [`Links::flush`] wants to be called even if nothing arrives.
    pub fn next_deadline(&self) -> Option<Instant> {
        let own = (self.conns.iter().any(Option::is_some)).then_some(self.next_check);
        // Nobody says when a transport that was full has room again.
        let again = (!self.unsealed.is_empty()).then(|| self.now + RETRY_AFTER);
        let own = own.into_iter().chain(again).min();
        match (own, self.endpoint.next_deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Sleep until something arrives or the waker is used, at most `limit`. Returns at once when
    /// there is work already; events that nobody takes with [`Links::event`] are work, too.
    pub fn park(&mut self, limit: Duration) {
        if !self.has_own_work() {
            self.endpoint.park(limit);
        }
    }

    /// A descriptor that becomes readable (edge triggered) when [`Links::park`] would end, for an
    /// owner that waits for other things as well; it may wait while [`Links::has_work`] is false.
    pub fn poll_fd(&self) -> Option<RawFd> {
        self.endpoint.poll_fd()
    }

    /// Would [`Links::park`] return at once?
    pub fn has_work(&self) -> bool {
        self.has_own_work() || self.endpoint.has_work()
    }

    fn has_own_work(&self) -> bool {
        let received = !self.opened.is_empty() || !self.raw.is_empty();
        received || !self.hellos.is_empty() || !self.changed.is_empty() || !self.gone.is_empty()
    }

    /// Wakes [`Links::park`] from another thread.
    pub fn waker(&self) -> Waker {
        self.endpoint.waker()
    }

    /// Why messages were dropped, here.
    pub fn rejects(&self) -> &RejectCounts {
        &self.rejects
    }

    /// What the endpoint below has seen.
    pub fn counts(&self) -> EndpointCounts {
        self.endpoint.counts()
    }

    /// How many bundles came and went.
    pub fn bundles(&self) -> BundleCounts {
        self.bundles
    }

    /// Gives back the slots of all bundles of which nobody holds a part any more. Every turn does that
    /// for some of them.
    pub fn give_back(&mut self) {
        self.held.reap_all();
    }

    /// The next finding an operator should read, at most one per peer and cause in a minute.
    pub fn diagnosis(&mut self) -> Option<Diagnosis> {
        self.diagnoses.take()
    }
}
