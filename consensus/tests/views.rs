//! Views that follow each other: the View Manager's request, where a view ends, who enters the next one.

mod harness;

use std::time::Duration;

use harness::views::{change, membership, view};
use harness::{Cluster, request, request_of};
use tetrarch_consensus::membership::RefusedView;
use tetrarch_consensus::*;

const QUARTER: Duration = Duration::from_millis(300);

/// Four members that a View Manager may change, with `depth` instances open.
fn four(depth: usize) -> Cluster {
    let first = Some(Box::new(membership(0, 1, &[0, 1, 2, 3])));
    let mut cluster = Cluster { depth, first, ..Cluster::four() };
    (0..4).for_each(|id| cluster.start(id, false));
    cluster
}

/// Hands a request to all that are up, and delivers everything.
fn order(cluster: &mut Cluster, request: &Request<harness::Bytes>) {
    submit(cluster, request);
    cluster.deliver_all();
}

fn submit(cluster: &mut Cluster, request: &Request<harness::Bytes>) {
    for id in cluster.replicas.keys().copied().collect::<Vec<_>>() {
        cluster.request(id, request);
    }
}

/// The `count`th request of client 0, ordered and executed everywhere.
fn work(cluster: &mut Cluster, counter: u32) {
    order(cluster, &request(0, counter, &format!("work {counter}"), true, &[]));
}

// rule: VIEW.3, VIEW.4, VIEW.6
#[test]
fn a_view_ends_a_depth_behind_the_request_and_the_next_one_orders() {
    for depth in [1, 4] {
        let mut cluster = four(depth);
        work(&mut cluster, 1);
        order(&mut cluster, &change(1, membership(1, 1, &[0, 1, 2, 3])));
        let last = ConsensusId(2 + depth as u64 - 1);
        let accepted = ViewAnswer::Accepted { view: ViewId(1), last };
        assert_eq!(cluster.answers.len(), 4, "each member says once what became of it");
        assert!(cluster.answers.iter().all(|(_, answer)| *answer == accepted));
        // Nobody asks for anything: what is left of the view is filled with nothing.
        assert!((0..4).all(|id| cluster.decided(id) == last.0 && view(&cluster, id) == 1));
        work(&mut cluster, 2);
        assert!((0..4).all(|id| cluster.decided(id) == last.0 + 1));
        let of_clients = |executed: &harness::Executed| executed.requests.len();
        let counts: Vec<usize> = cluster.executed[&0].iter().map(of_clients).collect();
        assert_eq!(counts.iter().sum::<usize>(), 2, "the application sees clients' requests");
        cluster.check_agreement();
    }
}

// rule: VIEW.3
#[test]
fn a_request_of_the_view_manager_is_alone_in_its_batch() {
    let mut cluster = four(1);
    // While one instance is under way the requests of all wait together.
    submit(&mut cluster, &request(0, 1, "first", true, &[]));
    submit(&mut cluster, &request(1, 1, "other", true, &[]));
    submit(&mut cluster, &change(1, membership(1, 1, &[0, 1, 2, 3])));
    submit(&mut cluster, &request(2, 1, "another", true, &[]));
    cluster.deliver_all();
    cluster.run(QUARTER * 4);
    assert!((0..4).all(|id| view(&cluster, id) == 1));
    let alone = cluster.executed[&0].iter().filter(|it| it.requests.is_empty()).count();
    assert!(alone <= 1, "no batch but the View Manager's has nothing for the application");
}

// rule: VIEW.2, VIEW.3
#[test]
fn what_cannot_follow_is_refused_with_the_reason_and_changes_nothing() {
    let mut cluster = four(4);
    cluster.batch_requests_max = 1;
    (0..4).for_each(|id| cluster.start(id, false));
    let refused = [
        (membership(0, 1, &[0, 1, 2, 3]), RefusedView::NotNext(ViewId(0))),
        (membership(2, 1, &[0, 1, 2, 3]), RefusedView::NotNext(ViewId(0))),
        (membership(1, 1, &[0, 1, 8, 9]), RefusedView::TooFewStay { needed: 3 }),
    ];
    let mut counter = 0;
    for (next, reason) in refused {
        counter += 1;
        cluster.answers.clear();
        order(&mut cluster, &change(counter, next));
        let expected = ViewAnswer::Refused(reason);
        assert_eq!(cluster.answers.len(), 4);
        assert!(cluster.answers.iter().all(|(_, answer)| *answer == expected), "{reason}");
    }
    // Both are open at once.
    submit(&mut cluster, &change(4, membership(1, 1, &[0, 1, 2, 3, 4])));
    cluster.answers.clear();
    order(&mut cluster, &change(5, membership(1, 1, &[0, 1, 2, 3])));
    let under_way = ViewAnswer::Refused(RefusedView::UnderWay(ViewId(1)));
    let told = |answer| cluster.answers.iter().filter(|(_, it)| *it == answer).count();
    assert_eq!((cluster.answers.len(), told(under_way)), (8, 4));
    assert!((0..4).all(|id| view(&cluster, id) == 1));
    assert_eq!(cluster.replica(0).view().n(), 5);
}

// rule: VIEW.1
#[test]
fn without_a_first_membership_there_is_no_view_manager() {
    let mut cluster = Cluster::four();
    order(&mut cluster, &change(1, membership(1, 1, &[0, 1, 2, 3])));
    cluster.run(QUARTER * 20);
    assert!((0..4).all(|id| cluster.decided(id) == 0 && view(&cluster, id) == 0));
}

// rule: VIEW.4, VIEW.5
#[test]
fn a_view_is_entered_when_a_quorum_has_all_of_the_one_before() {
    let mut cluster = four(1);
    submit(&mut cluster, &change(1, membership(1, 1, &[0, 1, 2, 3])));
    // Everything but what tells of the end of the view.
    while let Some(envelope) = cluster.queue.pop_front() {
        if !matches!(envelope.message, Message::Status(_)) {
            cluster.deliver(envelope);
        }
    }
    for id in 0..4 {
        assert_eq!((cluster.decided(id), view(&cluster, id)), (1, 0));
        assert!(cluster.replica(id).is_between_views());
        assert!(!cluster.replica(id).may_answer_reads(), "others may have gone on");
    }
    // Nothing is ordered in between, and nobody is suspected for that.
    work(&mut cluster, 1);
    cluster.cut.extend([2, 3]);
    cluster.run(QUARTER * 20);
    assert!(
        (0..4).all(|id| view(&cluster, id) == 0 && cluster.decided(id) == 1),
        "two are too few"
    );
    assert_eq!(cluster.replica(0).regency(), Regency(0));
    cluster.cut.clear();
    cluster.run(QUARTER);
    for id in 0..4 {
        assert_eq!(view(&cluster, id), 1);
        assert!(cluster.replica(id).may_answer_reads());
        assert_eq!(cluster.replica(id).pending(), 0, "clients send again, for this view");
    }
}

// rule: VIEW.7
#[test]
fn one_that_was_away_is_taught_the_end_of_its_view_by_those_that_left_it() {
    let mut cluster = four(1);
    cluster.cut.insert(3);
    order(&mut cluster, &change(1, membership(1, 1, &[0, 1, 2, 3])));
    order(&mut cluster, &change(2, membership(2, 1, &[0, 1, 2, 3])));
    (1..5).for_each(|counter| work(&mut cluster, counter));
    assert_eq!((view(&cluster, 0), view(&cluster, 3), cluster.decided(3)), (2, 0, 0));
    cluster.cut.clear();
    cluster.run(QUARTER * 4);
    assert_eq!((view(&cluster, 3), cluster.decided(3)), (2, cluster.decided(0)));
    cluster.check_agreement();
}

// rule: VIEW.8, VIEW.9
#[test]
fn a_joiner_learns_and_enters_and_a_leaver_stays_until_it_is_not_needed() {
    let mut cluster = four(2);
    (1..4).for_each(|counter| work(&mut cluster, counter));
    let next = membership(1, 1, &[0, 1, 2, 9]);
    cluster.join(9, next.clone());
    cluster.run(QUARTER * 4);
    assert!(cluster.replica(9).is_joining() && cluster.decided(9) == 0, "nobody knows it yet");
    cluster.cut.insert(2);
    order(&mut cluster, &change(1, next));
    work(&mut cluster, 4);
    cluster.run(QUARTER * 4);
    assert!(view(&cluster, 0) == 1 && view(&cluster, 1) == 1);
    assert!(!cluster.replica(9).is_joining(), "two members are in the view");
    assert!(cluster.replica(3).is_between_views());
    assert!(!cluster.log.iter().any(|line| line.contains("retired")), "2 has not moved");
    // With the joiner there is a quorum without the one that is cut off.
    let before = cluster.decided(0);
    work(&mut cluster, 5);
    assert!([0, 1, 9].iter().all(|id| cluster.decided(*id) == before + 1));
    cluster.cut.clear();
    cluster.run(QUARTER * 4);
    assert_eq!((view(&cluster, 2), cluster.decided(2)), (1, cluster.decided(0)));
    assert!(cluster.log.iter().any(|line| line == "3: retired by view 1"));
    cluster.check_agreement();
}

/// Answers with decisions that replica 0 has sent.
fn claims_of_first(cluster: &Cluster) -> usize {
    let of = |(id, _, message): &&(u16, Lsn, Message<harness::Bytes>)| {
        *id == 0 && matches!(message, Message::Decided(_))
    };
    cluster.sent.iter().filter(of).count()
}

/// Replica 0 in a view that does not name replica 3, which has seen the end of its own or not; the others are gone.
fn one_that_is_left_with_a_former_member(sees_the_end: bool) -> Cluster {
    let mut cluster = four(4);
    work(&mut cluster, 1);
    if !sees_the_end {
        cluster.cut.insert(3);
    }
    order(&mut cluster, &change(1, membership(1, 1, &[0, 1, 2, 9])));
    cluster.cut.insert(3);
    cluster.run(QUARTER);
    (2..8).for_each(|counter| work(&mut cluster, counter));
    assert_eq!((view(&cluster, 0), cluster.decided(0)), (1, 11));
    assert_eq!(cluster.replica(3).is_between_views(), sees_the_end);
    (1..3).for_each(|id| cluster.crash(id));
    cluster.cut.clear();
    cluster.sent.clear();
    cluster
}

// rule: LAG.6
#[test]
fn who_waits_for_the_next_view_is_told_no_decisions_of_it() {
    let mut cluster = one_that_is_left_with_a_former_member(true);
    cluster.run(QUARTER * 40);
    assert_eq!(claims_of_first(&cluster), 0, "it cannot use them");
}

// rule: VIEW.7
#[test]
fn a_former_member_that_gets_nowhere_is_helped_less_and_less_often() {
    let mut cluster = one_that_is_left_with_a_former_member(false);
    cluster.run(QUARTER * 40);
    let soon = claims_of_first(&cluster);
    cluster.run(QUARTER * 400);
    let later = claims_of_first(&cluster) - soon;
    assert!(soon >= 8 && later >= 4, "{soon} and {later}: what is lost is sent again");
    assert!(later < 2 * soon, "{soon}, and {later} in ten times as long");
}

// rule: VIEW.6
#[test]
fn thresholds_are_those_of_the_view() {
    let mut cluster = four(1);
    let next = membership(1, 2, &[0, 1, 2, 3, 4, 5, 6]);
    (4..7).for_each(|id| cluster.join(id, next.clone()));
    order(&mut cluster, &change(1, next));
    cluster.run(QUARTER * 4);
    assert!((0..7).all(|id| view(&cluster, id) == 1 && !cluster.replica(id).is_joining()));
    cluster.cut.extend([4, 5, 6]);
    let before = cluster.decided(0);
    order(&mut cluster, &request(1, 1, "four of seven", true, &[]));
    assert_eq!(cluster.decided(0), before, "five are needed");
    cluster.cut.remove(&4);
    cluster.run(QUARTER * 2);
    assert_eq!(cluster.decided(0), before + 1);
    // And back, with three of them gone.
    order(&mut cluster, &change(2, membership(2, 1, &[0, 1, 2, 3])));
    cluster.run(QUARTER * 4);
    let of = request_of(ClientId::new(1, 0), Sequence::new(1, 2), "four again", true, &[]);
    order(&mut cluster, &of);
    assert!((0..4).all(|id| view(&cluster, id) == 2));
    assert_eq!(cluster.decided(3), before + 3);
}
