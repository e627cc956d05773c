//! Limits of the configuration, a peer that speaks verbs and breaks the rules, and a network that fails.
//!
//! Owns that peer. Always true: after each of its attempts a correct peer still gets through; what was broken is
//! mended. Must not: depend on how fast the machine is.

use std::time::Duration;

use super::chunks::Chunks;
use super::credits::{CREDITS_MAX, RESERVE};
use super::endpoint::RdmaEndpoint;
use super::hello::Hello;
use super::verbs::{CmKind, CompletionQueue, Part, QpSpec, SendWork};
use super::*;
use crate::arena::SlotClass;
use crate::burst::Burst;
use crate::clock::{Clock, SystemClock};
use crate::endpoint::{ConnEvent, ConnId, RawOutgoing, RawReceived};
use crate::header::Header;
use crate::limits::HEADER_SIZE;
use crate::transport::conformance::PATIENCE;
use crate::types::PeerId;

#[test]
fn a_limit_out_of_range_is_refused_with_the_range() {
    let refused = |config: RdmaConfig| config.check().unwrap_err().to_string();
    let config = RdmaConfig { chunk_size: 4096, ..RdmaConfig::default() };
    assert_eq!(refused(config), "rdma.chunk_size = 4096: out of range; use 4192 to 1048576");
    let config = RdmaConfig { window: 1, ..RdmaConfig::default() };
    assert!(refused(config).starts_with("rdma.window = 1: out of range; use 2 to"));
    let config = RdmaConfig { ack_timeout: 0, ..RdmaConfig::default() };
    assert!(refused(config).starts_with("rdma.ack_timeout = 0"));
    assert!(RdmaConfig::default().check().is_ok());
}

#[test]
fn without_a_device_the_reason_is_said() {
    if let Err(why) = probe() {
        let text = why.to_string();
        assert!(text.contains("transport = \"tcp\""), "{text}");
        assert!(RdmaTransport::new(RdmaConfig::default()).is_err());
    }
}

const UNAUTHENTICATED_MAX: usize = 4;

fn header() -> [u8; HEADER_SIZE] {
    let header = Header {
        kind: 1,
        auth: 0,
        size: HEADER_SIZE as u32,
        sender: 0,
        proof_size: 0,
        cluster: 1,
        session: 0,
        sequence: 1,
        body_digest: [0; 32],
        tag: [0; 16],
    };
    header.to_bytes()
}

/// One who accepts, and a correct peer that is connected to it.
struct Rig {
    acceptor: RdmaEndpoint,
    address: SocketAddr,
    correct: RdmaEndpoint,
    conn: ConnId,
    received: Burst<RawReceived>,
    /// Connections of the hostile peer that the acceptor opened and closed.
    opened: usize,
    closed: usize,
    /// The network is so bad that the correct peer may lose its connection.
    bad_network: bool,
    clock: SystemClock,
    _arena: Arena,
}

/// No connection.
const NOBODY: ConnId = ConnId(u32::MAX);

impl Rig {
    /// `None`: there is no device here.
    fn new() -> Option<Self> {
        let required = std::env::var_os("TETRARCH_RDMA").is_some();
        let found = probe();
        assert!(!required || found.is_ok(), "TETRARCH_RDMA says that there are devices: {found:?}");
        found.ok()?;
        let classes = vec![SlotClass { slot_size: 512, count: 64 }];
        let arena = Arena::heap(&ArenaSpec { classes }).unwrap();
        let tcp = TcpConfig { unauthenticated_max: UNAUTHENTICATED_MAX, ..TcpConfig::default() };
        let config = RdmaConfig { receive_chunks: 256, tcp, ..RdmaConfig::default() };
        let listen = Some(([0, 0, 0, 0], 0).into());
        let tcp = TcpConfig { listen, ..config.tcp.clone() };
        let mut accepting = RdmaTransport::new(RdmaConfig { tcp, ..config.clone() }).unwrap();
        let address = accepting.local_address().unwrap();
        let dial = vec![(PeerId::replica(0), address)];
        let tcp = TcpConfig { dial, ..config.tcp.clone() };
        // From another device, if there is one, so that packets leave one and come in at the other.
        let all = devices().unwrap();
        let device =
            DeviceChoice { device: all.last().map(|(_, it)| it.name.clone()), ..config.device };
        let mut dialling = RdmaTransport::new(RdmaConfig { tcp, device, ..config }).unwrap();
        let acceptor = accepting.open_endpoint(arena.pool()).unwrap();
        let correct = dialling.open_endpoint(arena.pool()).unwrap();
        let mut rig = Self {
            acceptor,
            address,
            correct,
            conn: NOBODY,
            received: Burst::with_capacity(64),
            opened: 0,
            closed: 0,
            bad_network: false,
            clock: SystemClock::new(),
            _arena: arena,
        };
        rig.until("the correct peer connects", |rig| rig.conn != NOBODY && rig.opened == 1);
        // Only the correct peer proves who it is.
        let first = rig.acceptor.table.at(0).unwrap().id;
        rig.acceptor.set_message_size_max(first, 4096);
        (rig.opened, rig.closed) = (0, 0);
        rig.exchange();
        Some(rig)
    }

    fn turn(&mut self) {
        let now = self.clock.now();
        self.acceptor.rx_burst(&mut self.received);
        while let Some(event) = self.acceptor.events() {
            match event {
                ConnEvent::Opened { .. } => self.opened += 1,
                ConnEvent::Closed { .. } => self.closed += 1,
            }
        }
        self.acceptor.flush(now);
        self.correct.rx_burst(&mut Burst::with_capacity(1));
        while let Some(event) = self.correct.events() {
            match event {
                ConnEvent::Opened { conn, .. } => self.conn = conn,
                ConnEvent::Closed { .. } => {
                    assert!(self.bad_network, "a correct peer keeps its connection");
                    self.conn = NOBODY;
                }
            }
        }
        self.correct.flush(now);
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let limit = self.clock.now() + PATIENCE;
        loop {
            self.turn();
            if done(self) {
                return;
            }
            assert!(self.clock.now() < limit, "timed out: {what}");
            self.acceptor.park(Duration::from_millis(1));
        }
    }

    /// The correct peer sends, if it has a connection that takes more.
    fn send(&mut self) {
        let out = RawOutgoing { conn: self.conn, header: header(), body: None };
        let _refused = self.correct.tx(out);
    }

    /// The correct peer gets a message through.
    fn exchange(&mut self) {
        assert!(self.conn != NOBODY, "it is connected");
        self.send();
        self.until("the correct peer's message arrives", |rig| !rig.received.is_empty());
        assert_eq!(self.received.pop_front().map(|message| message.header), Some(header()));
    }

    /// The hostile peer's connection is closed, for `malformed` if that is counted.
    fn closes(&mut self, what: &str, malformed: u64) {
        let before = self.acceptor.counts().malformed;
        let closed = self.closed;
        self.until(what, |rig| rig.closed > closed);
        assert_eq!(self.acceptor.counts().malformed - before, malformed, "{what}");
        self.exchange();
    }
}

/// A peer that speaks verbs directly.
struct Hostile {
    id: Id,
    queue: CompletionQueue,
    chunks: Chunks,
}

impl Hostile {
    /// Connects with `hello`. `None`: it was sent away.
    fn connect(rig: &mut Rig, hello: &[u8]) -> Option<Self> {
        let (device, chosen) = find(&DeviceChoice::default(), None).unwrap();
        let domain = Domain::new(device).unwrap();
        let channel = EventChannel::new().unwrap();
        let mut id = Id::new(&channel).unwrap();
        let queue = CompletionQueue::new(&domain, 256).unwrap();
        let chunks = Chunks::new(&domain, 8, 64 * 1024).unwrap();
        let from = SocketAddr::new(chosen.gid.address, 0);
        id.resolve_address(Some(from), rig.address, 5000).unwrap();
        let mut connected = None;
        let address = rig.address;
        rig.until("an answer to the hostile peer", |_| {
            let Some(event) = channel.next() else {
                return false;
            };
            match event.kind {
                CmKind::AddressResolved => id.resolve_route(5000).unwrap(),
                CmKind::RouteResolved => {
                    let spec = QpSpec { sends: 64, receives: 8, inline: 0 };
                    id.create_queue_pair(&domain, &queue, spec).unwrap();
                    id.connect(hello).unwrap();
                }
                CmKind::Established => connected = Some(true),
                CmKind::Failed | CmKind::Disconnected => connected = Some(false),
                CmKind::Request | CmKind::Other => panic!("nobody knocks at {address}'s peer"),
            }
            connected.is_some()
        });
        (connected == Some(true)).then_some(Self { id, queue, chunks })
    }

    fn honest_hello() -> [u8; 16] {
        Hello { chunk_size: 16 * 1024, credits: 2 }.to_bytes()
    }

    /// Posts one send of `bytes`, saying `number`.
    fn send(&mut self, bytes: &[u8], number: u32) {
        let chunk = self.chunks.take().unwrap();
        self.chunks.bytes_mut(chunk)[..bytes.len()].copy_from_slice(bytes);
        let part = self.chunks.part(chunk, bytes.len(), true);
        let nothing = Part { size: 0, ..part };
        let send =
            SendWork { work: 0, parts: [part, nothing], number, signalled: true, copied: false };
        // SAFETY: the chunk is not used again, and goes after the queue pair.
        unsafe { self.id.post_sends(&[send]) }.unwrap();
    }
}

/// Each attempt costs the one who makes it its connection, or nothing; all that it took is given back.
#[test]
fn a_hostile_peer_harms_its_own_connection_only() {
    let Some(mut rig) = Rig::new() else {
        eprintln!("no RDMA device: ci/rxe/run makes some");
        return;
    };
    let free = rig.acceptor.receive.free();
    let hello = Hostile::honest_hello();

    for bad in [&b"GET / HTTP/1.0\r\n"[..], &[], &[0xff; 56]] {
        let before = rig.acceptor.counts().malformed;
        assert!(Hostile::connect(&mut rig, bad).is_none(), "a bad hello is sent away");
        assert_eq!(rig.acceptor.counts().malformed - before, 1);
    }
    let attempts: [(&str, Vec<u8>, u32, usize, u64); 4] = [
        ("garbage closes", vec![b'x'; 200], 0, 1, 1),
        ("more than a chunk closes", vec![0; 20_000], 0, 1, 0),
        ("a lie about credits closes", header()[..10].to_vec(), CREDITS_MAX, 1, 1),
        ("sends without credits close", header()[..1].to_vec(), 0, 8, 1),
    ];
    for (what, bytes, number, times, malformed) in attempts {
        let mut hostile = Hostile::connect(&mut rig, &hello).unwrap();
        for _ in 0..times {
            hostile.send(&bytes, number);
        }
        rig.closes(what, malformed);
        hostile.queue.poll(|_| ());
        drop(hostile);
    }
    // Connections that are dropped as soon as they are there.
    for _ in 0..8 {
        let closed = rig.closed;
        drop(Hostile::connect(&mut rig, &hello));
        rig.until("a connection that is dropped is noticed", |rig| rig.closed > closed);
    }
    // Silent ones: there are never more than allowed, and each costs what it should.
    let silent: Vec<_> =
        (0..2 * UNAUTHENTICATED_MAX).filter_map(|_| Hostile::connect(&mut rig, &hello)).collect();
    assert!(!silent.is_empty() && rig.opened - rig.closed <= UNAUTHENTICATED_MAX);
    let taken = (rig.opened - rig.closed) * (WINDOW_FIRST + RESERVE) as usize;
    assert_eq!(rig.acceptor.receive.free(), free - taken);
    rig.exchange();
    drop(silent);
    rig.until("all are gone", |rig| rig.opened == rig.closed);
    assert_eq!(rig.acceptor.receive.free(), free, "no chunk is lost");
    rig.exchange();
}

/// A fault of the network of `ci/rxe/fabric`, undone when it goes.
struct Fault(Vec<&'static str>);

impl Fault {
    fn new(commands: Vec<&'static str>, undo: Vec<&'static str>) -> Self {
        commands.iter().for_each(|command| Self::run(command));
        Self(undo)
    }

    fn run(command: &str) {
        let mut words = command.split(' ');
        let program = words.next().unwrap();
        let status = std::process::Command::new(program).args(words).status();
        assert!(status.is_ok_and(|status| status.success()), "{command}");
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        self.0.iter().for_each(|command| Self::run(command));
    }
}

/// A rig whose peers are on different devices of `ci/rxe/fabric`.
fn on_fabric() -> Option<Rig> {
    let names: Vec<_> = devices().unwrap().into_iter().map(|(_, info)| info.name).collect();
    if names.first().map(String::as_str) != Some("rxe1") || names.len() != 4 {
        eprintln!("no devices whose network may be broken: ci/rxe/run makes some");
        return None;
    }
    let mut rig = Rig::new()?;
    rig.bad_network = true;
    Some(rig)
}

#[test]
fn messages_pass_where_packets_are_lost() {
    let Some(mut rig) = on_fabric() else {
        return;
    };
    let _fault = Fault::new(
        vec![
            "tc qdisc add dev p1 root netem delay 2ms loss 2%",
            "tc qdisc add dev p4 root netem delay 2ms loss 2%",
        ],
        vec!["tc qdisc del dev p1 root", "tc qdisc del dev p4 root"],
    );
    let (mut sent, mut received) = (0, 0);
    rig.until("messages arrive in spite of loss", |rig| {
        if rig.conn == NOBODY {
            // What was on the way is lost with the connection.
            sent = received;
        } else if sent < received + 4 {
            rig.send();
            sent += 1;
        }
        received += rig.received.drain().count();
        received >= 200
    });
}

/// Who can reach nobody loses the connection, and gets another one when the network is back.
#[test]
fn a_link_that_was_cut_is_dialled_again() {
    let Some(mut rig) = on_fabric() else {
        return;
    };
    let fault = Fault::new(vec!["ip link set p4 down"], vec!["ip link set p4 up"]);
    rig.until("what is sent in vain ends the connection", |rig| {
        rig.send();
        rig.conn == NOBODY
    });
    rig.received.clear();
    let dialled = rig.correct.counts().dialled;
    drop(fault);
    rig.until("a message over a new connection", |rig| {
        if rig.conn != NOBODY {
            rig.send();
        }
        !rig.received.is_empty()
    });
    assert!(rig.correct.counts().dialled > dialled);
}
