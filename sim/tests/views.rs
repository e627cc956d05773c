//! Views that follow each other while everything goes wrong.

use tetrarch_sim::trace::Log;
use tetrarch_sim::world::Disks;
use tetrarch_sim::{Coverage, Options, Wishes, run};

fn run_all(seeds: u64, disks: Disks) -> Coverage {
    let wishes = Wishes { views: true, disks, ..Wishes::default() };
    let mut coverage = Coverage::default();
    for seed in 0..seeds {
        let outcome = run(&Options::draw(seed, &wishes), Log::None);
        assert_eq!(outcome.violation, None, "tetrarch-sim --views --seed {seed} --log full");
        coverage.merge(&outcome.coverage);
    }
    coverage
}

// rule: VIEW.2
// rule: VIEW.3
// rule: VIEW.4
// rule: VIEW.5
// rule: VIEW.6
// rule: VIEW.7
// rule: VIEW.8
// rule: VIEW.9
#[test]
fn members_come_and_go_and_nothing_is_lost_or_done_twice() {
    let coverage = run_all(120, Disks::None);
    for what in [
        "views entered",
        "members that join",
        "members retired",
        "clients that follow to another view",
        "requests of another view",
        "clients told of a view that never was",
        "views to be refused",
        "views that nobody signed",
        "restarts without memory",
        "regencies installed",
    ] {
        assert!(coverage.get(what) > 10, "{what}: {}", coverage.get(what));
    }
}

// rule: VIEW.6
#[test]
fn whoever_goes_down_in_the_middle_of_a_change_comes_back_in_it() {
    let coverage = run_all(60, Disks::Honest);
    for what in ["views entered", "restarts with memory", "restarts from a checkpoint"] {
        assert!(coverage.get(what) > 20, "{what}: {}", coverage.get(what));
    }
}
