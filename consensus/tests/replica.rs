//! The replica core in small clusters, driven by hand.

mod harness;

use harness::{Cluster, request};

#[test]
fn four_replicas_order_requests() {
    let mut cluster = Cluster::four();
    for counter in 1..=50 {
        for client in 1..=3 {
            let body = format!("c{client}r{counter}");
            let request = request(client, counter, &body, false, &[]);
            for id in 0..4 {
                cluster.request(id, &request);
            }
        }
        cluster.deliver_all();
    }
    cluster.check_agreement();
    for id in 0..4 {
        let done: usize = cluster.executed[&id].iter().map(|e| e.requests.len()).sum();
        assert_eq!(done, 150);
        assert_eq!(cluster.replica(id).pending(), 0);
        assert_eq!(cluster.replica(id).regency().0, 0);
    }
}
