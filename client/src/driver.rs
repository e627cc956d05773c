//! A client without a thread: the caller's loop polls it.
//!
//! Owns the links to the replicas, the client core and the memory of both. Always true: what is
//! completed was answered by enough replicas over their own links; a poll never blocks; memory is
//! bounded by the configuration. Must not: read a clock or start a thread.
//!
//! For a load generator or a gateway that has an event loop of its own. [`Client`](crate::Client)
//! wraps it in a thread.

mod connecting;
mod members;
mod outbox;

use std::collections::VecDeque;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::RawFd;
use std::time::Duration;

use tetrarch_consensus::limits::{ACTIONS_MAX, REPLICAS_MAX, RESULT_SIZE_MAX};
use tetrarch_consensus::message::kind;
use tetrarch_consensus::message::reply::{REPLY_HEADER_SIZE, Reply, Status};
use tetrarch_consensus::smr::client::{
    Busy, ClientAction, ClientConfig as CoreConfig, ClientCore, ClientInput, Heard, Matching, Mode,
    Notice, Outcome, Ticket, To,
};
use tetrarch_consensus::{Actions, Digest, Protocol, ReplicaId};
use tetrarch_dataplane::arena::Arena;
use tetrarch_dataplane::burst::Burst;
use tetrarch_dataplane::endpoint::{Endpoint, EndpointCounts, Transport, Waker};
use tetrarch_dataplane::frame::FramePool;
use tetrarch_dataplane::handshake::Identity;
use tetrarch_dataplane::limits::{BURST_MAX, HEADER_SIZE};
use tetrarch_dataplane::links::{Diagnosis, LinkConfig, LinkEvent, Links, Received};
use tetrarch_dataplane::transport::choice;
use tetrarch_dataplane::transport::tcp::TcpConfig;
use tetrarch_dataplane::types::{Instant, OpenError, PeerId};

use crate::cluster::{CLUSTER_FILE, Cluster, ClusterError};
use crate::config::{ClientConfig, fresh_incarnation};
use crate::error::ConnectError;
use crate::payload::{Bytes, BytesPool};
use crate::proofs::Prover;
use members::{BadNews, Members};
use outbox::Outbox;

/// Bursts that one poll receives at most, so that the caller has its turn under load.
const BURSTS_PER_POLL: usize = 16;

/// Messages queued to one replica at most; further ones are dropped and sent again later.
const TX_MESSAGES_MAX: usize = 16 * 1024;

/// The longest wait before a replica that was not there is dialled again: a user waits meanwhile.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Notices that wait to be taken, at most.
pub const NOTICES_KEPT: usize = 1024;

/// An operation that ended.
#[derive(Clone, Debug)]
pub struct Completion {
    /// Which. The ticket may now name another operation.
    pub ticket: Ticket,
    /// In which session.
    pub session: u32,
    /// How.
    pub outcome: Outcome<Bytes>,
}

/// What a driver has seen since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverCounts {
    /// Operations taken.
    pub submitted: u64,
    /// Operations ended.
    pub completed: u64,
    /// Messages that were signed.
    pub signed: u64,
    /// Requests sent again because no answer came.
    pub resent: u64,
    /// Times that a replica said that it has no room for a request.
    pub busy: u64,
    /// Times that enough of them had said so for a session to hold back.
    pub held_back: u64,
    /// Messages handed to a link.
    pub sent: u64,
    /// Messages that a link did not take, because it was down or full.
    pub unsent: u64,
    /// Replies received.
    pub replies: u64,
    /// Those of them that were only digests.
    pub digests: u64,
    /// Notices that enough replicas sent.
    pub notices: u64,
    /// Those of them that nobody took in time.
    pub notices_dropped: u64,
    /// Messages from replicas that were no replies, or told of a view and cannot be believed.
    pub malformed: u64,
    /// Times that this client followed the replicas to another view.
    pub followed: u64,
}

/// A client that its caller polls.
///
/// ```no_run
/// use tetrarch_client::{ClientConfig, ClientDriver, Mode, Outcome};
/// use tetrarch_dataplane::clock::{Clock, SystemClock};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = ClientConfig::load("demo".as_ref(), 0)?;
/// let mut driver = ClientDriver::open(&config)?;
/// let clock = SystemClock::new();
/// let ticket = driver.submit(clock.now(), 0, Mode::Ordered, b"operation")?;
/// let mut completions = Vec::new();
/// loop {
///     if !driver.poll(clock.now(), &mut completions) {
///         driver.park(clock.now(), std::time::Duration::from_millis(10));
///     }
///     for completion in completions.drain(..) {
///         assert_eq!(completion.ticket, ticket);
///         if let Outcome::Done(result) = completion.outcome {
///             println!("{} bytes", result.len());
///             return Ok(());
///         }
///     }
/// }
/// # }
/// ```
pub struct ClientDriver {
    links: Links,
    core: ClientCore<Bytes>,
    actions: Actions<ClientAction<Bytes>>,
    outbox: Outbox,
    received: Burst<Received>,
    members: Members,
    /// Completions of a submit, which has nowhere to put them.
    ended: VecDeque<Completion>,
    /// Those nobody has taken yet.
    notices: VecDeque<Notice>,
    counts: DriverCounts,
    /// Memory of operations, of messages on their way, and of replies.
    arenas: [Arena; 3],
    /// Why its transport is not the preferred one.
    fallback: Option<String>,
}

impl ClientDriver {
    /// A client over TCP. Links are made while it is polled; what is submitted before is sent when
    /// they are.
    ///
    /// # Errors
    /// An address that does not resolve, a bad key, or memory or a socket that is not to be had.
    pub fn open(config: &ClientConfig) -> Result<Self, ConnectError> {
        Self::open_with(config, Matching::Equal)
    }

    /// As [`ClientDriver::open`], with a comparator and an extractor of the service.
    ///
    /// # Errors
    /// As [`ClientDriver::open`].
    pub fn open_with(
        config: &ClientConfig,
        matching: Matching<Bytes>,
    ) -> Result<Self, ConnectError> {
        let tcp = TcpConfig {
            dial: addresses(&config.cluster)?,
            // Other members come, and have links before those that go have none.
            connections_max: 2 * REPLICAS_MAX,
            unauthenticated_max: 1,
            tx_messages_max: TX_MESSAGES_MAX,
            tx_bytes_max: config.link_queue_size(),
            backoff_max: BACKOFF_MAX,
            ..TcpConfig::default()
        };
        let mut chosen = choice::open(config.transport, tcp)?;
        let mut driver = Self::over(config, &mut *chosen.transport, matching)?;
        driver.fallback = chosen.fallback;
        Ok(driver)
    }

    /// A client over any transport that dials the members.
    ///
    /// # Errors
    /// A bad key, or memory or a device that is not to be had.
    pub fn over(
        config: &ClientConfig,
        transport: &mut dyn Transport,
        matching: Matching<Bytes>,
    ) -> Result<Self, ConnectError> {
        let bodies = transport.arena(&config.body_arena())?;
        let messages = transport.arena(&config.message_arena())?;
        let replies = transport.arena(&config.reply_arena())?;
        let endpoint = transport.open(0, replies.pool())?;
        let pool = messages.pool();
        let prover = Prover::new(&config.cluster, &config.keys)
            .map_err(|(at, error)| bad_member_key(config, at, &error.to_string()))?;
        let core = core(config, matching, &bodies.pool())?;
        Ok(Self {
            links: links(config, endpoint, &pool)?,
            core,
            actions: Actions::with_capacity(ACTIONS_MAX),
            outbox: Outbox::new(prover, pool),
            received: Burst::with_capacity(BURST_MAX),
            members: Members::new(&config.cluster, &config.keys),
            ended: VecDeque::new(),
            notices: VecDeque::new(),
            counts: DriverCounts::default(),
            arenas: [bodies, messages, replies],
            fallback: None,
        })
    }

    /// Why the transport is not the one that `transport = "auto"` prefers: a line for people.
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Starts an operation. It leaves at the latest with the next [`ClientDriver::poll`].
    ///
    /// # Errors
    /// [`Busy`]: nothing was sent; says whether trying again can help.
    pub fn submit(
        &mut self,
        now: Instant,
        session: u32,
        mode: Mode,
        operation: &[u8],
    ) -> Result<Ticket, Busy> {
        let at = tetrarch_consensus::Instant(now.0);
        let result = self.core.invoke(at, session, mode, operation, &mut self.actions);
        self.carry_out();
        if self.outbox.is_burst() {
            self.outbox.flush(&mut self.links, self.members.peers(), &mut self.counts);
            self.links.flush(now);
        }
        self.counts.submitted += u64::from(result.is_ok());
        result
    }

    /// Receives, sends, and does what is due. Appends operations that ended to `completions`. Says
    /// whether there was anything to do.
    pub fn poll(&mut self, now: Instant, completions: &mut Vec<Completion>) -> bool {
        let before = self.counts;
        let mut worked = !self.ended.is_empty();
        completions.extend(self.ended.drain(..));
        for _ in 0..BURSTS_PER_POLL {
            let count = self.links.rx_burst(now, &mut self.received);
            worked |= count > 0;
            while let Some(message) = self.received.pop_front() {
                self.on_message(now, message);
            }
            completions.extend(self.ended.drain(..));
            if count < BURST_MAX {
                break;
            }
        }
        while let Some(event) = self.links.event() {
            worked = true;
            self.on_link(now, event);
        }
        self.members.tend(&mut self.links);
        if self.core.next_deadline().is_some_and(|due| due.0 <= now.0) {
            self.step(now, ClientInput::Deadline);
        }
        completions.extend(self.ended.drain(..));
        self.outbox.flush(&mut self.links, self.members.peers(), &mut self.counts);
        self.links.flush(now);
        worked || self.counts != before
    }

    /// Sleeps until something arrives, something is due, the waker is used, or `limit` is over.
    pub fn park(&mut self, now: Instant, limit: Duration) {
        if !self.ended.is_empty() {
            return;
        }
        let limit = self.next_deadline().map_or(limit, |due| due.since(now).min(limit));
        // What has no memory yet is tried again soon: replies free some.
        let limit = if self.outbox.is_empty() { limit } else { limit.min(outbox::RETRY) };
        self.links.park(limit);
    }

    /// When [`ClientDriver::poll`] wants to be called even if nothing arrives.
    pub fn next_deadline(&self) -> Option<Instant> {
        let core = self.core.next_deadline().map(|due| Instant(due.0));
        [core, self.links.next_deadline()].into_iter().flatten().min()
    }

    /// A descriptor that becomes readable (edge triggered) when [`ClientDriver::park`] would end,
    /// for a caller that waits for other things as well. It may wait, at most until
    /// [`ClientDriver::next_deadline`], while [`ClientDriver::has_work`] is false.
    pub fn poll_fd(&self) -> Option<RawFd> {
        self.links.poll_fd()
    }

    /// Would [`ClientDriver::park`] return at once, or soon for want of memory?
    pub fn has_work(&self) -> bool {
        !self.ended.is_empty() || !self.outbox.is_empty() || self.links.has_work()
    }

    /// Wakes [`ClientDriver::park`] from another thread.
    pub fn waker(&self) -> Waker {
        self.links.waker()
    }

    /// The next notice: what the service told a session of this client that did not ask, if one-correct replicas say so
    /// (rule CLI.13). Of those that nobody takes the last [`NOTICES_KEPT`] are kept.
    pub fn notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Replicas that are connected now.
    pub fn connected(&self) -> usize {
        self.members.peers().iter().filter(|peer| self.links.is_up(**peer)).count()
    }

    /// Replicas whose equal answers make a result.
    pub fn needed(&self) -> usize {
        self.core.view().quorums().reply()
    }

    /// The cluster as it is known now: with the members of the latest view that this client followed them
    /// to.
    pub fn cluster(&self) -> &Cluster {
        self.members.cluster()
    }

    /// How far an operation is; `None` when it ended.
    pub fn heard(&self, ticket: Ticket) -> Option<Heard> {
        self.core.heard(ticket)
    }

    /// Operations in flight.
    pub fn in_flight(&self) -> usize {
        self.core.in_flight_count()
    }

    /// Message slots that are free now: all of them when nothing is in flight and no result is held.
    pub fn free_slots(&mut self) -> usize {
        self.links.give_back();
        self.arenas.iter().map(Arena::free_slots).sum()
    }

    /// What was seen so far.
    pub fn counts(&self) -> DriverCounts {
        let busy = self.core.busy_counts();
        let resent = self.core.resent_count();
        DriverCounts { resent, busy: busy.heard, held_back: busy.believed, ..self.counts }
    }

    /// Messages and bytes of its links so far.
    pub fn link_counts(&self) -> EndpointCounts {
        self.links.counts()
    }

    /// The next finding about a link that an operator should read.
    pub fn diagnosis(&mut self) -> Option<Diagnosis> {
        self.links.diagnosis()
    }

    fn on_message(&mut self, now: Instant, message: Received) {
        let from = ReplicaId(message.peer.index() as u16);
        let Some(reply) = parse(message) else {
            self.counts.malformed += 1;
            return;
        };
        self.counts.replies += 1;
        if reply.header.status == Status::Outdated {
            return self.on_news(now, from, &reply);
        }
        self.counts.digests += u64::from(reply.header.digest);
        self.step(now, ClientInput::Reply { from, reply });
    }

    /// A replica says that it is in a later view.
    fn on_news(&mut self, now: Instant, from: ReplicaId, reply: &Reply<Bytes>) {
        match self.members.check(now, from, reply.result()) {
            Ok(Some(news)) => {
                let news = Box::new(news);
                self.step(now, ClientInput::News { from, news });
                // Whoever else is in that view may be asked, if it is not followed to yet.
                self.members.link(&mut self.links);
            }
            Ok(None) => {}
            Err(BadNews) => self.counts.malformed += 1,
        }
    }

    fn on_link(&mut self, now: Instant, event: LinkEvent) {
        let member = |peer: PeerId| ReplicaId(peer.index() as u16);
        match event {
            LinkEvent::Up(peer) if self.members.is_candidate(peer) => {
                self.ask_for_view(now, To::One(member(peer)));
            }
            LinkEvent::Up(peer) => self.step(now, ClientInput::Connected(member(peer))),
            LinkEvent::Down(peer) => self.step(now, ClientInput::Disconnected(member(peer))),
        }
    }

    /// Has members say in which view they are, if that is a later one.
    fn ask_for_view(&mut self, now: Instant, to: To) {
        let now = tetrarch_consensus::Instant(now.0);
        self.core.ask_for_view(now, to, &mut self.actions);
        self.carry_out();
    }

    fn step(&mut self, now: Instant, input: ClientInput<Bytes>) {
        self.core.step(tetrarch_consensus::Instant(now.0), input, &mut self.actions);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        for action in self.actions.drain() {
            match action {
                ClientAction::Send { to, client, body, sign } => {
                    self.counts.signed += u64::from(sign);
                    self.outbox.push(to, client, body, sign);
                }
                ClientAction::Completed { ticket, session, outcome } => {
                    self.counts.completed += 1;
                    self.ended.push_back(Completion { ticket, session, outcome });
                }
                ClientAction::Notice(notice) => {
                    if self.notices.len() == NOTICES_KEPT {
                        self.notices.pop_front();
                        self.counts.notices_dropped += 1;
                    }
                    self.counts.notices += 1;
                    self.notices.push_back(notice);
                }
                ClientAction::Followed { membership } => {
                    self.counts.followed += 1;
                    let prover = self.members.follow(&membership.next, &mut self.links);
                    self.outbox.follow(prover);
                }
                // Whoever says so tells of the membership as well.
                ClientAction::Outdated { .. } | ClientAction::Invoked { .. } => {}
            }
        }
    }
}

/// A reply, from a replica. Without a proof the frame is the body.
fn parse(message: Received) -> Option<Reply<Bytes>> {
    if message.kind != kind::REPLY || message.proof_size != 0 || message.peer.is_client() {
        return None;
    }
    Reply::parse(Bytes(message.frame), Digest(message.body_digest)).ok()
}

fn core(
    config: &ClientConfig,
    matching: Matching<Bytes>,
    pool: &FramePool,
) -> Result<ClientCore<Bytes>, ConnectError> {
    let core = CoreConfig {
        identity: config.index,
        incarnation: config.incarnation.unwrap_or_else(fresh_incarnation).max(1),
        view: config.cluster.view(),
        request_timeout: config.request_timeout,
        sessions_max: config.sessions_max,
        window: config.window,
        authentication: config.authentication,
        reply: config.reply,
        // The rest is for what arrives, and for results that are in use.
        kept_size_max: config.reply_memory / 4,
    };
    Ok(ClientCore::new(core, matching, Box::new(BytesPool(pool.clone()))))
}

fn links(
    config: &ClientConfig,
    endpoint: Box<dyn Endpoint>,
    pool: &FramePool,
) -> Result<Links, OpenError> {
    let peer = PeerId::client(config.index);
    let identity = Identity { peer, secret: config.keys.static_secret.clone() };
    let link_config = LinkConfig {
        message_size_max_replica: (HEADER_SIZE + REPLY_HEADER_SIZE + RESULT_SIZE_MAX) as u32,
        ..LinkConfig::default()
    };
    let directory = config.cluster.directory()?;
    let cluster = config.cluster.id;
    Links::new(endpoint, identity, directory, cluster, link_config, pool.clone())
}

fn addresses(cluster: &Cluster) -> Result<Vec<(PeerId, SocketAddr)>, ClusterError> {
    let resolve = |member: &crate::cluster::Member| {
        let resolved = member.address.to_socket_addrs().ok().and_then(|mut all| all.next());
        let address = resolved.ok_or_else(|| {
            ClusterError::new(
                CLUSTER_FILE.as_ref(),
                format!("replica {} address", member.id),
                &member.address,
                "the host name does not resolve",
                "write a name that this machine can resolve, or an IP address",
            )
        })?;
        Ok((PeerId::replica(member.id.0), address))
    };
    cluster.members.iter().map(resolve).collect()
}

fn bad_member_key(config: &ClientConfig, at: usize, problem: &str) -> ClusterError {
    ClusterError::new(
        CLUSTER_FILE.as_ref(),
        format!("replica {} static_key", config.cluster.members[at].id),
        "",
        problem,
        "replace the replica's keys",
    )
}
