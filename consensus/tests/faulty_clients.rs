//! Clients that tell the leader something else than the others, so that these wait for what it cannot
//! order: no correct leader may lose its place by that.

mod harness;

use std::time::Duration;

use harness::{Bytes, Cluster, request_of, timeout};
use tetrarch_consensus::message::*;
use tetrarch_consensus::*;

const FAULTY: u32 = 1;

fn signed(session: u32, sequence: (u32, u32), body: &str) -> Request<Bytes> {
    let (incarnation, counter) = sequence;
    let client = ClientId::new(FAULTY, session);
    request_of(client, Sequence::new(incarnation, counter), body, true, &[])
}

fn to_followers(cluster: &mut Cluster, request: &Request<Bytes>) {
    (1..4).for_each(|id| cluster.request(id, request));
}

fn was_executed(cluster: &Cluster, body: &str) -> bool {
    cluster.executed[&1].iter().any(|executed| executed.requests.iter().any(|it| it == body))
}

fn check_nobody_was_suspected(cluster: &Cluster) {
    cluster.check_agreement();
    let wish = cluster.log.iter().find(|line| line.contains("STOP "));
    assert_eq!(wish, None);
}

/// Fills what the faulty client may have pending at the leader: half with requests that wait for one
/// before them, the rest with the next ones of other sessions.
fn fill_share(cluster: &mut Cluster) {
    let mut session = 1;
    for counter in [2, 1] {
        for size in [limits::OPERATION_SIZE_MAX, 10_000, 500, 1] {
            let shed = cluster.replica(0).shed();
            while cluster.replica(0).shed() == shed {
                cluster.request(0, &signed(session, (1, counter), &"x".repeat(size)));
                session += 1;
            }
        }
    }
}

/// Four replicas with more waiting than is ordered in several timeouts, and something of the faulty
/// client that waits longest, but not at the leader.
fn busy(depth: usize) -> Cluster {
    let mut cluster = Cluster { batch_requests_max: 1, ..Cluster::four_deep(depth) };
    (0..4).for_each(|id| cluster.start(id, false));
    to_followers(&mut cluster, &signed(0, (1, 1), "only at followers"));
    for client in 2..52 {
        for session in 0..2 {
            let client = ClientId::new(client, session);
            let made = request_of(client, Sequence::new(1, 1), "busy", true, &[]);
            (0..4).for_each(|id| cluster.request(id, &made));
        }
    }
    cluster
}

/// Lets one instance be decided in a tenth of a timeout, and calls `each` before it.
fn slowly(cluster: &mut Cluster, mut each: impl FnMut(&mut Cluster, u32)) {
    for turn in 0..60 {
        each(cluster, turn);
        let until = cluster.decided(0) + 1;
        while cluster.decided(0) < until
            && let Some(envelope) = cluster.queue.pop_front()
        {
            cluster.deliver(envelope);
        }
        cluster.tick(timeout() / 10);
    }
    assert!(cluster.replica(0).pending() > 10, "there was always something else");
}

// rule: TIME.7, SMR.14
#[test]
fn a_client_that_keeps_its_share_full_at_the_leader_deposes_nobody() {
    for depth in [1, 4] {
        let mut cluster = Cluster::four_deep(depth);
        to_followers(&mut cluster, &signed(0, (1, 1), "only at followers"));
        // They forward it when the share is full.
        cluster.tick(timeout() + Duration::from_millis(1));
        fill_share(&mut cluster);
        cluster.run(timeout() * 3);
        assert!(was_executed(&cluster, "only at followers"), "depth {depth}");
        check_nobody_was_suspected(&cluster);
    }
}

// rule: TIME.7, SMR.4
#[test]
fn a_client_whose_later_incarnation_cannot_be_ordered_deposes_nobody() {
    let mut cluster = Cluster::four();
    for round in 0..5 {
        let body = format!("{round}");
        to_followers(&mut cluster, &signed(0, (1 + round, 1), &body));
        cluster.request(0, &signed(0, (2 + round, 2), "waits for ever"));
        cluster.run(timeout() * 3);
        assert!(was_executed(&cluster, &body), "round {round}");
        check_nobody_was_suspected(&cluster);
    }
}

// rule: TIME.7, SMR.6
#[test]
fn what_a_member_waits_for_goes_before_what_waits_at_the_leader() {
    for depth in [1, 4] {
        let mut cluster = busy(depth);
        slowly(&mut cluster, |_, _| {});
        assert!(was_executed(&cluster, "only at followers"), "depth {depth}");
        check_nobody_was_suspected(&cluster);
    }
}

// rule: TIME.7, SMR.4
#[test]
fn a_client_that_restarts_again_and_again_does_not_lose_its_turn() {
    for depth in [1, 4] {
        let mut cluster = busy(depth);
        slowly(&mut cluster, |cluster, turn| {
            for (step, sign) in [(0, true), (1, false), (2, false)] {
                let sequence = Sequence::new(2 + 3 * turn + step, 1);
                let later = request_of(ClientId::new(FAULTY, 0), sequence, "later", sign, &[]);
                cluster.request(0, &later);
            }
        });
        check_nobody_was_suspected(&cluster);
    }
}
