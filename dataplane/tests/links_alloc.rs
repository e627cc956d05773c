//! Established links over either way to move TCP's bytes allocate nothing, whatever the size of the messages.
#![allow(clippy::unwrap_used)]

mod support;

use std::alloc::System;
use std::time::Duration;

use support::*;
use tetrarch_dataplane::alloc_guard::{self, FrozenAllocator};
use tetrarch_dataplane::burst::Burst;
use tetrarch_dataplane::clock::{Clock, SystemClock};
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_dataplane::frame::Frame;
use tetrarch_dataplane::links::Outgoing;
use tetrarch_dataplane::transport::choice::TransportKind;

#[global_allocator]
static ALLOCATOR: FrozenAllocator<System> = FrozenAllocator::new(System);

#[test]
fn steady_state_allocates_nothing() {
    for kind in [TransportKind::Tcp, ring_or_epoll()] {
        steady_state(kind);
    }
}

fn steady_state(kind: TransportKind) {
    let mut acceptor = listening(kind);
    let mut dialler = dialling(kind, &acceptor);
    let (arena_a, arena_b) = (arena(), arena());
    let endpoints = [(&mut acceptor, &arena_a), (&mut dialler, &arena_b)]
        .map(|(chosen, arena)| chosen.transport.open(0, arena.pool()).unwrap());
    let [at_a, at_b] = endpoints;
    let mut a = Node::new(replica(0), arena_a, at_a);
    let mut b = Node::new(replica(1), arena_b, at_b);
    until_up(&mut [&mut a, &mut b], replica(0), replica(1));

    let clock = SystemClock::new();
    let mut received = Burst::with_capacity(64);
    let frames: Vec<Frame> = [1, 100, 500, 5000, 100_000, 2_000_000]
        .iter()
        .map(|size| b.tx_arena.pool().copy_from(&vec![1; *size]).unwrap())
        .collect();
    let digests: Vec<_> = frames.iter().map(|frame| body_digest(frame.bytes())).collect();
    let mut round = || {
        let limit = clock.now() + PATIENCE;
        let mut got = 0;
        for (frame, digest) in frames.iter().zip(&digests) {
            for _ in 0..10 {
                let out = Outgoing {
                    to: replica(0),
                    kind: 1,
                    auth: 0,
                    session: 0,
                    proof_size: 0,
                    body_digest: Some(*digest),
                    frame: Some(frame.clone()),
                };
                while !b.links.tx(out.clone()) {
                    b.links.rx_burst(clock.now(), &mut received);
                    b.links.flush(clock.now());
                    got += a.links.rx_burst(clock.now(), &mut received);
                    received.clear();
                    let (counts, rejects) = (a.links.counts(), b.links.rejects());
                    assert!(clock.now() < limit, "timed out: {counts:?} {rejects:?}");
                }
            }
        }
        while got < 10 * frames.len() {
            for node in [&mut a, &mut b] {
                got += node.links.rx_burst(clock.now(), &mut received);
                received.clear();
                assert!(node.links.event().is_none());
                node.links.flush(clock.now());
            }
            a.links.park(Duration::from_millis(1));
            assert!(clock.now() < limit, "timed out");
        }
        assert_eq!(got, 10 * frames.len());
    };
    round();
    let ((), allocations) = alloc_guard::count_allocations(|| {
        for _ in 0..3 {
            round();
        }
    });
    assert_eq!(allocations, 0, "{kind}");
}
