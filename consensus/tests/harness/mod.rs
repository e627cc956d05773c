//! A cluster of cores on one thread, with every message in a list until the test delivers it.
//!
//! Owns the fake world: links, clients, time, execution, signatures. Always true: what is delivered
//! went through the same checks that ingress makes. Must not: know what a core should do.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod print;
pub mod script;
pub mod transfer;
pub mod views;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tetrarch_consensus::batch::{REQUEST_HEADER_SIZE, Replier, RequestHeader};
use tetrarch_consensus::message::{SignedState, proof};
use tetrarch_consensus::payload::{HeapPool, SharedBytes};
use tetrarch_consensus::smr::Replica;
use tetrarch_consensus::*;

pub type Bytes = SharedBytes;

/// A message on its way.
#[derive(Clone)]
pub struct Envelope {
    pub from: u16,
    pub to: u16,
    pub message: Message<Bytes>,
}

/// What a replica handed to its application.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Executed {
    pub cid: u64,
    pub digest: Digest,
    pub timestamp_ns: u64,
    pub requests: Vec<String>,
}

/// See the module.
pub struct Cluster {
    pub view: View,
    pub timeout: Duration,
    pub batch_requests_max: usize,
    pub depth: usize,
    pub inline_body_max: usize,
    pub pending_max: usize,
    /// Bytes of decisions that those keep that are started from now on; two of the largest batches at least.
    pub decision_log_size: usize,
    pub now: Instant,
    pub replicas: BTreeMap<u16, Replica<Bytes>>,
    pub queue: VecDeque<Envelope>,
    pub executed: BTreeMap<u16, Vec<Executed>>,
    /// Replicas whose application does not get on.
    pub stalled: BTreeSet<u16>,
    /// Replicas that nothing reaches or leaves.
    pub cut: BTreeSet<u16>,
    pub names: print::Names,
    /// Every signed state that was ever sent: anybody may hold them.
    pub states: Vec<SignedState>,
    /// What replicas wanted done since the last look, as text.
    pub log: Vec<String>,
    /// Records that were made, and what left after which of them.
    pub records: Vec<(u16, Lsn, Record<Bytes>)>,
    /// Checkpoints that were asked for, with their bases.
    pub checkpoints: Vec<(u16, Lsn, Ordered)>,
    pub checkpoint_every: u64,
    /// Of the first view, if others may follow; and what the View Manager was told, by whom.
    pub first: Option<Box<Membership>>,
    pub answers: Vec<(u16, ViewAnswer)>,
    /// What each replica's replies of an instance wait for.
    pub replies_after: Vec<(u16, u64, Lsn)>,
    pub sent: Vec<(u16, Lsn, Message<Bytes>)>,
    pub transfers: transfer::Transfers,
}

pub fn timeout() -> Duration {
    Duration::from_secs(1)
}

impl Cluster {
    pub fn new(members: &[u16], f: usize, model: FaultModel) -> Self {
        let ids = members.iter().map(|id| ReplicaId(*id)).collect();
        let view = View::new(ViewId(0), ids, f, model).expect("a possible view");
        let mut cluster = Self {
            view,
            timeout: timeout(),
            batch_requests_max: 1024,
            depth: 1,
            inline_body_max: limits::BATCH_SIZE_MAX,
            pending_max: limits::PENDING_MAX,
            decision_log_size: 0,
            now: Instant(1_000_000_000),
            replicas: BTreeMap::new(),
            queue: VecDeque::new(),
            executed: BTreeMap::new(),
            stalled: BTreeSet::new(),
            cut: BTreeSet::new(),
            names: print::Names::default(),
            states: Vec::new(),
            log: Vec::new(),
            records: Vec::new(),
            checkpoints: Vec::new(),
            checkpoint_every: 0,
            first: None,
            answers: Vec::new(),
            replies_after: Vec::new(),
            sent: Vec::new(),
            transfers: transfer::Transfers::default(),
        };
        for id in members {
            cluster.start(*id, false);
        }
        cluster
    }

    pub fn four() -> Self {
        Self::new(&[0, 1, 2, 3], 1, FaultModel::Byzantine)
    }

    /// Four replicas that may have `depth` instances open.
    pub fn four_deep(depth: usize) -> Self {
        let mut cluster = Self { depth, ..Self::four() };
        (0..4).for_each(|id| cluster.start(id, false));
        cluster
    }

    /// Starts (again, without memory) replica `id`.
    pub fn start(&mut self, id: u16, restarted: bool) {
        let mut config = Config::new(ReplicaId(id), self.view.clone());
        config.request_timeout = self.timeout;
        config.batch_requests_max = self.batch_requests_max;
        config.depth = self.depth;
        config.inline_body_max = self.inline_body_max;
        config.pending_max = self.pending_max;
        config.decision_log_size = self.decision_log_size;
        config.restarted = restarted;
        config.checkpoint_every = self.checkpoint_every;
        config.chunk_size = transfer::CHUNK;
        config.first = self.first.clone();
        self.begin(config);
    }

    /// Starts replica `id` as one that joins in the view of `membership`.
    pub fn join(&mut self, id: u16, membership: Membership) {
        let mut config = Config::new(ReplicaId(id), membership.view().clone());
        config.request_timeout = self.timeout;
        config.depth = self.depth;
        config.decision_log_size = 0;
        config.checkpoint_every = self.checkpoint_every;
        config.chunk_size = transfer::CHUNK;
        config.first = self.first.clone();
        self.begin(config);
    }

    fn begin(&mut self, config: Config) {
        let id = config.id.0;
        let replica = Replica::new(config, Box::new(HeapPool), self.now);
        self.replicas.insert(id, replica);
        self.executed.insert(id, Vec::new());
    }

    pub fn crash(&mut self, id: u16) {
        self.replicas.remove(&id);
    }

    pub fn replica(&self, id: u16) -> &Replica<Bytes> {
        &self.replicas[&id]
    }

    /// One step of replica `id`.
    pub fn step(&mut self, id: u16, input: Input<Bytes>) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let mut actions = Actions::with_capacity(limits::ACTIONS_MAX);
        replica.step(self.now, input, &mut actions);
        assert!(actions.as_slice().len() <= limits::ACTIONS_MAX, "rule CORE.2");
        let (mut executed, mut recorded) = (None, None);
        for action in actions.drain().collect::<Vec<_>>() {
            match &action {
                Action::Execute { context, .. } => executed = Some(context.cid),
                Action::Install { cid, .. } => executed = Some(*cid),
                Action::Persist { lsn, .. } => recorded = Some(*lsn),
                _ => {}
            }
            self.act(id, action);
        }
        // A disk without delay.
        if let Some(lsn) = recorded {
            self.step(id, Input::Durable(lsn));
        }
        // Only when everything was taken in: the application comes after the core.
        if let Some(cid) = executed.filter(|_| !self.stalled.contains(&id)) {
            self.step(id, Input::Executed(cid));
        }
        while let Some((id, input)) = self.transfers.todo.pop_front() {
            self.step(id, input);
        }
    }

    fn act(&mut self, id: u16, action: Action<Bytes>) {
        let line = self.names.action(&action);
        self.log.push(format!("{id}: {line}"));
        match action {
            Action::Persist { lsn, record } => self.records.push((id, lsn, record)),
            Action::Checkpoint { base, ordered } => {
                self.take(id, &ordered);
                self.checkpoints.push((id, base, Ordered::clone(&ordered)));
            }
            Action::Send { to, message, after } => {
                self.sent.push((id, after, message.clone()));
                let message = sign(message);
                if let Message::StopData(signed) = &message {
                    self.states.push((**signed).clone());
                }
                let members = self.replicas[&id].view().members().to_vec();
                let members = members.into_iter().map(|member| member.0);
                let to: Vec<u16> = match to {
                    Recipients::One(member) => vec![member.0],
                    Recipients::Others => members.filter(|member| *member != id).collect(),
                };
                for to in to {
                    self.queue.push_back(Envelope { from: id, to, message: message.clone() });
                }
            }
            Action::Execute { context, batch, selection, view_answer, after } => {
                self.replies_after.push((id, context.cid.0, after));
                self.answers.extend(view_answer.map(|answer| (id, answer)));
                let ordered = view_answer.is_none();
                let chosen = batch.requests().enumerate().filter(|_| ordered);
                let requests = chosen
                    .filter(|(index, _)| selection.contains(*index))
                    .map(|(_, view)| String::from_utf8_lossy(view.operation).into_owned())
                    .collect();
                let executed = Executed {
                    cid: context.cid.0,
                    digest: batch.digest,
                    timestamp_ns: context.timestamp_ns,
                    requests,
                };
                let list = self.executed.entry(id).or_default();
                assert_eq!(executed.cid, list.len() as u64 + 1, "in order, without gaps");
                list.push(executed);
            }
            other => self.transfer(id, &other),
        }
    }

    /// The application of replica `id` gets on again.
    pub fn unstall(&mut self, id: u16) {
        self.stalled.remove(&id);
        // What is executed here may make the core hand out more.
        let done = self.executed[&id].len() as u64;
        self.step(id, Input::Executed(ConsensusId(done)));
    }

    /// Delivers one message, unless ingress would drop it.
    pub fn deliver(&mut self, envelope: Envelope) {
        let Envelope { from, to, message } = envelope;
        if from != to && (self.cut.contains(&from) || self.cut.contains(&to)) {
            return;
        }
        if let Some(mut message) = ingress(to, message) {
            if let Message::Chunk(chunk) = &mut message {
                self.imply(chunk);
            }
            let message = Verified::vouch(message);
            self.step(to, Input::Peer { from: ReplicaId(from), message });
        }
    }

    /// Delivers until nothing is on its way.
    pub fn deliver_all(&mut self) {
        let mut delivered = 0;
        while let Some(envelope) = self.queue.pop_front() {
            self.deliver(envelope);
            delivered += 1;
            assert!(delivered < 100_000, "the cores talk without end");
        }
    }

    /// Lets time pass; deadlines fire, messages stay where they are.
    pub fn tick(&mut self, time: Duration) {
        self.pass(time, false);
    }

    /// Lets time pass; deadlines fire and messages arrive at once.
    pub fn run(&mut self, time: Duration) {
        self.deliver_all();
        self.pass(time, true);
    }

    fn pass(&mut self, time: Duration, deliver: bool) {
        let end = self.now + time;
        loop {
            let due = |(id, replica): (&u16, &Replica<Bytes>)| {
                replica.next_deadline().map(|deadline| (deadline, *id))
            };
            let next = self.replicas.iter().filter_map(due).min();
            let Some((deadline, id)) = next.filter(|(deadline, _)| *deadline <= end) else {
                break;
            };
            self.now = self.now.max(deadline);
            self.step(id, Input::Deadline);
            if deliver {
                self.deliver_all();
            }
        }
        self.now = end;
    }

    /// A link between `a` and `b` was made.
    pub fn connect(&mut self, a: u16, b: u16) {
        self.step(a, Input::Connected(ReplicaId(b)));
        self.step(b, Input::Connected(ReplicaId(a)));
    }

    /// Hands `request` to replica `to`, if ingress lets it through.
    pub fn request(&mut self, to: u16, request: &Request<Bytes>) {
        self.names.learn(request);
        if is_authentic(to, request.auth, request.view().proof) {
            self.step(to, Input::Request(Verified::vouch(request.clone())));
        }
    }

    /// All live replicas agree on what they executed, as far as they got.
    pub fn check_agreement(&self) {
        let lists: Vec<_> = self.executed.values().collect();
        for a in &lists {
            for b in &lists {
                let both = a.len().min(b.len());
                assert_eq!(a[..both], b[..both], "two replicas executed different things");
            }
        }
    }

    pub fn decided(&self, id: u16) -> u64 {
        self.replica(id).decided().0
    }
}

/// Request `counter` of session 0 of client `client`. With a MAC vector that is wrong for `wrong_for`,
/// or signed.
pub fn request(
    client: u32,
    counter: u32,
    body: &str,
    signed: bool,
    wrong_for: &[u16],
) -> Request<Bytes> {
    request_of(ClientId::new(client, 0), Sequence::new(1, counter), body, signed, wrong_for)
}

/// Likewise, of any session and incarnation.
pub fn request_of(
    client: ClientId,
    sequence: Sequence,
    body: &str,
    signed: bool,
    wrong_for: &[u16],
) -> Request<Bytes> {
    request_bytes(client, sequence, body.as_bytes(), signed, wrong_for)
}

/// Likewise, of any operation.
pub fn request_bytes(
    client: ClientId,
    sequence: Sequence,
    body: &[u8],
    signed: bool,
    wrong_for: &[u16],
) -> Request<Bytes> {
    let mut blob = vec![0; REQUEST_HEADER_SIZE];
    let header = RequestHeader {
        client,
        sequence,
        view: 0,
        read_only: false,
        replier: Replier::EVERYONE,
        unanswered: 0,
        operation_size: body.len() as u32,
    };
    header.write(&mut blob);
    blob.extend_from_slice(body);
    let digest = Digest(*blake3::hash(&blob).as_bytes());
    let body_size = blob.len() as u32;
    blob.extend(wrong_for.iter().map(|id| *id as u8));
    Request {
        client: header.client,
        sequence: header.sequence,
        digest,
        read_only: false,
        auth: if signed { proof::SIGNATURE } else { proof::MAC_VECTOR },
        body_size,
        payload: Bytes::from(&blob[..]),
    }
}

/// The fake proof of a request lists the replicas for which it is wrong.
fn is_authentic(to: u16, auth: u8, proof: &[u8]) -> bool {
    auth == proof::SIGNATURE || !proof.contains(&(to as u8))
}

/// A fake signature: a digest of what is signed, so that a changed state is not accepted.
pub fn signature(signed: &SignedState) -> [u8; 64] {
    let text = format!("{:?}", signed.state);
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(blake3::hash(text.as_bytes()).as_bytes());
    signature
}

/// What egress does.
fn sign(mut message: Message<Bytes>) -> Message<Bytes> {
    if let Message::StopData(signed) = &mut message {
        signed.signature = signature(signed);
    }
    message
}

/// What ingress does: drops bad signatures, marks authentic requests.
fn ingress(to: u16, mut message: Message<Bytes>) -> Option<Message<Bytes>> {
    match &mut message {
        Message::StopData(signed) if signed.signature != signature(signed) => return None,
        Message::Sync(sync) if sync.states.iter().any(|s| s.signature != signature(s)) => {
            return None;
        }
        Message::Propose(propose) => mark(to, &mut propose.batch),
        Message::ProposeSparse(propose) => {
            let views = propose.batch.requests();
            let authentic = views.filter(|(_, view)| is_authentic(to, view.auth, view.proof));
            let places: Vec<_> = authentic.map(|(place, _)| place).collect();
            propose.batch.authentic = Selection::NONE;
            places.into_iter().for_each(|place| propose.batch.authentic.insert(place));
        }
        Message::Bodies(bodies) => mark(to, &mut bodies.requests),
        Message::Forwarded(batch) => mark(to, batch),
        Message::Stop(stop) => mark(to, &mut stop.requests),
        Message::BatchBody(body) => mark(to, &mut body.batch),
        _ => {}
    }
    Some(message)
}

fn mark(to: u16, batch: &mut Batch<Bytes>) {
    let mut authentic = Selection::NONE;
    for (index, view) in batch.requests().enumerate() {
        if is_authentic(to, view.auth, view.proof) {
            authentic.insert(index);
        }
    }
    batch.authentic = authentic;
}
