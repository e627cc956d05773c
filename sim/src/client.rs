//! A correct client: the rules CLI of `docs/PROTOCOL.md` and nothing else.
//!
//! Always true: an operation ends once, with an answer that a certificate of members gave. Must not:
//! know more than its replies tell it.

use std::collections::VecDeque;
use std::time::Duration;

use tetrarch_consensus::batch::{REQUEST_HEADER_SIZE, Replier, RequestHeader};
use tetrarch_consensus::message::{Request, proof};
use tetrarch_consensus::payload::SharedBytes;
use tetrarch_consensus::smr::client::Follower;
use tetrarch_consensus::{
    ClientId, Digest, Instant, ReplicaId, Sequence, Verified, ViewId, ViewRequest,
};

use crate::keys::Keys;
use crate::rng::Rng;
use crate::service::{Answer, Operation};
use crate::swarm::ClientPlan;

/// What a member answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    /// To which session.
    pub client: ClientId,
    /// To which request.
    pub sequence: Sequence,
    /// To a read-only one?
    pub read_only: bool,
    /// The result.
    pub answer: Answer,
    /// The view of who answers.
    pub view: ViewId,
}

/// What a client wants the world to do or to know.
#[derive(Clone, Debug)]
pub enum Wish {
    /// Transmit to all members.
    Send(Request<SharedBytes>),
    /// An operation starts.
    Invoked {
        /// Names it within the client.
        token: u64,
        /// What.
        operation: Operation,
    },
    /// The operation is now (also) an ordered request.
    Ordered {
        /// Which operation.
        token: u64,
        /// The request's number.
        sequence: Sequence,
        /// The request's digest.
        digest: Digest,
    },
    /// The operation ended.
    Returned {
        /// Which operation.
        token: u64,
        /// Its result.
        answer: Answer,
        /// Without having been ordered?
        read_only: bool,
    },
    /// The client restarted: operations in flight will never return.
    Restarted,
    /// A retransmission happened.
    Resent,
    /// A read had to be ordered.
    FellBack,
}

/// Makes the body of a request and its digest.
pub fn body(
    view: ViewId,
    client: ClientId,
    sequence: Sequence,
    read_only: bool,
    operation: &[u8],
) -> (Vec<u8>, Digest) {
    let mut bytes = vec![0; REQUEST_HEADER_SIZE];
    let operation_size = operation.len() as u32;
    RequestHeader {
        client,
        sequence,
        view: view.0,
        read_only,
        replier: Replier::EVERYONE,
        unanswered: 0,
        operation_size,
    }
    .write(&mut bytes);
    bytes.extend_from_slice(operation);
    let digest = Digest(*blake3::hash(&bytes).as_bytes());
    (bytes, digest)
}

/// Puts a body and a proof together.
pub fn request(
    client: ClientId,
    sequence: Sequence,
    read_only: bool,
    operation: &[u8],
    prove: impl FnOnce(&Digest) -> (u8, Vec<u8>),
) -> Request<SharedBytes> {
    request_in(ViewId(0), client, sequence, read_only, operation, prove)
}

/// As [`request`], in a later view.
pub fn request_in(
    view: ViewId,
    client: ClientId,
    sequence: Sequence,
    read_only: bool,
    operation: &[u8],
    prove: impl FnOnce(&Digest) -> (u8, Vec<u8>),
) -> Request<SharedBytes> {
    let (mut bytes, digest) = body(view, client, sequence, read_only, operation);
    let body_size = bytes.len() as u32;
    let (auth, proof) = prove(&digest);
    bytes.extend_from_slice(&proof);
    let payload = SharedBytes::from(&bytes[..]);
    Request { client, sequence, digest, read_only, auth, body_size, payload }
}

#[derive(Debug)]
struct InFlight {
    token: u64,
    sequence: Sequence,
    read_only: bool,
    operation: Operation,
    replies: Vec<(usize, Answer)>,
    resend_at: Instant,
    pause: Duration,
}

/// Whom a client knows.
#[derive(Clone, Debug)]
pub struct People {
    /// Everybody who may ever be a member, by place.
    pub ids: Vec<ReplicaId>,
    /// Who is one, as far as the client knows: the rules of the real one.
    pub follower: Follower,
}

impl People {
    /// Is `at`, a place in the world, a member?
    fn has(&self, at: usize) -> bool {
        self.ids.get(at).is_some_and(|id| self.follower.view().index_of(*id).is_some())
    }
}

/// A session of a correct client.
#[derive(Debug)]
pub struct Client {
    id: ClientId,
    plan: ClientPlan,
    keys: Keys,
    rng: Rng,
    people: People,
    timeout: Duration,
    incarnation: u32,
    ordered: u32,
    reads: u32,
    started: u32,
    returned: u32,
    next_at: Instant,
    in_flight: VecDeque<InFlight>,
}

impl Client {
    /// A client that starts at `now`.
    pub fn new(
        id: ClientId,
        plan: ClientPlan,
        keys: Keys,
        rng: Rng,
        (people, timeout): (People, Duration),
        now: Instant,
    ) -> Self {
        Self {
            id,
            plan,
            keys,
            rng,
            people,
            timeout,
            incarnation: 1,
            ordered: 0,
            reads: 0,
            started: 0,
            returned: 0,
            next_at: now,
            in_flight: VecDeque::new(),
        }
    }

    /// The session.
    pub fn id(&self) -> ClientId {
        self.id
    }

    /// Has it got everything it wanted?
    pub fn is_done(&self) -> bool {
        self.started >= self.plan.operations && self.in_flight.is_empty()
    }

    /// Requests in flight, and operations returned: for the report of a violation.
    pub fn progress(&self) -> (usize, u32) {
        (self.in_flight.len(), self.returned)
    }

    /// From now on, starts without pauses.
    pub fn hurry(&mut self, now: Instant) {
        self.plan.think = Duration::ZERO;
        self.next_at = now;
    }

    /// Wants one more operation done, ordered.
    pub fn ask_for_more(&mut self) {
        self.plan.operations += 1;
        (self.plan.reads, self.plan.restart_after) = (0, 0);
    }

    /// When it wants to act next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let room = self.in_flight.len() < self.plan.window;
        let start = (room && self.started < self.plan.operations).then_some(self.next_at);
        let reads = self.in_flight.iter().filter(|request| request.read_only);
        let oldest = self.in_flight.iter().find(|request| !request.read_only);
        start.into_iter().chain(reads.chain(oldest).map(|request| request.resend_at)).min()
    }

    /// Acts on what is due.
    pub fn wake(&mut self, now: Instant, wishes: &mut Vec<Wish>) {
        if self.in_flight.len() < self.plan.window
            && self.started < self.plan.operations
            && self.next_at <= now
        {
            self.maybe_restart(wishes);
            self.start(now, wishes);
        }
        let mut oldest = true;
        for at in 0..self.in_flight.len() {
            let request = &self.in_flight[at];
            let due = request.resend_at <= now;
            if request.read_only && due {
                self.fall_back(at, now, wishes);
            } else if !request.read_only && oldest {
                oldest = false;
                if due {
                    self.resend(at, now, wishes);
                }
            }
        }
    }

    fn maybe_restart(&mut self, wishes: &mut Vec<Wish>) {
        let after = self.plan.restart_after;
        if after > 0 && self.started > 0 && self.started.is_multiple_of(after) {
            self.in_flight.clear();
            self.incarnation += 1;
            (self.ordered, self.reads) = (0, 0);
            wishes.push(Wish::Restarted);
        }
    }

    fn start(&mut self, now: Instant, wishes: &mut Vec<Wish>) {
        self.started += 1;
        let key = self.rng.below(3) as u8;
        let read = self.rng.chance(self.plan.reads);
        let operation = match (read, self.rng.below(5)) {
            (true, _) | (_, 0) => Operation::Get(key),
            (_, 1) => Operation::Add(key, 1 + self.rng.below(9)),
            _ => Operation::Put(key, self.rng.next()),
        };
        let token = u64::from(self.started);
        wishes.push(Wish::Invoked { token, operation });
        let sequence = match read {
            true => {
                self.reads += 1;
                Sequence::new(self.incarnation, self.reads)
            }
            false => self.next_ordered(),
        };
        let (resend_at, pause) = (now + self.timeout / 2, self.timeout / 2);
        let request = InFlight {
            token,
            sequence,
            read_only: read,
            operation,
            replies: Vec::new(),
            resend_at,
            pause,
        };
        self.in_flight.push_back(request);
        self.transmit(self.in_flight.len() - 1, false, wishes);
        self.next_at = now + self.rng.long_tailed(self.plan.think);
    }

    fn next_ordered(&mut self) -> Sequence {
        self.ordered += 1;
        Sequence::new(self.incarnation, self.ordered)
    }

    fn transmit(&self, at: usize, sign: bool, wishes: &mut Vec<Wish>) {
        let entry = &self.in_flight[at];
        let identity = self.id.identity();
        let operation = entry.operation.encode();
        let view = self.people.follower.view().id();
        let (sequence, read_only) = (entry.sequence, entry.read_only);
        let request = request_in(view, self.id, sequence, read_only, &operation, |digest| {
            if sign {
                (proof::SIGNATURE, self.keys.signature(identity, digest))
            } else {
                (proof::MAC_VECTOR, self.keys.mac_vector(identity, digest, u64::MAX))
            }
        });
        if !entry.read_only {
            let (token, sequence, digest) = (entry.token, entry.sequence, request.digest);
            wishes.push(Wish::Ordered { token, sequence, digest });
        }
        wishes.push(Wish::Send(request));
    }

    fn resend(&mut self, at: usize, now: Instant, wishes: &mut Vec<Wish>) {
        let entry = &mut self.in_flight[at];
        entry.pause = (entry.pause * 2).min(self.timeout * 4);
        entry.resend_at = now + entry.pause;
        wishes.push(Wish::Resent);
        self.transmit(at, true, wishes);
    }

    fn fall_back(&mut self, at: usize, now: Instant, wishes: &mut Vec<Wish>) {
        let sequence = self.next_ordered();
        if let Some(mut entry) = self.in_flight.remove(at) {
            entry.read_only = false;
            entry.sequence = sequence;
            entry.replies.clear();
            entry.resend_at = now + self.timeout / 2;
            self.in_flight.push_back(entry);
        }
        wishes.push(Wish::FellBack);
        self.transmit(self.in_flight.len() - 1, false, wishes);
    }

    /// Takes a reply of the member at index `from`.
    pub fn on_reply(&mut self, now: Instant, from: usize, reply: &Reply, wishes: &mut Vec<Wish>) {
        let mine = |request: &InFlight| {
            request.sequence == reply.sequence && request.read_only == reply.read_only
        };
        if reply.view != self.people.follower.view().id() || !self.people.has(from) {
            return;
        }
        let Some(at) = self.in_flight.iter().position(mine) else { return };
        let entry = &mut self.in_flight[at];
        entry.replies.retain(|(member, _)| *member != from);
        entry.replies.push((from, reply.answer));
        let equal = entry.replies.iter().filter(|(_, answer)| *answer == reply.answer).count();
        if equal >= self.people.follower.view().quorums().reply() {
            let (token, read_only) = (entry.token, entry.read_only);
            self.in_flight.remove(at);
            self.returned += 1;
            wishes.push(Wish::Returned { token, answer: reply.answer, read_only });
        } else if entry.read_only && entry.replies.len() == self.people.follower.view().n() {
            self.fall_back(at, now, wishes);
        }
    }

    /// A member says that it is in a later view, and which: true when this client is in it from now on.
    /// What is in flight goes out again.
    pub fn on_news(
        &mut self,
        now: Instant,
        from: usize,
        news: &Verified<ViewRequest>,
        wishes: &mut Vec<Wish>,
    ) -> bool {
        if !self.people.follower.hear(self.people.ids[from], news) {
            return false;
        }
        for at in 0..self.in_flight.len() {
            let entry = &mut self.in_flight[at];
            entry.replies.clear();
            entry.resend_at = now + self.timeout / 2;
            self.transmit(at, false, wishes);
        }
        true
    }
}
