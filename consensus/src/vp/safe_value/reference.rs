//! Rule SYNC.8 a second time, written from `docs/PROTOCOL.md` alone: slow and plain. And the proof
//! that `choose` and it agree on states of every kind, those of liars included.

use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::config::FaultModel;
use crate::message::WriteSet;
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
        Choice::Resume(resume) => {
            Some((resume.start.0, resume.bound[..resume.bound_count].to_vec()))
        }
    }
}

#[derive(Clone, PartialEq)]
enum Fact {
    Decided(Digest),
    Open { certified: Option<(u32, Digest)>, written: Vec<(u32, Digest)> },
    Nothing,
}

fn facts(states: &[ReplicaState], level: u64) -> Vec<Fact> {
    let mut facts = Vec::new();
    for state in states {
        let d = state.decided.0;
        if d > level + 1 {
            continue;
        }
        facts.push(if d == level + 1 {
            Fact::Decided(state.decisions[1])
        } else if d == level {
            Fact::Decided(state.decisions[0])
        } else if d + 1 == level {
            let written = state.write_set.as_slice().iter();
            Fact::Open {
                certified: state.certified.map(|entry| (entry.epoch.0, entry.digest)),
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
pub(super) fn choose_slowly(states: &[ReplicaState], q: Quorums) -> Outcome {
    let mut decided: Vec<u64> = states.iter().map(|state| state.decided.0).collect();
    decided.sort_unstable();
    decided.reverse();
    let h = *decided.get(q.one_correct() - 1)?;
    let start = h.max(1);
    let mut bound = Vec::new();
    loop {
        let level = start + bound.len() as u64;
        let facts = facts(states, level);
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

prop_compose! {
    fn state()(
        decided in 0u64..4,
        decisions in [1u8..4, 1u8..4],
        certified in proptest::option::of(written()),
        pairs in proptest::collection::vec(written(), 0..4),
    ) -> ReplicaState {
        let mut write_set = WriteSet::EMPTY;
        for pair in pairs {
            write_set.insert(pair);
        }
        ReplicaState {
            view: ViewId(0),
            regency: Regency(4),
            replica: ReplicaId(0),
            decided: ConsensusId(decided),
            decisions: decisions.map(value),
            certified,
            write_set,
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
        // Most sets of random states suffice for nothing: let many agree.
        copies in 0usize..5,
        turn in 0usize..7,
    ) {
        let (n, f, model) = view;
        let quorums = Quorums::new(n, f, model).expect("enough members");
        let mut states = states;
        for copy in 1..states.len().min(copies + 1) {
            states[copy] = states[0];
        }
        states.truncate(n);
        let choice = choose(&states, quorums);
        prop_assert_eq!(outcome(choice), choose_slowly(&states, quorums));
        if !states.is_empty() {
            let by = turn % states.len();
            states.rotate_left(by);
            prop_assert_eq!(choose(&states, quorums), choice, "depends on the order");
        }
    }

    // rule: CORE.3
    #[test]
    fn core_3_no_numbers_in_states_can_break_the_choice(
        decided in proptest::collection::vec(
            prop_oneof![Just(0), Just(1), Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()], 0..7,
        ),
        template in state(),
    ) {
        let quorums = Quorums::new(7, 2, FaultModel::Byzantine).expect("enough members");
        let liars = decided.iter().map(|&cid| ReplicaState { decided: ConsensusId(cid), ..template });
        if let Choice::Resume(resume) = choose(&liars.collect::<Vec<_>>(), quorums) {
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
        decisions: [value(2), Digest::ZERO],
        certified: None,
        write_set: WriteSet::EMPTY,
    };
    let certified = Some(Written { epoch: Epoch(0), digest: value(1) });
    let mut sleeper = ReplicaState {
        decided: ConsensusId(0),
        decisions: [Digest::ZERO; 2],
        certified,
        ..decided
    };
    sleeper.write_set.insert(Written { epoch: Epoch(0), digest: value(1) });
    let choice = choose(&[decided, sleeper, decided], quorums);
    assert_eq!(outcome(choice), Some((1, alloc::vec![value(2)])));
}
