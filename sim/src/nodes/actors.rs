//! Real nodes and real clients, and what they need from the simulator to live.
//!
//! Always true: a node gets turns only from the cluster, with its own clock. Must not: judge.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tetrarch_appliance::metrics::Metrics;
use tetrarch_appliance::node::{Node, Parts};
use tetrarch_appliance::proofs::Proofs;
use tetrarch_appliance::stage::dispatch::IngressPlan;
use tetrarch_appliance::testing::TestCluster;
use tetrarch_client::cluster::PrivateKeys;
use tetrarch_client::{ClientConfig, ClientDriver, Matching, Mode, Outcome, Ticket};
use tetrarch_consensus::limits::BATCH_SIZE_MAX;
use tetrarch_consensus::{Config, ConsensusId, Digest, Payload, ReplicaId};
use tetrarch_dataplane::arena::{Arena, ArenaSpec, SlotClass};
use tetrarch_dataplane::handshake::Identity;
use tetrarch_dataplane::links::{LinkConfig, Links};
use tetrarch_dataplane::reject::Reject;
use tetrarch_dataplane::stage::Progress;
use tetrarch_dataplane::transport::memory::{MemoryTransport, Port, Switch};
use tetrarch_dataplane::types::{Instant, PeerId};

use super::log::{SeatLog, Stored};
use super::machine::{Journal, Registers, Validator, decode};
use super::puppet::{Puppet, Strings};
use crate::byzantine::Adversary;
use crate::coverage::Coverage;
use crate::keys::Keyring;
use crate::rng::Rng;
use crate::service::{Answer, Operation};
use crate::swarm::{ClientPlan, Options, Villain};
use crate::world::Disks;

/// Turns of one node without time passing, at most.
const TURNS_MAX: usize = 1000;

fn arena() -> Arena {
    let classes = vec![
        SlotClass { slot_size: 512, count: 3072 },
        SlotClass { slot_size: 4096, count: 384 },
        SlotClass { slot_size: 64 * 1024, count: 24 },
    ];
    Arena::heap(&ArenaSpec { classes }).expect("a few MiB of memory")
}

/// Where a node's ingress is: all on one thread here, and each as it is configured somewhere. Members
/// of one cluster differ, as they may.
fn ingress(number: u64) -> IngressPlan {
    let (inline, workers) = [(true, 0), (true, 1), (true, 0), (false, 2)][(number % 4) as usize];
    IngressPlan { inline, workers }
}

/// The keys of all members that misbehave.
fn keyring(options: &Options, test: &TestCluster) -> Keyring {
    let members: Vec<_> = options.villains.iter().map(|villain| villain.member).collect();
    let keys = members.iter().map(|&at| test.replica_keys[at].signing_key.clone()).collect();
    let ids = members.iter().map(|&at| ReplicaId(at as u16)).collect();
    Keyring::real(test.cluster.id, ids, keys)
}

/// A place for a node: the node may crash and come back.
pub struct Seat {
    /// Index in the member list.
    pub member: u16,
    /// Its address.
    pub port: Port,
    /// Is what it does judged?
    pub honest: bool,
    /// Gets no turns.
    pub paused: bool,
    /// Gets a turn this often only; zero: whenever there is something to do.
    pub period: Duration,
    /// What its application did.
    pub journal: Journal,
    /// The log of its node.
    pub log: Option<SeatLog>,
    /// Its disk, while it is down.
    pub stored: Option<Stored>,
    /// Its disk was lost, and it has not learned enough since.
    pub lost_disk: bool,
    /// Its disk lies: it counts as faulty, though it does its best.
    pub bad_disk: bool,
    /// Grows whenever its node ends.
    pub life: u32,
    dial: Vec<(u16, Port)>,
    offset_ns: i64,
    node: Option<Node>,
    puppet: Option<Puppet>,
    villain: Option<(Villain, Rng)>,
    metrics: Arc<Metrics>,
    /// Memory of all its lives: frames can outlive a node in the network.
    arenas: Vec<Arena>,
    next_turn: Option<Instant>,
    last_turn: Instant,
}

impl Seat {
    /// A place without a node, dialling these.
    pub fn new(
        member: u16,
        port: Port,
        dial: Vec<(u16, Port)>,
        offset_ns: i64,
        honest: bool,
    ) -> Self {
        Self {
            member,
            port,
            honest,
            paused: false,
            period: Duration::ZERO,
            journal: Journal::default(),
            log: None,
            stored: None,
            lost_disk: false,
            bad_disk: false,
            life: 0,
            dial,
            offset_ns,
            node: None,
            puppet: None,
            villain: None,
            metrics: Arc::new(Metrics::new()),
            arenas: Vec::new(),
            next_turn: None,
            last_turn: Instant(0),
        }
    }

    /// A place for a member that misbehaves.
    pub fn for_villain(mut self, villain: Villain, rng: Rng) -> Self {
        self.villain = Some((villain, rng));
        self.honest = false;
        self
    }

    /// Its clock.
    pub fn local(&self, now: Instant) -> Instant {
        Instant(now.0.saturating_add_signed(self.offset_ns))
    }

    fn global(&self, local: Instant) -> Instant {
        Instant(local.0.saturating_add_signed(-self.offset_ns))
    }

    /// Puts a node here, with the log on its disk if nodes have disks. `restarted`: one was here before.
    ///
    /// # Errors
    /// The log cannot be used, or lacks what was durable.
    pub fn start(
        &mut self,
        options: &Options,
        test: &TestCluster,
        switch: &Switch,
        now: Instant,
        restarted: bool,
    ) -> Result<(), String> {
        let keys = &test.replica_keys[usize::from(self.member)];
        let arena = arena();
        let pool = arena.pool();
        if self.arenas.is_empty() {
            for (to, port) in &self.dial {
                switch.dial(self.port, *port, PeerId::replica(*to));
            }
        }
        let endpoint = switch.attach(self.port, pool.clone()).expect("the port is free");
        let secret = keys.static_secret.clone();
        let identity = Identity { peer: PeerId::replica(self.member), secret };
        let directory = test.cluster.directory().expect("generated keys are distinct");
        let config = LinkConfig::default();
        let links = Links::new(
            Box::new(endpoint),
            identity,
            directory,
            test.cluster.id,
            config,
            pool.clone(),
        )
        .expect("a node's arena has room for bundles");
        self.journal = Journal::default();
        self.metrics = Arc::new(Metrics::new());
        let mut config = Config::new(ReplicaId(self.member), test.cluster.view());
        config.pending_max = options.pending_max;
        config.request_timeout = options.timeout;
        config.depth = options.depth;
        config.batch_requests_max = options.batch_requests_max;
        config.inline_body_max = match self.villain {
            Some(_) => BATCH_SIZE_MAX,
            None => options.inline_body_max,
        };
        config.clients_max = test.cluster.clients.len() as u32;
        config.sessions_per_client_max = 2;
        config.restarted = restarted && !options.disks.are_there();
        self.next_turn = None;
        self.arenas.push(arena);
        if let Some((villain, rng)) = &mut self.villain {
            let strings = Strings {
                config,
                links,
                pool,
                proofs: Proofs::new(&test.cluster, ReplicaId(self.member), keys)
                    .expect("generated keys are good"),
                keyring: keyring(options, test),
                adversary: Adversary::new(&villain.strategies, villain.activity, rng.fork(1)),
            };
            self.puppet = Some(Puppet::new(strings, self.local(now)));
            return Ok(());
        }
        let parts = Parts {
            config,
            cluster: &test.cluster,
            keys,
            other_keys: None,
            links,
            pool,
            service: Box::new(Registers::new(self.journal.clone())),
            validator: Box::new(Validator),
            reply_cache_size: 1 << 20,
            reply_cache_session_size: 1 << 16,
            metrics: Arc::clone(&self.metrics),
        };
        let ingress = ingress(options.seed.wrapping_add(u64::from(self.member)));
        let (mut node, _events) =
            Node::with_ingress(parts, ingress, self.local(now)).expect("generated keys are good");
        if options.disks.are_there() && self.honest {
            self.open_log(&mut node, options, self.local(now), restarted)?;
        }
        self.node = Some(node);
        Ok(())
    }

    /// Replays the log on the disk, and lets the node go on with it. A new disk under a node that ran before
    /// is one that was lost.
    fn open_log(
        &mut self,
        node: &mut Node,
        options: &Options,
        local: Instant,
        restarted: bool,
    ) -> Result<(), String> {
        let stored = self.stored.take().unwrap_or_default();
        let careless = options.disks == Disks::Careless;
        let mut wrong = None;
        let mut each = |record: &[u8]| {
            if wrong.is_none() {
                wrong = node.restore(local, record).err().map(|error| error.to_string());
            }
        };
        let (mut log, storage, found) =
            stored.open(self.member, options.log_sizes(), careless, &mut each)?;
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        if !stored.keeps(&found) && !self.bad_disk {
            return Err(format!("{found:?} is what is left of {stored:?}"));
        }
        let empty = found.last.0 == 0;
        if empty && !stored.is_new() {
            return Err("the log is empty".into());
        }
        node.keep_records(storage, empty && restarted);
        // The first record has to be durable before the first turn.
        log.complete()?;
        self.log = Some(log);
        Ok(())
    }

    /// Is there a node?
    pub fn is_up(&self) -> bool {
        self.node.is_some() || self.puppet.is_some()
    }

    /// Ends the node. What is on its disk stays.
    pub fn stop(&mut self, rng: &mut Rng) {
        (self.node, self.puppet) = (None, None);
        self.life += 1;
        if let Some(log) = self.log.take() {
            self.stored = Some(log.lose_power(rng));
        }
    }

    /// If it is faulty: becomes honest.
    pub fn retire(&mut self) {
        if let Some(puppet) = &mut self.puppet {
            puppet.retire();
        }
    }

    /// May it have a turn now?
    pub fn is_awake(&self, now: Instant) -> bool {
        (self.node.is_some() || self.puppet.is_some())
            && !self.paused
            && (self.period.is_zero() || now >= self.last_turn + self.period)
    }

    /// Turns until there is nothing to do; false when there always is. A slowed node has one turn.
    pub fn turn(&mut self, now: Instant) -> bool {
        self.last_turn = now;
        let local = self.local(now);
        if let Some(puppet) = &mut self.puppet {
            puppet.turn(local);
        }
        let Some(node) = &mut self.node else { return true };
        if !self.period.is_zero() {
            node.turn(local);
            return true;
        }
        (0..TURNS_MAX).any(|_| node.turn(local) == Progress::Idle)
    }

    /// When it wants a turn, if that is sooner than what it already asked for.
    pub fn next_turn(&mut self, now: Instant) -> Option<Instant> {
        let due = match (&self.node, &self.puppet) {
            (Some(node), _) => node.next_deadline(),
            (None, Some(puppet)) => puppet.next_deadline(),
            (None, None) => None,
        };
        let due = self.global(due?);
        let due = due.max(now + Duration::from_micros(1));
        let asked = self.next_turn.filter(|asked| *asked > now);
        if asked.is_some_and(|asked| asked <= due) {
            return None;
        }
        self.next_turn = Some(due);
        Some(due)
    }

    /// Digest of what the node decided there; zero when it does not keep it.
    pub fn decision(&self, cid: ConsensusId) -> Digest {
        let node = self.node.as_ref();
        node.and_then(|node| node.core().decision(cid)).unwrap_or(Digest::ZERO)
    }

    /// Is it honest, up, and in possession of its memory?
    pub fn is_correct(&self) -> bool {
        let may_vote = |node: &Node| !node.core().is_mute();
        self.honest && !self.bad_disk && self.node.as_ref().is_some_and(may_vote)
    }

    /// Has it decided and executed so much?
    pub fn is_level(&self, decided: u64) -> bool {
        let up_to = |node: &Node| node.core().decided().0 == decided;
        self.node.as_ref().is_some_and(up_to) && self.metrics.executed.get() == decided
    }

    /// Instances that it executed.
    pub fn executed(&self) -> u64 {
        self.metrics.executed.get()
    }

    /// Its regency, when it is correct.
    pub fn regency(&self) -> Option<u32> {
        let node = self.node.as_ref().filter(|_| self.is_correct())?;
        Some(node.core().regency().0)
    }

    /// For the report of a violation.
    pub fn describe(&self) -> String {
        match &self.node {
            None => "down".into(),
            Some(node) => format!(
                "regency {} wanted {} stopped {} mute {} decided {} executed {} pending {} up {:b}",
                node.core().regency(),
                node.core().wanted(),
                node.core().is_stopped(),
                node.core().is_mute(),
                node.core().decided(),
                self.metrics.executed.get(),
                node.core().pending(),
                self.metrics.peers_up.get(),
            ),
        }
    }

    /// Slots that did not come back after the node ended and the network was emptied.
    pub fn leak(&self) -> Option<String> {
        let lost: usize =
            self.arenas.iter().map(|arena| arena.total_slots() - arena.free_slots()).sum();
        (lost > 0).then(|| format!("member {} lost {lost} frames", self.member))
    }

    /// Adds what the node counted.
    pub fn count(&self, coverage: &mut Coverage) {
        for reason in [Reject::BadTag, Reject::BadDigest] {
            coverage.add("messages rejected for their bytes", self.metrics.reject(reason));
        }
        coverage.add("replies resent", self.metrics.replies_resent.get());
        coverage.add("requests without room", self.metrics.requests_busy.get());
        if self.honest {
            coverage.add("regencies at the end", self.metrics.regency.get());
        }
    }
}

/// What a client did in a turn.
#[derive(Default)]
pub struct News {
    /// Operations that began: token, what, its bytes.
    pub started: Vec<(u64, Operation, Vec<u8>)>,
    /// Operations that ended.
    pub returned: Vec<(u64, Answer)>,
    /// What must not happen.
    pub wrong: Vec<String>,
}

/// A real client driver with a plan.
pub struct Person {
    /// Its address.
    pub port: Port,
    driver: ClientDriver,
    plan: ClientPlan,
    rng: Rng,
    index: u64,
    started: u32,
    next_at: Instant,
    tickets: BTreeMap<u64, (Ticket, u64)>,
    free_at_start: usize,
    next_turn: Option<Instant>,
}

impl Person {
    /// A client that dials these.
    pub fn new(
        index: usize,
        port: Port,
        dial: Vec<(u16, Port)>,
        options: &Options,
        test: &TestCluster,
        switch: &Switch,
        rng: Rng,
    ) -> Self {
        let keys = &test.client_keys[index];
        let keys = PrivateKeys {
            static_secret: keys.static_secret.clone(),
            signing_key: keys.signing_key.clone(),
        };
        let mut config = ClientConfig::new(test.cluster.clone(), index as u32, keys);
        config.request_timeout = options.timeout;
        config.request_memory = 1 << 20;
        config.reply_memory = 1 << 20;
        config.incarnation = Some(1);
        config.sessions_max = 2;
        let dial: Vec<_> = dial.iter().map(|(to, port)| (PeerId::replica(*to), *port)).collect();
        let mut transport = MemoryTransport::new(switch, port, &dial);
        let mut driver = ClientDriver::over(&config, &mut transport, Matching::Equal)
            .expect("a client of a generated cluster");
        let free_at_start = driver.free_slots();
        Self {
            port,
            driver,
            plan: options.clients[index],
            rng,
            index: index as u64,
            started: 0,
            next_at: Instant(0),
            tickets: BTreeMap::new(),
            free_at_start,
            next_turn: None,
        }
    }

    /// Starts what its plan wants, and lets the driver work.
    pub fn turn(&mut self, now: Instant) -> News {
        let mut news = News::default();
        while self.started < self.plan.operations
            && self.tickets.len() < self.plan.window
            && self.next_at <= now
        {
            self.start(now, &mut news);
        }
        let mut completions = Vec::new();
        for _ in 0..TURNS_MAX {
            if !self.driver.poll(now, &mut completions) {
                break;
            }
        }
        for completion in completions {
            let found = self.tickets.iter().find(|(_, (it, _))| *it == completion.ticket);
            let Some(token) = found.map(|(token, _)| *token) else {
                news.wrong.push(format!("client {} got an answer twice", self.index));
                continue;
            };
            self.tickets.remove(&token);
            match completion.outcome {
                Outcome::Done(bytes) => match decode(bytes.bytes()) {
                    Some(answer) => news.returned.push((token, answer)),
                    None => news.wrong.push(format!("client {} got no answer", self.index)),
                },
                other => news.wrong.push(format!("client {}: {other:?}", self.index)),
            }
        }
        news
    }

    fn start(&mut self, now: Instant, news: &mut News) {
        let read = self.rng.chance(self.plan.reads);
        let key = self.rng.below(3) as u8;
        let unique = (self.index << 40) + u64::from(self.started) + 1;
        let operation = match (read, self.rng.below(5)) {
            (true, _) | (_, 0) => Operation::Get(key),
            (_, 1) => Operation::Add(key, unique),
            _ => Operation::Put(key, unique),
        };
        let mut bytes = operation.encode();
        bytes[2..].copy_from_slice(&unique.to_le_bytes());
        let mode = if read { Mode::ReadOnly } else { Mode::Ordered };
        self.next_at = now + self.rng.long_tailed(self.plan.think) + Duration::from_nanos(1);
        if let Ok(ticket) = self.driver.submit(now, 0, mode, &bytes) {
            self.started += 1;
            let token = u64::from(self.started);
            self.tickets.insert(token, (ticket, token));
            news.started.push((token, operation, bytes.to_vec()));
        }
    }

    /// When it wants a turn, if that is sooner than what it already asked for.
    pub fn next_turn(&mut self, now: Instant) -> Option<Instant> {
        let room = self.started < self.plan.operations && self.tickets.len() < self.plan.window;
        let own = room.then_some(self.next_at);
        let due = own.into_iter().chain(self.driver.next_deadline()).min()?;
        let due = due.max(now + Duration::from_micros(1));
        let asked = self.next_turn.filter(|asked| *asked > now);
        if asked.is_some_and(|asked| asked <= due) {
            return None;
        }
        self.next_turn = Some(due);
        Some(due)
    }

    /// Has it everything it wanted?
    pub fn is_done(&self) -> bool {
        self.started >= self.plan.operations && self.tickets.is_empty()
    }

    /// Operations that ended.
    pub fn returned(&self) -> u32 {
        self.started - self.tickets.len() as u32
    }

    /// From now on, no pauses.
    pub fn hurry(&mut self) {
        self.plan.think = Duration::ZERO;
    }

    /// Wants nothing new.
    pub fn stop(&mut self) {
        self.plan.operations = self.started;
    }

    /// Wants one more operation, ordered.
    pub fn ask_for_more(&mut self) {
        self.plan.operations += 1;
        self.plan.reads = 0;
    }

    /// For the report of a violation.
    pub fn describe(&self) -> String {
        let (started, waiting) = (self.started, self.tickets.len());
        format!("{started} started, {waiting} in flight, {:?}", self.driver.counts())
    }

    /// Adds what the driver counted.
    pub fn count(&self, coverage: &mut Coverage) {
        let counts = self.driver.counts();
        coverage.add("digest replies", counts.digests);
        coverage.add("requests sent again", counts.resent);
    }

    /// Frames that are held though nothing is in flight.
    pub fn leak(&mut self) -> Option<String> {
        let lost = self.free_at_start.saturating_sub(self.driver.free_slots());
        (lost > 0).then(|| format!("client {} holds {lost} frames for nothing", self.index))
    }
}
