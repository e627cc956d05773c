//! What has to be on stable storage before a message leaves.

mod harness;

use harness::{Cluster, request, timeout};
use tetrarch_consensus::message::Message;
use tetrarch_consensus::*;

/// Four replicas that keep records and know nothing of a time before.
fn four_with_records() -> Cluster {
    let mut cluster = Cluster::four();
    for id in 0..4 {
        let mut actions = Actions::with_capacity(limits::ACTIONS_MAX);
        let replica = cluster.replicas.get_mut(&id).expect("a member");
        replica.go_on_after(Lsn(0), &mut actions);
    }
    cluster
}

/// A leader that proposes, goes down and has forgotten that its regency began would lead it again and
/// propose something else.
// rule: DUR.2
#[test]
fn a_proposal_waits_for_the_record_of_its_regency() {
    let mut cluster = four_with_records();
    cluster.crash(0);
    let ask = |cluster: &mut Cluster, counter| {
        let made = request(7, counter, "put", true, &[]);
        (1..4).for_each(|id| cluster.request(id, &made));
    };
    ask(&mut cluster, 1);
    cluster.run(timeout() * 8);
    ask(&mut cluster, 2);
    cluster.run(timeout());
    assert_eq!(cluster.decided(1), 2, "regency 1 orders");

    let begun = cluster.records.iter().filter_map(|(id, lsn, record)| {
        let begins = matches!(record, Record::Installed { .. } | Record::Synchronised { .. });
        (*id == 1 && begins).then_some(*lsn)
    });
    let begun = begun.max().expect("replica 1 leads regency 1");
    let proposals = cluster.sent.iter().filter_map(|(id, after, message)| {
        let proposes = matches!(message, Message::Propose(_) | Message::ProposeSparse(_));
        (*id == 1 && proposes).then_some(*after)
    });
    let proposals: Vec<_> = proposals.collect();
    assert!(!proposals.is_empty());
    assert!(proposals.iter().all(|after| *after == begun), "{proposals:?}, begun at {begun}");
}
