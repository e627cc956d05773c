//! Members that stand still, because one that they need lacks what they do not keep, take a checkpoint where they are.

mod harness;

use harness::transfer::{decide, four_of, go_on, newest, records_of, said};
use harness::views::{change, membership, view};
use harness::{Cluster, Envelope, timeout};
use tetrarch_consensus::message::{FetchState, Message};
use tetrarch_consensus::*;

/// Three replicas whose memory holds fewer decisions than come between two checkpoints, and replica 3, which lacks some
/// that nobody keeps but replica 0, if that has a `large` memory. And how many requests each client has made.
fn beyond_memory(records: bool, large: bool) -> (Cluster, u32) {
    let mut cluster = four_of(Some(Box::new(membership(0, 1, &[0, 1, 2, 3]))), false);
    cluster.checkpoint_every = 16;
    for id in 0..4 {
        cluster.decision_log_size = if large && id == 0 { 64 << 20 } else { 0 };
        cluster.start(id, false);
        if records {
            go_on(&mut cluster, id);
        }
    }
    decide(&mut cluster, 1, 1);
    cluster.cut.insert(3);
    let mut to = 8;
    decide(&mut cluster, 2, to);
    while to < 20 && cluster.replica(1).log_start().0 <= newest(&cluster) + 2 {
        to += 1;
        decide(&mut cluster, to, to);
    }
    assert!(to < 20 && newest(&cluster) == 16 && cluster.decided(0) < 32);
    cluster.log.clear();
    (cluster, to)
}

/// Another replica is gone for good, so nothing is decided before replica 3 is level.
fn need_the_last(cluster: &mut Cluster) {
    cluster.crash(2);
    cluster.cut.remove(&3);
    (0..2).for_each(|id| cluster.connect(3, id));
    cluster.run(timeout() * 40);
}

// rule: CKP.6
#[test]
fn members_that_stand_still_take_a_checkpoint_for_the_one_that_they_need() {
    for records in [false, true] {
        let (mut cluster, to) = beyond_memory(records, false);
        let decided = cluster.decided(0);
        need_the_last(&mut cluster);
        assert_eq!(newest(&cluster), decided, "where they stand");
        for id in 0..2 {
            let taken = format!("{id}: checkpoint cid={decided} ");
            assert_eq!(said(&cluster, &taken), 1, "once, however often it is asked for");
        }
        assert_eq!(said(&cluster, &format!("3: install cid={decided} ")), 1);
        assert_eq!(cluster.decided(3), decided);
        decide(&mut cluster, to + 1, to + 2);
        assert!(cluster.decided(3) > decided && cluster.decided(3) == cluster.decided(0));
        cluster.check_agreement();
    }
}

/// One member keeps all that is lacking, and is alone with that; the other one has a checkpoint, and is alone with that.
// rule: CKP.6
#[test]
fn who_keeps_all_takes_a_checkpoint_too_when_too_few_do() {
    let (mut cluster, to) = beyond_memory(false, true);
    let decided = cluster.decided(0);
    assert!(cluster.replica(0).log_start().0 <= 1 + cluster.decided(3));
    need_the_last(&mut cluster);
    for id in 0..2 {
        assert_eq!(said(&cluster, &format!("{id}: checkpoint cid={decided} ")), 1);
    }
    assert_eq!(said(&cluster, &format!("3: install cid={decided} ")), 1);
    decide(&mut cluster, to + 1, to + 2);
    assert!(cluster.decided(3) > decided && cluster.decided(3) == cluster.decided(0));
    cluster.check_agreement();
}

/// Who asks for what it has no use for gets no checkpoint while decisions come, none where there is one, and few else.
// rule: CKP.6
#[test]
fn one_that_asks_again_and_again_gets_few_checkpoints() {
    let (mut cluster, mut to) = beyond_memory(false, false);
    cluster.crash(3);
    let ask = |cluster: &mut Cluster| {
        let fetch = FetchState { view: ViewId(0), above: ConsensusId(1) };
        let message = Message::FetchState(fetch);
        cluster.queue.push_back(Envelope { from: 3, to: 0, message });
        cluster.cut.remove(&3);
        cluster.run(timeout() / 4);
    };
    let extra = |cluster: &Cluster| {
        let taken = cluster.checkpoints.iter().filter(|(id, ..)| *id == 0);
        taken.filter(|(.., ordered)| ordered.cid.0 % 16 != 0).count()
    };
    for _ in 0..16 {
        ask(&mut cluster);
        to += 1;
        decide(&mut cluster, to, to);
    }
    assert!(extra(&cluster) == 0 && newest(&cluster) >= 32, "decisions come");
    for _ in 0..100 {
        ask(&mut cluster);
    }
    assert_eq!(extra(&cluster), 1, "nothing is decided any more");
    // And now something is, as rarely as it pays.
    let due = newest(&cluster) / 16;
    let mut rounds = 0;
    while cluster.decided(0) < 16 * (due + 1) - 2 {
        to += 1;
        decide(&mut cluster, to, to);
        (0..6).for_each(|_| ask(&mut cluster));
        rounds += 1;
    }
    assert!(rounds >= 2 && extra(&cluster) == 1, "{rounds} rounds, longer than a timeout each");
}

/// Those that stand still where a view has ended may be in the next one already, or not: they take the same, and each
/// can begin with it where it was.
// rule: CKP.6
// rule: CKP.4
#[test]
fn at_the_end_of_a_view_all_take_the_same_checkpoint() {
    for entered in [&[][..], &[0], &[0, 1]] {
        let (mut cluster, to) = beyond_memory(true, false);
        let next = change(1, membership(1, 1, &[0, 1, 2, 3]));
        (0..3).for_each(|id| cluster.request(id, &next));
        // Who hears how far the others are enters the next view.
        while let Some(envelope) = cluster.queue.pop_front() {
            if !matches!(envelope.message, Message::Status(_)) || entered.contains(&envelope.to) {
                cluster.deliver(envelope);
            }
        }
        let decided = cluster.decided(0);
        for id in 0..2 {
            assert_eq!(cluster.decided(id), decided);
            assert_eq!(cluster.replica(id).is_between_views(), !entered.contains(&id));
        }
        need_the_last(&mut cluster);
        assert_eq!(said(&cluster, &format!("3: install cid={decided} ")), 1);
        assert_eq!(cluster.transfers.images[&decided].ordered.view, ViewId(0));
        assert!([0, 1, 3].iter().all(|id| view(&cluster, *id) == 1));
        for id in 0..2 {
            let mine =
                |(of, _, ordered): &&(u16, Lsn, Ordered)| (*of, ordered.cid.0) == (id, decided);
            let (_, base, ordered) = cluster.checkpoints.iter().find(mine).expect("it took one");
            let (records, at) = (records_of(&cluster, id), base.0 as usize - 2);
            let mut config = cluster.replica(id).config().clone();
            config.view = cluster.view.clone();
            let mut core = smr::Replica::new(config, Box::new(payload::HeapPool), Instant(0));
            records[..at].iter().for_each(|record| core.pass_over(record).expect("a record"));
            core.begin_at(Instant(0), ordered, &records[at]).expect("its base");
            let was = u32::from(entered.contains(&id));
            assert_eq!((core.decided().0, core.view().id().0), (decided, was));
            assert_eq!(core.is_between_views(), was == 0);
            let mut actions = Actions::with_capacity(limits::ACTIONS_MAX);
            for record in &records[at + 1..] {
                core.restore(Instant(0), record, &mut actions).expect("the records behind it");
                actions.drain().for_each(drop);
            }
            assert_eq!(core.view(), cluster.replica(id).view());
        }
        decide(&mut cluster, to + 1, to + 2);
        assert!(cluster.decided(3) > decided && cluster.decided(3) == cluster.decided(0));
        cluster.check_agreement();
    }
}
