//! A fixed set of seeds at level 2: whole nodes, real clients, bytes.

use tetrarch_sim::trace::Log;
use tetrarch_sim::world::Disks;
use tetrarch_sim::{Coverage, Options, Strategy, Wishes, nodes};

fn run_all(seeds: std::ops::Range<u64>, wishes: &Wishes) -> Coverage {
    let mut coverage = Coverage::default();
    for seed in seeds {
        let outcome = nodes::run(&Options::draw(seed, wishes), Log::None);
        assert_eq!(outcome.violation, None, "tetrarch-sim --level 2 --seed {seed} --log full");
        coverage.merge(&outcome.coverage);
    }
    coverage
}

#[test]
fn a_fixed_set_of_seeds_holds_on_whole_nodes() {
    let coverage = run_all(0..60, &Wishes::default());
    let exercised = [
        "bytes changed",
        "crashes",
        "digest replies",
        "links cut",
        "messages lost with their link",
        "messages rejected for their bytes",
        "messages truncated",
        "operations returned",
        "pauses",
        "puppets",
        "replies resent",
        "requests sent again",
        "requests without room",
        "restarts without memory",
        "twins",
    ];
    for name in exercised {
        assert!(coverage.get(name) > 0, "never happened: {name}\n{coverage}");
    }
}

#[test]
fn every_strategy_alone_breaks_nothing_on_whole_nodes() {
    for (index, strategy) in Strategy::ALL.into_iter().enumerate() {
        let wishes = Wishes { n: Some(4), strategies: vec![strategy], ..Wishes::default() };
        let first = 3000 + index as u64;
        run_all(first..first + 1, &wishes);
    }
}

// rule: DUR.2
// rule: DUR.3
// rule: DUR.4
#[test]
fn whole_nodes_come_back_with_everything_they_told() {
    let mut coverage = Coverage::default();
    // 278: a member that had come back after its log failed was to be started once more.
    for seed in (0..20).chain([278]) {
        for (disks, name) in [(Disks::Honest, "honest"), (Disks::Faulty, "faulty")] {
            let wishes = Wishes { disks, ..Wishes::default() };
            let outcome = nodes::run(&Options::draw(seed, &wishes), Log::None);
            let command = format!("tetrarch-sim --level 2 --disks {name} --seed {seed} --log full");
            assert_eq!(outcome.violation, None, "{command}");
            coverage.merge(&outcome.coverage);
        }
    }
    for what in ["disks lost", "logs that failed", "restarts with memory", "syncs"] {
        assert!(coverage.get(what) > 0, "never happened: {what}\n{coverage}");
    }
}

/// If votes and replies left before they are on the disk, the checkers would see it on whole nodes, too.
#[test]
fn whole_nodes_that_do_not_wait_for_their_disks_are_found_out() {
    let wishes = Wishes { disks: Disks::Careless, ..Wishes::default() };
    let broken =
        |seed: &u64| nodes::run(&Options::draw(*seed, &wishes), Log::None).violation.is_some();
    // The first one that shows it is one of these, as things are.
    assert!((70..400).any(|seed| broken(&seed)), "330 seeds without a violation");
}

#[test]
fn keys_do_not_matter_to_what_happens() {
    for seed in [1, 7] {
        let options = Options::draw(seed, &Wishes::default());
        let (first, second) = (nodes::run(&options, Log::None), nodes::run(&options, Log::None));
        assert_eq!((first.hash, first.events), (second.hash, second.events), "seed {seed}");
    }
}
