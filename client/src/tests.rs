//! The client against made-up replicas that check every proof: in one thread over the memory
//! transport, and with threads over TCP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use tetrarch_dataplane::alloc_guard::{FrozenAllocator, count_allocations};
use tetrarch_dataplane::clock::{Clock, SystemClock};
use tetrarch_dataplane::endpoint::Transport;
use tetrarch_dataplane::transport::memory::{MemoryTransport, Port, Switch, SwitchConfig};
use tetrarch_dataplane::transport::tcp::{TcpConfig, TcpTransport};
use tetrarch_dataplane::types::{Instant, PeerId};

mod following;

use crate::testing::{FakeReplica, Manner, TestCluster, small_arena};
use crate::*;

#[global_allocator]
static ALLOCATOR: FrozenAllocator<std::alloc::System> = FrozenAllocator::new(std::alloc::System);

const MILLISECOND: Duration = Duration::from_millis(1);

/// A driver and replicas on one switch, one thread, made-up time.
struct World {
    driver: ClientDriver,
    replicas: Vec<FakeReplica>,
    now: Instant,
    completions: Vec<Completion>,
}

impl World {
    fn new(n: u16) -> Self {
        Self::with(n, |_| {})
    }

    fn with(n: u16, change: impl FnOnce(&mut ClientConfig)) -> Self {
        let test = TestCluster::new(n);
        let switch = Switch::new(SwitchConfig { queue_max: 4096, ..SwitchConfig::default() });
        let endpoint = |index: u16| {
            let mut transport = MemoryTransport::new(&switch, Port(index), &[]);
            transport.open(0, small_arena().pool()).unwrap()
        };
        let replicas = (0..n).map(|index| FakeReplica::new(&test, index.into(), endpoint(index)));
        let replicas = replicas.collect();
        let dial: Vec<_> = (0..n).map(|index| (PeerId::replica(index), Port(index))).collect();
        let mut transport = MemoryTransport::new(&switch, Port(n), &dial);
        let mut config = test.into_config();
        change(&mut config);
        let driver = ClientDriver::over(&config, &mut transport, Matching::Equal).unwrap();
        Self { driver, replicas, now: Instant(1 << 60), completions: Vec::new() }
    }

    fn turn(&mut self) {
        self.driver.poll(self.now, &mut self.completions);
        for replica in &mut self.replicas {
            replica.turn(self.now);
        }
        self.now = self.now + MILLISECOND;
    }

    fn turns(&mut self, count: usize) {
        (0..count).for_each(|_| self.turn());
    }

    fn submit(&mut self, session: u32, mode: Mode, operation: &[u8]) -> Ticket {
        self.driver.submit(self.now, session, mode, operation).unwrap()
    }

    fn results(&mut self) -> Vec<(Ticket, Vec<u8>)> {
        let result = |completion: Completion| match completion.outcome {
            Outcome::Done(result) => (completion.ticket, result.to_vec()),
            other => panic!("{other:?}"),
        };
        self.completions.drain(..).map(result).collect()
    }
}

#[test]
fn operations_come_back_with_what_enough_replicas_said() {
    // rule: CLI.1, CLI.2
    let mut world = World::new(4);
    world.replicas[2].manner = Manner::Lying;
    world.turns(200);
    assert_eq!(world.driver.connected(), 4);
    let put = world.submit(0, Mode::Ordered, b"put");
    let get = world.submit(0, Mode::ReadOnly, b"get");
    let large = vec![7; 256 * 1024];
    let big = world.submit(1, Mode::Ordered, &large);
    world.turns(20);
    let mut results = world.results();
    results.sort();
    let mut expected = vec![(put, b"put".to_vec()), (get, b"get".to_vec()), (big, large)];
    expected.sort();
    assert_eq!(results, expected);
    assert!(world.replicas.iter().all(|replica| (replica.seen, replica.signed) == (3, 0)));
    assert_eq!(world.driver.counts().completed, 3);
    assert_eq!(world.driver.in_flight(), 0);
}

#[test]
fn operations_that_fill_the_memory_leave_all_the_same() {
    for size in [2_000, 20_000, 100_000, 256 * 1024] {
        let mut world = World::new(4);
        world.turns(200);
        for replica in &mut world.replicas {
            replica.manner = Manner::Silent;
        }
        let operation = vec![7; size];
        let mut taken = 0;
        let busy = loop {
            match world.driver.submit(world.now, taken, Mode::Ordered, &operation) {
                Ok(_) => taken += 1,
                Err(busy) => break busy,
            }
        };
        assert_eq!(busy, Busy::Memory);
        assert!(taken >= 8, "{taken} operations of {size} bytes");
        world.turns(400);
        for replica in &world.replicas {
            let came = (replica.seen, replica.signed);
            assert_eq!(came, (taken as usize, 0), "operations of {size} bytes");
        }
    }
}

#[test]
fn garbage_is_counted_and_counts_for_nothing() {
    // rule: CLI.6
    let mut world = World::new(4);
    world.replicas[1].manner = Manner::Garbled;
    world.replicas[3].manner = Manner::Garbled;
    world.turns(200);
    let ticket = world.submit(0, Mode::Ordered, b"a");
    world.turns(20);
    assert_eq!(world.driver.heard(ticket).unwrap().members, 2);
    assert_eq!(world.driver.counts().malformed, 2);
    world.replicas[3].manner = Manner::Honest;
    world.turns(1200);
    assert_eq!(world.results(), [(ticket, b"a".to_vec())]);
}

#[test]
fn a_session_that_is_told_busy_holds_back_and_comes_again() {
    // rule: CLI.9
    let mut world = World::new(4);
    world.turns(200);
    world.replicas.iter_mut().for_each(|replica| replica.manner = Manner::Crowded);
    let tickets: Vec<_> = (0..10).map(|at| world.submit(0, Mode::Ordered, &[at])).collect();
    let other = world.submit(1, Mode::Ordered, b"other");
    world.turns(10);
    assert_eq!(world.results(), [(other, b"other".to_vec())], "others are not concerned");
    let counts = world.driver.counts();
    assert_eq!((counts.busy, counts.held_back), (44, 1), "all, and the oldest once more");
    let more = world.driver.submit(world.now, 0, Mode::Ordered, b"more");
    assert_eq!(more, Err(Busy::Overload));
    world.replicas.iter_mut().for_each(|replica| replica.manner = Manner::Honest);
    world.turns(400);
    let expected: Vec<_> = tickets.into_iter().zip((0..10).map(|at| vec![at])).collect();
    assert_eq!(world.results(), expected, "none is skipped");
    assert_eq!(world.driver.counts().resent, 0, "nothing was taken for lost");
    assert!(world.driver.submit(world.now, 0, Mode::Ordered, b"more").is_ok());
}

#[test]
fn what_is_submitted_before_there_are_links_is_sent_when_there_are() {
    let mut world = World::new(4);
    let ticket = world.submit(0, Mode::Ordered, b"early");
    assert_eq!(world.driver.connected(), 0);
    world.turns(200);
    assert_eq!(world.results(), [(ticket, b"early".to_vec())]);
    assert!(world.replicas.iter().all(|replica| replica.signed == 0));
}

#[test]
fn silence_is_answered_by_signed_retransmission() {
    // rule: CLI.4
    let mut world = World::new(4);
    world.turns(200);
    world.replicas[0].manner = Manner::Silent;
    world.replicas[1].manner = Manner::Silent;
    let ticket = world.submit(0, Mode::Ordered, b"a");
    world.turns(900);
    let heard = world.driver.heard(ticket).unwrap();
    assert_eq!((heard.members, heard.of, heard.needed), (2, 4, 3));
    assert!(world.replicas.iter().all(|replica| replica.signed == 0));
    world.turns(300);
    assert!(world.replicas.iter().all(|replica| replica.signed == 1), "after half the timeout");
    world.replicas[0].manner = Manner::Honest;
    world.turns(2500);
    assert_eq!(world.results(), [(ticket, b"a".to_vec())]);
}

#[test]
fn a_client_that_signs_is_believed_at_once() {
    // rule: CLI.4
    let mut world = World::with(4, |config| config.authentication = Authentication::Signature);
    world.turns(200);
    let tickets = [b"a", b"b"].map(|operation| world.submit(0, Mode::Ordered, operation));
    let read = world.submit(0, Mode::ReadOnly, b"c");
    world.turns(20);
    let mut results = world.results();
    results.sort();
    let mut expected =
        vec![(tickets[0], b"a".to_vec()), (tickets[1], b"b".to_vec()), (read, b"c".to_vec())];
    expected.sort();
    assert_eq!(results, expected);
    assert!(world.replicas.iter().all(|replica| (replica.seen, replica.signed) == (3, 2)));
    let counts = world.driver.counts();
    assert_eq!((counts.signed, counts.resent), (2, 0));
}

#[test]
fn many_sessions_share_the_links_in_order_and_leave_nothing_behind() {
    let mut world = World::new(4);
    world.turns(200);
    let free = world.driver.free_slots();
    let (sessions, each) = (50u32, 40u32);
    let mut submitted: Vec<Vec<Ticket>> = vec![Vec::new(); sessions as usize];
    let mut finished = submitted.clone();
    let mut count = 0;
    while count < sessions * each {
        for session in 0..sessions {
            let of = &mut submitted[session as usize];
            if of.len() < each as usize {
                let operation = (of.len() as u32).to_le_bytes();
                if let Ok(ticket) =
                    world.driver.submit(world.now, session, Mode::Ordered, &operation)
                {
                    of.push(ticket);
                }
            }
        }
        world.turn();
        for Completion { ticket, session, outcome } in world.completions.drain(..) {
            let of = &mut finished[session as usize];
            let Outcome::Done(result) = outcome else { panic!("{outcome:?}") };
            assert_eq!(*result, (of.len() as u32).to_le_bytes(), "in order");
            of.push(ticket);
            count += 1;
        }
        assert!(world.now.0 - (1 << 60) < 60_000_000_000, "{count} after a minute");
    }
    assert_eq!(finished, submitted);
    world.turns(50);
    assert_eq!(world.driver.free_slots(), free, "every frame is back in its pool");
    let counts = world.driver.counts();
    assert_eq!((counts.completed, counts.malformed), (u64::from(sessions * each), 0));
}

#[test]
fn a_warm_driver_allocates_nothing() {
    let mut world = World::new(4);
    world.turns(200);
    let mut allocations = 0;
    for round in 0..60 {
        for session in 0..20 {
            for mode in [Mode::Ordered, Mode::ReadOnly] {
                let (now, driver) = (world.now, &mut world.driver);
                let submit = || driver.submit(now, session, mode, b"operation").unwrap();
                allocations += count_allocations(submit).1;
            }
        }
        for _ in 0..3 {
            let (now, driver, completions) = (world.now, &mut world.driver, &mut world.completions);
            allocations += count_allocations(|| driver.poll(now, completions)).1;
            world.turn();
        }
        assert_eq!(world.results().len(), 40);
        if round < 30 {
            allocations = 0;
        }
    }
    assert_eq!(allocations, 0, "after 30 rounds of warming up");
}

/// Replicas behind TCP, a thread each.
struct TcpReplicas {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl TcpReplicas {
    fn start(manners: &[Manner]) -> (Self, ClientConfig) {
        Self::start_with(manners, |_, _| {})
    }

    /// Of seven, `members` are in view `view`, and no others run; the client knows the first four, of the
    /// first view.
    fn start_in_view(view: u32, members: &[usize]) -> (Self, ClientConfig) {
        let manners: [Manner; 7] = std::array::from_fn(|at| match members.contains(&at) {
            true => Manner::Honest,
            false => Manner::Silent,
        });
        let mut first = None;
        let (replicas, config) = Self::start_with(&manners, |test, running| {
            let next = test.next(view, members);
            members.iter().for_each(|at| running[*at].enter(*at as u16, &next));
            running.retain(|replica| replica.manner == Manner::Honest);
            first = Some(test.of(&[0, 1, 2, 3]));
        });
        (replicas, ClientConfig { cluster: first.unwrap(), ..config })
    }

    fn start_with(
        manners: &[Manner],
        prepare: impl FnOnce(&TestCluster, &mut Vec<FakeReplica>),
    ) -> (Self, ClientConfig) {
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let transport =
            || TcpTransport::new(TcpConfig { listen: Some(any), ..TcpConfig::default() }).unwrap();
        let mut transports: Vec<_> = manners.iter().map(|_| transport()).collect();
        let addresses: Vec<_> =
            transports.iter().map(|transport| transport.local_address().unwrap()).collect();
        let test = TestCluster::at(&addresses);
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let mut running = Vec::new();
        for (index, (transport, manner)) in transports.iter_mut().zip(manners).enumerate() {
            let endpoint = transport.open(0, small_arena().pool()).unwrap();
            let mut replica = FakeReplica::new(&test, index, endpoint);
            replica.manner = *manner;
            running.push(replica);
        }
        prepare(&test, &mut running);
        for mut replica in running {
            let stop = stop.clone();
            threads.push(std::thread::spawn(move || {
                let clock = SystemClock::new();
                while !stop.load(Ordering::Relaxed) {
                    if replica.turn(clock.now()) == 0 {
                        replica.park(MILLISECOND * 10);
                    }
                }
            }));
        }
        (Self { stop, threads }, test.into_config())
    }
}

impl Drop for TcpReplicas {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

#[test]
fn a_threaded_client_over_tcp() {
    let manners = [Manner::Strict, Manner::Strict, Manner::Lying, Manner::Strict];
    let (_replicas, config) = TcpReplicas::start(&manners);
    let client = Client::connect(config).unwrap();
    let session = client.session().unwrap();
    assert_eq!(session.invoke(b"put").unwrap(), b"put");
    assert_eq!(session.query(b"get").unwrap(), b"get");
    assert_eq!(session.invoke(&[1; 256 * 1024]).unwrap().len(), 256 * 1024);
    let size = 256 * 1024 + 1;
    let error = session.invoke(&vec![1; size]).unwrap_err();
    assert_eq!(error, ClientError::OperationSize { size });
    assert_eq!(session.invoke(b"!bad").unwrap_err(), ClientError::Refused);
    assert_eq!(session.invoke(b"good").unwrap(), b"good", "the session goes on");
    // Handles and callbacks, from several sessions.
    let sessions: Vec<_> = (0..20).map(|_| client.session().unwrap()).collect();
    let (sender, receiver) = channel();
    let mut pending = Vec::new();
    for (number, session) in sessions.iter().enumerate() {
        let operation = [number as u8];
        pending.push(session.submit(&operation, Mode::Ordered).unwrap());
        let sender = sender.clone();
        let done = move |result: OperationResult| sender.send(result.unwrap()[0]).unwrap();
        session.submit_with(&operation, Mode::ReadOnly, done).unwrap();
    }
    for (number, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.wait().unwrap(), [number as u8]);
    }
    let mut called: Vec<_> = receiver.iter().take(20).collect();
    called.sort_unstable();
    assert_eq!(called, (0..20).collect::<Vec<u8>>());
    drop(client);
    assert_eq!(session.invoke(b"late").unwrap_err(), ClientError::Closed);
}

#[test]
fn a_caller_learns_what_was_missing_and_the_window_stays_taken() {
    let manners = [Manner::Honest, Manner::Silent, Manner::Honest, Manner::Silent];
    let (_replicas, config) = TcpReplicas::start(&manners);
    let config = ClientConfig {
        window: 2,
        sessions_max: 4,
        operation_timeout: Duration::from_millis(300),
        ..config
    };
    let client = Client::connect(config).unwrap();
    let session = client.session().unwrap();
    let text = session.invoke(b"a").unwrap_err().to_string();
    assert!(text.starts_with("replies from 2 of 4 replicas after 300ms; 3 equal"), "{text}");
    let second = session.submit(b"b", Mode::Ordered).unwrap();
    assert!(second.try_take().is_none());
    let error = session.submit(b"c", Mode::Ordered).err().unwrap();
    assert_eq!(error, ClientError::Busy(Busy::Window));
    assert_eq!(session.in_flight(), 2);
    // The number of a session is not given out again while it has anything in flight.
    drop(session);
    let sessions: Vec<_> = (0..3).map(|_| client.session().unwrap()).collect();
    assert!(matches!(client.session(), Err(ClientError::Sessions { max: 4 })));
    drop(sessions);
    let again: Result<Vec<_>, _> = (0..3).map(|_| client.session()).collect();
    assert!(again.is_ok());
    drop(client);
    assert!(matches!(second.wait(), Err(ClientError::Closed | ClientError::Timeout { .. })));
}

#[test]
fn a_session_that_holds_back_keeps_no_other_waiting() {
    // rule: CLI.9
    let (_replicas, config) = TcpReplicas::start(&[Manner::Crowded; 4]);
    let config = ClientConfig { operation_timeout: Duration::from_secs(2), ..config };
    let client = Client::connect(config).unwrap();
    let [held_back, other] = [0, 1].map(|_| client.session().unwrap());
    let submit = || held_back.submit(b"a", Mode::Ordered).unwrap();
    let in_flight: Vec<_> = (0..40).map(|_| submit()).collect();
    // Over each link Busy comes before this answer.
    assert_eq!(other.invoke(b"b").unwrap(), b"b");
    let parked: Vec<_> = (0..20).map(|_| submit()).collect();
    assert_eq!(other.invoke(b"c").unwrap(), b"c");
    let mut ends = in_flight.into_iter().map(Pending::wait);
    assert!(matches!(ends.next(), Some(Err(ClientError::Timeout { .. }))), "the first was sent");
    assert!(ends.all(|end| end.is_err()));
    for pending in parked {
        assert_eq!(pending.wait(), Err(ClientError::Busy(Busy::Overload)));
    }
}

#[test]
fn without_memory_a_caller_waits_no_longer_than_its_time() {
    let (_replicas, config) = TcpReplicas::start(&[Manner::Silent; 4]);
    let operation_timeout = Duration::from_millis(300);
    // Eight slots hold an operation of the largest size.
    let config = ClientConfig { request_memory: 1, operation_timeout, ..config };
    let client = Client::connect(config).unwrap();
    let session = client.session().unwrap();
    let operation = vec![0; 256 * 1024];
    let submit = || session.submit(&operation, Mode::Ordered).unwrap();
    let pending: Vec<_> = (0..10).map(|_| submit()).collect();
    let mut errors = pending.into_iter().map(|pending| pending.wait().unwrap_err());
    assert!(matches!(errors.next(), Some(ClientError::Timeout { .. })));
    assert_eq!(errors.last(), Some(ClientError::Busy(Busy::Memory)));
}

#[test]
fn too_few_replicas_cannot_be_connected_to() {
    let manners = [Manner::Honest; 4];
    let (replicas, config) = TcpReplicas::start(&manners);
    drop(replicas);
    let config = ClientConfig { connect_timeout: Duration::from_millis(200), ..config };
    let error = Client::connect(config).err().unwrap().to_string();
    assert!(
        error.starts_with("connected to 0 of 4 replicas within 200ms; 3 are needed"),
        "{error}"
    );
}
