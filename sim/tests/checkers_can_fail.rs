//! With one check of the protocol switched off the simulator must find broken safety.

use tetrarch_consensus::FaultModel;
use tetrarch_consensus::config::Check;
use tetrarch_sim::checker::Property;
use tetrarch_sim::trace::Log;
use tetrarch_sim::{Options, Strategy, Wishes, run};

/// Seeds that are searched at most.
const SEEDS: u64 = 3000;

/// Searches for a violation of `properties`, and makes sure that the whole protocol survives the
/// seed that shows one.
fn find(mutants: &[Check], strategies: &[Strategy], properties: &[Property]) {
    let mut wishes = Wishes {
        n: Some(4),
        model: Some(FaultModel::Byzantine),
        strategies: strategies.to_vec(),
        mutants: mutants.to_vec(),
        ..Wishes::default()
    };
    for seed in 0..SEEDS {
        let outcome = run(&Options::draw(seed, &wishes), Log::None);
        let Some(violation) = outcome.violation else { continue };
        if !properties.contains(&violation.property) {
            continue;
        }
        wishes.mutants.clear();
        let whole = run(&Options::draw(seed, &wishes), Log::None);
        assert_eq!(whole.violation, None, "the whole protocol at seed {seed}");
        return;
    }
    panic!("{SEEDS} seeds without a violation of {properties:?} without {mutants:?}");
}

#[test]
fn without_gamma_an_invented_request_is_executed() {
    find(&[Check::Validity], &[Strategy::Impossible], &[Property::Validity]);
}

#[test]
fn without_gamma_time_goes_back() {
    find(&[Check::Validity], &[Strategy::Timestamp], &[Property::Order]);
}

#[test]
fn with_votes_that_are_not_per_digest_two_values_are_decided() {
    find(&[Check::VotesPerDigest], &[Strategy::Equivocate], &[Property::Agreement]);
}

#[test]
fn with_claims_and_votes_that_name_no_instance_histories_differ() {
    let strategies = [Strategy::StaleProof, Strategy::Replay];
    let broken = [Property::Agreement, Property::Order, Property::ExactlyOnce];
    find(&[Check::ProofBinding], &strategies, &broken);
}

#[test]
fn with_unchecked_states_a_new_leader_replaces_what_was_decided() {
    find(&[Check::StopDataValidation], &[Strategy::Usurp], &[Property::Agreement]);
}

#[test]
fn without_duplicate_suppression_a_request_is_executed_twice() {
    let mutants = [Check::DuplicateSuppression];
    find(&mutants, &[Strategy::Impossible], &[Property::ExactlyOnce, Property::Order]);
}

#[test]
fn with_bodies_that_are_not_compared_members_execute_different_things() {
    find(&[Check::BodyDigests], &[Strategy::WrongBodies], &[Property::Agreement]);
}

/// gamma keeps repeated requests out of batches (VAL.1); execution is the second line of defence
/// (SMR.9), which only a batch that went round gamma can reach.
#[test]
fn skipping_at_execution_alone_holds_against_repeated_requests() {
    let wishes = Wishes {
        n: Some(4),
        model: Some(FaultModel::Byzantine),
        strategies: vec![Strategy::Impossible],
        mutants: vec![Check::Validity],
        ..Wishes::default()
    };
    for seed in 0..100 {
        let outcome = run(&Options::draw(seed, &wishes), Log::None);
        let found = outcome.violation.map(|violation| violation.property);
        assert_ne!(found, Some(Property::ExactlyOnce), "seed {seed}");
    }
}
