//! Rule SYNC.8 a second time, written from `docs/PROTOCOL.md` alone: slow and plain. And the proof
//! that `choose` and it agree on states of every kind, those of liars included.

use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::config::FaultModel;
use crate::message::{OpenState, WriteSet};
use crate::types::{Regency, ReplicaId, ViewId};

/// Views that are worth trying: tight ones, and some with members to spare.
pub(super) const VIEWS: [(usize, usize, FaultModel); 7] = [
    (4, 1, FaultModel::Byzantine),
    (5, 1, FaultModel::Byzantine),
    (6, 1, FaultModel::Byzantine),
    (7, 2, FaultModel::Byzantine),
    (3, 1, FaultModel::Crash),
    (4, 1, FaultModel::Crash),
    (5, 2, FaultModel::Crash),
];

pub(super) fn value(number: u8) -> Digest {
    Digest([number; 32])
}

/// Start and bound values; `None` when the states do not suffice.
pub(super) type Outcome = Option<(u64, Vec<Digest>)>;

pub(super) fn outcome(choice: Choice) -> Outcome {
    match choice {
        Choice::Insufficient => None,
        Choice::Resume(resume) => Some((resume.start.0, resume.bound)),
    }
}

#[derive(Clone, PartialEq)]
enum Fact {
    Decided(Digest),
    Open { certified: Option<(u32, Digest)>, written: Vec<(u32, Digest)> },
    Nothing,
}

fn facts(states: &[ReplicaState], level: u64, depth: u64) -> Vec<Fact> {
    let mut facts = Vec::new();
    for state in states {
        let d = state.decided.0;
        if d >= level + 2 * depth {
            continue;
        }
        facts.push(if d >= level {
            Fact::Decided(state.decisions[(d - level) as usize])
        } else if d + depth >= level {
            let said = state.open.get((level - d - 1) as usize);
            let open = said.copied().unwrap_or(OpenState::BLANK);
            let written = open.write_set.as_slice().iter();
            Fact::Open {
                certified: open.certified.map(|entry| (entry.epoch.0, entry.digest)),
                written: written.map(|entry| (entry.epoch.0, entry.digest)).collect(),
            }
        } else {
            Fact::Nothing
        });
    }
    facts
}

fn count(facts: &[Fact], holds: impl Fn(&Fact) -> bool) -> usize {
    facts.iter().filter(|fact| holds(fact)).count()
}

/// The only value of a level: `Some(None)` when it is free, `None` when nobody can tell.
fn only_value(facts: &[Fact], q: Quorums) -> Option<Option<Digest>> {
    // Two only if more than f lie; everybody must take the same even then.
    for number in (0..=u8::MAX).rev() {
        let v = value(number);
        if count(facts, |fact| *fact == Fact::Decided(v)) >= q.one_correct() {
            return Some(Some(v));
        }
    }
    let mut certificates: Vec<(u32, Digest)> = Vec::new();
    for fact in facts {
        if let Fact::Open { certified: Some(entry), .. } = fact {
            certificates.push(*entry);
        }
    }
    certificates.sort();
    for &(ts, v) in certificates.iter().rev() {
        let compatible = count(facts, |fact| match fact {
            Fact::Nothing => true,
            Fact::Decided(w) => *w == v,
            Fact::Open { certified: None, .. } => true,
            Fact::Open { certified: Some((at, w)), .. } => *at < ts || (*at == ts && *w == v),
        });
        let vouching = count(facts, |fact| match fact {
            Fact::Nothing => false,
            Fact::Decided(w) => *w == v,
            Fact::Open { written, .. } => written.iter().any(|(at, w)| *w == v && *at >= ts),
        });
        if compatible >= q.certificate() && vouching >= q.one_correct() {
            return Some(Some(v));
        }
    }
    let blank =
        count(facts, |fact| matches!(fact, Fact::Nothing | Fact::Open { certified: None, .. }));
    (blank >= q.certificate()).then_some(None)
}

/// SYNC.8.
pub(super) fn choose_slowly(states: &[ReplicaState], q: Quorums, depth: usize) -> Outcome {
    let mut decided: Vec<u64> = states.iter().map(|state| state.decided.0).collect();
    decided.sort_unstable();
    decided.reverse();
    let h = *decided.get(q.one_correct() - 1)?;
    let start = (h + 1).saturating_sub(depth as u64).max(1);
    let mut bound = Vec::new();
    loop {
        let level = start + bound.len() as u64;
        let facts = facts(states, level, depth as u64);
        if facts.len() < q.sync() {
            return None;
        }
        match only_value(&facts, q)? {
            Some(v) => bound.push(v),
            None => return Some((start, bound)),
        }
    }
}

/// Pairs over a handful of values and epochs, so that they collide often.
fn written() -> impl Strategy<Value = Written> {
    (0u32..4, 1u8..4)
        .prop_map(|(epoch, number)| Written { epoch: Epoch(epoch), digest: value(number) })
}

/// The deepest cluster that is tried: states say more than a shallower one asks for.
const DEPTH: usize = 3;

prop_compose! {
    fn open()(
        certified in proptest::option::of(written()),
        pairs in proptest::collection::vec(written(), 0..4),
    ) -> OpenState {
        let mut write_set = WriteSet::EMPTY;
        for pair in pairs {
            write_set.insert(pair);
        }
        OpenState { certified, write_set }
    }
}

prop_compose! {
    fn state()(
        decided in 0u64..6,
        decisions in proptest::collection::vec(1u8..4, 2 * DEPTH),
        open in proptest::collection::vec(open(), 0..=DEPTH),
    ) -> ReplicaState {
        ReplicaState {
            view: ViewId(0),
            regency: Regency(4),
            replica: ReplicaId(0),
            decided: ConsensusId(decided),
            decisions: decisions.into_iter().map(value).collect(),
            open,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    // rule: SYNC.8
    #[test]
    fn sync_8_the_choice_is_the_one_of_the_plain_reference(
        view in proptest::sample::select(&VIEWS[..]),
        states in proptest::collection::vec(state(), 0..=7),
        depth in 1..=DEPTH,
        // Most sets of random states suffice for nothing: let many agree.
        copies in 0usize..5,
        turn in 0usize..7,
    ) {
        let (n, f, model) = view;
        let quorums = Quorums::new(n, f, model).expect("enough members");
        let mut states = states;
        for copy in 1..states.len().min(copies + 1) {
            states[copy] = states[0].clone();
        }
        states.truncate(n);
        let choice = choose(&states, quorums, depth);
        prop_assert_eq!(outcome(choice.clone()), choose_slowly(&states, quorums, depth));
        if !states.is_empty() {
            let by = turn % states.len();
            states.rotate_left(by);
            prop_assert_eq!(choose(&states, quorums, depth), choice, "depends on the order");
        }
    }

    // rule: CORE.3
    #[test]
    fn core_3_no_numbers_in_states_can_break_the_choice(
        decided in proptest::collection::vec(
            prop_oneof![Just(0), Just(1), Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()], 0..7,
        ),
        template in state(),
        depth in 1..=DEPTH,
    ) {
        let quorums = Quorums::new(7, 2, FaultModel::Byzantine).expect("enough members");
        let lie = |&cid| ReplicaState { decided: ConsensusId(cid), ..template.clone() };
        let liars: Vec<_> = decided.iter().map(lie).collect();
        if let Choice::Resume(resume) = choose(&liars, quorums, depth) {
            prop_assert!(resume.free() >= resume.start);
            prop_assert!(resume.value_at(resume.free()).is_none() || resume.start.0 == u64::MAX);
        }
    }
}

// rule: SYNC.8
#[test]
fn sync_8_a_sleeper_with_an_old_certificate_does_not_block_what_the_others_decided() {
    let quorums = Quorums::new(4, 1, FaultModel::Byzantine).expect("enough members");
    let decided = ReplicaState {
        view: ViewId(0),
        regency: Regency(2),
        replica: ReplicaId(0),
        decided: ConsensusId(1),
        decisions: alloc::vec![value(2)],
        open: Vec::new(),
    };
    let written = Written { epoch: Epoch(0), digest: value(1) };
    let mut open = OpenState { certified: Some(written), write_set: WriteSet::EMPTY };
    open.write_set.insert(written);
    let sleeper = ReplicaState {
        decided: ConsensusId(0),
        decisions: Vec::new(),
        open: alloc::vec![open],
        ..decided.clone()
    };
    let choice = choose(&[decided.clone(), sleeper, decided], quorums, 1);
    assert_eq!(outcome(choice), Some((1, alloc::vec![value(2)])));
}

// rule: SYNC.8
#[test]
fn sync_8_the_walk_begins_where_one_correct_members_can_have_decided_everything_below() {
    // One correct member has decided two instances, a liar says so too, the others have accepted
    // them: nobody can learn instance 1 from one-correct claims, so it must be voted in.
    let quorums = Quorums::new(4, 1, FaultModel::Byzantine).expect("enough members");
    let open = |number| {
        let written = Written { epoch: Epoch(0), digest: value(number) };
        let mut open = OpenState { certified: Some(written), write_set: WriteSet::EMPTY };
        open.write_set.insert(written);
        open
    };
    let behind = ReplicaState {
        view: ViewId(0),
        regency: Regency(1),
        replica: ReplicaId(0),
        decided: ConsensusId(0),
        decisions: Vec::new(),
        open: alloc::vec![open(1), open(2)],
    };
    let ahead = ReplicaState {
        decided: ConsensusId(2),
        decisions: alloc::vec![value(2), value(1)],
        open: Vec::new(),
        ..behind.clone()
    };
    let choice = choose(&[behind.clone(), ahead.clone(), ahead, behind], quorums, 2);
    assert_eq!(outcome(choice), Some((1, alloc::vec![value(1), value(2)])));
}
