//! Running out of file descriptors costs a pause, neither links nor a busy core.
//!
//! A file of its own: the limit concerns the whole process.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use support::*;
use tetrarch_dataplane::clock::{Clock, SystemClock};
use tetrarch_dataplane::endpoint::Transport;
use tetrarch_dataplane::transport::tcp::{TcpConfig, TcpTransport};

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

fn acceptor() -> (Node, SocketAddr) {
    let listen = Some(([127, 0, 0, 1], 0).into());
    let mut transport = TcpTransport::new(TcpConfig { listen, ..TcpConfig::default() }).unwrap();
    let address = transport.local_address().unwrap();
    let arena = arena();
    let endpoint = transport.open(0, arena.pool()).unwrap();
    (Node::new(replica(0), arena, endpoint), address)
}

#[test]
fn accepting_pauses_when_files_run_out() {
    let (mut a, address) = acceptor();
    let dial = vec![(replica(0), address)];
    let mut transport = TcpTransport::new(TcpConfig { dial, ..TcpConfig::default() }).unwrap();
    let arena = arena();
    let endpoint = transport.open(0, arena.pool()).unwrap();
    let mut b = Node::new(replica(1), arena, endpoint);
    until_up(&mut [&mut a, &mut b], replica(0), replica(1));

    let mut waiting: Vec<_> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    limit_files(open_files() + 3);
    until(&mut [&mut a, &mut b], "accepting fails", |nodes| {
        nodes[0].links.counts().accept_failed > 0
    });
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

    waiting.drain(..20);
    limit_files(1000);
    until(&mut [&mut a, &mut b], "the others get in", |nodes| {
        nodes[0].links.counts().accepted == 41
    });
    assert!(a.links.is_up(replica(1)));
}
