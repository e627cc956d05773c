//! The stages of a node and what travels between them.
//!
//! Owns the types that cross rings. Always true: stages share nothing but rings and published
//! numbers, so each can run on a core of its own; every ring is bounded, and a stage takes work only
//! when the rings ahead have room for what it can become. Must not: decide anything about order.
//!
//! ```text
//!            requests, peers                    work
//!  network ------------------>  ordering  ---------------->  execution
//!  (links, <------------------            <----------------
//!  ingress,       sends                       executed             |
//!  egress) <------------------------------------------------------+
//!     |                       replies                              ^
//!     +------------------------------------------------------------+
//!                             queries
//! ```
//!
//! Egress and the links are one stage because both use the sessions of one endpoint. Ingress is part
//! of it as well, and can be on other cores too: each [`worker`] takes messages from the network stage
//! and has rings of its own to ordering and execution. A turn of the network stage transmits what the turn before left in its rings, then receives: run after one
//! another, the three stages carry a request from the wire to the core, and its reply back, without
//! a wait in between.

pub mod bulletin;
pub mod dispatch;
pub mod egress;
pub mod execution;
pub mod ingress;
pub mod linking;
pub mod network;
mod notices;
pub mod ordering;
pub mod records;
mod reply_page;
pub mod room;
mod told;
pub mod worker;

use std::sync::Arc;

use tetrarch_consensus::limits::{ACTIONS_MAX, BATCH_REQUESTS_MAX, EXECUTION_LAG_MAX};
use tetrarch_consensus::message::reply::Status;
use tetrarch_consensus::{
    Batch, ClientId, ConsensusId, Context, Evidence, Input, Lsn, Message, Ordered, Recipients,
    Regency, ReplicaId, Request, Selection, Sequence, TransferNote, Verified, ViewAnswer, ViewId,
};
use tetrarch_dataplane::endpoint::Waker;
use tetrarch_dataplane::frame::Frame;
use tetrarch_dataplane::limits::BURST_MAX;
use tetrarch_dataplane::links::{Diagnosis, Received};
use tetrarch_dataplane::reject::Reject;
use tetrarch_dataplane::ring::{Consumer, FanIn, Producer, ring};
use tetrarch_dataplane::types::PeerId;

use crate::checkpoint::transfer::{self, ON_THE_WAY_MAX, Order, Parcel};
use crate::keyring::BadView;
use crate::payload::FramePayload;

/// A kind of stage. All but ingress exist once in a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum StageKind {
    /// Links and egress.
    Network,
    /// Checks of messages, on the network stage's core, on others, or both.
    Ingress,
    /// The core of the protocol.
    Ordering,
    /// The application.
    Execution,
}

impl StageKind {
    /// All kinds, in the order in which a request meets them.
    pub const ALL: [Self; 4] = [Self::Network, Self::Ingress, Self::Ordering, Self::Execution];

    /// The name in configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Ingress => "ingress",
            Self::Ordering => "ordering",
            Self::Execution => "execution",
        }
    }
}

/// Requests between ingress and ordering: several bursts, so that a burst of the wire becomes one
/// batch.
pub const REQUESTS_MAX: usize = 16 * BURST_MAX;
/// Messages of peers between ingress and ordering.
pub const PEERS_MAX: usize = 4 * BURST_MAX;
/// Read-only requests between ingress and execution.
pub const QUERIES_MAX: usize = 16 * BURST_MAX;
/// Messages of clients between the network stage and one ingress worker, and as many of members.
pub const UNCHECKED_MAX: usize = 8 * BURST_MAX;
/// Messages between ordering and egress: all that one step can want.
pub const SENDS_MAX: usize = ACTIONS_MAX;
/// Answers without room that wait for execution at most: as many as a burst of requests wants that
/// comes when there is none. A client that is not told asks again only when it takes its request for lost.
pub const BUSY_MAX: usize = 16 * BURST_MAX;
/// Batches, resend orders and Busy answers between ordering and execution.
pub const WORK_MAX: usize = 2 * EXECUTION_LAG_MAX as usize + BURST_MAX + BUSY_MAX;
/// Executed instances between execution and ordering: no fewer than can be in execution.
pub const EXECUTED_MAX: usize = WORK_MAX;
/// Replies between execution and egress: two full batches and a burst of queries.
pub const REPLIES_MAX: usize = 2 * BATCH_REQUESTS_MAX + 16 * BURST_MAX;
/// What ordering wants of the thread that fetches and serves checkpoints: twice the chunks that the core asks for at
/// a time, so that what others want never fills it.
pub const ORDERS_MAX: usize = 256;
/// What that thread, and the one that writes checkpoints, tell ordering.
pub const NEWS_MAX: usize = 64;
/// Events that wait for the control thread, of each stage.
pub const EVENTS_MAX: usize = 256;

/// What the core wants sent.
#[derive(Debug)]
pub struct Outbound {
    /// To whom.
    pub to: Recipients,
    /// What.
    pub message: Message<FramePayload>,
    /// What has to be durable before.
    pub after: Lsn,
}

/// What the core wants done by the application.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are of the large kind")]
pub enum Work {
    /// Execute a decided batch.
    Execute {
        /// What.
        decided: Decided,
        /// What has to be durable before anybody is told.
        after: Lsn,
    },
    /// What follows is executed by a member with this place in this view, or by none.
    Enter {
        /// Which view.
        view: ViewId,
        /// The place.
        own: Option<usize>,
    },
    /// Take a checkpoint of what was executed up to here.
    Checkpoint {
        /// The record from which a replay behind it begins.
        base: Lsn,
        /// The core's share.
        ordered: Arc<Ordered>,
    },
    /// Replace the application and the kept replies by those of the image that was fetched.
    Install {
        /// The record from which a replay behind it begins.
        base: Lsn,
        /// The instance after which it was taken.
        cid: ConsensusId,
        /// What has to be durable before anybody is told.
        after: Lsn,
    },
    /// From here on, answer read-only requests or leave them unanswered (rule LAG.5).
    Reads(bool),
    /// Tell a client that there is no room for its request.
    Busy {
        /// Session.
        client: ClientId,
        /// Request.
        sequence: Sequence,
    },
    /// Send a kept reply again.
    Resend {
        /// Session.
        client: ClientId,
        /// Request.
        sequence: Sequence,
    },
}

/// A decided batch as the application gets it.
#[derive(Debug)]
pub struct Decided {
    /// What the application may know.
    pub context: Context,
    /// The value.
    pub batch: Batch<FramePayload>,
    /// Which of its requests run.
    pub selection: Selection,
    /// It is a request of the View Manager, with this result, and not for the application.
    pub view_answer: Option<ViewAnswer>,
}

/// An answer to a client, ready but for its digest.
#[derive(Debug)]
pub struct Answer {
    /// Session that asked.
    pub client: ClientId,
    /// The reply's body.
    pub body: Frame,
    /// Does the client get all of it, or its digest in its place?
    pub whole: bool,
    /// What has to be durable before.
    pub after: Lsn,
}

/// A request that is not taken as it is; its client is told so.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// Session.
    pub client: ClientId,
    /// Request.
    pub sequence: Sequence,
    /// Of which kind it was.
    pub read_only: bool,
    /// Why: [`Status::Refused`], or [`Status::Outdated`].
    pub status: Status,
}

impl Refused {
    /// As what it counts.
    pub fn reject(&self) -> Reject {
        match self.status {
            Status::Outdated => Reject::OldView,
            _ => Reject::NotAllowed,
        }
    }
}

/// Something an operator may want to know. Told to the control thread, never awaited.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// This replica is in another view.
    Entered {
        /// Which.
        view: ViewId,
        /// Its leader.
        leader: ReplicaId,
    },
    /// This replica cannot take its place in a view.
    BadView(BadView),
    /// This replica is in no later view, and nobody needs it any more.
    Retired {
        /// The view that does without it.
        view: ViewId,
    },
    /// A new leader is in charge.
    Installed {
        /// The regency.
        regency: Regency,
        /// Its leader.
        leader: ReplicaId,
    },
    /// The others have truncated the decisions this replica needs.
    Behind {
        /// Last instance this replica decided.
        decided: ConsensusId,
        /// Oldest instance that the others can still send.
        available: ConsensusId,
    },
    /// Somebody misbehaved.
    Evidence(Evidence),
    /// A link came up.
    LinkUp(PeerId),
    /// A link went down.
    LinkDown(PeerId),
    /// A link cannot be made.
    Link(Diagnosis),
    /// Something about a transfer of a checkpoint to this replica.
    Transfer(TransferNote),
    /// The log failed: this replica says nothing any more that would have to be durable.
    LogFailed,
}

/// The network stage's ends.
pub struct NetworkRings {
    /// To ordering.
    pub requests: Producer<Verified<Request<FramePayload>>>,
    /// To ordering: messages of members, and links that came up.
    pub peers: Producer<Input<FramePayload>>,
    /// To execution.
    pub queries: Producer<Verified<Request<FramePayload>>>,
    /// From ordering.
    pub sends: Consumer<Outbound>,
    /// From execution.
    pub replies: Consumer<Answer>,
    /// From the thread that serves checkpoints.
    pub parcels: Consumer<Parcel>,
    /// To the control thread.
    pub events: Producer<Event>,
    /// To and from each ingress worker.
    pub workers: Vec<ToWorker>,
}

/// The network stage's ends of the rings of one ingress worker.
pub struct ToWorker {
    /// Messages of members, in the order in which they came.
    pub members: Producer<Received>,
    /// Messages of clients.
    pub clients: Producer<Received>,
    /// Requests that the worker refused.
    pub refused: Consumer<Refused>,
}

/// An ingress worker's ends.
pub struct WorkerRings {
    /// From the network stage: messages of members.
    pub members: Consumer<Received>,
    /// From the network stage: messages of clients.
    pub clients: Consumer<Received>,
    /// To the network stage.
    pub refused: Producer<Refused>,
    /// To ordering.
    pub requests: Producer<Verified<Request<FramePayload>>>,
    /// To ordering.
    pub peers: Producer<Input<FramePayload>>,
    /// To execution.
    pub queries: Producer<Verified<Request<FramePayload>>>,
}

/// The ordering stage's ends.
pub struct OrderingRings {
    /// From every ingress.
    pub requests: FanIn<Verified<Request<FramePayload>>>,
    /// From every ingress.
    pub peers: FanIn<Input<FramePayload>>,
    /// To egress.
    pub sends: Producer<Outbound>,
    /// To execution.
    pub work: Producer<Work>,
    /// From execution.
    pub executed: Consumer<ConsensusId>,
    /// To the thread that fetches and serves checkpoints.
    pub orders: Producer<Order>,
    /// From it, and from the one that writes them.
    pub news: FanIn<Input<FramePayload>>,
    /// To the control thread.
    pub events: Producer<Event>,
}

/// The ends of the threads that work with checkpoints.
pub struct Background {
    /// Of the one that fetches and serves them.
    pub transfer: transfer::Rings,
    /// Of the one that writes them: to ordering.
    pub written: Producer<Input<FramePayload>>,
}

/// The execution stage's ends.
pub struct ExecutionRings {
    /// From ordering.
    pub work: Consumer<Work>,
    /// From every ingress.
    pub queries: FanIn<Verified<Request<FramePayload>>>,
    /// To ordering.
    pub executed: Producer<ConsensusId>,
    /// To egress.
    pub replies: Producer<Answer>,
}

/// The control thread's ends: what the stages have to tell.
pub struct Events {
    /// From the network stage.
    pub network: Consumer<Event>,
    /// From the ordering stage.
    pub ordering: Consumer<Event>,
}

impl Events {
    /// The next event, in no particular order between stages.
    pub fn take(&mut self) -> Option<Event> {
        self.ordering.pop().or_else(|| self.network.pop())
    }
}

/// All rings of a node, by stage.
pub struct Rings {
    /// The network stage's.
    pub network: NetworkRings,
    /// Each ingress worker's.
    pub workers: Vec<WorkerRings>,
    /// The ordering stage's.
    pub ordering: OrderingRings,
    /// The execution stage's.
    pub execution: ExecutionRings,
    /// For checkpoints.
    pub background: Background,
    /// The control thread's.
    pub events: Events,
}

/// All rings of a node with so many ingress workers. The only memory that stages share, besides
/// frames and the memory of proved requests.
pub fn rings(workers: usize) -> Rings {
    let (requests_in, requests) = ring(REQUESTS_MAX);
    let (peers_in, peers) = ring(PEERS_MAX);
    let (queries_in, queries) = ring(QUERIES_MAX);
    let (sends_in, sends) = ring(SENDS_MAX);
    let (work_in, work) = ring(WORK_MAX);
    let (executed_in, executed) = ring(EXECUTED_MAX);
    let (replies_in, replies) = ring(REPLIES_MAX);
    let (orders_in, orders) = ring(ORDERS_MAX);
    let (transfer_news, transferred) = ring(NEWS_MAX);
    let (written, written_out) = ring(NEWS_MAX);
    let (parcels_in, parcels) = ring(ON_THE_WAY_MAX);
    let (network_events, network) = ring(EVENTS_MAX);
    let (ordering_events, ordering) = ring(EVENTS_MAX);
    let (mut requests, mut peers, mut queries) = (vec![requests], vec![peers], vec![queries]);
    let (mut to_workers, mut worker_rings) = (Vec::new(), Vec::new());
    for _ in 0..workers {
        let (requests_in, requests_out) = ring(REQUESTS_MAX);
        let (peers_in, peers_out) = ring(PEERS_MAX);
        let (queries_in, queries_out) = ring(QUERIES_MAX);
        let (members_in, members) = ring(UNCHECKED_MAX);
        let (clients_in, clients) = ring(UNCHECKED_MAX);
        let (refused_in, refused) = ring(UNCHECKED_MAX);
        requests.push(requests_out);
        peers.push(peers_out);
        queries.push(queries_out);
        to_workers.push(ToWorker { members: members_in, clients: clients_in, refused });
        worker_rings.push(WorkerRings {
            members,
            clients,
            refused: refused_in,
            requests: requests_in,
            peers: peers_in,
            queries: queries_in,
        });
    }
    Rings {
        network: NetworkRings {
            requests: requests_in,
            peers: peers_in,
            queries: queries_in,
            sends,
            replies,
            parcels,
            events: network_events,
            workers: to_workers,
        },
        workers: worker_rings,
        ordering: OrderingRings {
            requests: FanIn::new(requests),
            peers: FanIn::new(peers),
            sends: sends_in,
            work: work_in,
            executed,
            orders: orders_in,
            news: FanIn::new(vec![transferred, written_out]),
            events: ordering_events,
        },
        execution: ExecutionRings {
            work,
            queries: FanIn::new(queries),
            executed: executed_in,
            replies: replies_in,
        },
        background: Background {
            transfer: transfer::Rings { orders, news: transfer_news, parcels: parcels_in },
            written,
        },
        events: Events { network, ordering },
    }
}

/// Bytes that all rings of a node with so many ingress workers reserve.
pub fn rings_size(workers: usize) -> usize {
    let verified = REQUESTS_MAX * size_of::<Verified<Request<FramePayload>>>()
        + PEERS_MAX * size_of::<Input<FramePayload>>()
        + QUERIES_MAX * size_of::<Verified<Request<FramePayload>>>();
    let unchecked = UNCHECKED_MAX * (2 * size_of::<Received>() + size_of::<Refused>());
    (1 + workers) * verified
        + workers * unchecked
        + SENDS_MAX * size_of::<Outbound>()
        + WORK_MAX * size_of::<Work>()
        + EXECUTED_MAX * size_of::<ConsensusId>()
        + REPLIES_MAX * size_of::<Answer>()
        + ORDERS_MAX * size_of::<Order>()
        + 2 * NEWS_MAX * size_of::<Input<FramePayload>>()
        + ON_THE_WAY_MAX * size_of::<Parcel>()
        + 2 * EVENTS_MAX * size_of::<Event>()
}

/// Wakes the cores of the stages that a stage feeds. `None` for a stage on the same core, which has
/// its turn anyway.
#[derive(Clone, Debug, Default)]
pub struct Wakers {
    /// The network stage's core.
    pub network: Option<Waker>,
    /// Each ingress worker's.
    pub workers: Vec<Option<Waker>>,
    /// The ordering stage's.
    pub ordering: Option<Waker>,
    /// The execution stage's.
    pub execution: Option<Waker>,
}

/// Wakes a core, if it is another one and something was `left` for it in a ring.
fn wake(waker: &Option<Waker>, left: impl FnOnce() -> bool) {
    if let Some(waker) = waker
        && left()
    {
        waker.wake();
    }
}

const _: () = assert!(REPLIES_MAX >= BATCH_REQUESTS_MAX, "a batch's replies fit an empty ring");
const _: () = assert!(WORK_MAX > EXECUTION_LAG_MAX as usize, "the core never waits for execution");
