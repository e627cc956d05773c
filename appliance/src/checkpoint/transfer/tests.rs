//! Fetching and serving over real files: what a crash leaves, what damage does, and what may leave.

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tetrarch_consensus::message::codec::decode;
use tetrarch_consensus::message::kind;
use tetrarch_consensus::{
    ClientId, ConsensusId, Digest, Input, Lsn, Message, Ordered, ReplicaId, Sequence, ViewId,
};
use tetrarch_dataplane::arena::{Arena, ArenaSpec, SlotClass};
use tetrarch_dataplane::crypto::merkle;
use tetrarch_dataplane::endpoint::Waker;
use tetrarch_dataplane::frame::FramePool;
use tetrarch_dataplane::ring::{Consumer, Producer, ring};

use super::incoming::Incoming;
use super::outgoing::Outgoing;
use super::partial::Partial;
use super::*;
use crate::checkpoint::chunks::Chunks;
use crate::checkpoint::file::{CheckpointFile, FileError};
use crate::checkpoint::shelf::Shelf;
use crate::checkpoint::store::Store;
use crate::checkpoint::tests::{Directory, OWNER, bytes, image, position};
use crate::checkpoint::{CHUNK_SIZE, Position, chunk_size, image};
use crate::metrics::Metrics;
use crate::service::ServiceKind;
use crate::stage::records::Watermark;

const SIZE: usize = 5 * CHUNK_SIZE + 77;

/// A directory of the one that serves, and one of the one that fetches.
fn stores(name: &str) -> (Directory, Store, Store) {
    let directory = Directory::new(name);
    let (from, to) = (directory.0.join("from"), directory.0.join("to"));
    (directory, Store::new(from), Store::new(to))
}

fn chunk(index: u64) -> Vec<u8> {
    let at = index as usize * CHUNK_SIZE;
    bytes(SIZE)[at..at + chunk_size(SIZE as u64, index)].to_vec()
}

fn put(partial: &mut Partial, index: u64, bytes: &[u8]) -> bool {
    partial.put(index, &merkle::leaf(bytes), bytes).expect("room")
}

fn have(partial: &Partial) -> u64 {
    assert_eq!(partial.have().len(), 1);
    partial.have()[0]
}

// rule: ST.4
#[test]
fn what_a_killed_receiver_had_is_there_again_and_damage_is_not() {
    let (_directory, from, to) = stores("partial");
    let source = from.add(OWNER, position(9), &image(SIZE)).expect("a writable directory");
    let target = source.header.target();
    let begin = |target| Partial::begin(&to, OWNER, target).expect("a writable directory");
    let mut partial = begin(target);
    assert_eq!((partial.missing(), partial.count(), have(&partial)), (6, 6, 0));
    for index in [4, 0, 5, 2] {
        assert!(put(&mut partial, index, &chunk(index)), "{index}");
        assert!(!put(&mut partial, index, &chunk(index)), "a second time");
    }
    for (index, size) in [(1, CHUNK_SIZE - 1), (6, 77), (u64::MAX, 77)] {
        assert!(!put(&mut partial, index, &vec![1; size]), "there is no such chunk");
    }
    drop(partial);
    assert_eq!(have(&begin(target)), 0b110101);
    let file = fs::File::options().write(true).open(to.fetched()).expect("ours");
    file.write_all_at(&[!chunk(4)[3]], 4096 + 4 * CHUNK_SIZE as u64 + 3).expect("ours");
    let mut partial = begin(target);
    assert_eq!(have(&partial), 0b100101, "a chunk that was damaged has to come again");
    assert!(Partial::find_whole(&to, OWNER).is_none());
    for index in [1, 3, 4] {
        assert!(put(&mut partial, index, &chunk(index)));
    }
    partial.complete().expect("it is whole");
    drop(partial);
    assert_eq!(have(&begin(target)), 0b111111, "a crash before it was installed loses nothing");
    let other = Target { root: [7; 32], ..target };
    assert_eq!(have(&begin(other)), 0, "another image begins anew");
    assert_eq!(have(&begin(target)), 0, "and the first one is gone");
    begin(target).discard();
    assert!(!to.fetched().exists());
}

// rule: ST.5
#[test]
fn an_image_that_was_installed_gets_its_name_whenever_the_crash_comes() {
    let (_directory, from, to) = stores("adopt");
    let source = from.add(OWNER, position(9), &image(SIZE)).expect("a writable directory");
    let mut partial = Partial::begin(&to, OWNER, source.header.target()).expect("writable");
    for index in 0..6 {
        assert!(put(&mut partial, index, &chunk(index)));
    }
    partial.complete().expect("it is whole");
    drop(partial);
    // The record of it was durable, and the process died before, or in the middle of, what follows.
    for torn in [0, 40, 100, 120] {
        let whole = fs::read(source.path()).expect("ours");
        let file = fs::File::options().write(true).open(to.fetched()).expect("ours");
        file.write_all_at(&whole[..torn], 0).expect("ours");
        let found = Partial::find_whole(&to, OWNER).expect("all is there");
        assert_eq!(found.target(), source.header.target(), "{torn} bytes of the header");
    }
    let found = Partial::find_whole(&to, OWNER).expect("all is there");
    let file = found.adopt(Lsn(77)).expect("a writable directory");
    assert_eq!(file.header.position, Position { cid: ConsensusId(9), base: Lsn(77) });
    let paths = to.list().expect("a directory");
    assert_eq!(paths, [file.path()]);
    let again = CheckpointFile::open(&paths[0], OWNER).expect("whole");
    assert_eq!(again.header, file.header);
    again.verify().expect("it holds");
    assert!(!to.fetched().exists());
}

#[test]
fn an_image_that_does_not_have_its_root_is_never_whole() {
    let (_directory, from, to) = stores("root");
    let source = from.add(OWNER, position(9), &image(SIZE)).expect("a writable directory");
    let target = Target { root: [3; 32], ..source.header.target() };
    let mut partial = Partial::begin(&to, OWNER, target).expect("writable");
    for index in 0..6 {
        assert!(put(&mut partial, index, &chunk(index)));
    }
    assert!(matches!(partial.complete(), Err(FileError::Damaged { .. })));
    let mut partial = Partial::begin(&to, OWNER, source.header.target()).expect("writable");
    for index in 0..6 {
        assert!(put(&mut partial, index, &chunk(index)));
    }
    let file = fs::File::options().write(true).open(to.fetched()).expect("ours");
    file.write_all_at(&[!chunk(1)[0]], 4096 + CHUNK_SIZE as u64).expect("ours");
    partial.complete().expect("its digests have the root");
    let mut read = Vec::new();
    let error = partial.image().into_inner().read_to_end(&mut read).expect_err("the disk forgot");
    assert!(error.to_string().contains("chunk 1 of 6"), "{error}");
    assert_eq!(read, chunk(0), "nothing of it is handed out");
}

fn pool() -> FramePool {
    let slot_size = (CHUNK_SIZE + 4096) as u32;
    let spec = ArenaSpec { classes: vec![SlotClass { slot_size, count: 16 }] };
    Arena::heap(&spec).expect("memory").pool()
}

fn outgoing(shelf: &Arc<Shelf>, rates: Rates) -> (Outgoing, Producer<Parcel>, Consumer<Parcel>) {
    let metrics = Arc::new(Metrics::new());
    let (parcels_in, parcels) = ring(ON_THE_WAY_MAX);
    (Outgoing::new(Arc::clone(shelf), ViewId(3), rates, pool(), metrics), parcels_in, parcels)
}

const FAST: Rates = Rates { all: u64::MAX, each: u64::MAX };

/// What a chunk on its way is of.
fn implied(parcel: Parcel) -> (u32, [u8; 32]) {
    let payload = FramePayload(parcel.frame);
    let Ok(Message::Chunk(chunk)) = decode(kind::CHUNK, payload) else { panic!("no CHUNK") };
    assert_eq!(chunk.view, ViewId(3));
    let (index, size) = (u64::from(chunk.index), CHUNK_SIZE as u64);
    let leaf = merkle::leaf(chunk.bytes());
    assert_eq!(leaf, parcel.digest, "the link need not hash it");
    let leaf = (&leaf, chunk.bytes().len());
    let root = merkle::implied_root(leaf, index, chunk.size, size, chunk.path());
    (chunk.index, root.expect("a path"))
}

// rule: ST.2, ST.4
#[test]
fn chunks_leave_with_their_paths_also_of_a_file_without_a_name() {
    let (_directory, from, _) = stores("serve");
    let shelf = Arc::new(Shelf::default());
    let file = from.add(OWNER, position(9), &image(SIZE)).expect("a writable directory");
    let (cid, root) = (ConsensusId(9), Digest(file.header.root));
    shelf.add(file);
    let (mut outgoing, mut parcels_in, mut parcels) = outgoing(&shelf, FAST);
    let now = Instant::now();
    let mut fetch = |index: u32, root: Digest| {
        outgoing.want(now, ReplicaId(2), (cid, root), index);
        outgoing.send(now, &mut parcels_in);
        parcels.pop()
    };
    for index in [5, 0, 3] {
        let parcel = fetch(index, root).expect("it is there");
        assert_eq!(parcel.to, ReplicaId(2));
        assert_eq!(implied(parcel), (index, root.0));
    }
    assert!(fetch(6, root).is_none() && fetch(u32::MAX, root).is_none(), "no such chunk");
    assert!(fetch(0, Digest([1; 32])).is_none(), "no such checkpoint");
    // Two newer ones, and it loses its name and its place.
    for newer in [10, 11] {
        shelf.add(from.add(OWNER, position(newer), &image(10)).expect("writable"));
    }
    assert!(shelf.find(cid, &root.0).is_none());
    assert_eq!(implied(fetch(1, root).expect("it is open")), (1, root.0));
}

#[test]
fn a_damaged_file_is_given_to_nobody() {
    let (_directory, from, _) = stores("rotten");
    // In the digests, and in a chunk.
    for at in [4096 + SIZE as u64 + 3, 4096 + CHUNK_SIZE as u64] {
        let shelf = Arc::new(Shelf::default());
        let file = from.add(OWNER, position(9), &image(SIZE)).expect("a writable directory");
        let (cid, root) = (ConsensusId(9), Digest(file.header.root));
        let disk = fs::File::options().read(true).write(true).open(file.path()).expect("ours");
        let mut byte = [0];
        disk.read_exact_at(&mut byte, at).expect("ours");
        disk.write_all_at(&[!byte[0]], at).expect("ours");
        shelf.add(file);
        let (mut outgoing, mut parcels_in, mut parcels) = outgoing(&shelf, FAST);
        (0..6).for_each(|index| outgoing.want(Instant::now(), ReplicaId(1), (cid, root), index));
        outgoing.send(Instant::now(), &mut parcels_in);
        let sent: Vec<u32> = std::iter::from_fn(|| parcels.pop())
            .map(implied)
            .map(|(index, implied)| (implied == root.0).then_some(index).expect("only what holds"))
            .collect();
        assert!(sent == [0] || sent.is_empty(), "{sent:?}");
        assert!(shelf.files().is_empty(), "it is not offered to anybody else");
    }
}

#[test]
fn no_more_leaves_than_configured_nor_than_memory_allows() {
    let (_directory, from, _) = stores("rate");
    let shelf = Arc::new(Shelf::default());
    let file = from.add(OWNER, position(9), &image(SIZE)).expect("a writable directory");
    let wanted = (ConsensusId(9), Digest(file.header.root));
    shelf.add(file);
    // One chunk a second to each, one and a half to all.
    let each = CHUNK_SIZE as u64 + 200;
    let (mut outgoing, mut parcels_in, mut parcels) =
        self::outgoing(&shelf, Rates { all: each * 3 / 2, each });
    for member in [1, 2] {
        (0..4).for_each(|index| outgoing.want(Instant::now(), ReplicaId(member), wanted, index));
    }
    let start = Instant::now() + Duration::from_secs(1);
    let mut sent = Vec::new();
    for tenth in 0..40 {
        outgoing.send(start + Duration::from_millis(100 * tenth), &mut parcels_in);
        sent.extend(std::iter::from_fn(|| parcels.pop()).map(|parcel| (tenth, parcel.to.0)));
    }
    let to = |member| sent.iter().filter(move |(_, to)| *to == member).count();
    assert!((5..=7).contains(&sent.len()), "{sent:?}");
    assert!(to(1) <= 4 && to(2) <= 4 && to(1).abs_diff(to(2)) <= 1, "in turn: {sent:?}");
    // Sixteen slots: two of them may be on their way.
    let (mut outgoing, mut parcels_in, mut parcels) = self::outgoing(&shelf, FAST);
    (0..6).for_each(|index| outgoing.want(Instant::now(), ReplicaId(1), wanted, index));
    outgoing.send(Instant::now(), &mut parcels_in);
    assert_eq!(parcels.len(), 2);
    assert!(!outgoing.send(Instant::now(), &mut parcels_in));
    parcels.pop();
    assert!(outgoing.send(Instant::now(), &mut parcels_in), "one has left");
    assert_eq!(parcels.len(), 2);
}

/// The thread with all its rings, and a state to install.
struct Bench {
    thread: Transfer,
    handover: Handover,
    orders: Producer<Order>,
    news: Consumer<Input<FramePayload>>,
    mark: Arc<AtomicU64>,
    shelf: Arc<Shelf>,
    pool: FramePool,
}

impl Bench {
    fn new(store: &Store) -> Self {
        let (orders, orders_out) = ring(16);
        let (news_in, news) = ring(4);
        let (parcels, _) = ring(ON_THE_WAY_MAX);
        let (metrics, shelf) = (Arc::new(Metrics::new()), Arc::new(Shelf::default()));
        let mark = Arc::new(AtomicU64::new(0));
        let watermark = Watermark::of(Arc::clone(&mark));
        let for_shelf = Arc::clone(&shelf);
        let incoming =
            Incoming::new(store.clone(), OWNER, for_shelf, watermark, Arc::clone(&metrics));
        let outgoing = Outgoing::new(Arc::clone(&shelf), ViewId(0), FAST, pool(), metrics);
        let bell = Bell { network: Waker::new(|| {}), others: Arc::default() };
        let rings = Rings { orders: orders_out, news: news_in, parcels };
        let parts = Parts { rings, incoming, outgoing, bell };
        let (thread, handover) = Transfer::start(parts).expect("a thread");
        Self { thread, handover, orders, news, mark, shelf, pool: pool() }
    }

    fn order(&mut self, order: Order) {
        assert!(self.orders.push(order).is_ok());
        self.thread.waker().wake();
    }

    fn news(&mut self) -> Input<FramePayload> {
        within(|| self.news.pop())
    }

    fn store(&mut self, cid: ConsensusId, index: u32, bytes: &[u8]) {
        let payload = FramePayload(self.pool.copy_from(bytes).expect("a slot"));
        let leaf = Digest(merkle::leaf(bytes));
        self.order(Order::Store { cid, index, leaf, payload });
    }
}

fn within<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(Instant::now() < end, "in vain");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn state(kind: ServiceKind) -> State {
    let (service, _) = kind.build([1, 2]);
    State { service, cache: ReplyCache::new(1 << 20, 1 << 16) }
}

/// The image of a replica at an instance, as it would have made it.
fn image_of(state: &mut State, cid: ConsensusId) -> Chunks {
    let ordered = Ordered {
        ruled: None,
        view: ViewId(0),
        cid,
        timestamp_ns: 5,
        decisions: vec![Digest([9; 32])],
        sessions: vec![(ClientId::new(1, 0), Sequence(3))],
    };
    let mut image = Chunks::default();
    image::begin(&ordered, &mut state.cache, &mut Vec::new(), &mut image);
    state.service.snapshot(&mut |bytes| image.push(bytes));
    image
}

// rule: ST.4, ST.5
#[test]
fn an_image_is_fetched_installed_and_named_when_its_record_is_durable() {
    let (_directory, from, to) = stores("thread");
    let cid = ConsensusId(64);
    let image = image_of(&mut state(ServiceKind::Kv), cid);
    let file = from.add(OWNER, position(64), &image).expect("a writable directory");
    let target = file.header.target();
    let mut bench = Bench::new(&to);
    bench.order(Order::Begin(target));
    let Input::Resumed { cid: resumed, root, have } = bench.news() else { panic!("no answer") };
    assert_eq!((resumed, root.0, &have[..]), (cid, target.root, &[0][..]));
    bench.store(ConsensusId(63), 0, b"of another one");
    bench.store(cid, 0, image.iter().next().expect("one chunk"));
    assert!(matches!(bench.news(), Input::Stored { cid: c, index: 0 } if c == cid));
    let Input::TransferReady(ordered) = bench.news() else { panic!("not ready") };
    assert_eq!((ordered.cid, ordered.sessions.len()), (cid, 1));
    bench.handover.install(Install { base: Lsn(7), cid, state: state(ServiceKind::Kv) });
    let (installed, back) = within(|| bench.handover.installed());
    assert_eq!(installed, cid);
    assert_eq!(back.service.digest(), state(ServiceKind::Kv).service.digest());
    assert!(to.list().expect("a directory").is_empty(), "the record is not durable yet");
    bench.order(Order::End(cid));
    bench.mark.store(7, Ordering::Release);
    bench.thread.waker().wake();
    let told = bench.news();
    assert!(
        matches!(told, Input::Checkpointed { cid: c, size, .. } if (c, size) == (cid, target.size))
    );
    let paths = to.list().expect("a directory");
    let named = CheckpointFile::open(&paths[0], OWNER).expect("whole");
    assert_eq!(named.header.position, Position { cid, base: Lsn(7) });
    assert!(bench.shelf.find(cid, &target.root).is_some(), "others may have it now");
    assert_eq!(bench.thread.failure(), None);
}

#[test]
fn a_service_that_refuses_what_the_others_have_stops_the_replica() {
    let (_directory, from, to) = stores("refused");
    let cid = ConsensusId(64);
    let image = image_of(&mut state(ServiceKind::Kv), cid);
    let file = from.add(OWNER, position(64), &image).expect("a writable directory");
    let mut bench = Bench::new(&to);
    bench.order(Order::Begin(file.header.target()));
    assert!(matches!(bench.news(), Input::Resumed { .. }));
    bench.store(cid, 0, image.iter().next().expect("one chunk"));
    assert!(matches!(bench.news(), Input::Stored { .. }));
    assert!(matches!(bench.news(), Input::TransferReady(_)));
    bench.handover.install(Install { base: Lsn(0), cid, state: state(ServiceKind::MapList) });
    let failure = within(|| bench.thread.failure().map(str::to_owned));
    for part in ["checkpoint 64", "service_seed", "start it again"] {
        assert!(failure.contains(part), "{failure}");
    }
    assert!(bench.handover.installed().is_none());
}

#[test]
fn what_is_no_image_is_not_kept_and_what_is_not_needed_goes() {
    let (_directory, from, to) = stores("nonsense");
    let file = from.add(OWNER, position(9), &image(100)).expect("a writable directory");
    let (cid, target) = (ConsensusId(9), file.header.target());
    let mut bench = Bench::new(&to);
    bench.order(Order::Begin(target));
    assert!(matches!(bench.news(), Input::Resumed { .. }));
    bench.store(cid, 0, &bytes(100));
    assert!(matches!(bench.news(), Input::Stored { .. }));
    assert!(matches!(bench.news(), Input::TransferFailed { cid: c } if c == cid));
    assert!(!to.fetched().exists());
    bench.order(Order::Begin(target));
    assert!(matches!(bench.news(), Input::Resumed { .. }));
    assert!(to.fetched().exists());
    bench.order(Order::End(cid));
    within(|| (!to.fetched().exists()).then_some(()));
    // No directory can be made where a file is.
    fs::remove_dir_all(to.path()).expect("ours");
    fs::write(to.path(), "in the way").expect("ours");
    bench.order(Order::Begin(target));
    assert!(matches!(bench.news(), Input::TransferFailed { cid: c } if c == cid));
    assert_eq!(bench.thread.failure(), None, "the replica goes on");
}
