//! Random histories of a few instances in several regencies, with f members that say what they like,
//! and the two promises of the choice: what a correct member decided, or still may decide from votes
//! that were sent, is never passed over; and the states of all correct members suffice.
//!
//! The network is as bad as it can be: every vote that was ever sent may arrive at any time, a faulty
//! member votes for everything at every place, leads every regency if that helps it, shows every
//! member another SYNC, and signs any state. Correct members follow VP.1, VP.2, VP.5, VP.6, VP.9,
//! VP.10, SYNC.2, SYNC.6, SYNC.9 and LAG.2, at any depth up to three. In crash-only mode nobody lies: one SYNC and one proposal for
//! each place, and any f members may be missing.

mod mutants;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::reference::{Outcome, VIEWS, choose_slowly, outcome, value};
use super::*;
use crate::config::FaultModel;
use crate::message::{OpenState, WriteSet};
use crate::types::{Regency, ReplicaId, ViewId};

/// (instance, epoch)
type Place = (u64, u32);

const VALUES: u8 = 3;
const LEVELS: u64 = 4;
const DEPTHS: [usize; 3] = [1, 2, 3];
const REGENCIES: u32 = 6;

#[derive(Clone, Debug)]
struct Member {
    regency: u32,
    /// `None` while the installed regency is not synchronised.
    resume: Option<(u64, Vec<Digest>)>,
    decisions: Vec<Digest>,
    /// What outlives an epoch, of each level.
    levels: BTreeMap<u64, OpenState>,
    wrote: BTreeMap<Place, Digest>,
    accepted: BTreeMap<Place, Digest>,
    /// The state that was signed when a regency was installed.
    signed: BTreeMap<u32, ReplicaState>,
}

impl Member {
    fn new() -> Self {
        Self {
            regency: 0,
            resume: Some((1, vec![])),
            decisions: vec![],
            levels: BTreeMap::new(),
            wrote: BTreeMap::new(),
            accepted: BTreeMap::new(),
            signed: BTreeMap::new(),
        }
    }

    fn decided(&self) -> u64 {
        self.decisions.len() as u64
    }

    /// The lowest level that is open.
    fn open(&self) -> u64 {
        self.decided() + 1
    }

    /// All that are, as far as there are levels.
    fn window(&self, depth: usize) -> impl Iterator<Item = u64> + use<> {
        self.open()..=(self.decided() + depth as u64).min(LEVELS)
    }

    fn state(&self, regency: u32, depth: usize) -> ReplicaState {
        let said = |level| self.levels.get(&level).copied().unwrap_or(OpenState::BLANK);
        ReplicaState {
            view: ViewId(0),
            regency: Regency(regency),
            replica: ReplicaId(0),
            decided: ConsensusId(self.decided()),
            decisions: self.decisions.iter().rev().take(2 * depth).copied().collect(),
            open: self.window(depth).map(said).collect(),
        }
    }

    fn level(&mut self, level: u64) -> &mut OpenState {
        self.levels.entry(level).or_insert(OpenState::BLANK)
    }

    /// Accepts at `place`, which needs a certificate.
    fn accept(&mut self, place: Place, digest: Digest) {
        let level = self.level(place.0);
        level.certified = Some(Written { epoch: Epoch(place.1), digest });
        level.write_set.forget_before(Epoch(place.1));
        self.accepted.insert(place, digest);
    }

    fn decide(&mut self, digest: Digest) {
        self.decisions.push(digest);
        self.levels.remove(&self.decided());
    }
}

/// One event, for the members whose bit is set in `mask`.
#[derive(Clone, Copy, Debug)]
struct Step {
    kind: u8,
    mask: u8,
    pick: u64,
}

/// A small generator: what a liar says must vary and be repeatable.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// The rules that a mutant of the protocol breaks, to see that the histories are bad enough.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Mutant {
    None,
    /// Signs its state and goes on voting in the regency before.
    VotesAfterSigning,
    /// Forgets certificates when a regency is installed.
    ForgetsCertificates,
    /// Takes any certified value with Q compatible members, without vouchers.
    NoVouchers,
    /// Takes a level for free as soon as n - f members tell and nothing binds it.
    FreeWithoutCertificate,
    /// Accepts whatever is certified, in any order.
    AcceptsInAnyOrder,
}

struct World {
    quorums: Quorums,
    depth: usize,
    liars: usize,
    correct: Vec<Member>,
    /// Crash-only: the one SYNC of each regency.
    syncs: BTreeMap<u32, Outcome>,
    mutant: Mutant,
    /// Values bound at levels, and levels found free, by SYNCs of the history: is it worth anything?
    bound: usize,
    free: usize,
}

impl World {
    fn new(view: (usize, usize, FaultModel), depth: usize, mutant: Mutant) -> Self {
        let (n, f, model) = view;
        let liars = if model == FaultModel::Byzantine { f } else { 0 };
        Self {
            quorums: Quorums::new(n, f, model).expect("enough members"),
            depth,
            liars,
            correct: vec![Member::new(); n - liars],
            syncs: BTreeMap::new(),
            mutant,
            bound: 0,
            free: 0,
        }
    }

    fn crash_only(&self) -> bool {
        self.quorums.model() == FaultModel::Crash
    }

    fn choose(&self, states: &[ReplicaState]) -> Outcome {
        match self.mutant {
            Mutant::NoVouchers => {
                let mut gullible = states.to_vec();
                let open = || states.iter().flat_map(|state| &state.open);
                let pairs: Vec<_> = open().filter_map(|open| open.certified).collect();
                for open in gullible.iter_mut().flat_map(|state| &mut state.open) {
                    pairs.iter().for_each(|&pair| open.write_set.insert(pair));
                }
                outcome(choose(&gullible, self.quorums, self.depth))
            }
            Mutant::FreeWithoutCertificate => {
                let start = outcome(choose(states, self.quorums, self.depth)).or_else(|| {
                    let h = supported(states, self.quorums)?;
                    Some((h.0.max(1), vec![]))
                })?;
                Some(start)
            }
            _ => outcome(choose(states, self.quorums, self.depth)),
        }
    }

    /// Enough votes of correct members that liars can complete them to a certificate.
    fn completes(&self, votes: usize) -> bool {
        votes > 0 && votes + self.liars >= self.quorums.certificate()
    }

    fn writes(&self, place: Place, digest: Digest) -> usize {
        self.correct.iter().filter(|member| member.wrote.get(&place) == Some(&digest)).count()
    }

    /// Every value that a correct member has decided at `level`, or can still decide from ACCEPTs
    /// that were sent.
    fn decidable(&self, level: u64) -> BTreeSet<Digest> {
        let mut found: BTreeSet<Digest> = BTreeSet::new();
        for member in &self.correct {
            found.extend(member.decisions.get(level as usize - 1));
        }
        for epoch in 0..=REGENCIES {
            for number in 1..=VALUES {
                let accepts =
                    |member: &&Member| member.accepted.get(&(level, epoch)) == Some(&value(number));
                if self.completes(self.correct.iter().filter(accepts).count()) {
                    found.insert(value(number));
                }
            }
        }
        found
    }

    fn lie(&self, dice: &mut Dice, regency: u32) -> ReplicaState {
        let pair = |dice: &mut Dice| Written {
            epoch: Epoch(dice.roll(u64::from(regency.max(1))) as u32),
            digest: value(1 + dice.roll(u64::from(VALUES)) as u8),
        };
        // Liars do best when they are near the truth.
        let of = dice.roll(self.correct.len() as u64) as usize;
        let mut state = self.correct[of].state(regency, self.depth);
        if dice.roll(2) == 0 {
            state.decided = ConsensusId(dice.roll(LEVELS + 2));
        }
        if dice.roll(2) == 0 {
            state.decisions.clear();
        }
        let told = (state.decided.0 as usize).min(2 * self.depth);
        state.decisions.resize_with(told, || value(1 + dice.roll(VALUES.into()) as u8));
        state.open.resize(self.depth, OpenState::BLANK);
        for open in &mut state.open {
            if dice.roll(3) > 0 {
                open.certified = (dice.roll(4) > 0).then(|| pair(dice));
                open.write_set = WriteSet::EMPTY;
                for _ in 0..dice.roll(4) {
                    open.write_set.insert(pair(dice));
                }
                open.certified.into_iter().for_each(|pair| open.write_set.insert(pair));
            }
        }
        state
    }

    /// A SYNC's states: some of those signed for `regency`, and lies; at least n - f, or nothing.
    fn collect(&self, dice: &mut Dice, regency: u32) -> Option<Vec<ReplicaState>> {
        let signed = self.correct.iter().filter_map(|member| member.signed.get(&regency).cloned());
        let mut states: Vec<_> = signed.collect();
        let lies = if self.liars == 0 { 0 } else { dice.roll(self.liars as u64 + 1) as usize };
        let least = self.quorums.sync().saturating_sub(lies);
        while states.len() > least && dice.roll(3) > 0 {
            let gone = dice.roll(states.len() as u64) as usize;
            states.remove(gone);
        }
        for _ in 0..lies {
            states.push(self.lie(dice, regency));
        }
        let turn = dice.roll(states.len().max(1) as u64) as usize;
        states.rotate_left(turn);
        (states.len() >= self.quorums.sync()).then_some(states)
    }

    fn run(&mut self, step: Step) {
        let mut dice = Dice(step.pick);
        for at in 0..self.correct.len() {
            if step.mask & (1 << at) != 0 {
                match step.kind {
                    0..=2 => self.write(at, step.pick, &mut dice),
                    3 | 4 => self.certify(at, &mut dice),
                    5 => self.decide(at),
                    6 => self.install(at, step.pick),
                    7 | 8 => self.synchronise(at, step.pick, &mut dice),
                    9 => self.learn(at),
                    _ => self.help(at),
                }
            }
        }
    }

    /// May this member vote at open `level` now? Then, the bound value if there is one.
    fn may_vote(&self, at: usize, level: u64) -> Option<Option<Digest>> {
        let member = &self.correct[at];
        let (start, bound) = member.resume.as_ref()?;
        if member.open() < *start {
            return None;
        }
        Some(bound.get((level - start) as usize).copied())
    }

    fn write(&mut self, at: usize, pick: u64, dice: &mut Dice) {
        let member = &self.correct[at];
        let unwritten = |level: &u64| !member.wrote.contains_key(&(*level, member.regency));
        let Some(level) = member.window(self.depth).find(unwritten) else {
            return;
        };
        let Some(bound) = self.may_vote(at, level) else {
            return;
        };
        let crash_only = self.crash_only();
        let member = &mut self.correct[at];
        let place = (level, member.regency);
        // Most leaders propose one value; a liar's proposals depend on who gets them.
        let honest = value(1 + ((level + u64::from(place.1)) % u64::from(VALUES)) as u8);
        let lying = pick.is_multiple_of(3) && !crash_only;
        let proposed = if lying { value(1 + dice.roll(VALUES.into()) as u8) } else { honest };
        let digest = bound.unwrap_or(proposed);
        member.wrote.insert(place, digest);
        member.level(level).write_set.insert(Written { epoch: Epoch(place.1), digest });
        if crash_only {
            member.accept(place, digest);
        }
    }

    fn certify(&mut self, at: usize, dice: &mut Dice) {
        let regency = self.correct[at].regency;
        if self.crash_only() || self.may_vote(at, self.correct[at].open()).is_none() {
            return;
        }
        let first = dice.roll(VALUES.into()) as u8;
        for level in self.correct[at].window(self.depth) {
            let place = (level, regency);
            for number in 0..VALUES {
                let digest = value(1 + (first + number) % VALUES);
                let accepted = self.correct[at].accepted.contains_key(&place);
                if !accepted && self.completes(self.writes(place, digest)) {
                    self.correct[at].accept(place, digest);
                }
            }
            let accepted = self.correct[at].accepted.contains_key(&place);
            if !accepted && self.mutant != Mutant::AcceptsInAnyOrder {
                return;
            }
        }
    }

    fn decide(&mut self, at: usize) {
        let level = self.correct[at].open();
        if let Some(&digest) = self.decidable(level).first() {
            self.correct[at].decide(digest);
        }
    }

    /// One of the correct others has decided it: with f liars, that makes one-correct claims.
    fn learn(&mut self, at: usize) {
        let level = self.correct[at].decisions.len();
        let known = self.correct.iter().find_map(|member| member.decisions.get(level).copied());
        if let Some(digest) = known {
            self.correct[at].decide(digest);
        }
    }

    fn install(&mut self, at: usize, pick: u64) {
        let newest = self.correct.iter().map(|member| member.regency).max().unwrap_or(0);
        let member = &mut self.correct[at];
        let wanted = if pick.is_multiple_of(4) || newest == 0 { newest + 1 } else { newest };
        if wanted <= member.regency || wanted > REGENCIES {
            return;
        }
        if self.mutant == Mutant::ForgetsCertificates {
            member.levels.values_mut().for_each(|open| open.certified = None);
        }
        let state = member.state(wanted, self.depth);
        member.signed.insert(wanted, state);
        if self.mutant != Mutant::VotesAfterSigning || pick.is_multiple_of(2) {
            member.regency = wanted;
            member.resume = None;
        }
    }

    fn synchronise(&mut self, at: usize, pick: u64, dice: &mut Dice) {
        let regency = self.correct[at].regency;
        if self.correct[at].resume.is_some() {
            return;
        }
        let choice = match self.syncs.get(&regency) {
            Some(choice) => choice.clone(),
            None => {
                // Not every SYNC differs: only the same one leads to certificates.
                let mut same = Dice(u64::from(regency));
                let dice =
                    if pick.is_multiple_of(2) || self.crash_only() { &mut same } else { dice };
                let Some(states) = self.collect(dice, regency) else {
                    return;
                };
                self.choose(&states)
            }
        };
        let Some((_, bound)) = &choice else {
            return;
        };
        self.bound += bound.len();
        self.free += 1;
        if self.crash_only() {
            self.syncs.insert(regency, choice.clone());
        }
        self.correct[at].resume = choice;
    }

    /// VP.9: votes again, in the current epoch, for what it decided last.
    fn help(&mut self, at: usize) {
        let member = &mut self.correct[at];
        if member.resume.is_none() {
            return;
        }
        for level in (1..=member.decided()).rev().take(self.depth) {
            let (place, digest) = ((level, member.regency), member.decisions[level as usize - 1]);
            member.wrote.entry(place).or_insert(digest);
            member.accepted.entry(place).or_insert(digest);
        }
    }

    /// No two values can be decided at one level.
    fn agreement(&self) -> Result<(), &'static str> {
        let agreed = (1..=LEVELS + 1).all(|level| self.decidable(level).len() <= 1);
        if agreed { Ok(()) } else { Err("two values can be decided at one level") }
    }

    /// Were a regency installed now: the choice from any states keeps what is or can be decided.
    fn safety(&self, dice: &mut Dice) -> Result<(), &'static str> {
        let mut now = World { correct: self.correct.clone(), syncs: BTreeMap::new(), ..*self };
        let regency = REGENCIES + 1;
        for member in &mut now.correct {
            member.signed.insert(regency, member.state(regency, self.depth));
        }
        for _ in 0..24 {
            let Some(states) = now.collect(dice, regency) else {
                continue;
            };
            let (quorums, depth) = (self.quorums, self.depth);
            let fast = outcome(choose(&states, quorums, depth));
            if fast != choose_slowly(&states, quorums, depth) {
                return Err("the reference disagrees");
            }
            let Some((start, bound)) = self.choose(&states) else {
                continue;
            };
            for level in start..=LEVELS + 1 {
                for digest in self.decidable(level) {
                    match bound.get((level - start) as usize) {
                        None => return Err("a decided level is free"),
                        Some(bound) if *bound != digest => return Err("bound to another value"),
                        Some(_) => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// The states of all correct members suffice, whatever the liars add; when replicas only crash,
    /// those of any n - f.
    fn liveness(&self, dice: &mut Dice) -> Result<(), &'static str> {
        for _ in 0..24 {
            let signed = |member: &Member| member.state(REGENCIES + 1, self.depth);
            let mut states: Vec<_> = self.correct.iter().map(signed).collect();
            while self.crash_only() && states.len() > self.quorums.sync() {
                states.remove(dice.roll(states.len() as u64) as usize);
            }
            for _ in 0..dice.roll(self.liars as u64 + 1) {
                states.push(self.lie(dice, REGENCIES + 1));
            }
            let Some((start, _)) = self.choose(&states) else {
                return Err("the states of all correct members do not suffice");
            };
            self.completion(start)?;
        }
        Ok(())
    }

    /// After a SYNC whose walk began at `start`, each level that somebody correct has decided can be
    /// learned from claims or voted in by everybody.
    fn completion(&self, start: u64) -> Result<(), &'static str> {
        let depth = self.depth as u64;
        let highest = self.correct.iter().map(Member::decided).max().unwrap_or(0);
        for level in 1..=highest {
            let decided = |member: &&Member| member.decided() >= level;
            let claims = self.correct.iter().filter(decided).count();
            let votes = |member: &Member| {
                let recent = member.decided() < level + depth;
                let open = level <= member.decided() + depth || self.claimed(level - depth);
                recent && open
            };
            let voted = level >= start && self.correct.iter().all(votes);
            if claims < self.quorums.one_correct() && !voted {
                return Err("a level can neither be learned nor voted in");
            }
        }
        Ok(())
    }

    /// Have one-correct correct members decided `level`, so that the others learn it?
    fn claimed(&self, level: u64) -> bool {
        let decided = self.correct.iter().filter(|member| member.decided() >= level);
        decided.count() >= self.quorums.one_correct()
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let mask = prop_oneof![Just(u8::MAX), any::<u8>(), any::<u8>()];
    let step = (0u8..11, mask, any::<u64>());
    proptest::collection::vec(step.prop_map(|(kind, mask, pick)| Step { kind, mask, pick }), 0..90)
}

fn check(
    view: (usize, usize, FaultModel),
    depth: usize,
    steps: &[Step],
    mutant: Mutant,
) -> Result<World, &'static str> {
    let mut world = World::new(view, depth, mutant);
    for &step in steps {
        world.run(step);
        world.agreement()?;
    }
    let mut dice = Dice(steps.iter().fold(1, |sum, step| sum ^ step.pick));
    world.safety(&mut dice)?;
    world.liveness(&mut dice)?;
    Ok(world)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    // rule: SYNC.8, SYNC.9, SYNC.6, SMR.1, VP.5, VP.6, VP.9, VP.10
    #[test]
    fn sync_8_the_choice_never_passes_over_a_decision_and_all_correct_states_suffice(
        view in proptest::sample::select(&VIEWS[..]),
        depth in proptest::sample::select(&DEPTHS[..]),
        steps in steps(),
    ) {
        let found = check(view, depth, &steps, Mutant::None);
        prop_assert!(found.is_ok(), "{:?}", found.err());
    }
}
