//! Members that get checkpoints of others, and faulty ones that offer, send and ask wrongly.

use tetrarch_consensus::FaultModel;
use tetrarch_consensus::config::Check;
use tetrarch_consensus::limits::DECISION_LOG_MAX;
use tetrarch_sim::checker::Property;
use tetrarch_sim::trace::Log;
use tetrarch_sim::world::Disks;
use tetrarch_sim::{Coverage, Options, Strategy, Wishes, run};

/// Checkpoints that are near each other, and memories that reach no farther back.
fn draw(seed: u64, wishes: &Wishes) -> Options {
    let mut options = Options::draw(seed, wishes);
    options.depth = options.depth.min(2);
    options.checkpoint_every = 4;
    options.decision_log_max = 8;
    options.truncate = true;
    options
}

fn run_all(seeds: std::ops::Range<u64>, wishes: &Wishes) -> Coverage {
    let mut coverage = Coverage::default();
    for seed in seeds {
        let outcome = run(&draw(seed, wishes), Log::None);
        assert_eq!(outcome.violation, None, "seed {seed}: {:?}", draw(seed, wishes));
        coverage.merge(&outcome.coverage);
    }
    coverage
}

// rule: ST.1
// rule: ST.2
// rule: ST.3
// rule: ST.4
// rule: ST.5
#[test]
fn whoever_is_left_behind_catches_up() {
    for disks in [Disks::None, Disks::Honest] {
        let coverage = run_all(0..150, &Wishes { disks, ..Wishes::default() });
        for what in ["states installed", "slow sources", "chunks stored"] {
            assert!(coverage.get(what) > 5, "{disks:?}, {what}: {}", coverage.get(what));
        }
    }
}

// rule: ST.3
#[test]
fn faulty_sources_delay_and_change_nothing() {
    let mut all = Coverage::default();
    let strategies = [Strategy::FalseChunks, Strategy::FalseState, Strategy::ChunkFlood];
    for (index, strategy) in strategies.into_iter().enumerate() {
        let wishes = Wishes { n: Some(4), strategies: vec![strategy], ..Wishes::default() };
        let first = 100 * index as u64;
        all.merge(&run_all(first..first + 100, &wishes));
    }
    for what in ["states installed", "evidence of a false chunk"] {
        assert!(all.get(what) > 0, "{what}\n{all}");
    }
}

/// Memories that hold fewer decisions than lie between two checkpoints.
// rule: CKP.6
#[test]
fn whoever_is_needed_gets_a_checkpoint_where_nothing_is_decided() {
    let mut coverage = Coverage::default();
    for seed in 0..150 {
        let mut options = draw(seed, &Wishes::default());
        (options.checkpoint_every, options.decision_log_max) = (40, DECISION_LOG_MAX);
        options.batch_size_max = 2048;
        let outcome = run(&options, Log::None);
        assert_eq!(outcome.violation, None, "seed {seed}: {options:?}");
        coverage.merge(&outcome.coverage);
    }
    for what in ["checkpoints where nothing is decided", "states installed"] {
        assert!(coverage.get(what) > 5, "{what}: {}", coverage.get(what));
    }
}

fn find(mutant: Check, strategies: &[Strategy]) {
    let mut wishes = Wishes {
        n: Some(4),
        model: Some(FaultModel::Byzantine),
        strategies: strategies.to_vec(),
        mutants: vec![mutant],
        ..Wishes::default()
    };
    for seed in 0..1000 {
        let violation = run(&draw(seed, &wishes), Log::None).violation;
        if violation.is_none_or(|it| it.property != Property::Agreement) {
            continue;
        }
        wishes.mutants.clear();
        let whole = run(&draw(seed, &wishes), Log::None);
        assert_eq!(whole.violation, None, "the whole protocol at seed {seed}");
        return;
    }
    panic!("1000 seeds without a violation without {mutant:?}");
}

#[test]
fn without_comparing_roots_false_chunks_are_kept() {
    find(Check::ChunkRoots, &[Strategy::FalseChunks]);
}

#[test]
fn if_one_offer_were_enough_a_state_that_nobody_has_would_be_fetched() {
    find(Check::OfferQuorum, &[Strategy::FalseState]);
}
