//! A replica that lacks what nobody keeps any more gets a checkpoint of others.

mod harness;

use std::collections::BTreeSet;

use harness::transfer::{
    CHUNKS, IMAGE, come_back, decide, four_of, left_behind, newest, records_of, said,
};
use harness::views::{change, membership, view};
use harness::{Cluster, timeout};
use tetrarch_consensus::message::{Message, StateOffer};
use tetrarch_consensus::*;

fn check_level(cluster: &mut Cluster) {
    let decided = cluster.decided(0);
    assert_eq!(cluster.decided(3), decided, "it is level with the others");
    cluster.check_agreement();
    assert_eq!(cluster.executed[&3].len() as u64, decided);
    assert_eq!(cluster.replica(3).transfer(), None);
    // And takes part: the others need it.
    cluster.crash(1);
    let counter = cluster.executed[&0].iter().flat_map(|it| &it.requests).count() as u32 / 4;
    decide(cluster, counter + 1, counter + 2);
    assert!(cluster.decided(3) > decided && cluster.decided(3) == cluster.decided(0));
    cluster.check_agreement();
}

// rule: ST.1
// rule: ST.2
// rule: ST.4
// rule: ST.5
#[test]
fn a_replica_gets_a_checkpoint_and_goes_on_from_it() {
    for records in [false, true] {
        let mut cluster = left_behind(records, 14);
        let cid = newest(&cluster);
        come_back(&mut cluster);
        assert_eq!(said(&cluster, "3: behind"), 1);
        assert_eq!(said(&cluster, &format!("3: transfer of cid={cid} begins")), 1);
        assert_eq!(said(&cluster, &format!("3: install cid={cid} ")), 1);
        assert_eq!(cluster.transfers.stored[&3], CHUNKS as usize, "each chunk once");
        let sources: BTreeSet<_> =
            (0..3).filter(|id| said(&cluster, &format!("{id}: chunk")) > 0).collect();
        assert_eq!(sources.len(), 3, "everybody who has it serves");
        check_level(&mut cluster);
    }
}

/// What was promised above the checkpoint stays; nothing is told before the record of it is durable.
// rule: ST.5
#[test]
fn nothing_is_told_of_what_was_installed_before_its_record_is_durable() {
    let mut cluster = left_behind(true, 14);
    let newest = newest(&cluster);
    cluster.sent.clear();
    come_back(&mut cluster);
    let mine = |(id, ..): &&(u16, Lsn, Record<_>)| *id == 3;
    let record = cluster.records.iter().filter(mine).find_map(|(_, lsn, record)| match record {
        Record::Transferred { root, base } => Some((*lsn, *root, base.state.decided)),
        _ => None,
    });
    let (lsn, root, cid) = record.expect("it is recorded");
    assert_eq!((cid.0, root), (newest, cluster.transfers.images[&newest].root));
    assert_eq!(said(&cluster, &format!("3: install cid={cid} base {lsn}")), 1);
    for (id, after, message) in &cluster.sent {
        if let Message::Status(status) = message
            && *id == 3
        {
            assert_eq!(status.decided >= cid, *after >= lsn, "{status:?} after {after}");
        }
    }
    // It begins with that checkpoint again, and cannot without it.
    let records = records_of(&cluster, 3);
    // The first record was made before the harness looked.
    let at = lsn.0 as usize - 2;
    let config = cluster.replica(3).config().clone();
    let new = || smr::Replica::new(config.clone(), Box::new(payload::HeapPool), Instant(0));
    let mut core = new();
    let ordered = cluster.transfers.images[&newest].ordered.clone();
    records[..at].iter().for_each(|record| core.pass_over(record).expect("a record"));
    core.begin_at(Instant(0), &ordered, &records[at]).expect("its base");
    let mut actions = Actions::with_capacity(limits::ACTIONS_MAX);
    let mut replay = |core: &mut smr::Replica<_>, records: &[Vec<u8>]| {
        records.iter().try_for_each(|record| {
            let restored = core.restore(Instant(0), record, &mut actions);
            actions.drain().for_each(drop);
            restored
        })
    };
    replay(&mut core, &records[at + 1..]).expect("the records behind it");
    let live = cluster.replica(3);
    assert_eq!((core.decided(), core.regency()), (live.decided(), live.regency()));
    assert_eq!(core.log_start(), live.log_start());
    let lost = Err(smr::RestoreError::Transferred(cid));
    assert_eq!(replay(&mut new(), &records[..=at]), lost);
}

// rule: ST.3
#[test]
fn a_member_that_sends_something_false_is_named_and_not_asked_again() {
    let mut cluster = left_behind(false, 14);
    cluster.transfers.liars.insert(1);
    come_back(&mut cluster);
    assert_eq!(said(&cluster, "3: evidence 1 sends a false chunk"), 1);
    assert_eq!(said(&cluster, "sends a false chunk"), 1, "nobody else is accused");
    assert_eq!(said(&cluster, "1: chunk"), limits::CHUNKS_PER_SOURCE_MAX, "what it owed then");
    assert_eq!(cluster.transfers.stored[&3], CHUNKS as usize);
    check_level(&mut cluster);
}

// rule: ST.3
#[test]
fn a_member_that_sends_nothing_is_named_and_its_chunks_are_asked_of_others() {
    let mut cluster = left_behind(false, 14);
    cluster.transfers.silent.insert(2);
    come_back(&mut cluster);
    assert_eq!(said(&cluster, "SlowSource { member: ReplicaId(2)"), 1);
    assert_eq!(said(&cluster, "SlowSource"), 1);
    check_level(&mut cluster);
}

/// Two are silent for a while, one of them correct: it is asked again, and again, until it sends.
// rule: ST.3
#[test]
fn when_all_are_slow_they_are_asked_in_turn() {
    let mut cluster = left_behind(false, 14);
    cluster.transfers.silent.extend([0, 1, 2]);
    come_back(&mut cluster);
    assert!(said(&cluster, "SlowSource") >= 3);
    assert_eq!(cluster.transfers.stored.get(&3), None);
    cluster.transfers.silent.remove(&1);
    cluster.run(timeout() * 40);
    check_level(&mut cluster);
}

/// How many chunks each of the others sent to replica 3, which gets them as `manager` says.
fn shares_of(manager: impl smr::StateManager + 'static) -> (Cluster, [usize; 3]) {
    let mut cluster = left_behind(false, 14);
    let replica = cluster.replicas.get_mut(&3).expect("a member");
    replica.set_state_manager(Box::new(manager));
    come_back(&mut cluster);
    let shares = [0, 1, 2].map(|id| said(&cluster, &format!("{id}: chunk")));
    assert_eq!(shares.iter().sum::<usize>(), CHUNKS as usize, "each chunk once");
    (cluster, shares)
}

// rule: ST.6
#[test]
fn a_strategy_says_whom_a_replica_asks() {
    let (mut cluster, shares) = shares_of(smr::SpareLeader);
    assert_eq!(cluster.replica(3).leader(), ReplicaId(0));
    assert!(shares[0] == 0 && shares[1] > 4 && shares[2] > 4, "{shares:?}");
    check_level(&mut cluster);
    // Two offers are enough to begin: those that are not preferred are asked once until the third is there.
    let (mut cluster, shares) = shares_of(smr::PreferMembers(vec![ReplicaId(2)]));
    assert!(shares[2] >= CHUNKS as usize - 2 * limits::CHUNKS_PER_FETCH_MAX, "{shares:?}");
    check_level(&mut cluster);
    let (mut cluster, shares) = shares_of(smr::PreferMembers(vec![ReplicaId(9)]));
    assert!(shares.iter().all(|share| *share >= 4), "nobody is preferred that has it");
    check_level(&mut cluster);
}

/// The one that is preferred is silent.
// rule: ST.6
#[test]
fn others_are_asked_when_those_that_a_strategy_names_are_slow() {
    let mut cluster = left_behind(false, 14);
    cluster.transfers.silent.insert(2);
    let replica = cluster.replicas.get_mut(&3).expect("a member");
    replica.set_state_manager(Box::new(smr::PreferMembers(vec![ReplicaId(2)])));
    come_back(&mut cluster);
    cluster.run(timeout() * 2);
    assert_eq!(said(&cluster, "SlowSource { member: ReplicaId(2)"), 1);
    check_level(&mut cluster);
}

// rule: ST.4
#[test]
fn a_receiver_that_stores_nothing_is_sent_nothing_more() {
    let mut cluster = left_behind(false, 14);
    cluster.transfers.stuck.insert(3);
    come_back(&mut cluster);
    let sent = said(&cluster, ": chunk ");
    cluster.run(timeout() * 4);
    assert_eq!(said(&cluster, ": chunk "), sent, "everything is under way");
    assert!(sent <= limits::CHUNKS_UNDER_WAY_MAX);
    assert_eq!(said(&cluster, "SlowSource"), 0, "the others have sent what they were asked for");
}

/// A receiver that goes down goes on where it was.
// rule: ST.4
#[test]
fn what_is_here_already_is_not_asked_for_again() {
    let mut cluster = left_behind(false, 14);
    // Five chunks of what it will fetch, and nothing else, have come before.
    let cid = newest(&cluster);
    cluster.transfers.partial.insert(3, (cid, vec![0b1001_0110_0001]));
    come_back(&mut cluster);
    assert_eq!(cluster.transfers.stored[&3], CHUNKS as usize - 5);
    check_level(&mut cluster);
    let mut whole = left_behind(false, 14);
    whole.transfers.partial.insert(3, (cid, vec![(1 << CHUNKS) - 1]));
    come_back(&mut whole);
    assert_eq!(whole.transfers.stored.get(&3), None, "nothing was missing");
    check_level(&mut whole);
}

/// The checkpoint that is being fetched is kept while it is, and a newer one is fetched when it is gone.
// rule: ST.3
#[test]
fn a_checkpoint_that_vanishes_makes_way_for_a_newer_one() {
    let mut cluster = left_behind(false, 14);
    cluster.transfers.stuck.insert(3);
    come_back(&mut cluster);
    let old = newest(&cluster);
    assert_eq!(cluster.replica(3).transfer().map(|it| it.0), Some(ConsensusId(old)));
    // Nothing is asked for while the others take newer ones.
    cluster.cut.insert(3);
    decide(&mut cluster, 15, 26);
    cluster.transfers.stuck.clear();
    cluster.cut.remove(&3);
    (0..3).for_each(|id| cluster.connect(3, id));
    cluster.run(timeout() * 12);
    let cid = newest(&cluster);
    assert!(cid > old + 8);
    assert_eq!(said(&cluster, &format!("3: install cid={cid} ")), 1);
    check_level(&mut cluster);
}

/// The node has one place for an image: what is whole is needed until the application was restored from it.
// rule: ST.4
#[test]
fn the_next_checkpoint_is_not_fetched_before_the_application_has_the_one_before() {
    let mut cluster = left_behind(false, 14);
    let old = newest(&cluster);
    cluster.stalled.insert(3);
    come_back(&mut cluster);
    assert_eq!(said(&cluster, &format!("3: install cid={old} ")), 1);
    cluster.cut.insert(3);
    decide(&mut cluster, 15, 26);
    cluster.cut.remove(&3);
    (0..3).for_each(|id| cluster.connect(3, id));
    cluster.run(timeout() * 4);
    assert!(newest(&cluster) > old + 8);
    assert_eq!(said(&cluster, "3: transfer of"), 1, "it would take the place of the other");
    cluster.stalled.remove(&3);
    let executed = ConsensusId(cluster.decided(3));
    cluster.step(3, Input::Executed(executed));
    cluster.run(timeout() * 12);
    let cid = newest(&cluster);
    assert_eq!(said(&cluster, &format!("3: install cid={cid} ")), 1);
    check_level(&mut cluster);
}

fn offer(cluster: &mut Cluster, from: u16, offer: message::Offer) {
    let mut all = StateOffer::new(ViewId(0));
    assert!(all.push(offer));
    let message = Verified::vouch(Message::StateOffer(all));
    cluster.step(3, Input::Peer { from: ReplicaId(from), message });
}

// rule: ST.1
#[test]
fn one_member_alone_begins_no_transfer_and_none_is_larger_than_allowed() {
    let mut cluster = left_behind(false, 14);
    let honest = |cid: u64| message::Offer {
        cid: ConsensusId(cid),
        size: IMAGE as u64,
        root: Digest([7; 32]),
    };
    offer(&mut cluster, 0, honest(12));
    assert_eq!(cluster.replica(3).ignored().get(smr::ignored::Ignored::NotNeeded), 1);
    // It hears that it is behind, and nothing of checkpoints.
    cluster.cut.remove(&3);
    (0..3).for_each(|id| cluster.step(id, Input::Connected(ReplicaId(3))));
    cluster.queue.retain(|it| matches!(it.message, Message::Status(_)) && it.to == 3);
    while let Some(envelope) = cluster.queue.pop_front() {
        if envelope.from != 3 {
            cluster.deliver(envelope);
        }
    }
    cluster.cut.insert(3);
    offer(&mut cluster, 0, honest(12));
    offer(&mut cluster, 0, honest(12));
    offer(&mut cluster, 1, message::Offer { size: 99, ..honest(12) });
    offer(&mut cluster, 2, honest(0));
    assert_eq!(cluster.replica(3).transfer(), None);
    let huge = message::Offer { size: u64::MAX, ..honest(400) };
    offer(&mut cluster, 0, huge);
    offer(&mut cluster, 1, huge);
    assert_eq!(cluster.replica(3).transfer(), None);
    assert_eq!(said(&cluster, "TooLarge"), 1);
    offer(&mut cluster, 1, huge);
    assert_eq!(said(&cluster, "TooLarge"), 1, "it is said once");
}

/// The View Manager's request `counter` is ordered, and the next view entered.
fn change_view(cluster: &mut Cluster, counter: u32, next: Membership) {
    let request = change(counter, next);
    for id in cluster.replicas.keys().copied().collect::<Vec<_>>() {
        cluster.request(id, &request);
    }
    cluster.run(timeout() / 4);
}

// rule: VIEW.7
// rule: VIEW.10
#[test]
fn one_that_was_away_over_several_views_goes_on_from_a_checkpoint_of_a_later_one() {
    for records in [false, true] {
        let mut cluster = four_of(Some(Box::new(membership(0, 1, &[0, 1, 2, 3]))), records);
        decide(&mut cluster, 1, 1);
        cluster.cut.insert(3);
        decide(&mut cluster, 2, 4);
        change_view(&mut cluster, 1, membership(1, 1, &[0, 1, 2, 3]));
        decide(&mut cluster, 5, 8);
        change_view(&mut cluster, 2, membership(2, 1, &[0, 1, 2, 3]));
        decide(&mut cluster, 9, 14);
        let views = [0, 3].map(|id| view(&cluster, id));
        assert!(views == [2, 0] && cluster.replica(0).log_start().0 > cluster.decided(3) + 2);
        cluster.log.clear();
        let cid = newest(&cluster);
        assert_eq!(cluster.transfers.images[&cid].ordered.view, ViewId(2));
        come_back(&mut cluster);
        assert_eq!(said(&cluster, &format!("3: install cid={cid} ")), 1);
        assert_eq!((view(&cluster, 3), said(&cluster, "3: in view")), (2, 1), "and none between");
        check_level(&mut cluster);
        if records {
            // It starts again in that view, though its configuration knows the first one alone.
            let mine = cluster.records.iter().filter(|(id, ..)| *id == 3);
            let at = mine.clone().position(|it| matches!(it.2, Record::Transferred { .. }));
            let at = at.expect("it is recorded");
            let records = records_of(&cluster, 3);
            let mut config = cluster.replica(3).config().clone();
            config.view = cluster.view.clone();
            let mut core = smr::Replica::new(config, Box::new(payload::HeapPool), Instant(0));
            let ordered = cluster.transfers.images[&cid].ordered.clone();
            records[..at].iter().for_each(|record| core.pass_over(record).expect("a record"));
            core.begin_at(Instant(0), &ordered, &records[at]).expect("its base");
            assert_eq!((core.view().id(), core.decided().0), (ViewId(2), cid));
        }
    }
}

/// Whom no view names from the image's on cannot go on from it.
// rule: VIEW.10
#[test]
fn a_checkpoint_of_a_view_without_this_replica_is_not_installed() {
    let mut cluster = four_of(Some(Box::new(membership(0, 1, &[0, 1, 2, 3]))), false);
    decide(&mut cluster, 1, 1);
    cluster.cut.insert(3);
    decide(&mut cluster, 2, 4);
    let next = membership(1, 1, &[0, 1, 2, 9]);
    cluster.join(9, next.clone());
    change_view(&mut cluster, 1, next);
    decide(&mut cluster, 5, 14);
    cluster.log.clear();
    come_back(&mut cluster);
    assert_eq!((said(&cluster, "3: install"), view(&cluster, 3)), (0, 0));
    cluster.check_agreement();
}

// rule: VIEW.8
#[test]
fn one_that_joins_begins_with_a_checkpoint_from_before_its_view() {
    let mut cluster = four_of(Some(Box::new(membership(0, 1, &[0, 1, 2, 3]))), false);
    decide(&mut cluster, 1, 13);
    let next = membership(1, 1, &[0, 1, 2, 9]);
    cluster.join(9, next.clone());
    change_view(&mut cluster, 1, next);
    let cid = newest(&cluster);
    assert_eq!(cluster.transfers.images[&cid].ordered.view, ViewId(0));
    cluster.run(timeout() * 4);
    assert_eq!(said(&cluster, &format!("9: install cid={cid} ")), 1);
    assert!(!cluster.replica(9).is_joining() && view(&cluster, 9) == 1);
    assert_eq!(cluster.decided(9), cluster.decided(0));
    // The others need it.
    cluster.crash(2);
    cluster.crash(3);
    let decided = cluster.decided(0);
    decide(&mut cluster, 14, 15);
    assert!(cluster.decided(9) > decided && cluster.decided(9) == cluster.decided(0));
    cluster.check_agreement();
}
