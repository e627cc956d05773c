//! Running out of registered files costs a pause, neither links nor a busy core. Descriptors, of
//! which a process has few, are not needed for connections at all.
//!
//! A file of its own: the limit concerns the whole process.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::TcpStream;
use std::process::Command;

use support::*;
use tetrarch_dataplane::clock::{Clock, SystemClock};
use tetrarch_dataplane::transport::choice::{Chosen, TransportKind};

/// Set the soft limit of this process's open files.
fn limit_files(count: usize) {
    let status = Command::new("prlimit")
        .args(["--pid", &std::process::id().to_string(), &format!("--nofile={count}:")])
        .status()
        .expect("prlimit is part of util-linux");
    assert!(status.success());
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn node(i: u16, chosen: &mut Chosen) -> Node {
    let arena = arena();
    let endpoint = chosen.transport.open(0, arena.pool()).unwrap();
    Node::new(replica(i), arena, endpoint)
}

#[test]
fn accepting_pauses_when_registered_files_run_out() {
    let kind = ring_or_epoll();
    if kind == TransportKind::Tcp {
        return;
    }
    let mut listening = listening(kind);
    let [mut dialling, mut dialling_again] = [(); 2].map(|()| dialling(kind, &listening));
    let (spare, files) = (open_files() + 10, 40);
    limit_files(files.max(spare));
    // The table is as long as the limit at this moment.
    let mut a = node(0, &mut listening);
    limit_files(1000);
    let mut b = node(1, &mut dialling);
    until_up(&mut [&mut a, &mut b], replica(0), replica(1));

    let address = listening.local_address.unwrap();
    let mut waiting: Vec<_> = (0..60).map(|_| TcpStream::connect(address).unwrap()).collect();
    // No descriptor is left to the process; the table decides.
    limit_files(open_files());
    until(&mut [&mut a, &mut b], "accepting fails", |nodes| {
        nodes[0].links.counts().accept_failed > 0
    });
    assert!(a.links.counts().accepted as usize >= files.min(spare) - 1, "the table was used");
    let clock = SystemClock::new();
    let failed = a.links.counts().accept_failed;
    let start = clock.now();
    for _ in 0..1000 {
        a.turn(clock.now());
    }
    // One attempt in 100 ms: without the pause there would be one in each turn.
    let attempts = u128::from(a.links.counts().accept_failed - failed);
    assert!(attempts <= 2 + clock.now().since(start).as_millis() / 100, "{attempts} attempts");
    assert!(b.send(replica(0), 1, b"still here", 0));
    until(&mut [&mut a, &mut b], "the link works", |nodes| !nodes[0].received.is_empty());

    waiting.truncate(5);
    limit_files(1000);
    let mut late = node(2, &mut dialling_again);
    until(&mut [&mut a, &mut b, &mut late], "a late peer gets in", |nodes| {
        nodes[0].links.is_up(replica(2)) && nodes[2].links.is_up(replica(0))
    });
    assert!(a.links.is_up(replica(1)));
}
