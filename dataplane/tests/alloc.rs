//! Steady state allocates nothing: each building block of the data path runs frozen.

use std::alloc::System;
use std::hint::black_box;
use std::process::Command;

use tetrarch_dataplane::alloc_guard::{self, FrozenAllocator};
use tetrarch_dataplane::arena::{Arena, ArenaSpec, SlotClass};
use tetrarch_dataplane::burst::Burst;
use tetrarch_dataplane::crypto::authenticator::{PairKey, vector_size, write_vector};
use tetrarch_dataplane::crypto::hash::{body_digest, digest_burst};
use tetrarch_dataplane::crypto::keys::StaticSecret;
use tetrarch_dataplane::crypto::mac::{LinkKey, MacItem, verify_burst};
use tetrarch_dataplane::crypto::signature::SigningKey;
use tetrarch_dataplane::frame::Frame;
use tetrarch_dataplane::header::{self, Header};
use tetrarch_dataplane::reject::{Reject, RejectCounts};
use tetrarch_dataplane::ring::{Consumer, Producer, ring};
use tetrarch_dataplane::stage::{Core, IdlePolicy, Progress, Stage};
use tetrarch_dataplane::types::Instant;

#[global_allocator]
static ALLOCATOR: FrozenAllocator<System> = FrozenAllocator::new(System);

/// Run `work` once to warm up, then frozen.
fn assert_steady(what: &str, mut work: impl FnMut()) {
    work();
    let ((), allocations) = alloc_guard::count_allocations(|| {
        for _ in 0..3 {
            work();
        }
    });
    assert_eq!(allocations, 0, "{what} allocates");
}

fn arena() -> Arena {
    let classes =
        vec![SlotClass { slot_size: 256, count: 8 }, SlotClass { slot_size: 4096, count: 8 }];
    Arena::heap(&ArenaSpec { classes }).expect("a small arena")
}

#[test]
fn an_allocation_is_noticed() {
    let (value, allocations) = alloc_guard::count_allocations(|| black_box(vec![1u8; 10]));
    assert_eq!(allocations, 1);
    let ((), allocations) = alloc_guard::count_allocations(move || drop(value));
    assert_eq!(allocations, 0, "freeing is allowed");
    let (_, allocations) = alloc_guard::count_allocations(|| {
        let mut grows = Vec::with_capacity(1);
        grows.extend(0..black_box(100));
        grows
    });
    assert!(allocations >= 2, "growing is noticed");
    // Other threads are not concerned.
    alloc_guard::freeze();
    let before = alloc_guard::violations();
    std::thread::scope(|scope| {
        // Spawning allocates here; what the thread does is its own business.
        let spawned = scope.spawn(|| {
            drop(black_box(vec![0u8; 100]));
            alloc_guard::violations()
        });
        assert_eq!(spawned.join().expect("it only allocates"), 0);
    });
    assert!(alloc_guard::thaw() > before);
}

/// Ends a process, so it runs in one of its own: this test started again with a variable set.
#[test]
fn a_frozen_thread_can_abort_with_a_message() {
    const VARIABLE: &str = "TETRARCH_TEST_ALLOCATE_FROZEN";
    if std::env::var_os(VARIABLE).is_some() {
        alloc_guard::freeze_or_abort();
        drop(black_box(vec![0u8; 12_345]));
        return;
    }
    let output = Command::new(std::env::current_exe().expect("the path of this test"))
        .args(["--exact", "a_frozen_thread_can_abort_with_a_message", "--nocapture"])
        .env(VARIABLE, "1")
        .output()
        .expect("this test can be started again");
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("a frozen thread allocated 12345 bytes"), "{text}");
}

#[test]
fn frames() {
    let arena = arena();
    let pool = arena.pool();
    let mut held: Burst<Frame> = Burst::with_capacity(32);
    assert_steady("a frame's life", || {
        let mut frame = pool.alloc(1000).expect("slots are free");
        frame.bytes_mut()[..1000].fill(7);
        let frame = frame.freeze(1000);
        for i in 0..10 {
            held.push(frame.slice(i, 100).expect("within")).expect("room");
        }
        held.push(pool.copy_from(b"small").expect("slots are free")).expect("room");
        while pool.alloc(1).map(|frame| held.push(frame.freeze(1))).is_some() {}
        held.clear();
    });
    assert_eq!(arena.free_slots(), arena.total_slots());
}

#[test]
fn authentication() {
    let body = [3u8; 5000];
    let bodies: Vec<&[u8]> = (0..130).map(|i| &body[..i * 37 % 3000]).collect();
    let mut digests = vec![[0; 32]; bodies.len()];
    assert_steady("digests", || {
        digest_burst(&bodies, &mut digests);
        black_box(body_digest(black_box(&body[..100])));
    });

    let key = LinkKey::from_parts(&[1; 16], [2; 4]);
    let mut rejects = RejectCounts::new();
    assert_steady("a header and its tag", || {
        let mut header = Header {
            kind: 1,
            auth: 0,
            size: 96 + 64 + 500,
            sender: 1,
            proof_size: 500,
            cluster: 1,
            session: 0,
            sequence: 9,
            body_digest: digests[5],
            tag: [0; 16],
        };
        let bytes = header.to_bytes();
        header.tag = key.tag(9, header::covered(&bytes), &body[..500]);
        let parsed = Header::parse(&header.to_bytes()).expect("just written");
        let covered = header::covered(&bytes);
        let item = MacItem {
            key: &key,
            sequence: parsed.sequence,
            header: covered,
            proof: &body[..500],
            tag: &parsed.tag,
        };
        assert_eq!(verify_burst(&[item, MacItem { sequence: 8, ..item }]), 1);
        rejects.add(Reject::BadTag);
    });

    let client = StaticSecret::from_bytes(&[1; 32]);
    let keys: Vec<PairKey> = (2..6)
        .map(|i| StaticSecret::from_bytes(&[i; 32]).public())
        .map(|replica| PairKey::for_client(&client, &replica, 1).expect("ordinary keys"))
        .collect();
    let mut vector = vec![0; vector_size(keys.len())];
    assert_steady("a client authenticator", || {
        write_vector(&keys, &digests[0], &mut vector);
        assert!(keys[3].verify_entry(&digests[0], &vector, 3));
    });

    let signing = SigningKey::from_seed(&[7; 32]);
    let verifying = signing.verifying_key();
    assert_steady("one signature", || {
        let signature = signing.sign(&body);
        assert!(verifying.verify(&body, &signature));
    });
}

struct Echo {
    input: Consumer<u64>,
    output: Producer<u64>,
    burst: Burst<u64>,
}

impl Stage for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }

    fn poll(&mut self, _now: Instant) -> Progress {
        self.input.pop_burst(&mut self.burst);
        if self.output.push_burst(&mut self.burst) > 0 { Progress::Worked } else { Progress::Idle }
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }
}

#[test]
fn stages_and_rings() {
    let (mut tx, input) = ring(64);
    let (output, mut rx) = ring(64);
    let echo = Echo { input, output, burst: Burst::with_capacity(16) };
    let mut core = Core::new("echo", vec![Box::new(echo)], IdlePolicy::Spin);
    assert_steady("a turn", || {
        while tx.push(1).is_ok() {}
        while core.turn(Instant(1)) == Progress::Worked {}
        while rx.pop().is_some() {}
    });
}
