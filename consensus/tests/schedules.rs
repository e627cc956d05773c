//! Random schedules of four and more cores: lost, doubled and reordered messages, cut replicas, time
//! in jumps; then everything is healed and every request must be executed, once, everywhere.

mod harness;

use std::time::Duration;

use harness::{Cluster, Envelope, request};
use tetrarch_consensus::FaultModel;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// One step of trouble.
fn trouble(cluster: &mut Cluster, random: &mut Random, loss: usize) {
    let n = cluster.view.n() as u16;
    match random.below(100) {
        0 => drop(cluster.cut.insert(random.below(n as usize) as u16)),
        1..=2 => cluster.cut.clear(),
        3..=4 => cluster.tick(Duration::from_millis(random.below(400) as u64)),
        5 => {
            let (a, b) = (random.below(n as usize) as u16, random.below(n as usize) as u16);
            cluster.connect(a, b);
        }
        _ => {
            if cluster.queue.is_empty() {
                return cluster.tick(Duration::from_millis(50));
            }
            let at = random.below(cluster.queue.len().min(40));
            let envelope: Envelope = cluster.queue.remove(at).expect("inside");
            let own = envelope.from == envelope.to;
            match random.below(100) {
                dice if dice < loss && !own => {}
                dice if dice < loss + 5 && !own => {
                    cluster.queue.push_back(envelope.clone());
                    cluster.deliver(envelope);
                }
                _ => cluster.deliver(envelope),
            }
        }
    }
}

fn play(seed: u64, n: u16, f: usize, model: FaultModel) {
    let members: Vec<u16> = (0..n).collect();
    let mut cluster = Cluster::new(&members, f, model);
    let mut random = Random(seed);
    let loss = [0, 5, 30][random.below(3)];
    let clients = 3;
    let mut counters = [0; 3];
    for _ in 0..3000 {
        if random.below(50) == 0 {
            let client = random.below(clients);
            if counters[client] < 20 {
                counters[client] += 1;
                let body = format!("{client}.{}", counters[client]);
                let signed = random.below(2) == 0;
                let request = request(client as u32, counters[client], &body, signed, &[]);
                for id in 0..n {
                    if random.below(4) > 0 {
                        cluster.request(id, &request);
                    }
                }
            }
        }
        trouble(&mut cluster, &mut random, loss);
        cluster.log.clear();
    }
    cluster.check_agreement();
    // Heal, let the clients send again what they have no answer to, and give it time.
    cluster.cut.clear();
    for round in 0..60 {
        for (client, last) in counters.iter().enumerate() {
            for counter in 1..=*last {
                let body = format!("{client}.{counter}");
                let request = request(client as u32, counter, &body, true, &[]);
                for id in 0..n {
                    cluster.request(id, &request);
                }
            }
        }
        cluster.run(Duration::from_millis(4000));
        cluster.log.clear();
        let want: u32 = counters.iter().sum();
        let done = |id: &u16| {
            cluster.executed[id].iter().map(|e| e.requests.len()).sum::<usize>() == want as usize
        };
        if members.iter().all(done) {
            cluster.check_agreement();
            let regencies: Vec<_> =
                members.iter().map(|id| cluster.replica(*id).regency().0).collect();
            println!("seed {seed}: regencies {regencies:?} instances {}", cluster.decided(0));
            return;
        }
        assert!(round < 59, "seed {seed}, n {n}: not live");
    }
}

/// `SCHEDULES=20` plays twenty times as many.
fn more() -> u64 {
    std::env::var("SCHEDULES").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

#[test]
fn byzantine_mode_survives_lost_and_reordered_messages() {
    for seed in 0..60 * more() {
        play(seed, 4, 1, FaultModel::Byzantine);
    }
    for seed in 0..15 * more() {
        play(1000 + seed, 7, 2, FaultModel::Byzantine);
        play(2000 + seed, 6, 1, FaultModel::Byzantine);
    }
}

#[test]
fn crash_only_mode_survives_lost_and_reordered_messages() {
    for seed in 0..40 * more() {
        play(seed, 3, 1, FaultModel::Crash);
    }
    for seed in 0..15 * more() {
        play(1000 + seed, 5, 2, FaultModel::Crash);
    }
}
