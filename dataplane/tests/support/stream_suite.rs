//! Links over real sockets on the loopback: good peers among hostile, silent and slow ones. What
//! moves the bytes is chosen by the file that includes this one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use tetrarch_dataplane::arena::Arena;
use tetrarch_dataplane::clock::{Clock, SystemClock};
use tetrarch_dataplane::endpoint::Endpoint;
use tetrarch_dataplane::handshake::{Directory, Identity};
use tetrarch_dataplane::header::{Header, VERSION};
use tetrarch_dataplane::links::{LinkConfig, LinkEvent};
use tetrarch_dataplane::reject::Reject;
use tetrarch_dataplane::transport::choice::{self, Chosen};
use tetrarch_dataplane::transport::tcp::TcpConfig;
use tetrarch_dataplane::types::{OpenError, PeerId};

use crate::kind;
use crate::support::*;

fn open(config: TcpConfig) -> Result<Chosen, OpenError> {
    choice::open(kind().into(), config)
}

fn any_port() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn acceptor_with(peer: PeerId, config: TcpConfig) -> (Node, SocketAddr) {
    let listen = config.listen.or(Some(any_port()));
    let mut chosen = open(TcpConfig { listen, ..config }).unwrap();
    let address = chosen.local_address.unwrap();
    let arena = arena();
    let endpoint = chosen.transport.open(0, arena.pool()).unwrap();
    (patient(peer, arena, endpoint), address)
}

/// A node that neither pings nor gives up while a loaded machine makes the test wait.
fn patient(peer: PeerId, arena: Arena, endpoint: Box<dyn Endpoint>) -> Node {
    let config = LinkConfig {
        keepalive_interval: PATIENCE / 2,
        idle_timeout: PATIENCE,
        ..LinkConfig::default()
    };
    let identity = Identity { peer, secret: secret(peer) };
    Node::with(identity, directory(), CLUSTER, config, arena, endpoint)
}

fn acceptor(peer: PeerId) -> (Node, SocketAddr) {
    acceptor_with(peer, TcpConfig::default())
}

fn dialler(peer: PeerId, dial: Vec<(PeerId, SocketAddr)>) -> Node {
    let mut chosen = open(TcpConfig { dial, ..TcpConfig::default() }).unwrap();
    let arena = arena();
    let endpoint = chosen.transport.open(0, arena.pool()).unwrap();
    patient(peer, arena, endpoint)
}

fn pair() -> (Node, Node, SocketAddr) {
    let (mut a, address) = acceptor(replica(0));
    let mut b = dialler(replica(1), vec![(replica(0), address)]);
    until_up(&mut [&mut a, &mut b], replica(0), replica(1));
    (a, b, address)
}

/// Send `count` numbered messages both ways and wait for all of them.
fn exchange(a: &mut Node, b: &mut Node, count: u32) {
    let (pa, pb) = (a.links.local(), b.links.local());
    let (mut sent, mut got) = ([0; 2], [0; 2]);
    until(&mut [a, b], "the exchange completes", |nodes| {
        for (side, to) in [(0, pb), (1, pa)] {
            while sent[side] < count && nodes[side].send(to, 1, &message(sent[side]), 16) {
                sent[side] += 1;
            }
            for body in nodes[side].take() {
                let rejects = nodes[side].links.rejects();
                assert!(body == message(got[side]), "message {} unaltered: {rejects:?}", got[side]);
                got[side] += 1;
            }
        }
        got == [count; 2]
    });
}

fn message(number: u32) -> Vec<u8> {
    let size = 20 + number as usize * 97 % 3000;
    (0..size).map(|at| (number as usize + at) as u8).collect()
}

fn wait_for(node: &mut Node, what: &str, mut done: impl FnMut(&mut Node) -> bool) {
    until(&mut [node], what, |nodes| done(nodes[0]));
}

/// Every slot it received into is free, or will be in a few turns: bundles are looked after in turns.
fn assert_slots_home(node: &mut Node) {
    let total = node.arena.total_slots();
    wait_for(node, "all slots are home", |node| node.arena.free_slots() == total);
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The acceptor closes: reading ends.
fn assert_closed(node: &mut Node, mut stream: TcpStream) {
    stream.set_nonblocking(true).unwrap();
    wait_for(node, "the connection is closed", |_| match stream.read(&mut [0; 64]) {
        Ok(0) => true,
        Ok(_) => panic!("nothing to say to garbage"),
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    });
}

#[test]
fn peers_exchange_messages() {
    let (mut a, mut b, _) = pair();
    exchange(&mut a, &mut b, 3000);
    assert_eq!(a.events, [LinkEvent::Up(replica(1))]);
    assert_eq!(a.links.rejects().total() + b.links.rejects().total(), 0);
    let large = vec![3; 2_000_000];
    assert!(b.send(replica(0), 2, &large, 0));
    until(&mut [&mut a, &mut b], "the large one arrives", |nodes| !nodes[0].received.is_empty());
    assert_eq!(a.take(), [large]);
    assert_slots_home(&mut a);
}

#[test]
fn clients_dial_all_replicas() {
    let (mut a, at_a) = acceptor(replica(0));
    let (mut b, at_b) = acceptor(replica(1));
    let mut c = dialler(PeerId::client(3), vec![(replica(0), at_a), (replica(1), at_b)]);
    until(&mut [&mut a, &mut b, &mut c], "both up", |nodes| nodes[2].links.up_count() == 2);
    exchange(&mut a, &mut c, 100);
    exchange(&mut c, &mut b, 100);
    assert_eq!(a.events, [LinkEvent::Up(PeerId::client(3))]);
}

#[test]
fn a_peer_that_comes_back_is_dialled_again() {
    let (a, mut b, address) = pair();
    for _ in 0..2 {
        drop(b.events.drain(..));
    }
    drop(a);
    wait_for(&mut b, "the link goes down", |b| b.events == [LinkEvent::Down(replica(0))]);
    let config = TcpConfig { listen: Some(address), ..TcpConfig::default() };
    let (mut a, _) = acceptor_with(replica(0), config);
    until_up(&mut [&mut a, &mut b], replica(0), replica(1));
    exchange(&mut a, &mut b, 100);
}

/// Peers come, go, and move to other addresses while others exchange messages.
#[test]
fn peers_change_while_links_run() {
    let (mut a, mut b, at_a) = pair();
    let (mut c, at_c) = acceptor(replica(2));
    let all = [replica(0), replica(1), replica(2)].map(|peer| (peer, public(peer)));
    let without = Directory::new(all[..2].iter().copied()).unwrap();
    let with = Directory::new(all).unwrap();
    for _ in 0..3 {
        b.links.set_peers(with.clone(), &[(replica(0), at_a), (replica(2), at_c)]);
        until(&mut [&mut a, &mut b, &mut c], "the new one is up", |nodes| {
            nodes[1].links.is_up(replica(2)) && nodes[2].links.is_up(replica(1))
        });
        exchange(&mut b, &mut c, 200);
        b.links.set_peers(without.clone(), &[(replica(0), at_a)]);
        assert!(!b.links.is_up(replica(2)));
        until(&mut [&mut b, &mut c], "it is told", |nodes| !nodes[1].links.is_up(replica(1)));
        exchange(&mut a, &mut b, 200);
        let (up, down) = (LinkEvent::Up(replica(2)), LinkEvent::Down(replica(2)));
        assert_eq!(b.events.drain(..).filter(|event| [up, down].contains(event)).count(), 2);
    }
    assert!(!a.events.contains(&LinkEvent::Down(replica(1))), "the others notice nothing");
    // Replica 0 runs at another address from now on.
    let (mut moved, at_moved) = acceptor(replica(0));
    b.links.set_peers(without, &[(replica(0), at_moved)]);
    until_up(&mut [&mut moved, &mut b], replica(0), replica(1));
    exchange(&mut moved, &mut b, 200);
    until(&mut [&mut a, &mut b], "the old one is left", |nodes| !nodes[0].links.is_up(replica(1)));
    for node in [&mut a, &mut b, &mut c, &mut moved] {
        assert_slots_home(node);
    }
}

#[test]
fn a_dialler_waits_for_a_peer_that_is_not_there() {
    let placeholder = TcpListener::bind(any_port()).unwrap();
    let address = placeholder.local_addr().unwrap();
    drop(placeholder);
    let mut b = dialler(replica(1), vec![(replica(0), address)]);
    wait_for(&mut b, "some attempts fail", |b| b.links.counts().dial_failed >= 3);
    let config = TcpConfig { listen: Some(address), ..TcpConfig::default() };
    let (mut a, _) = acceptor_with(replica(0), config);
    until_up(&mut [&mut a, &mut b], replica(0), replica(1));
}

#[test]
fn garbage_closes_its_own_connection_only() {
    let (mut a, mut b, address) = pair();
    let mut good_header = Header {
        kind: 250,
        auth: 0,
        size: 96 + 104,
        sender: 1,
        proof_size: 0,
        cluster: CLUSTER,
        session: 0,
        sequence: 0,
        body_digest: [0; 32],
        tag: [0; 16],
    };
    let hello_of_noise = [&good_header.to_bytes()[..], &[0xaa; 104]].concat();
    let too_large = {
        good_header.size = 513;
        good_header.to_bytes().to_vec()
    };
    let mut huge = too_large.clone();
    huge[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut other_version = hello_of_noise.clone();
    other_version[4..6].copy_from_slice(&(VERSION + 1).to_le_bytes());
    let mut data_first = hello_of_noise.clone();
    data_first[6] = 1;
    let text = b"GET / HTTP/1.1\r\nHost: example\r\n\r\n".repeat(10);
    let cases = [text, too_large, huge, other_version, vec![0; 96], hello_of_noise, data_first];
    for bytes in &cases {
        let mut stream = connect(address);
        stream.write_all(bytes).unwrap();
        assert_closed(&mut a, stream);
    }
    assert_eq!(a.links.counts().malformed, 5);
    assert_eq!(a.links.rejects().get(Reject::HandshakeFailed), 2);
    exchange(&mut a, &mut b, 100);
    assert_slots_home(&mut a);
}

#[test]
fn half_messages_hold_no_slot_and_time_out() {
    let (mut a, mut b, address) = pair();
    let header = Header {
        kind: 250,
        auth: 0,
        size: 96 + 104,
        sender: 1,
        proof_size: 0,
        cluster: CLUSTER,
        session: 0,
        sequence: 0,
        body_digest: [0; 32],
        tag: [0; 16],
    };
    let whole = [&header.to_bytes()[..], &[1; 104]].concat();
    let streams: Vec<_> = [1, 50, 95, 96, 97, 199]
        .map(|size| {
            let mut stream = connect(address);
            stream.write_all(&whole[..size]).unwrap();
            stream
        })
        .into();
    until(&mut [&mut a, &mut b], "all are there", |nodes| nodes[0].links.counts().accepted == 7);
    exchange(&mut a, &mut b, 100);
    // Half messages hold no slot.
    assert_slots_home(&mut a);
    until(&mut [&mut a, &mut b], "their time is over", |nodes| {
        nodes[0].links.rejects().get(Reject::HandshakeTimeout) == 6
    });
    for stream in streams {
        assert_closed(&mut a, stream);
    }
    assert!(a.links.is_up(replica(1)) && b.links.is_up(replica(0)));
}

/// More silent connections than there are places: a good pair does not notice, and another good
/// peer still gets in.
#[test]
fn a_thousand_silent_connections_are_harmless() {
    let (mut a, mut b, address) = pair();
    let mut silent = Vec::new();
    for _ in 0..20 {
        for _ in 0..50 {
            silent.push(connect(address));
        }
        exchange(&mut a, &mut b, 50);
    }
    until(&mut [&mut a, &mut b], "all were seen", |nodes| {
        let counts = nodes[0].links.counts();
        counts.accepted + counts.refused == 1001
    });
    let counts = a.links.counts();
    // Whose limit ends a connection, the endpoint's, the links' or that of time, depends on how fast
    // the machine is.
    let rejects = a.links.rejects();
    let others = rejects.get(Reject::HandshakeTimeout) + rejects.get(Reject::TooManyConnections);
    assert!(counts.refused + counts.evicted + others >= 800, "{counts:?} {rejects:?}");
    let mut c = dialler(PeerId::client(0), vec![(replica(0), address)]);
    until(&mut [&mut a, &mut b, &mut c], "a late peer gets in", |nodes| {
        nodes[2].links.is_up(replica(0)) && nodes[0].links.is_up(PeerId::client(0))
    });
    exchange(&mut a, &mut b, 100);
    exchange(&mut a, &mut c, 100);
    assert_eq!(a.events[0], LinkEvent::Up(replica(1)));
    assert!(!a.events.contains(&LinkEvent::Down(replica(1))));
}

/// What passes between two sockets, with a copy of what the dialler said.
struct Proxy {
    listener: TcpListener,
    target: SocketAddr,
    streams: Option<(TcpStream, TcpStream)>,
    said: Vec<u8>,
    /// Flip a bit at this place of what the dialler says.
    flip: Option<usize>,
}

impl Proxy {
    fn new(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(any_port()).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener, target, streams: None, said: Vec::new(), flip: None }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    fn turn(&mut self) {
        if let Ok((from, _)) = self.listener.accept() {
            let to = connect(self.target);
            from.set_nonblocking(true).unwrap();
            to.set_nonblocking(true).unwrap();
            self.streams = Some((from, to));
            self.said.clear();
        }
        let Some((from, to)) = &mut self.streams else {
            return;
        };
        let mut buffer = [0; 4096];
        if let Ok(count) = from.read(&mut buffer) {
            let before = self.said.len();
            self.said.extend(&buffer[..count]);
            if let Some(at) = self.flip.and_then(|at| at.checked_sub(before))
                && at < count
            {
                buffer[at] ^= 1;
                self.flip = None;
            }
            let _ = to.write_all(&buffer[..count]);
        }
        if let Ok(count) = to.read(&mut buffer) {
            let _ = from.write_all(&buffer[..count]);
        }
    }
}

fn through_proxy() -> (Node, Node, Proxy) {
    let (mut a, address) = acceptor(replica(0));
    let mut proxy = Proxy::new(address);
    let mut b = dialler(replica(1), vec![(replica(0), proxy.address())]);
    until(&mut [&mut a, &mut b], "up through the proxy", |nodes| {
        proxy.turn();
        nodes[0].links.is_up(replica(1)) && nodes[1].links.is_up(replica(0))
    });
    (a, b, proxy)
}

#[test]
fn a_recorded_stream_is_rejected() {
    let (mut a, mut b, mut proxy) = through_proxy();
    for number in 0..10 {
        assert!(b.send(replica(0), 1, &message(number), 0));
    }
    until(&mut [&mut a, &mut b], "all arrive", |nodes| {
        proxy.turn();
        nodes[0].received.len() == 10
    });
    a.take();
    let before = a.links.rejects().get(Reject::BadTag);
    let mut attacker = connect(proxy.target);
    // A whole connection again: handshake, ping, ten messages. The limit of unauthenticated
    // connections may end it early; nothing of it may be delivered.
    let _ = attacker.write_all(&proxy.said);
    until(&mut [&mut a, &mut b], "the replay was looked at", |nodes| {
        proxy.turn();
        let malformed = nodes[0].links.counts().malformed;
        nodes[0].links.rejects().get(Reject::BadTag) > before || malformed > 0
    });
    assert!(a.take().is_empty(), "nothing of a recording is delivered");
    assert_eq!(a.events, [LinkEvent::Up(replica(1))], "the real link stays");
    assert!(b.send(replica(0), 1, b"genuine", 0));
    until(&mut [&mut a, &mut b], "the real link works", |nodes| {
        proxy.turn();
        !nodes[0].received.is_empty()
    });
    assert_eq!(a.take(), [b"genuine"]);
}

#[test]
fn flipped_bits_on_the_wire_are_counted_and_not_delivered() {
    let (mut a, mut b, mut proxy) = through_proxy();
    // Kind, session, sequence, digest, tag, body, proof.
    for (at, reason) in [
        (6, Reject::BadTag),
        (25, Reject::BadTag),
        (33, Reject::BadTag),
        (50, Reject::BadTag),
        (90, Reject::BadTag),
        (100, Reject::BadDigest),
        (96 + 60, Reject::BadTag),
    ] {
        let before = a.links.rejects().get(reason);
        // Nothing else is on the way: keep-alive pings come once a second.
        let said = proxy.said.len();
        proxy.flip = Some(said + at);
        assert!(b.send(replica(0), 1, &[5; 64], 16));
        until(&mut [&mut a, &mut b], "it is looked at", |nodes| {
            proxy.turn();
            let rejects = nodes[0].links.rejects();
            rejects.get(reason) > before || rejects.get(Reject::Replay) > 0
        });
        assert!(a.take().is_empty(), "byte {at}");
    }
    assert!(b.send(replica(0), 1, b"whole", 0));
    until(&mut [&mut a, &mut b], "the link survives", |nodes| {
        proxy.turn();
        !nodes[0].received.is_empty()
    });
    assert_eq!(a.take(), [b"whole"]);
}

/// A peer that authenticates and then does not read: its queue fills, the others do not notice.
#[test]
fn a_slow_reader_does_not_block_others() {
    let (mut a, address) = acceptor(replica(0));
    let mut slow = dialler(PeerId::client(1), vec![(replica(0), address)]);
    let mut good = dialler(replica(1), vec![(replica(0), address)]);
    until(&mut [&mut a, &mut slow, &mut good], "both are up", |nodes| {
        nodes[0].links.up_count() == 2
    });
    let body = vec![1; 400];
    let mut refused = 0;
    wait_for(&mut a, "the queue of the slow one is full", |a| {
        while a.send(PeerId::client(1), 1, &body, 0) {}
        refused = a.links.rejects().get(Reject::QueueFull);
        refused > 0
    });
    assert!(a.links.is_up(PeerId::client(1)));
    exchange(&mut a, &mut good, 200);
}

#[test]
fn a_port_in_use_says_so() {
    let taken = TcpListener::bind(any_port()).unwrap();
    let address = taken.local_addr().unwrap();
    let config = TcpConfig { listen: Some(address), ..TcpConfig::default() };
    let Err(error @ OpenError::System { .. }) = open(config) else {
        panic!("the port is taken");
    };
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("another port"), "{text}");
    let config = TcpConfig { listen: Some(([192, 0, 2, 1], 0).into()), ..TcpConfig::default() };
    let text = open(config).err().unwrap().to_string();
    assert!(text.contains("192.0.2.1") && text.contains("address of this machine"), "{text}");
    let config = TcpConfig { receive_buffer_size: 1, ..TcpConfig::default() };
    let text = open(config).err().unwrap().to_string();
    assert!(text.contains("tcp.receive_buffer_size = 1"), "{text}");
}

/// Two endpoints share a listening port: each connection ends at one of them.
#[test]
fn several_cores_share_a_port() {
    let config = TcpConfig { listen: Some(any_port()), ..TcpConfig::default() };
    let mut chosen = open(config).unwrap();
    let address = chosen.local_address.unwrap();
    let mut cores: Vec<_> = (0..2)
        .map(|core| {
            let arena = arena();
            let endpoint = chosen.transport.open(core, arena.pool()).unwrap();
            patient(replica(0), arena, endpoint)
        })
        .collect();
    let mut peers: Vec<_> =
        (0..4).map(|i| dialler(PeerId::client(i), vec![(replica(0), address)])).collect();
    let mut all: Vec<&mut Node> = cores.iter_mut().chain(peers.iter_mut()).collect();
    until(&mut all, "each is up at one core", |nodes| {
        nodes[0].links.up_count() + nodes[1].links.up_count() == 4
            && nodes[2..].iter().all(|node| node.links.is_up(replica(0)))
    });
}

/// A core that sleeps in `park` is woken by what arrives.
#[test]
fn park_ends_when_something_arrives() {
    let (mut a, mut b, _) = pair();
    let clock = SystemClock::new();
    let start = clock.now();
    assert!(b.send(replica(0), 1, b"wake up", 0));
    b.links.flush(clock.now());
    while a.received.is_empty() {
        a.turn(clock.now());
        if a.received.is_empty() {
            a.links.park(PATIENCE);
        }
    }
    assert!(clock.now().since(start) < PATIENCE);
    assert_eq!(a.take(), [b"wake up"]);
    b.links.park(Duration::ZERO);
}
