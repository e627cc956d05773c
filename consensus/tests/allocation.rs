//! Once it knows the sessions, a core that orders requests allocates nothing.
// rule: CORE.2

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use tetrarch_consensus::batch::{REQUEST_HEADER_SIZE, Replier, RequestHeader};
use tetrarch_consensus::message::proof;
use tetrarch_consensus::smr::Replica;
use tetrarch_consensus::*;

/// Counts the allocations of a thread while it watches.
struct Counting;

thread_local! {
    static WATCHING: Cell<bool> = const { Cell::new(false) };
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if WATCHING.with(Cell::get) {
            COUNT.with(|count| count.set(count.get() + 1));
        }
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes from a pool that is filled once.
#[derive(Clone)]
struct Pooled {
    bytes: Arc<Vec<u8>>,
    start: usize,
    size: usize,
}

impl Payload for Pooled {
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.size]
    }

    fn slice(&self, start: usize, size: usize) -> Option<Self> {
        (start + size <= self.size).then(|| Self {
            start: self.start + start,
            size,
            ..self.clone()
        })
    }
}

struct Pool {
    slots: Vec<Arc<Vec<u8>>>,
    next: usize,
}

impl Pool {
    fn new(count: usize) -> Self {
        Self { slots: (0..count).map(|_| Arc::new(vec![0; 4096])).collect(), next: 0 }
    }
}

impl PayloadPool<Pooled> for Pool {
    fn build(&mut self, size: usize, fill: &mut dyn FnMut(&mut [u8])) -> Option<Pooled> {
        for _ in 0..self.slots.len() {
            self.next = (self.next + 1) % self.slots.len();
            let slot = &mut self.slots[self.next];
            if let Some(bytes) = Arc::get_mut(slot) {
                fill(&mut bytes[..size]);
                return Some(Pooled { bytes: slot.clone(), start: 0, size });
            }
        }
        None
    }
}

fn request(pool: &mut Pool, client: u32, counter: u32) -> Request<Pooled> {
    let header = RequestHeader {
        client: ClientId::new(client, 0),
        sequence: Sequence::new(1, counter),
        view: 0,
        read_only: false,
        replier: Replier::EVERYONE,
        unanswered: 0,
        operation_size: 8,
    };
    let size = REQUEST_HEADER_SIZE + 8;
    let payload = pool.build(size, &mut |bytes| {
        bytes.fill(7);
        header.write(bytes);
    });
    let payload = payload.expect("the pool holds more than what is kept");
    let digest = Digest(*blake3::hash(payload.bytes()).as_bytes());
    Request {
        client: header.client,
        sequence: header.sequence,
        digest,
        read_only: false,
        auth: proof::MAC_VECTOR,
        body_size: size as u32,
        payload,
    }
}

struct Net {
    replicas: Vec<Replica<Pooled>>,
    queue: std::collections::VecDeque<(usize, Input<Pooled>)>,
    actions: Actions<Action<Pooled>>,
    now: Instant,
    /// Messages that answer who lacks bodies.
    bodies: usize,
    /// Asked for by all replicas.
    checkpoints: usize,
}

impl Net {
    fn step(&mut self, id: usize, input: Input<Pooled>) {
        WATCHING.with(|watching| watching.set(true));
        self.replicas[id].step(self.now, input, &mut self.actions);
        WATCHING.with(|watching| watching.set(false));
        for action in self.actions.drain() {
            match action {
                Action::Send { to, message, .. } => {
                    self.bodies += usize::from(matches!(message, Message::Bodies(_)));
                    for other in (0..self.replicas.len()).filter(|other| *other != id) {
                        if to == Recipients::Others
                            || to == Recipients::One(ReplicaId(other as u16))
                        {
                            let from = ReplicaId(id as u16);
                            let message = Verified::vouch(message.clone());
                            self.queue.push_back((other, Input::Peer { from, message }));
                        }
                    }
                }
                Action::Execute { context, .. } => {
                    self.queue.push_back((id, Input::Executed(context.cid)));
                }
                Action::Checkpoint { .. } => self.checkpoints += 1,
                _ => {}
            }
        }
    }
}

impl Net {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(configure: impl Fn(&mut Config)) -> Self {
        let members = (0..4).map(ReplicaId).collect();
        let view = View::new(ViewId(0), members, 1, FaultModel::Byzantine).expect("possible");
        let now = Instant(1_000_000_000);
        let replica = |id| {
            let mut config = Config::new(ReplicaId(id), view.clone());
            configure(&mut config);
            Replica::new(config, Box::new(Pool::new(1100)), now)
        };
        Self {
            replicas: (0..4).map(replica).collect(),
            queue: Default::default(),
            actions: Actions::with_capacity(limits::ACTIONS_MAX),
            now,
            bodies: 0,
            checkpoints: 0,
        }
    }

    /// A request of each of three clients reaches the replicas below `reached`.
    fn requests(&mut self, pool: &mut Pool, counter: u32, reached: usize) {
        for client in 0..3 {
            let request = request(pool, client, counter);
            for id in 0..reached {
                self.step(id, Input::Request(Verified::vouch(request.clone())));
            }
        }
    }

    /// All messages arrive, then 7 ms pass.
    fn settle(&mut self) {
        while let Some((to, input)) = self.queue.pop_front() {
            self.step(to, input);
        }
        self.now = self.now + std::time::Duration::from_millis(7);
        for id in 0..4 {
            if self.replicas[id].next_deadline().is_some_and(|deadline| deadline <= self.now) {
                self.step(id, Input::Deadline);
            }
        }
    }
}

#[test]
fn ordering_does_not_allocate() {
    let (mut net, mut requests) = (Net::new(), Pool::new(64));
    net.requests(&mut requests, 1, 4);
    net.settle();
    let for_sessions = COUNT.with(Cell::get);
    for counter in 2..=1300 {
        net.requests(&mut requests, counter, 4);
        net.settle();
    }
    assert!(net.replicas.iter().all(|replica| replica.decided().0 >= 1300));
    assert_eq!(COUNT.with(Cell::get) - for_sessions, 0, "allocations in 1299 instances");
}

/// The core's share of a checkpoint goes into the memory of the one before.
#[test]
fn taking_checkpoints_does_not_allocate() {
    let mut net = Net::with(|config| config.checkpoint_every = 2 * config.depth as u64);
    let mut requests = Pool::new(64);
    let mut counter = 0;
    let mut until = |checkpoints: usize, net: &mut Net| {
        while net.checkpoints < checkpoints {
            counter += 1;
            net.requests(&mut requests, counter, 4);
            net.settle();
        }
    };
    until(8, &mut net);
    let before = COUNT.with(Cell::get);
    until(200, &mut net);
    assert_eq!(COUNT.with(Cell::get) - before, 0, "allocations in {} checkpoints", net.checkpoints);
}

/// A replica that is slower than its clients keeps their next requests, and is sent bodies that it
/// lacks: its tables were made for that.
#[test]
fn falling_behind_does_not_allocate() {
    let (mut net, mut requests) = (Net::new(), Pool::new(1024));
    net.requests(&mut requests, 1, 4);
    net.settle();
    let for_sessions = COUNT.with(Cell::get);
    net.requests(&mut requests, 2, 3);
    for _ in 0..100 {
        net.settle();
    }
    assert!(net.bodies > 0 && net.replicas[3].decided().0 >= 2, "{} answers", net.bodies);
    for counter in 3..=limits::ADMISSION_WINDOW as u32 {
        net.requests(&mut requests, counter, 4);
    }
    assert_eq!(COUNT.with(Cell::get) - for_sessions, 0, "allocations while behind");
}
