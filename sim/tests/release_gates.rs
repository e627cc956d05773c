//! Release gates named after what users of other replicated systems suffered, on real nodes in
//! simulated time.

use std::time::Duration;

use tetrarch_sim::{Load, Scenario};

const TIMEOUT: Duration = Duration::from_millis(500);
const SECOND: Duration = Duration::from_secs(1);
const LIGHT: Load = Load { clients: 2, window: 1, think: Duration::from_millis(100), batch: 64 };
const BUSY: Load = Load { clients: 2, window: 4, think: Duration::from_millis(4), batch: 64 };

#[test]
fn a_replica_paused_for_half_a_minute_catches_up_and_disturbs_nobody() {
    let mut scenario = Scenario::new(4, TIMEOUT, LIGHT);
    scenario.run(2 * SECOND);
    scenario.pause(2);
    let before = scenario.returned();
    scenario.run(30 * SECOND);
    let during = scenario.returned() - before;
    assert!(during > 300, "{during} operations in 30 s with one replica paused");
    scenario.resume(2);
    let target = scenario.executed(0);
    assert!(
        scenario.run_until(5 * SECOND, |cluster| cluster.executed(2) >= target),
        "{} of {target} executed 5 s after the pause",
        scenario.executed(2)
    );
    scenario.run(2 * SECOND);
    assert_eq!(scenario.regency(), 0, "nobody was deposed");
    scenario.settle(5 * SECOND);
}

#[test]
fn a_replica_slowed_to_a_tenth_causes_no_leader_change_and_stalls_nobody() {
    let run = |slowed: bool| {
        let mut scenario = Scenario::new(4, TIMEOUT, BUSY);
        scenario.run(SECOND);
        if slowed {
            scenario.slow(3, Duration::from_millis(20));
        }
        let before = scenario.returned();
        scenario.run(5 * SECOND);
        let during = scenario.returned() - before;
        assert_eq!(scenario.regency(), 0, "nobody was deposed");
        scenario.slow(3, Duration::ZERO);
        scenario.settle(10 * SECOND);
        during
    };
    let (normal, slowed) = (run(false), run(true));
    assert!(slowed * 5 > normal * 4, "{slowed} operations with a slow replica, {normal} without");
}

#[test]
fn overload_causes_no_leader_change() {
    // One request a batch: 128 in flight wait for many timeouts in all, and each makes progress.
    let load = Load { clients: 8, window: 16, think: Duration::ZERO, batch: 1 };
    let mut scenario = Scenario::new(4, Duration::from_millis(100), load);
    scenario.run(10 * SECOND);
    assert!(scenario.returned() > 1000, "{} operations", scenario.returned());
    assert_eq!(scenario.regency(), 0, "a full queue is no reason to depose a leader");
    scenario.settle(10 * SECOND);
}

#[test]
fn a_cut_off_node_that_comes_back_causes_no_livelock() {
    for member in [0, 3] {
        let mut scenario = Scenario::new(4, TIMEOUT, LIGHT);
        scenario.run(2 * SECOND);
        scenario.cut_off(member);
        scenario.run(20 * SECOND);
        scenario.let_back(member);
        scenario.run(3 * SECOND);
        let (before, regency) = (scenario.returned(), scenario.regency());
        assert!(regency <= 2, "{regency} changes of leader");
        scenario.run(10 * SECOND);
        let after = scenario.returned() - before;
        assert!(after > 100, "{after} operations in 10 s after member {member} came back");
        assert_eq!(scenario.regency(), regency, "the returned member deposes nobody");
        scenario.settle(10 * SECOND);
    }
}

#[test]
fn a_killed_leader_is_replaced_and_its_restart_disturbs_nobody() {
    let mut scenario = Scenario::new(4, TIMEOUT, LIGHT);
    scenario.run(2 * SECOND);
    scenario.kill(0);
    scenario.run(5 * SECOND);
    let (before, regency) = (scenario.returned(), scenario.regency());
    assert!((1..=2).contains(&regency), "{regency} changes of leader");
    scenario.restart(0);
    scenario.run(10 * SECOND);
    let after = scenario.returned() - before;
    assert!(after > 100, "{after} operations in 10 s after the restart");
    assert_eq!(scenario.regency(), regency, "the restarted member deposes nobody");
    assert_eq!(scenario.executed(0), scenario.executed(1), "it learned everything");
    scenario.settle(10 * SECOND);
}
