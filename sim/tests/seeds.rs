//! A fixed set of seeds at level 1, and runs that must be reproducible.

use std::time::Duration;

use tetrarch_consensus::FaultModel;
use tetrarch_consensus::limits::DECISION_LOG_MAX;
use tetrarch_sim::swarm::{ClientPlan, Crash, Mischief};
use tetrarch_sim::trace::Log;
use tetrarch_sim::{Coverage, Options, Strategy, Wishes, run};

fn run_all(seeds: std::ops::Range<u64>, wishes: &Wishes) -> Coverage {
    let mut coverage = Coverage::default();
    for seed in seeds {
        let outcome = run(&Options::draw(seed, wishes), Log::None);
        assert_eq!(outcome.violation, None, "tetrarch-sim --seed {seed} --log full");
        coverage.merge(&outcome.coverage);
    }
    coverage
}

/// The rules of the protocol that only a whole cluster can show.
const EXERCISED: [&str; 27] = [
    "client retransmissions",
    "crashes in turn",
    "evidence of a half-valid proof",
    "evidence of an incomplete proposal",
    "evidence of an invalid proposal",
    "evidence of an invalid synchronisation",
    "evidence of equivocation",
    "link resets",
    "members left cut off",
    "messages encoded and decoded",
    "partitions",
    "pauses",
    "reads returned",
    "reads that had to be ordered",
    "refusals because of a clock",
    "regencies installed",
    "replies asked for again",
    "restarts without memory",
    "sent BATCH_BODY",
    "sent BODIES",
    "sent FETCH_BATCH",
    "sent FETCH_BODIES",
    "sent FORWARDED",
    "sent PROPOSE without bodies",
    "syncs with nothing bound",
    "syncs with one level bound",
    "syncs with several levels bound",
];

#[test]
fn a_fixed_set_of_seeds_holds_and_exercises_every_phase() {
    let coverage = run_all(0..400, &Wishes::default());
    for name in EXERCISED {
        assert!(coverage.get(name) > 0, "never happened: {name}\n{coverage}");
    }
}

#[test]
fn every_strategy_alone_breaks_nothing() {
    for (index, strategy) in Strategy::ALL.into_iter().enumerate() {
        let wishes = Wishes { n: Some(4), strategies: vec![strategy], ..Wishes::default() };
        let first = 1000 + index as u64 * 10;
        run_all(first..first + 10, &wishes);
    }
}

#[test]
fn every_depth_holds_in_both_models() {
    let mut deep = Coverage::default();
    for depth in [1, 2, 8, 32] {
        for (model, seeds) in [(FaultModel::Byzantine, 5000..5060), (FaultModel::Crash, 6000..6040)]
        {
            let wishes = Wishes { depth: Some(depth), model: Some(model), ..Wishes::default() };
            let coverage = run_all(seeds, &wishes);
            if depth > 1 {
                deep.merge(&coverage);
            }
        }
    }
    assert!(deep.get("syncs with more than two levels bound") > 0, "{deep}");
}

#[test]
fn crash_only_clusters_hold() {
    for n in [3, 5] {
        let model = Some(FaultModel::Crash);
        run_all(2000..2060, &Wishes { n: Some(n), model, ..Wishes::default() });
    }
}

#[test]
fn a_member_that_missed_more_than_is_kept_says_so_and_disturbs_nobody() {
    let mut options = Options::calm(4, Duration::from_millis(200));
    options.batch_requests_max = 1;
    options.clients = vec![ClientPlan {
        operations: DECISION_LOG_MAX as u32 + 100,
        window: 8,
        reads: 0,
        think: Duration::ZERO,
        restart_after: 0,
    }];
    options.safety = Duration::from_secs(400);
    let back_after = Some(Duration::from_secs(399));
    options.crashes = vec![Crash { member: 3, at: Duration::ZERO, back_after }];
    let outcome = run(&options, Log::None);
    assert_eq!(outcome.violation, None);
    assert!(outcome.coverage.get("behind") > 0, "{}", outcome.coverage);
    assert_eq!(outcome.coverage.get("regencies installed"), 0);
}

#[test]
fn one_seed_gives_one_run() {
    for seed in [3, 17, 40, 41] {
        let options = Options::draw(seed, &Wishes::default());
        let (first, second) = (run(&options, Log::None), run(&options, Log::None));
        assert_eq!((first.hash, first.events), (second.hash, second.events), "seed {seed}");
        assert_eq!(first.coverage, second.coverage);
        let other = run(&Options::draw(seed + 1, &Wishes::default()), Log::None);
        assert_ne!(first.hash, other.hash);
    }
}

// rule: TIME.7
#[test]
fn a_client_that_tells_the_leader_something_else_deposes_nobody() {
    for seed in 0..48 {
        let mut options =
            Options::calm(if seed % 3 == 0 { 7 } else { 4 }, Duration::from_millis(100));
        options.seed = seed;
        options.depth = [1, 2, 8, 32][seed as usize % 4];
        options.batch_requests_max = [1, 4, 1024][seed as usize / 4 % 3];
        options.safety = options.timeout * 40;
        let plan = ClientPlan {
            operations: 40,
            window: 8,
            reads: 0,
            think: Duration::from_millis(20),
            restart_after: 0,
        };
        options.clients = vec![plan; 3];
        options.mischief = vec![Mischief::Decoy; 1 + seed as usize % 2];
        assert!(options.is_undisturbed());
        let outcome = run(&options, Log::None);
        assert_eq!(outcome.violation, None, "seed {seed}");
    }
}
