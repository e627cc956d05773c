//! What one seed stands for: sizes, fault rates and adversaries, all drawn from it.
//!
//! Always true: the faulty members, crashed and cut-off ones included, are at most f in the liveness
//! phase, and Byzantine ones exist in the Byzantine model only. Must not: draw anything later: a run is
//! a function of these options.

use std::time::Duration;

use tetrarch_consensus::config::Check;
use tetrarch_consensus::limits::{BATCH_SIZE_MAX, DECISION_LOG_MAX, PENDING_MAX, decisions_told};
use tetrarch_consensus::quorum::Quorums;
use tetrarch_consensus::{FaultModel, ReplicaId};

use tetrarch_dataplane::storage::LogConfig;

use crate::changes::Changes;
use crate::rng::Rng;
use crate::world::Disks;

/// How a faulty member misbehaves. One member may combine several.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Strategy {
    /// Two honest cores with one identity, each talking to a part of the others.
    Twins,
    /// Different batches, and votes that match them, for different members.
    Equivocate,
    /// Says nothing as a leader, now and then.
    SilentLeader,
    /// Says nothing at all, now and then.
    Mute,
    /// Talks to a changing part of the members only.
    Selective,
    /// Sends old messages again.
    Replay,
    /// Claims things that are false: decisions, batches, requests of correct clients.
    Forge,
    /// Structurally valid nonsense.
    Garbage,
    /// States and claims from other instances and regencies.
    StaleProof,
    /// False states, properly signed.
    LyingState,
    /// As a new leader, different sets of states for different members.
    SplitSync,
    /// Refuses every proposal and complains about every client.
    Complain,
    /// Proposes times in the past and in the future.
    Timestamp,
    /// Proposes batches that no correct leader could.
    Impossible,
    /// Asks for leader changes all the time.
    StopSpam,
    /// Lies about how far it is, and asks for everything.
    StatusLiar,
    /// Votes for whatever it hears of, both ways, twice.
    DoubleVote,
    /// Breaks the proofs of correct clients' requests for some members.
    SpoilProofs,
    /// Proposes requests that nobody has.
    UnknownBodies,
    /// Sends other bodies than it was asked for, and some that nobody asked for.
    WrongBodies,
    /// Asks for bodies of everything, all the time.
    FetchFlood,
    /// Proposes nothing of one client, and (at level 2) says Busy to it for ever.
    Starve,
    /// Takes a leadership over with a collection of nothing but its own lies, and proposes anew.
    Usurp,
    /// Sends chunks of checkpoints that are changed, of another place, twice, or not at all.
    FalseChunks,
    /// Offers checkpoints that nobody has, and serves them.
    FalseState,
    /// Asks for checkpoints and chunks all the time.
    ChunkFlood,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Strategy; 26] = [
        Self::Twins,
        Self::Equivocate,
        Self::SilentLeader,
        Self::Mute,
        Self::Selective,
        Self::Replay,
        Self::Forge,
        Self::Garbage,
        Self::StaleProof,
        Self::LyingState,
        Self::SplitSync,
        Self::Complain,
        Self::Timestamp,
        Self::Impossible,
        Self::StopSpam,
        Self::StatusLiar,
        Self::DoubleVote,
        Self::SpoilProofs,
        Self::UnknownBodies,
        Self::WrongBodies,
        Self::FetchFlood,
        Self::Starve,
        Self::Usurp,
        Self::FalseChunks,
        Self::FalseState,
        Self::ChunkFlood,
    ];
}

/// How a faulty client misbehaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mischief {
    /// Proofs that convince some members only.
    HalfValid,
    /// Like `HalfValid`, and together with the other colluders no member is convinced by all.
    Colluding,
    /// Talks to some members only.
    SkipLeader,
    /// Talks to one member at a time.
    OneMember,
    /// Two bodies under one number.
    TwoBodies,
    /// Numbers with gaps, from the past and far ahead; sessions that do not exist.
    Gaps,
    /// Operations that the service does not know.
    Invalid,
    /// As much as it can think of, far ahead of what can be ordered, whoever says Busy.
    Flood,
    /// Something else for the leader than for the others, so that these wait for what it has no use for.
    Decoy,
}

/// A faulty member.
#[derive(Clone, Debug)]
pub struct Villain {
    /// Index in the member list.
    pub member: usize,
    /// What it does.
    pub strategies: Vec<Strategy>,
    /// Per mille of the time that each strategy is active.
    pub activity: u32,
}

/// A member that crashes.
#[derive(Clone, Copy, Debug)]
pub struct Crash {
    /// Index in the member list.
    pub member: usize,
    /// When, after the start.
    pub at: Duration,
    /// Comes back without its memory after this long.
    pub back_after: Option<Duration>,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// Faults to tolerate.
    pub model: FaultModel,
    /// Their number.
    pub f: usize,
    /// Member identities, ascending, with gaps.
    pub ids: Vec<ReplicaId>,
    /// The one timeout.
    pub timeout: Duration,
    /// Shortest and mean extra one-way delay between members in the safety phase.
    pub delay: (Duration, Duration),
    /// Messages lost, per mille.
    pub loss: u32,
    /// Messages delivered twice, per mille.
    pub duplicates: u32,
    /// Messages that may overtake others of their link, per mille.
    pub reorder: u32,
    /// Mean time between link resets; zero: none.
    pub reset_every: Duration,
    /// Mean time between partitions; zero: none.
    pub partition_every: Duration,
    /// Mean time between pauses of a correct member; zero: none.
    pub pause_every: Duration,
    /// Mean time between periods in which some kinds of messages get lost; zero: none.
    pub veto_every: Duration,
    /// Mean time between crashes of any honest member, while no more than f are faulty, recovering ones included; zero: none.
    pub crash_every: Duration,
    /// Times that there is no memory for a batch, per mille.
    pub starvation: u32,
    /// Do messages travel as bytes, through the codec?
    pub as_bytes: bool,
    /// Length of the safety phase.
    pub safety: Duration,
    /// How long the liveness phase may take.
    pub bound: Duration,
    /// Largest difference of a correct clock to true time.
    pub skew: Duration,
    /// Time that executing one batch takes.
    pub execution: Duration,
    /// What members keep on disks.
    pub disks: Disks,
    /// Decisions from one checkpoint to the next; 0: there are none.
    pub checkpoint_every: u64,
    /// Are records given up that lie before two checkpoints?
    pub truncate: bool,
    /// Decisions that are kept in memory for others.
    pub decision_log_max: usize,
    /// Bytes of a chunk of a checkpoint.
    pub chunk_size: usize,
    /// Bytes of chunks in a second that a member sends.
    pub chunk_rate: u64,
    /// Instances that may be open at once.
    pub depth: usize,
    /// Requests per batch.
    pub batch_requests_max: usize,
    /// Bytes per batch; of decisions, twice as many are kept.
    pub batch_size_max: usize,
    /// Bytes of the largest request bodies that travel inside proposals.
    pub inline_body_max: usize,
    /// Requests that may be pending before only the next one of each session is admitted.
    pub pending_max: usize,
    /// Correct clients, and what each wants done: operations, window, per mille of reads.
    pub clients: Vec<ClientPlan>,
    /// Faulty clients.
    pub mischief: Vec<Mischief>,
    /// Faulty members.
    pub villains: Vec<Villain>,
    /// Crashing members.
    pub crashes: Vec<Crash>,
    /// Members whose disks do not keep what they reported durable.
    pub bad_disks: Vec<usize>,
    /// Correct members that stay cut off in the liveness phase.
    pub abandoned: usize,
    /// Do faulty members go on misbehaving in the liveness phase?
    pub villains_persist: bool,
    /// Protocol checks that are switched off, to prove that the checkers notice.
    pub mutants: Vec<Check>,
    /// Views that follow each other.
    pub changes: Option<Changes>,
}

/// What a correct client does.
#[derive(Clone, Copy, Debug)]
pub struct ClientPlan {
    /// Operations to finish.
    pub operations: u32,
    /// Requests in flight.
    pub window: usize,
    /// Per mille of operations that only read.
    pub reads: u32,
    /// Mean pause before an operation.
    pub think: Duration,
    /// Restarts as a later incarnation after this many operations; 0: never.
    pub restart_after: u32,
}

/// What the command line may fix.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Members.
    pub n: Option<usize>,
    /// Fault model.
    pub model: Option<FaultModel>,
    /// What members keep on disks.
    pub disks: Disks,
    /// Instances that may be open at once.
    pub depth: Option<usize>,
    /// The only strategies used.
    pub strategies: Vec<Strategy>,
    /// Switched off checks.
    pub mutants: Vec<Check>,
    /// Do views follow each other? Many decisions are kept then: joiners may find no checkpoint that enough members have.
    pub views: bool,
    /// Do members keep some twenty decisions only?
    pub short_memories: bool,
}

const MS: Duration = Duration::from_millis(1);

impl Options {
    /// Draws everything from `seed`.
    pub fn draw(seed: u64, wishes: &Wishes) -> Self {
        let mut rng = Rng::new(seed);
        let crash = wishes.strategies.is_empty() && rng.chance(200);
        let model = wishes.model.unwrap_or(match crash {
            true => FaultModel::Crash,
            false => FaultModel::Byzantine,
        });
        let n = wishes.n.unwrap_or(match model {
            FaultModel::Byzantine => rng.pick(&[4, 4, 4, 4, 4, 7, 7, 5, 6]),
            FaultModel::Crash => rng.pick(&[3, 3, 3, 5, 5, 4]),
        });
        let f = Quorums::faults_tolerated(n, model);
        let mut options = Self::network(seed, n, f, model, &mut rng);
        // From numbers of its own, so that it changes nothing else of what the seed stands for.
        let drawn = Rng::new(seed ^ 0x6465_7074_6800).pick(&[1, 2, 8, 32]);
        options.depth = wishes.depth.unwrap_or(drawn);
        options.mutants = wishes.mutants.clone();
        options.keep_records(wishes.disks);
        options.give_up_decisions();
        let short = wishes.short_memories && options.checkpoint_every > 0;
        options.batch_size_max = if short { 2048 } else { BATCH_SIZE_MAX };
        options.people(&mut rng);
        options.faulty_members(&mut rng, &wishes.strategies);
        options.crowd(wishes);
        options.spoil_disks();
        if wishes.views {
            options.decision_log_max = DECISION_LOG_MAX;
            options.change_views();
        }
        options
    }

    /// With disks, crashes of many at once are what matters.
    fn keep_records(&mut self, disks: Disks) {
        self.disks = disks;
        if disks != Disks::None {
            let mut rng = Rng::new(self.seed ^ 0x6469_736b_7300);
            self.crash_every = rng.duration(self.timeout, self.timeout * 10);
            let mut rng = Rng::new(self.seed ^ 0x636b_7074_0000);
            let every: u64 = rng.pick(&[0, 2, 2, 3, 5, 5, 9, 20, 70]);
            let least = decisions_told(self.depth) as u64;
            self.checkpoint_every = if every == 0 { 0 } else { every.max(least) };
            self.truncate = rng.chance(700);
        }
    }

    /// Some of those that would be faulty otherwise have bad disks instead, but where only crashes are allowed.
    fn spoil_disks(&mut self) {
        if !self.disks.are_faulty() || self.model == FaultModel::Crash {
            return;
        }
        let mut rng = Rng::new(self.seed ^ 0x7370_6f69_6c00);
        let all = std::mem::take(&mut self.villains);
        let (villains, spoilt): (Vec<_>, Vec<_>) = all.into_iter().partition(|_| rng.chance(300));
        self.villains = villains;
        self.bad_disks = spoilt.iter().map(|villain| villain.member).collect();
        let faulty = self.villains.len() + self.crashes.len() + self.bad_disks.len();
        if faulty < self.f {
            let taken = |at: &usize| !self.is_correct(*at) || self.has_bad_disk(*at);
            let free: Vec<usize> = (0..self.n()).filter(|at| !taken(at)).collect();
            self.bad_disks.push(rng.pick(&free));
            self.abandoned = self.abandoned.min(self.f - faulty - 1);
        }
    }

    /// Checkpoints without disks, and memories that reach back to the last few only. From numbers of its own.
    fn give_up_decisions(&mut self) {
        let mut rng = Rng::new(self.seed ^ 0x7866_6572_0000);
        let least = decisions_told(self.depth) as u64;
        let every: u64 = rng.pick(&[0, 0, 2, 3, 5, 9, 20]);
        if self.disks == Disks::None && every > 0 {
            self.checkpoint_every = every.max(least);
        }
        let memory = rng.pick(&[0, 0, 3, 3, 4]) * self.checkpoint_every;
        if memory > 0 {
            self.decision_log_max = memory as usize;
        }
        self.chunk_size = rng.pick(&[64, 64, 200, 2000]);
        self.chunk_rate = rng.pick(&[50_000, 10_000_000]);
    }

    /// Members.
    pub fn n(&self) -> usize {
        self.ids.len()
    }

    /// Sizes of members' logs.
    pub fn log_sizes(&self) -> LogConfig {
        // Requests are small here; a base grows with the number of open instances.
        let group_size_max = if self.batch_requests_max <= 16 { 48 << 10 } else { 384 << 10 };
        let segment_size = 2 * group_size_max as u64 + 4096;
        let unchecked = self.disks == Disks::Unchecked;
        LogConfig { segment_size, group_size_max, spare_segments_max: 2, unchecked }
    }

    /// Is `member` correct from start to end?
    pub fn is_correct(&self, member: usize) -> bool {
        !self.is_villain(member) && self.crashes.iter().all(|crash| crash.member != member)
    }

    /// Has `member` a disk that does not keep what it reported durable?
    pub fn has_bad_disk(&self, member: usize) -> bool {
        self.bad_disks.contains(&member)
    }

    /// Is `member` Byzantine?
    pub fn is_villain(&self, member: usize) -> bool {
        self.villains.iter().any(|villain| villain.member == member)
    }

    fn network(seed: u64, n: usize, f: usize, model: FaultModel, rng: &mut Rng) -> Self {
        let mut ids = Vec::with_capacity(n);
        let mut id = rng.below(3) as u16;
        for _ in 0..n {
            ids.push(ReplicaId(id));
            id += 1 + if rng.chance(150) { rng.below(9) as u16 } else { 0 };
        }
        let timeout = rng.pick(&[40, 100, 200, 400]) * MS;
        let calm = rng.chance(150);
        let rate = |rng: &mut Rng, often: u32, high: u32| match !calm && rng.chance(often) {
            true => rng.range(1, u64::from(high)) as u32,
            false => 0,
        };
        let every = |rng: &mut Rng, often: u32| match !calm && rng.chance(often) {
            true => rng.duration(timeout, timeout * 20),
            false => Duration::ZERO,
        };
        let slow = !calm && rng.chance(200);
        Self {
            seed,
            model,
            f,
            ids,
            timeout,
            delay: (
                rng.duration(Duration::from_micros(20), MS),
                if slow { rng.duration(MS, timeout / 2) } else { rng.duration(MS / 10, 2 * MS) },
            ),
            loss: if rng.chance(100) { rate(rng, 1000, 300) } else { rate(rng, 500, 60) },
            duplicates: rate(rng, 400, 100),
            reorder: rate(rng, 500, 500),
            reset_every: every(rng, 400),
            partition_every: every(rng, 400),
            pause_every: every(rng, 250),
            veto_every: every(rng, 400) / 4,
            crash_every: every(rng, 400),
            starvation: rate(rng, 150, 300),
            as_bytes: rng.chance(150),
            safety: timeout * rng.range(6, 40) as u32,
            bound: timeout * 1500,
            skew: if rng.chance(500) {
                rng.duration(Duration::ZERO, 300 * MS)
            } else {
                Duration::ZERO
            },
            execution: if rng.chance(300) { rng.duration(MS / 10, 5 * MS) } else { Duration::ZERO },
            disks: Disks::None,
            checkpoint_every: 0,
            truncate: false,
            decision_log_max: DECISION_LOG_MAX,
            chunk_size: 64,
            chunk_rate: 0,
            depth: 1,
            batch_requests_max: rng.pick(&[1, 2, 4, 16, 1024]),
            batch_size_max: BATCH_SIZE_MAX,
            // All bodies have one size. A draw of its own leaves the others as they were.
            inline_body_max: Rng::new(seed ^ 0x0062_6f64_7900).pick(&[0, 0, 0, BATCH_SIZE_MAX]),
            pending_max: Rng::new(seed ^ 0x7065_6e64_0000).pick(&[
                PENDING_MAX,
                PENDING_MAX,
                1,
                2,
                5,
                12,
            ]),
            clients: Vec::new(),
            mischief: Vec::new(),
            villains: Vec::new(),
            crashes: Vec::new(),
            bad_disks: Vec::new(),
            abandoned: 0,
            villains_persist: rng.chance(700),
            mutants: Vec::new(),
            changes: None,
        }
    }

    fn people(&mut self, rng: &mut Rng) {
        let clients = rng.range(1, 5);
        for _ in 0..clients {
            let operations = rng.range(5, 40) as u32;
            self.clients.push(ClientPlan {
                operations,
                window: rng.pick(&[1, 1, 2, 4, 8]),
                reads: rng.pick(&[0, 200, 500]),
                think: rng.duration(Duration::ZERO, self.safety / operations / 2),
                restart_after: if rng.chance(150) { rng.range(1, 10) as u32 } else { 0 },
            });
        }
        if self.model == FaultModel::Byzantine && rng.chance(400) {
            let all = [
                Mischief::HalfValid,
                Mischief::Colluding,
                Mischief::SkipLeader,
                Mischief::OneMember,
                Mischief::TwoBodies,
                Mischief::Gaps,
                Mischief::Invalid,
            ];
            for _ in 0..rng.range(1, 3) {
                let mischief = rng.pick(&all);
                self.mischief.push(mischief);
                if mischief == Mischief::Colluding {
                    self.mischief.push(mischief);
                }
            }
        }
    }

    /// Where little may be pending, correct clients want much more at once, now and then. One that is not correct wants
    /// all there is, and a faulty member starves another. From numbers of its own, like the depth.
    fn crowd(&mut self, wishes: &Wishes) {
        let mut rng = Rng::new(self.seed ^ 0x6372_6f77_6400);
        if self.model == FaultModel::Byzantine && rng.chance(100) {
            self.mischief.push(Mischief::Flood);
        }
        if let Some(villain) = self.villains.first_mut()
            && wishes.strategies.is_empty()
            && rng.chance(100)
        {
            villain.strategies.push(Strategy::Starve);
            villain.strategies.sort_unstable();
        }
        if self.pending_max < PENDING_MAX && rng.chance(500) {
            for plan in &mut self.clients {
                plan.window = rng.pick(&[16, 48]);
                plan.think = Duration::ZERO;
                plan.operations *= 3;
            }
        }
        if self.model == FaultModel::Byzantine && rng.chance(100) {
            self.mischief.push(Mischief::Decoy);
        }
    }

    /// Is there nothing but clients that could make anybody suspect a leader?
    pub fn is_undisturbed(&self) -> bool {
        let rates = [self.loss, self.starvation];
        let periods = [
            self.reset_every,
            self.partition_every,
            self.pause_every,
            self.veto_every,
            self.crash_every,
            self.execution,
        ];
        let (least, spread) = self.delay;
        self.changes.is_none()
            && self.villains.is_empty()
            && self.crashes.is_empty()
            && self.abandoned == 0
            && self.mutants.is_empty()
            && rates.iter().all(|rate| *rate == 0)
            && periods.iter().all(Duration::is_zero)
            && self.mischief.iter().all(|mischief| *mischief == Mischief::Decoy)
            && (least + spread) * 16 < self.timeout
    }

    fn faulty_members(&mut self, rng: &mut Rng, only: &[Strategy]) {
        let mut members: Vec<usize> = (0..self.n()).collect();
        rng.shuffle(&mut members);
        let faulty = match rng.below(10) {
            0 | 1 if only.is_empty() => 0,
            2 | 3 if only.is_empty() => self.f.min(1),
            _ => self.f,
        };
        for &member in &members[..faulty] {
            let byzantine = self.model == FaultModel::Byzantine;
            if byzantine && (!only.is_empty() || rng.chance(800)) {
                let strategies = draw_strategies(rng, only);
                let activity = rng.pick(&[1000, 1000, 500, 200]);
                self.villains.push(Villain { member, strategies, activity });
            } else if rng.chance(700) {
                let at = rng.duration(Duration::ZERO, self.safety);
                let back = rng.chance(600);
                let back_after = back.then(|| rng.duration(Duration::ZERO, self.safety / 2));
                self.crashes.push(Crash { member, at, back_after });
            }
        }
        let spare = self.f - self.villains.len() - self.crashes.len();
        self.abandoned = if spare > 0 { rng.index(spare + 1) } else { 0 };
    }
}

fn draw_strategies(rng: &mut Rng, only: &[Strategy]) -> Vec<Strategy> {
    let choices = if only.is_empty() { &Strategy::ALL[..] } else { only };
    let count = if only.is_empty() { rng.pick(&[1, 1, 2, 3, 5]) } else { only.len() };
    let mut choices = choices.to_vec();
    if only.is_empty() {
        choices.retain(|choice| *choice != Strategy::Starve);
    }
    rng.shuffle(&mut choices);
    choices.truncate(count);
    choices.sort_unstable();
    choices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_seed_has_more_faulty_members_than_it_tolerates() {
        for seed in 0..2000 {
            let options = Options::draw(seed, &Wishes::default());
            let faulty = options.villains.len() + options.crashes.len() + options.abandoned;
            assert!(faulty <= options.f, "seed {seed}: {options:?}");
            let correct = (0..options.n()).filter(|&at| options.is_correct(at)).count();
            assert_eq!(correct, options.n() - options.villains.len() - options.crashes.len());
        }
    }
}
