//! Several instances at once: the rules that only a depth above one shows.

mod harness;

use std::time::Duration;

use harness::{Bytes, Cluster, Envelope, request};
use tetrarch_consensus::message::*;
use tetrarch_consensus::payload::HeapPool;
use tetrarch_consensus::*;

fn at(cid: u64) -> Position {
    Position { view: ViewId(0), cid: ConsensusId(cid), epoch: Epoch(0) }
}

/// A batch of signed requests: client and counter of each.
fn batch(time: u64, requests: &[(u32, u32)]) -> Batch<Bytes> {
    let made = |&(client, counter): &(u32, u32)| {
        request(client, counter, &format!("{client}.{counter}"), true, &[])
    };
    let requests: Vec<_> = requests.iter().map(made).collect();
    Batch::build(&mut HeapPool, 1_000_000_000 + time, &requests).expect("heap")
}

fn propose(cid: u64, batch: &Batch<Bytes>) -> Message<Bytes> {
    Message::Propose(Propose { at: at(cid), batch: batch.clone() })
}

fn deliver(cluster: &mut Cluster, from: u16, to: u16, message: Message<Bytes>) {
    cluster.deliver(Envelope { from, to, message });
}

/// What was sent or done since the last look, without what is not about `words`.
fn look(cluster: &mut Cluster, words: &[&str]) -> Vec<String> {
    let relevant = |line: &String| words.iter().any(|word| line.contains(word));
    core::mem::take(&mut cluster.log).into_iter().filter(relevant).collect()
}

fn order(cluster: &mut Cluster, to: &[u16], client: u32, counter: u32) {
    let made = request(client, counter, &format!("{client}.{counter}"), true, &[]);
    to.iter().for_each(|&id| cluster.request(id, &made));
}

// rule: SMR.5, SMR.1
#[test]
fn beside_others_under_way_a_leader_proposes_only_what_is_worth_it() {
    let mut cluster = Cluster::four_deep(4);
    let mut proposed = Vec::new();
    for client in 1..=16 {
        order(&mut cluster, &[0], client, 1);
        proposed.push(look(&mut cluster, &["PROPOSE"]).len());
    }
    // One, one more, two, four; then four are open, and the rest waits.
    assert_eq!(proposed, [1, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    cluster.deliver_all();
    cluster.run(Duration::from_secs(1));
    cluster.check_agreement();
    let sizes: Vec<_> =
        cluster.executed[&2].iter().map(|executed| executed.requests.len()).collect();
    assert_eq!(sizes[..4], [1, 1, 2, 4]);
    assert_eq!(sizes.iter().sum::<usize>(), 16);
}

// rule: VP.10, SMR.1
#[test]
fn vp_10_instances_are_written_and_accepted_from_the_lowest_on() {
    let mut cluster = Cluster::four_deep(3);
    let batches = [batch(1, &[(1, 1)]), batch(2, &[(1, 2)]), batch(3, &[(2, 1)])];
    for cid in [3, 2] {
        deliver(&mut cluster, 0, 1, propose(cid, &batches[cid as usize - 1]));
    }
    assert!(look(&mut cluster, &["WRITE"]).is_empty(), "nothing before the first");
    let vote = |cid: u64| Vote { at: at(cid), digest: batches[cid as usize - 1].digest };
    for cid in [2, 3] {
        for from in [0, 2, 3] {
            deliver(&mut cluster, from, 1, Message::Write(vote(cid)));
        }
    }
    assert!(look(&mut cluster, &["ACCEPT"]).is_empty(), "nothing above a hole");
    deliver(&mut cluster, 0, 1, propose(1, &batches[0]));
    let written = look(&mut cluster, &["WRITE"]);
    let cids = ["cid=1", "cid=2", "cid=3"];
    assert!(written.len() == 3 && written.iter().zip(cids).all(|(line, cid)| line.contains(cid)));
    for from in [0, 2] {
        deliver(&mut cluster, from, 1, Message::Write(vote(1)));
    }
    let accepted = look(&mut cluster, &["ACCEPT"]);
    assert!(accepted.len() == 3 && accepted.iter().zip(cids).all(|(line, cid)| line.contains(cid)));
    // Beyond the window nothing is voted, however much of it is known.
    let far = batch(4, &[(3, 1)]);
    deliver(&mut cluster, 0, 1, propose(4, &far));
    assert!(look(&mut cluster, &["WRITE"]).is_empty());
}

// rule: VAL.1
#[test]
fn val_1_a_request_of_an_open_instance_below_is_not_proposed_again() {
    let mut cluster = Cluster::four_deep(2);
    deliver(&mut cluster, 0, 1, propose(1, &batch(1, &[(1, 1)])));
    deliver(&mut cluster, 0, 1, propose(2, &batch(2, &[(1, 1)])));
    assert_eq!(look(&mut cluster, &["evidence"]).len(), 1, "the same request twice");
    let mut cluster = Cluster::four_deep(2);
    deliver(&mut cluster, 0, 1, propose(1, &batch(2, &[(1, 1)])));
    deliver(&mut cluster, 0, 1, propose(2, &batch(2, &[(1, 2)])));
    assert_eq!(look(&mut cluster, &["evidence"]).len(), 1, "the same time twice");
}

// rule: VAL.9
#[test]
fn val_9_a_leader_is_not_blamed_for_what_a_later_regency_decided_below() {
    for (decides, blamed) in [("claims", 0), ("votes", 1)] {
        let mut cluster = Cluster::four_deep(2);
        let below = batch(1, &[(2, 1)]);
        let vote = Vote { at: at(1), digest: below.digest };
        if decides == "claims" {
            for from in [1, 2] {
                let claim = Decided { at: at(1), digest: below.digest, batch: None };
                deliver(&mut cluster, from, 3, Message::Decided(claim));
            }
            let body = BatchBody { view: ViewId(0), cid: ConsensusId(1), batch: below.clone() };
            deliver(&mut cluster, 1, 3, Message::BatchBody(body));
        } else {
            deliver(&mut cluster, 0, 3, propose(1, &below));
            for from in [0, 1, 2] {
                deliver(&mut cluster, from, 3, Message::Accept(vote));
            }
        }
        assert_eq!(cluster.decided(3), 1, "by {decides}");
        cluster.log.clear();
        deliver(&mut cluster, 0, 3, propose(2, &batch(2, &[(1, 2)])));
        let said = look(&mut cluster, &["evidence", "STOP", "WRITE"]);
        assert_eq!(said.iter().filter(|line| line.contains("evidence")).count(), blamed);
        assert!(blamed > 0 || said.is_empty(), "{said:?}");
    }
}

// rule: SMR.13, SMR.9, SMR.7
#[test]
fn smr_13_what_was_under_way_when_a_leader_died_is_ordered_once() {
    for depth in [2, 8, 32] {
        let mut cluster = Cluster::four_deep(depth);
        let mut random = 11 * depth as u64;
        for counter in 1..=12 {
            for client in 1..=3 {
                order(&mut cluster, &[0, 1, 2, 3], client, counter);
            }
            // Some of what is on its way arrives, in the order of each link.
            for _ in 0..30 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (from, to) = ((random >> 33) as u16 % 4, (random >> 40) as u16 % 4);
                let link = |envelope: &Envelope| (envelope.from, envelope.to) == (from, to);
                let next = cluster.queue.iter().position(link);
                if let Some(envelope) = next.and_then(|next| cluster.queue.remove(next)) {
                    cluster.deliver(envelope);
                }
            }
        }
        cluster.crash(0);
        cluster.queue.retain(|envelope| envelope.from != 0 || envelope.to == 1);
        cluster.run(Duration::from_secs(20));
        cluster.check_agreement();
        for id in 1..4 {
            let executed = &cluster.executed[&id];
            let mut all: Vec<_> = executed.iter().flat_map(|e| e.requests.clone()).collect();
            all.sort();
            all.dedup();
            let count: usize = executed.iter().map(|e| e.requests.len()).sum();
            assert_eq!((all.len(), count), (36, 36), "depth {depth}, replica {id}");
            assert!(executed.windows(2).all(|pair| pair[0].timestamp_ns < pair[1].timestamp_ns));
        }
    }
}

// rule: LAG.1, VP.9
#[test]
fn lag_1_who_missed_several_instances_is_sent_them_again() {
    let mut cluster = Cluster::four_deep(4);
    for (cut, clients) in [(3, 1..=4), (2, 5..=8)] {
        cluster.cut.insert(cut);
        for client in clients {
            order(&mut cluster, &[0, 1, 2, 3], client, 1);
        }
        cluster.deliver_all();
        assert!(cluster.decided(cut) < cluster.decided(0));
        cluster.cut.clear();
        cluster.run(Duration::from_millis(600));
        assert_eq!(cluster.decided(cut), cluster.decided(0));
        assert_eq!(cluster.replica(1).regency(), Regency(0));
    }
    cluster.check_agreement();
}

// rule: LAG.6
#[test]
fn lag_6_who_knows_decisions_and_executes_them_slowly_is_not_told_them_again() {
    let (depth, instances) = (32, 100);
    let mut cluster = Cluster::four_deep(depth);
    cluster.cut.insert(3);
    for counter in 1..=instances {
        order(&mut cluster, &[0, 1, 2], 1, counter);
        cluster.deliver_all();
    }
    assert_eq!(cluster.decided(0), u64::from(instances));
    cluster.cut.clear();
    cluster.queue.clear();
    cluster.log.clear();
    cluster.stalled.insert(3);
    cluster.connect(3, 0);
    cluster.connect(3, 1);
    // Three statuses come between two instances that its application gets done.
    for done in 1..=u64::from(instances) {
        cluster.run(Duration::from_millis(800));
        cluster.step(3, Input::Executed(ConsensusId(done)));
    }
    cluster.run(Duration::from_millis(400));
    assert_eq!(cluster.decided(3), u64::from(instances));
    cluster.check_agreement();
    let told = look(&mut cluster, &["DECIDED"]).len();
    // Each by three members, once because it was asked for, and once from a status.
    assert!(told <= 3 * 2 * instances as usize, "{told} times for {instances} decisions");
    // What is lost on the way is told again.
    cluster.cut.insert(3);
    for counter in 1..=8 {
        order(&mut cluster, &[0, 1, 2], 2, counter);
        cluster.deliver_all();
    }
    cluster.cut.clear();
    cluster.queue.clear();
    cluster.tick(Duration::from_millis(260));
    cluster.queue.retain(|envelope| envelope.to != 3);
    cluster.stalled.clear();
    cluster.run(Duration::from_millis(600));
    assert_eq!(cluster.decided(3), cluster.decided(0));
}
