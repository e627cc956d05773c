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

fn bytes(record: &Record<payload::SharedBytes>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let batch = record.encode(&mut bytes);
    bytes.extend_from_slice(batch);
    bytes
}

/// A core that has not begun, of the member that recorded.
fn new_core(cluster: &Cluster) -> smr::Replica<payload::SharedBytes> {
    let config = cluster.replica(1).config().clone();
    smr::Replica::new(config, Box::new(payload::HeapPool), Instant(0))
}

/// A replica that told of a decision and goes down before the record of it is durable has forgotten the decision,
/// not that it voted: it must not answer a read as if the request had never been executed.
// rule: DUR.3
#[test]
fn replies_wait_for_a_vote_and_who_voted_answers_no_reads_until_it_has_executed() {
    let mut cluster = four_with_records();
    for counter in 1..=3 {
        let made = request(7, counter, "put", true, &[]);
        (0..4).for_each(|id| cluster.request(id, &made));
        cluster.run(timeout() / 8);
    }
    assert_eq!(cluster.decided(1), 3);
    let mine = cluster.records.iter().filter(|(id, ..)| *id == 1);
    let records: Vec<_> = mine.map(|(_, lsn, record)| (*lsn, record)).collect();
    let place = |what: &dyn Fn(&Record<_>) -> bool| {
        records.iter().position(|(_, record)| what(record)).expect("it was recorded")
    };
    let three = ConsensusId(3);
    let written = place(&|it| matches!(it, Record::Written { at, .. } if at.cid == three));
    let accepted = place(&|it| matches!(it, Record::Accepted(vote) if vote.at.cid == three));
    let decided = place(&|it| matches!(it, Record::Decided { at, .. } if at.cid == three));
    assert!(written < accepted && accepted < decided);
    assert!(cluster.replies_after.contains(&(1, 3, records[written].0)));
    // It comes back with the first so many of its records.
    let back_with = |count: usize| {
        let mut core = new_core(&cluster);
        let mut actions = Actions::with_capacity(limits::ACTIONS_MAX);
        let view = ViewId(0);
        let first = Record::<payload::SharedBytes>::MemoryWhole { view };
        core.restore(Instant(0), &bytes(&first), &mut actions).expect("the first record");
        for (_, record) in &records[..count] {
            core.restore(Instant(0), &bytes(record), &mut actions).expect("its own records");
            actions.drain().for_each(drop);
        }
        core.go_on_after(Lsn(1 + count as u64), &mut actions);
        (core.decided().0, core.may_answer_reads())
    };
    assert_eq!(back_with(written), (2, true), "what it did not record it did not tell");
    assert_eq!(back_with(written + 1), (2, false));
    assert_eq!(back_with(decided), (2, false));
    assert_eq!(back_with(decided + 1), (3, true));
}

/// A replica that begins at a checkpoint is where one is that replays everything, and nothing else will do
/// as a base.
// rule: CKP.2
// rule: CKP.4
// rule: CKP.5
#[test]
fn a_checkpoint_and_its_base_stand_for_all_records_before_them() {
    let mut cluster = Cluster::four();
    (cluster.depth, cluster.checkpoint_every) = (2, 4);
    let mut actions = Actions::with_capacity(limits::ACTIONS_MAX);
    for id in 0..4 {
        cluster.start(id, false);
        let replica = cluster.replicas.get_mut(&id).expect("a member");
        replica.go_on_after(Lsn(0), &mut actions);
    }
    let first = actions.drain().find_map(|action| match action {
        Action::Persist { record, .. } => Some(bytes(&record)),
        _ => None,
    });
    let ask = |cluster: &mut Cluster, counter: u32| {
        let made = request(7, counter, &format!("put {counter}"), true, &[]);
        (0..4).for_each(|id| cluster.request(id, &made));
        cluster.run(timeout() / 8);
    };
    (1..=6).for_each(|counter| ask(&mut cluster, counter));
    // A change of leader lies between the two bases.
    cluster.crash(0);
    ask(&mut cluster, 7);
    cluster.run(timeout() * 4);
    (8..=10).for_each(|counter| ask(&mut cluster, counter));
    assert_eq!(cluster.decided(1), 10);
    let mine = |(id, ..): &&(u16, Lsn, Ordered)| *id == 1;
    let taken: Vec<_> = cluster.checkpoints.iter().filter(mine).collect();
    assert_eq!(taken.iter().map(|(.., ordered)| ordered.cid.0).collect::<Vec<_>>(), [4, 8]);
    for (_, _, ordered) in &cluster.checkpoints {
        let same = taken.iter().find(|(.., other)| other.cid == ordered.cid).expect("taken by all");
        assert_eq!(&same.2, ordered, "everybody's is the same");
    }
    let records = cluster.records.iter().filter(|(id, ..)| *id == 1).map(|(.., it)| bytes(it));
    let records: Vec<Vec<u8>> = first.into_iter().chain(records).collect();
    let replay = |core: &mut smr::Replica<_>, records: &[Vec<u8>]| {
        let mut actions = Actions::with_capacity(limits::ACTIONS_MAX);
        for record in records {
            core.restore(Instant(0), record, &mut actions)?;
            actions.drain().for_each(drop);
        }
        Ok::<(), smr::RestoreError>(())
    };
    let mut whole = new_core(&cluster);
    replay(&mut whole, &records).expect("its own records");
    for (_, base, ordered) in &taken {
        let at = base.0 as usize - 1;
        let mut core = new_core(&cluster);
        records[..at].iter().for_each(|record| core.pass_over(record).expect("a record"));
        core.begin_at(Instant(0), ordered, &records[at]).expect("its base");
        assert_eq!(core.decided(), ordered.cid);
        replay(&mut core, &records[at + 1..]).expect("the records behind it");
        assert_eq!((core.decided(), core.regency()), (whole.decided(), whole.regency()));
        assert_eq!(core.log_start(), whole.log_start(), "what helps others is kept");
        // Another record, another instance, other sessions' time.
        let begin = |ordered: &Ordered, record: &[u8]| {
            new_core(&cluster).begin_at(Instant(0), ordered, record)
        };
        assert!(begin(ordered, &records[at - 1]).is_err(), "no base");
        let later = Ordered { timestamp_ns: ordered.timestamp_ns + 1, ..ordered.clone() };
        let other = Err(smr::RestoreError::Base(ordered.cid));
        assert_eq!(begin(&later, &records[at]), other);
        let mut decisions = ordered.decisions.clone();
        decisions.reverse();
        assert_eq!(begin(&Ordered { decisions, ..ordered.clone() }, &records[at]), other);
        let sessions = vec![(ClientId::new(63, 1 << 20), Sequence::new(1, 1))];
        let unknown = begin(&Ordered { sessions, ..ordered.clone() }, &records[at]);
        assert!(matches!(unknown, Err(smr::RestoreError::Session(_))));
    }
    // A base that does not follow from the records before it is found out when it is passed.
    let (second, lacks) = (taken[1].1.0 as usize - 1, taken[0].1.0 as usize - 2);
    let mut without = records[..=second].to_vec();
    without.swap(second, lacks + 1);
    assert!(replay(&mut new_core(&cluster), &without).is_err());
}
