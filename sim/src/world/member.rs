//! Members of the simulated cluster: real cores, a service each, and the driver's duties.
//!
//! Always true: a core is stepped only from here, with its own clock. Must not: judge (the checker
//! does) or misbehave (the adversary does).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tetrarch_consensus::batch::Selection;
use tetrarch_consensus::config::Config;
use tetrarch_consensus::limits::{ACTIONS_MAX, CHUNKS_PER_FETCH_MAX};
use tetrarch_consensus::message::codec;
use tetrarch_consensus::payload::HeapPool;
use tetrarch_consensus::payload::SharedBytes;
use tetrarch_consensus::smr::{EqualShares, Replica, SpareLeader, StateManager, StateSource};
use tetrarch_consensus::{
    Action, Actions, Batch, ConsensusId, Context, Input, Instant, Lsn, Message, Ordered,
    PayloadPool, Protocol, Recipients, ReplicaId, Verified, View, ViewAnswer,
};

use super::checkpoint::{Checkpoint, Kept};
use super::disk::Held;
use super::journal::{Journal, Stored};
use super::transfer::{Incoming, Work};
use super::{Event, World};
use crate::byzantine::{Adversary, Msg, Outbox, Scene};
use crate::checker::Property;
use crate::ingress;
use crate::rng::Rng;
use crate::service::Service;
use crate::trace::{Log, describe, fingerprint};

/// A batch that waits for execution.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) context: Context,
    pub(super) batch: Batch<SharedBytes>,
    pub(super) selection: Selection,
    pub(super) view_answer: Option<ViewAnswer>,
    /// What has to be durable before anybody hears of it.
    pub(super) after: Lsn,
    /// A checkpoint is due then, with this base.
    pub(super) checkpoint: Option<(Lsn, Arc<Ordered>)>,
}

/// Memory that is short now and then.
pub(super) struct Pool {
    pub(super) starvation: u32,
    pub(super) rng: Rng,
    pub(super) first: bool,
}

impl PayloadPool<SharedBytes> for Pool {
    fn build(&mut self, size: usize, fill: &mut dyn FnMut(&mut [u8])) -> Option<SharedBytes> {
        let empty = !self.first && self.rng.chance(self.starvation);
        self.first = false;
        if empty { None } else { HeapPool.build(size, fill) }
    }
}

/// One core with what surrounds it in a node.
pub struct Host {
    pub(super) core: Replica<SharedBytes>,
    /// The view that its links and proofs go by: the core's, as far as its actions were carried out.
    pub(super) view: View,
    actions: Actions<Action<SharedBytes>>,
    pub(super) service: Service,
    pub(super) jobs: VecDeque<Work>,
    pub(super) replies: Kept,
    pub(super) executed: ConsensusId,
    pub(super) executed_after: Lsn,
    pub(super) journal: Journal,
    /// What it fetches; what it has fetched and installed, without a name; and what it does not keep any more.
    pub(super) incoming: Option<Incoming>,
    pub(super) installing: Option<Checkpoint>,
    pub(super) given_up: VecDeque<Checkpoint>,
    /// When the node has told the core what it was last told.
    pub(super) told_at: Instant,
    pub(super) behind: bool,
    wake: Option<Instant>,
    /// Deadline steps in a row without time passing.
    spins: (Instant, u32),
}

/// A strategy of state transfer that makes no sense.
struct Whims(u64);

impl StateManager for Whims {
    fn share(&mut self, source: &StateSource) -> usize {
        self.0 =
            self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(u64::from(source.member.0) | 1);
        [0, 1, CHUNKS_PER_FETCH_MAX, usize::MAX][(self.0 >> 60) as usize % 4]
    }
}

/// Members have different ones, as they may.
fn state_manager(id: ReplicaId) -> Box<dyn StateManager> {
    match id.0 % 3 {
        0 => Box::new(EqualShares),
        1 => Box::new(SpareLeader),
        _ => Box::new(Whims(0)),
    }
}

impl Host {
    pub(super) fn new(config: Config, pool: Pool, now: Instant) -> Self {
        let (view, id) = (config.view.clone(), config.id);
        let mut core = Replica::new(config, Box::new(pool), now);
        core.set_state_manager(state_manager(id));
        Self {
            view,
            core,
            actions: Actions::with_capacity(ACTIONS_MAX),
            service: Service::default(),
            jobs: VecDeque::new(),
            replies: BTreeMap::new(),
            executed: ConsensusId(0),
            executed_after: Lsn(0),
            journal: Journal::default(),
            incoming: None,
            installing: None,
            given_up: VecDeque::new(),
            told_at: Instant(0),
            behind: false,
            wake: None,
            spins: (Instant(0), 0),
        }
    }

    /// What execution has made so far.
    pub(super) fn state(&self) -> (Service, Kept) {
        (self.service.clone(), self.replies.clone())
    }

    /// Execution goes on from here.
    pub(super) fn install(&mut self, service: Service, replies: Kept) {
        (self.service, self.replies) = (service, replies);
    }
}

/// A place in the cluster: one core, or two with one identity, or none while it is down.
pub struct Node {
    pub(super) hosts: Vec<Host>,
    pub(super) adversary: Option<Adversary>,
    /// What a member that is down has on its disk.
    pub(super) disk: Option<Stored>,
    /// What is there of an image that it fetches; and one that is whole and has no name yet.
    pub(super) fetched: Option<Incoming>,
    pub(super) installing: Option<Checkpoint>,
    /// Its disk is a bad one: it counts as faulty, though it does its best.
    pub(super) bad_disk: bool,
    /// What a bad disk was, to be put back.
    pub(super) older_disk: Option<Stored>,
    /// Its disk was lost, and it has not learned enough since.
    pub(super) lost_disk: bool,
    /// The view that it starts in, and whether it is in no later one than it has left.
    pub(super) begins_in: usize,
    pub(super) retired: bool,
    /// Local clock minus true time, in ns.
    pub(super) offset_ns: i64,
    /// Grows at each crash: what was scheduled before is void.
    pub(super) life: u32,
    pub(super) paused: bool,
    pub(super) inbox: VecDeque<Event>,
    /// Takes part in the liveness phase.
    pub(super) healed: bool,
}

impl Node {
    /// Is it honest, and is its disk good?
    pub(super) fn is_reliable(&self) -> bool {
        self.adversary.is_none() && !self.bad_disk
    }

    /// Is it honest, up, and in possession of its memory?
    pub(super) fn is_correct(&self) -> bool {
        self.is_reliable()
            && !self.hosts.is_empty()
            && self.hosts.iter().all(|host| !host.core.is_mute())
    }

    pub(super) fn local(&self, now: Instant) -> Instant {
        Instant(now.0.saturating_add_signed(self.offset_ns))
    }

    fn global(&self, local: Instant) -> Instant {
        Instant(local.0.saturating_add_signed(-self.offset_ns))
    }
}

impl World {
    /// Steps one core and does what it wants.
    pub(super) fn step(&mut self, member: usize, host: usize, input: Input<SharedBytes>) {
        let now = self.nodes[member].local(self.now);
        let Some(entry) = self.nodes[member].hosts.get_mut(host) else { return };
        entry.core.step(now, input, &mut entry.actions);
        let actions: Vec<_> = entry.actions.drain().collect();
        if actions.len() > ACTIONS_MAX {
            let text = format!("member {member} wants {} things in one step", actions.len());
            self.checker.fail(Property::Resources, text);
        }
        let honest = self.nodes[member].adversary.is_none();
        if honest {
            let wanted = self.nodes[member].hosts[host].core.wanted();
            self.checker.wanted(wanted);
        }
        for action in actions {
            self.perform(member, host, action);
        }
        self.schedule_wake(member, host);
    }

    fn schedule_wake(&mut self, member: usize, host: usize) {
        let node = &mut self.nodes[member];
        let life = node.life;
        let wake = node.hosts[host].core.next_deadline().map(|local| node.global(local));
        if wake != node.hosts[host].wake {
            node.hosts[host].wake = wake;
            if let Some(at) = wake {
                self.push(at.max(self.now), Event::Wake { member, host, life, at });
            }
        }
    }

    pub(super) fn on_wake(&mut self, member: usize, host: usize, at: Instant) {
        let now = self.now;
        let Some(entry) = self.nodes[member].hosts.get_mut(host) else { return };
        if entry.wake != Some(at) {
            return;
        }
        entry.wake = None;
        entry.spins = if entry.spins.0 == now { (now, entry.spins.1 + 1) } else { (now, 0) };
        if entry.spins.1 == 100 {
            let text = format!("member {member} asks for the same deadline again and again");
            self.checker.fail(Property::Resources, text);
            return;
        }
        self.step(member, host, Input::Deadline);
    }

    pub(super) fn perform(&mut self, member: usize, host: usize, action: Action<SharedBytes>) {
        let honest = self.nodes[member].adversary.is_none();
        let now = self.now;
        match action {
            Action::Send { to, message, after } => {
                self.tell_after(member, host, after, Held::Message(to, message));
            }
            Action::Persist { lsn, record } => self.append(member, host, lsn, &record),
            Action::Execute { context, batch, selection, view_answer, after } => {
                if honest {
                    self.note_delivery(member, &context, &batch, &selection);
                }
                let life = self.nodes[member].life;
                let jobs = &mut self.nodes[member].hosts[host].jobs;
                let checkpoint = None;
                let job = Job { context, batch, selection, view_answer, after, checkpoint };
                jobs.push_back(Work::Batch(job));
                let at = now + self.options.execution * jobs.len() as u32;
                self.push(at, Event::Executed { member, host, life });
            }
            Action::Checkpoint { base, ordered } => {
                let entry = &mut self.nodes[member].hosts[host];
                match entry.jobs.back_mut() {
                    Some(Work::Batch(job)) if job.context.cid == ordered.cid => {
                        job.checkpoint = Some((base, ordered));
                    }
                    None if entry.executed == ordered.cid => {
                        self.coverage.count("checkpoints where nothing is decided");
                        self.start_checkpoint(member, host, base, &ordered);
                    }
                    _ => {
                        let text = format!("member {member}: a checkpoint of what is not executed");
                        self.checker.fail(Property::Order, text);
                    }
                }
            }
            Action::ResendReply { client, sequence } => {
                self.coverage.count("replies asked for again");
                self.resend_reply(member, host, client, sequence);
            }
            // Level 1's clients ask again after a pause whatever they are told.
            Action::AnswerBusy { .. } => self.coverage.count("requests without room"),
            Action::Installed { regency, leader } => {
                if honest {
                    self.coverage.count("regencies installed");
                    let view = self.nodes[member].hosts[host].view.clone();
                    self.checker.installed(member, &view, regency, leader);
                    self.trace.line(now, Log::Short, || {
                        format!("{member}: installs regency {regency}, leader {leader}")
                    });
                }
            }
            Action::ViewEnded { next } => {
                self.coverage.count("views ended");
                self.trace.line(now, Log::Short, || {
                    format!("{member}: has all of a view, {} follows", next.next.id())
                });
            }
            Action::ViewEntered { entered, since, .. } => {
                self.coverage.count("views entered");
                self.nodes[member].hosts[host].view = entered.next.view().clone();
                if honest {
                    self.checker.entered(member, &entered, since);
                }
                self.trace.line(now, Log::Short, || {
                    format!("{member}: enters view {}, from {since} on", entered.next.id())
                });
            }
            Action::Retired { view } => {
                self.coverage.count("members retired");
                self.nodes[member].retired = true;
                self.trace.line(now, Log::Short, || format!("{member}: retires, {view} works"));
            }
            Action::Behind { decided, available } => {
                self.coverage.count("behind");
                self.nodes[member].hosts[host].behind = true;
                self.check_behind(member, decided);
                self.trace.line(now, Log::Short, || {
                    format!("{member}: behind, has {decided}, others start at {available}")
                });
            }
            Action::SendChunk { .. }
            | Action::BeginTransfer { .. }
            | Action::StoreChunk { .. }
            | Action::EndTransfer { .. }
            | Action::Install { .. }
            | Action::Transfer(_) => self.transfer(member, host, action),
            Action::Report(evidence) => {
                if self.nodes[member].is_reliable() {
                    self.coverage.evidence(&evidence);
                    self.checker.accused(member, &evidence);
                    self.trace.line(now, Log::Short, || format!("{member}: {evidence:?}"));
                }
            }
        }
    }

    pub(super) fn note_delivery(
        &mut self,
        member: usize,
        context: &Context,
        batch: &Batch<SharedBytes>,
        selection: &Selection,
    ) {
        let clock = (self.latest_clock(), self.skew_allowed());
        self.checker.decided(member, context, (batch, selection), clock);
        let words = [1, member as u64, context.cid.0, crate::trace::short(&batch.digest)];
        self.trace.event(self.now, &words);
        self.trace.line(self.now, Log::Short, || {
            format!(
                "{member}: decides cid={} {:?} requests={}",
                context.cid,
                batch.digest,
                batch.len()
            )
        });
    }

    fn latest_clock(&self) -> u64 {
        let clocks = self.nodes.iter().filter(|node| node.adversary.is_none());
        clocks.map(|node| node.local(self.now).0).max().unwrap_or(self.now.0)
    }

    fn skew_allowed(&self) -> u64 {
        // "One more than the last decided timestamp" can exceed the skew by a little.
        self.clock_skew_max.as_nanos() as u64 + 10_000
    }

    /// What leaves a node: states get their signature, an adversary has its way.
    pub(super) fn egress(&mut self, member: usize, host: usize, to: Recipients, mut message: Msg) {
        let id = self.options.ids[member];
        let keys = self.keys;
        let sign = |signed: &mut tetrarch_consensus::message::SignedState| {
            if signed.signature == [0; 64] && signed.state.replica == id {
                signed.signature = keys.sign_state(&signed.state);
            }
        };
        match &mut message {
            Message::StopData(signed) => sign(signed),
            Message::Sync(sync) => sync.states.iter_mut().for_each(sign),
            _ => {}
        }
        let honest = self.nodes[member].adversary.is_none();
        if honest {
            let quorums = self.nodes[member].hosts[host].core.view().quorums();
            self.coverage.sent(&message, quorums, self.options.depth);
            if let Message::Stop(stop) = &message {
                self.checker.wanted(stop.regency);
            }
        }
        let receivers: Vec<usize> = match to {
            Recipients::Others => {
                let others = self.nodes[member].hosts[host].view.members().to_vec();
                self.places(&others).into_iter().filter(|&at| at != member).collect()
            }
            Recipients::One(id) => self.view.index_of(id).into_iter().collect(),
        };
        for receiver in receivers {
            if receiver == member {
                self.loop_back(member, host, message.clone());
                continue;
            }
            if honest {
                self.transmit(member, receiver, message.clone());
            } else {
                self.speak(member, host, receiver, message.clone());
            }
        }
    }

    /// A core may send its state to itself, to have it signed; nothing else.
    fn loop_back(&mut self, member: usize, host: usize, message: Msg) {
        if matches!(message, Message::StopData(_)) {
            let life = self.nodes[member].life;
            self.push(self.now, Event::LoopBack { member, host, life, message });
        } else {
            let text = format!("member {member} sends to itself: {}", describe(&message));
            self.checker.fail(Property::Resources, text);
        }
    }

    pub(super) fn on_loop_back(&mut self, member: usize, host: usize, message: Msg) {
        let from = self.options.ids[member];
        let message = Verified::vouch(message);
        self.step(member, host, Input::Peer { from, message });
    }

    fn speak(&mut self, member: usize, host: usize, to: usize, message: Msg) {
        if let Some(adversary) = &self.nodes[member].adversary
            && adversary.twins
            && usize::from(adversary.audience & (1 << to) == 0) != host
        {
            return;
        }
        let view = self.nodes[member].hosts[host].core.view();
        let Some(place) = view.index_of(self.options.ids[to]) else {
            return self.transmit(member, to, message);
        };
        self.with_adversary(member, |adversary, scene, out| {
            adversary.speak(scene, place, message, out);
        });
    }

    /// Lets the adversary of `member` do something, and transmits what it says.
    pub(super) fn with_adversary(
        &mut self,
        member: usize,
        does: impl FnOnce(&mut Adversary, &mut Scene<'_>, &mut Outbox),
    ) {
        let node = &mut self.nodes[member];
        let now = node.local(self.now);
        let (regency, decided) = match node.hosts.first() {
            Some(host) => (host.core.regency(), host.core.decided()),
            None => Default::default(),
        };
        // An adversary counts places in the view that it is in.
        let view = node.hosts.first().map_or(&self.view, |host| host.core.view()).clone();
        let Some(me) = view.index_of(self.options.ids[member]) else { return };
        let Some(mut adversary) = node.adversary.take() else { return };
        let mut rng = adversary.rng.fork(1);
        let mut scene = Scene {
            me,
            view: &view,
            now,
            timeout: self.options.timeout,
            regency,
            decided,
            rng: &mut rng,
            dossier: &mut self.dossier,
            keyring: &self.keyring,
            depth: self.options.depth,
            chunk_size: self.options.chunk_size,
        };
        let mut out = Outbox::new();
        does(&mut adversary, &mut scene, &mut out);
        self.nodes[member].adversary = Some(adversary);
        for (to, message) in out {
            let place = view.members().get(to).and_then(|id| self.view.index_of(*id));
            if let Some(to) = place {
                self.transmit(member, to, message);
            }
        }
    }

    fn transmit(&mut self, from: usize, to: usize, message: Msg) {
        let words = fingerprint(&message);
        self.trace.event(self.now, &[2, from as u64, to as u64, words[0], words[1], words[2]]);
        self.sent += 1;
        let route = self.net.route(self.now, from, to, message.kind());
        if route.first.is_none() {
            self.coverage.count("messages lost");
            self.trace.line(self.now, Log::Full, || format!("{from}-x{to} {}", describe(&message)));
        }
        let incarnation = self.net.incarnation(from, to);
        if let Some(at) = route.second {
            let message = message.clone();
            self.push(at, Event::Deliver { from, to, incarnation, message });
        }
        if let Some(at) = route.first {
            self.push(at, Event::Deliver { from, to, incarnation, message });
        }
    }

    pub(super) fn on_deliver(&mut self, from: usize, to: usize, message: Msg) {
        self.trace.line(self.now, Log::Full, || format!("{from}->{to} {}", describe(&message)));
        let hostile = self.nodes[from].adversary.is_some();
        let Some(message) = self.over_the_wire(from, message) else { return };
        if self.nodes[to].adversary.is_some() {
            let heard = message.clone();
            self.with_adversary(to, |adversary, scene, out| adversary.hear(scene, &heard, out));
        }
        let chunk_size = self.options.chunk_size;
        let Some(message) = ingress::admit(&self.keys, to, hostile, chunk_size, message) else {
            self.coverage.count("messages refused by ingress");
            return;
        };
        let id = self.options.ids[from];
        for host in self.listeners(to, from) {
            let message = Verified::vouch(message.clone());
            self.step(to, host, Input::Peer { from: id, message });
        }
    }

    /// With `as_bytes`: what comes out of the codec for what goes in.
    fn over_the_wire(&mut self, from: usize, message: Msg) -> Option<Msg> {
        if !self.options.as_bytes {
            return Some(message);
        }
        let mut bytes = vec![0; codec::encoded_size(&message)];
        let size = codec::encode(&message, &mut bytes);
        let payload = SharedBytes::from(&bytes[..]);
        let decoded = codec::decode(message.kind(), payload);
        let same = decoded.as_ref().is_ok_and(|it| fingerprint(it) == fingerprint(&message));
        let honest = self.nodes[from].adversary.is_none();
        if size != bytes.len() || (honest && !same) {
            let text = format!("{} does not survive encoding", describe(&message));
            self.checker.fail(Property::Resources, text);
        }
        self.coverage.count("messages encoded and decoded");
        decoded.ok()
    }

    /// Which cores of `member` hear what `from` says.
    fn listeners(&self, member: usize, from: usize) -> std::ops::Range<usize> {
        let node = &self.nodes[member];
        match &node.adversary {
            Some(adversary) if adversary.twins => {
                let host = usize::from(adversary.audience & (1 << from) == 0);
                host..host + 1
            }
            _ => 0..node.hosts.len(),
        }
    }
}
