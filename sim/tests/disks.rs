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
    // 103085: a member that began at a checkpoint doubted the client of a batch that it had written before.
    for seed in (0..150).chain([103_085]) {
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

// rule: DUR.5
#[test]
fn disks_that_lie_make_their_members_faulty_and_break_nothing() {
    let wishes = Wishes { disks: Disks::Faulty, ..Wishes::default() };
    let mut coverage = Coverage::default();
    for seed in 0..150 {
        let outcome = run(&Options::draw(seed, &wishes), Log::None);
        assert_eq!(outcome.violation, None, "tetrarch-sim --disks faulty --seed {seed} --log full");
        coverage.merge(&outcome.coverage);
    }
    for what in [
        "bytes of logs changed",
        "damaged logs that were noticed",
        "disks put back to an older state",
        "logs that failed",
        "logs that lack what was durable",
        "stale reads of logs",
        "writes that a disk lied about",
    ] {
        assert!(coverage.get(what) > 0, "never happened: {what}\n{coverage}");
    }
}

/// If records were taken for whole without their digests, the checkers would see it.
#[test]
fn without_the_digests_of_records_a_torn_one_is_taken_for_whole() {
    let wishes = Wishes { disks: Disks::Unchecked, ..Wishes::default() };
    let broken = |seed: &u64| run(&Options::draw(*seed, &wishes), Log::None).violation.is_some();
    assert!((0..500).any(|seed| broken(&seed)), "500 seeds without a violation");
}

#[test]
fn runs_with_disks_can_be_repeated() {
    for disks in [Disks::Honest, Disks::Faulty] {
        let wishes = Wishes { disks, ..Wishes::default() };
        for seed in 0..10 {
            let hash = || run(&Options::draw(seed, &wishes), Log::None).hash;
            assert_eq!(hash(), hash());
        }
    }
}
