//! Are the histories bad enough? Each mutant of the rules has to be found by them.

use proptest::strategy::ValueTree;

use super::*;

/// Histories without end, the same ones in every run.
fn histories() -> impl Iterator<Item = Vec<Step>> {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    core::iter::repeat_with(move || steps().new_tree(&mut runner).expect("steps").current())
}

/// The test above is worth what it can find: each mutant of the rules must be caught by it.
#[test]
fn histories_are_bad_enough_to_catch_every_mutant_of_the_rules() {
    let mut open = vec![
        Mutant::VotesAfterSigning,
        Mutant::ForgetsCertificates,
        Mutant::NoVouchers,
        Mutant::FreeWithoutCertificate,
        Mutant::AcceptsInAnyOrder,
    ];
    let (mut bound, mut free) = (0, 0);
    for (round, steps) in histories().take(20_000).enumerate() {
        let view = VIEWS[round % 4];
        let depth = DEPTHS[round / 4 % DEPTHS.len()];
        let world = check(view, depth, &steps, Mutant::None).expect("the rules hold");
        bound += world.bound;
        free += world.free;
        open.retain(|&mutant| check(view, depth, &steps, mutant).is_ok());
        if open.is_empty() && round > 200 {
            assert!(bound > 100 && free > 100, "bound {bound}, free {free}");
            return;
        }
    }
    panic!("not noticed: {open:?}");
}

#[test]
#[ignore = "takes minutes; run it when a rule of SYNC changes"]
fn long_histories() {
    for (round, steps) in histories().take(1_000_000).enumerate() {
        let view = VIEWS[round % VIEWS.len()];
        let depth = DEPTHS[round / VIEWS.len() % DEPTHS.len()];
        let found = check(view, depth, &steps, Mutant::None);
        assert!(found.is_ok(), "{:?} in {view:?} at {depth}: {steps:?}", found.err());
    }
}
