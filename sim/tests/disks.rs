//! Members that keep records: any number of them goes down at once.

use tetrarch_sim::checker::Property;
use tetrarch_sim::trace::Log;
use tetrarch_sim::world::Disks;
use tetrarch_sim::{Coverage, Options, Wishes, run};

// rule: DUR.1
// rule: DUR.2
// rule: DUR.3
// rule: DUR.4
// rule: DUR.5
// rule: CKP.1
// rule: CKP.2
// rule: CKP.3
// rule: CKP.4
// rule: CKP.5
#[test]
fn whoever_goes_down_comes_back_with_everything_it_told() {
    let wishes = Wishes { disks: Disks::Honest, ..Wishes::default() };
    let mut coverage = Coverage::default();
    for seed in 0..150 {
        let outcome = run(&Options::draw(seed, &wishes), Log::None);
        assert_eq!(outcome.violation, None, "tetrarch-sim --disks honest --seed {seed} --log full");
        coverage.merge(&outcome.coverage);
    }
    for what in [
        "restarts with memory",
        "crashes that lose records",
        "disks lost",
        "syncs",
        "checkpoints",
        "restarts from a checkpoint",
        "checkpoints passed over",
        "times that records were given up",
    ] {
        assert!(coverage.get(what) > 20, "{what}: {}", coverage.get(what));
    }
}

/// If a vote or a reply could leave before it is on the disk, the checkers would see it.
#[test]
fn without_waiting_for_the_disk_something_acknowledged_is_lost() {
    let wishes = Wishes { disks: Disks::Careless, ..Wishes::default() };
    let broken = |seed: &u64| {
        let violation = run(&Options::draw(*seed, &wishes), Log::None).violation;
        violation.is_some_and(|violation| {
            matches!(violation.property, Property::Agreement | Property::Linearizability)
        })
    };
    assert!((0..1000).any(|seed| broken(&seed)), "1000 seeds without a violation");
}

#[test]
fn runs_with_disks_can_be_repeated() {
    let wishes = Wishes { disks: Disks::Honest, ..Wishes::default() };
    for seed in 0..10 {
        let hash = || run(&Options::draw(seed, &wishes), Log::None).hash;
        assert_eq!(hash(), hash());
    }
}
