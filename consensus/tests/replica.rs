//! The replica core in small clusters, driven by hand: what a trace would be too long for.

mod harness;

use std::time::Duration;

use harness::{Bytes, Cluster, request};
use tetrarch_consensus::message::*;
use tetrarch_consensus::payload::HeapPool;
use tetrarch_consensus::*;

fn order(cluster: &mut Cluster, client: u32, counter: u32) {
    let body = format!("{client}.{counter}");
    let request = request(client, counter, &body, false, &[]);
    let ids: Vec<u16> = cluster.replicas.keys().copied().collect();
    for id in ids {
        cluster.request(id, &request);
    }
    cluster.deliver_all();
    cluster.log.clear();
}

// rule: SMR.6, SMR.7, SMR.8
#[test]
fn four_replicas_order_requests() {
    let mut cluster = Cluster::four();
    for counter in 1..=50 {
        for client in 1..=3 {
            order(&mut cluster, client, counter);
        }
    }
    cluster.check_agreement();
    for id in 0..4 {
        let executed = &cluster.executed[&id];
        assert_eq!(executed.iter().map(|e| e.requests.len()).sum::<usize>(), 150);
        assert_eq!(cluster.replica(id).pending(), 0);
        assert_eq!(cluster.replica(id).regency(), Regency(0));
        // Time stands still in this test, and still no two batches have the same.
        assert!(executed.windows(2).all(|pair| pair[0].timestamp_ns < pair[1].timestamp_ns));
        assert!(executed[0].timestamp_ns >= cluster.now.0);
    }
}

// rule: CORE.1
#[test]
fn the_same_inputs_give_the_same_actions() {
    let play = || {
        let mut cluster = Cluster::four();
        let mut log = Vec::new();
        for counter in 1..=5 {
            for client in 1..=2 {
                let request = request(client, counter, "x", true, &[]);
                for id in 1..4 {
                    cluster.request(id, &request);
                }
            }
            if counter == 3 {
                cluster.crash(0);
            }
            cluster.run(Duration::from_millis(1700));
            log.append(&mut cluster.log);
        }
        log
    };
    let first = play();
    assert!(first.iter().any(|line| line.contains("SYNC")), "leaders changed, too");
    assert_eq!(first, play());
}

// rule: LAG.5
#[test]
fn a_replica_without_memory_answers_reads_only_when_it_has_executed_what_it_missed() {
    let mut cluster = Cluster::four();
    order(&mut cluster, 1, 1);
    assert!(cluster.replica(3).may_answer_reads());
    cluster.crash(3);
    cluster.start(3, true);
    cluster.stalled.insert(3);
    for other in 0..3 {
        cluster.connect(3, other);
    }
    cluster.run(Duration::from_millis(500));
    assert!(cluster.replica(3).is_mute() && !cluster.replica(3).may_answer_reads());
    order(&mut cluster, 1, 2);
    order(&mut cluster, 1, 3);
    assert!(!cluster.replica(3).is_mute(), "two instances beyond what the others had decided");
    assert!(!cluster.replica(3).may_answer_reads(), "decided is not executed");
    cluster.unstall(3);
    assert!(cluster.replica(3).may_answer_reads());
}

// rule: LAG.4
#[test]
fn a_replica_whose_decisions_are_gone_everywhere_says_so_once_and_stays_out_of_the_way() {
    let mut cluster = Cluster::four();
    cluster.cut.insert(3);
    // The harness keeps two megabytes of batches: with large operations, that is soon full.
    let (instances, large) = (40, "x".repeat(100_000));
    for counter in 1..=instances {
        let request = request(1, counter, &large, false, &[]);
        for id in 0..3 {
            cluster.request(id, &request);
        }
        cluster.deliver_all();
    }
    let start = cluster.replica(0).log_start();
    assert!(start > ConsensusId(10) && start < ConsensusId(30), "log starts at {start}");
    cluster.log.clear();
    let late = request(1, instances + 1, "late", true, &[]);
    cluster.request(3, &late);
    cluster.cut.clear();
    cluster.queue.clear();
    cluster.run(Duration::from_secs(10));
    let said: Vec<_> = cluster.log.iter().filter(|line| line.starts_with("3: behind")).collect();
    assert_eq!(said, [&format!("3: behind decided=0 available={start}")]);
    assert!(!cluster.log.iter().any(|line| line.contains("STOP")), "nobody is suspected");
    // The others go on without it.
    let before = cluster.decided(0);
    order(&mut cluster, 2, 1);
    assert_eq!(cluster.decided(0), before + 1);
    assert_eq!(cluster.decided(3), 0);
}

// rule: LAG.2
#[test]
fn more_than_a_fetch_carries_is_fetched_piece_by_piece_without_waiting() {
    let mut cluster = Cluster::four();
    cluster.cut.insert(3);
    for counter in 1..=100 {
        order(&mut cluster, 1, counter);
    }
    cluster.cut.clear();
    cluster.queue.clear();
    cluster.connect(3, 0);
    cluster.connect(3, 1);
    cluster.deliver_all();
    assert_eq!(cluster.decided(3), 100);
    cluster.check_agreement();
}

/// Encoded bytes of the batches that replica 0 has sent since the last look, and messages.
fn sent_by_leader(cluster: &mut Cluster) -> (usize, usize) {
    let sent = core::mem::take(&mut cluster.sent);
    let sizes = sent.iter().filter(|(id, ..)| *id == 0).map(|(.., message)| match message {
        Message::Decided(it) => it.batch.as_ref().map_or(0, |batch| batch.payload().bytes().len()),
        Message::Propose(it) => it.batch.payload().bytes().len(),
        Message::BatchBody(it) => it.batch.payload().bytes().len(),
        _ => 0,
    });
    let sizes: Vec<usize> = sizes.collect();
    (sizes.iter().sum(), sizes.len())
}

// rule: LAG.7
#[test]
fn a_member_that_asks_all_the_time_is_answered_as_much_as_one_that_needs_it() {
    let mut cluster = Cluster::four();
    let large = "x".repeat(200_000);
    for counter in 1..=8 {
        let request = request(1, counter, &large, false, &[]);
        (0..4).for_each(|id| cluster.request(id, &request));
        cluster.deliver_all();
    }
    cluster.tick(Duration::from_secs(1));
    cluster.crash(3);
    let (view, from, to) = (ViewId(0), ConsensusId(1), ConsensusId(64));
    let status = Status {
        view,
        regency: Regency(0),
        wanted: Regency(0),
        stopped: false,
        decided: ConsensusId(7),
        log_start: ConsensusId(1),
        written: ReplicaSet::EMPTY,
        accepted: ReplicaSet::EMPTY,
        proposed: 0,
        learned: 0,
    };
    let digest = cluster.replica(0).decision(ConsensusId(8)).expect("it is kept");
    let questions = [
        Message::Fetch(Fetch { view, from, to, with_batches: true }),
        Message::Fetch(Fetch { view, from, to, with_batches: false }),
        Message::FetchBatch(FetchBatch { view, cid: ConsensusId(8), digest }),
        Message::Status(status),
    ];
    for question in &questions {
        cluster.queue.clear();
        cluster.tick(Duration::from_millis(100));
        sent_by_leader(&mut cluster);
        let ask = |cluster: &mut Cluster, from| {
            let message = question.clone();
            cluster.deliver(harness::Envelope { from, to: 0, message });
        };
        (0..10_000).for_each(|_| ask(&mut cluster, 3));
        let (bytes, messages) = sent_by_leader(&mut cluster);
        let least = limits::HELP_SIZE_MAX as usize;
        let weight = bytes + messages * limits::HELP_WEIGHT as usize;
        assert!(weight >= least && weight < least + 2 * limits::FETCH_SIZE_MAX, "{weight}");
        ask(&mut cluster, 2);
        assert!(sent_by_leader(&mut cluster).1 > 0, "another member is answered");
        cluster.tick(Duration::from_millis(32));
        sent_by_leader(&mut cluster);
        ask(&mut cluster, 3);
        assert!(sent_by_leader(&mut cluster).1 > 0, "and this one later");
    }
}

// rule: SMR.11, LAG.2
#[test]
fn a_replica_whose_application_is_slow_asks_for_each_decision_once() {
    let mut cluster = Cluster::four();
    cluster.cut.insert(3);
    for counter in 1..=120 {
        order(&mut cluster, 1, counter);
    }
    cluster.cut.clear();
    cluster.queue.clear();
    cluster.stalled.insert(3);
    cluster.connect(3, 0);
    cluster.connect(3, 1);
    for done in 0..120 {
        cluster.run(Duration::from_millis(40));
        if cluster.executed[&3].len() > done {
            cluster.step(3, Input::Executed(ConsensusId(done as u64 + 1)));
        }
    }
    cluster.run(Duration::from_millis(400));
    assert_eq!(cluster.decided(3), 120);
    let decisions = cluster.log.iter().filter(|line| line.contains("DECIDED")).count();
    assert!(decisions < 120 * 8, "{decisions} messages for 120 decisions of 3 members");
}

// rule: LAG.2, SMR.12
#[test]
fn a_member_that_reads_its_links_one_after_the_other_keeps_up() {
    let mut cluster = Cluster::four();
    // What the others say to replica 3 waits; each link in turn is read 200 instances late.
    let mut waiting: Vec<Vec<harness::Envelope>> = vec![Vec::new(); 3];
    let mut turn = 0;
    for counter in 1..=2000 {
        let request = request(1, counter, "x", false, &[]);
        for id in 0..4 {
            cluster.request(id, &request);
        }
        while let Some(envelope) = cluster.queue.pop_front() {
            let from = usize::from(envelope.from);
            if envelope.to == 3 && from < 3 {
                waiting[from].push(envelope);
            } else {
                cluster.deliver(envelope);
            }
        }
        if counter % 67 == 0 {
            turn = (turn + 1) % 3;
            for envelope in std::mem::take(&mut waiting[turn]) {
                cluster.deliver(envelope);
            }
            cluster.tick(Duration::from_millis(20));
        }
        cluster.log.retain(|line| line.contains("behind") || line.contains("3: FETCH"));
    }
    let lag = cluster.decided(0) - cluster.decided(3);
    assert!(lag < 500, "replica 3 is {lag} instances behind");
    for list in &mut waiting {
        for envelope in std::mem::take(list) {
            cluster.queue.push_back(envelope);
        }
    }
    cluster.run(Duration::from_millis(500));
    assert!(!cluster.log.iter().any(|line| line.contains("behind")));
    assert_eq!(cluster.decided(3), cluster.decided(0));
    cluster.check_agreement();
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Numbers that are likely to hurt.
fn number(state: &mut u64) -> u64 {
    match random(state) % 8 {
        0 => u64::MAX,
        1 => u64::MAX - 1,
        2 => u64::from(u32::MAX),
        3 => random(state),
        _ => random(state) % 4,
    }
}

fn hostile_message(state: &mut u64, digests: &[Digest]) -> Message<Bytes> {
    let digest = |state: &mut u64| digests[(random(state) % digests.len() as u64) as usize];
    let view = ViewId(u32::from(random(state).is_multiple_of(10)));
    let epoch = |state: &mut u64| Epoch(number(state) as u32);
    let at = Position { view, cid: ConsensusId(number(state)), epoch: epoch(state) };
    let one = request(number(state) as u32, number(state) as u32, "z", false, &[]);
    let batch = Batch::build(&mut HeapPool, number(state), &[one]).expect("heap");
    let regency = Regency(number(state) as u32);
    let written = |state: &mut u64| Written { epoch: epoch(state), digest: digest(state) };
    let signed = |state: &mut u64| {
        let decided = number(state);
        let open = |state: &mut u64| {
            let mut write_set = WriteSet::EMPTY;
            for _ in 0..random(state) % 20 {
                write_set.insert(written(state));
            }
            let certified = (random(state).is_multiple_of(2)).then(|| written(state));
            OpenState { certified, write_set }
        };
        let replica_state = ReplicaState {
            view,
            regency,
            replica: ReplicaId(random(state) as u16 % 5),
            decided: ConsensusId(decided),
            decisions: (0..decided.min(2)).map(|_| digest(state)).collect(),
            open: (0..random(state) % 3).map(|_| open(state)).collect(),
        };
        let mut signed = SignedState { state: replica_state, signature: [0; 64] };
        signed.signature = harness::signature(&signed);
        signed
    };
    let vote = Vote { at, digest: digest(state) };
    match random(state) % 16 {
        0 => Message::Forwarded(batch),
        1 => Message::Propose(Propose { at, batch }),
        2 => Message::Write(vote),
        3 => Message::Accept(vote),
        4 => Message::Refuse(Refuse {
            at,
            digest: vote.digest,
            reason: RefuseReason::Proof(ClientId(number(state))),
        }),
        5 => Message::Stop(Stop { view, regency, requests: batch }),
        6 => Message::StopData(Box::new(signed(state))),
        7 => {
            let states = (0..random(state) % 6).map(|_| signed(state)).collect();
            Message::Sync(Sync { view, regency, states })
        }
        8 => Message::Status(Status {
            view,
            regency,
            wanted: Regency(number(state) as u32),
            stopped: random(state).is_multiple_of(2),
            decided: ConsensusId(number(state)),
            log_start: ConsensusId(number(state)),
            written: ReplicaSet::EMPTY,
            accepted: ReplicaSet::EMPTY,
            proposed: random(state) as u32,
            learned: random(state) as u32,
        }),
        9 => Message::Fetch(Fetch {
            view,
            from: ConsensusId(number(state)),
            to: ConsensusId(number(state)),
            with_batches: true,
        }),
        10 => Message::Decided(Decided { at, digest: vote.digest, batch: Some(batch) }),
        11 => Message::FetchBatch(FetchBatch { view, cid: at.cid, digest: vote.digest }),
        12 => Message::BatchBody(BatchBody { view, cid: at.cid, batch }),
        13 => {
            let batch = SparseBatch::of(&batch, &Selection::ALL, &mut HeapPool).expect("heap");
            Message::ProposeSparse(ProposeSparse { at, batch })
        }
        14 => Message::FetchBodies(FetchBodies { at, digest: vote.digest, which: Selection::ALL }),
        _ => Message::Bodies(Bodies { at, digest: vote.digest, requests: batch }),
    }
}

// rule: CORE.3
#[test]
fn a_member_that_says_anything_at_all_stops_nobody() {
    for seed in 0..60u64 {
        let mut state = seed;
        let mut cluster = Cluster::four();
        let liar = (seed % 4) as u16;
        cluster.crash(liar);
        let mut digests = vec![Digest::ZERO, Digest([7; 32])];
        for round in 1..=40 {
            for id in (0..4).filter(|id| *id != liar) {
                let honest = request(50, round, &format!("{round}"), true, &[]);
                cluster.request(id, &honest);
            }
            for _ in 0..60 {
                let message = hostile_message(&mut state, &digests);
                let to = random(&mut state) as u16 % 4;
                cluster.deliver(harness::Envelope { from: liar, to, message });
            }
            cluster.run(Duration::from_millis(300));
            digests.extend((0..4).filter_map(|id| {
                let list = cluster.executed.get(&id)?;
                list.last().map(|executed| executed.digest)
            }));
            cluster.log.clear();
        }
        cluster.run(Duration::from_secs(60));
        cluster.check_agreement();
        for id in (0..4).filter(|id| *id != liar) {
            let done: Vec<_> =
                cluster.executed[&id].iter().flat_map(|e| e.requests.clone()).collect();
            let all = (1..=40).all(|round| done.contains(&format!("{round}")));
            assert!(all, "seed {seed}: replica {id} executed {done:?}");
        }
    }
}
