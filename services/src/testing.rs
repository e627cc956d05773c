//! What the services' tests share: a replica's worth of context around a state machine.

use tetrarch_consensus::{
    ClientId, ConsensusId, Context, Digest, Replies, RequestView, Sequence, StateMachine, ViewId,
};

/// A state machine, the time, and the last reply.
pub struct Cell<S> {
    pub service: S,
    pub now_ns: u64,
    sequence: u64,
}

#[derive(Default)]
struct Kept(Vec<Vec<u8>>);

impl Replies for Kept {
    fn reply(&mut self, _to: ClientId, size: usize) -> &mut [u8] {
        self.0.push(vec![0xee; size]);
        self.0.last_mut().expect("pushed a line above")
    }
}

impl<S: StateMachine> Cell<S> {
    pub fn new(service: S) -> Self {
        Self { service, now_ns: 1_700_000_000_000_000_000, sequence: 0 }
    }

    fn context(&self) -> Context {
        let cid = ConsensusId(self.sequence);
        Context { cid, view: ViewId(0), timestamp_ns: self.now_ns, seed: 0 }
    }

    pub fn execute(&mut self, client: u64, operation: &[u8]) -> Vec<u8> {
        self.sequence += 1;
        let mut kept = Kept::default();
        let context = self.context();
        let request = view(client, self.sequence, operation);
        self.service.begin_batch(&context, &mut std::iter::once(request));
        self.service.execute(&context, &request, &mut kept);
        self.service.end_batch(&context);
        assert_eq!(kept.0.len(), 1, "exactly one reply");
        kept.0.remove(0)
    }

    pub fn query(&self, client: u64, operation: &[u8]) -> Vec<u8> {
        let mut kept = Kept::default();
        self.service.query(&view(client, 1, operation), &mut kept);
        assert_eq!(kept.0.len(), 1, "exactly one reply");
        kept.0.remove(0)
    }
}

pub fn view(client: u64, sequence: u64, operation: &[u8]) -> RequestView<'_> {
    RequestView {
        client: ClientId(client),
        sequence: Sequence(sequence),
        digest: Digest([0; 32]),
        operation,
        body: operation,
        auth: 0,
        proof: &[],
    }
}

pub fn snapshot(service: &impl StateMachine) -> Vec<u8> {
    let mut bytes = Vec::new();
    service.snapshot(&mut |piece| bytes.extend_from_slice(piece));
    bytes
}

pub fn restore(service: &mut impl StateMachine, bytes: &[u8]) -> bool {
    let mut at = 0;
    let result = service.restore(&mut |into| {
        let size = into.len().min(bytes.len() - at).min(1000);
        into[..size].copy_from_slice(&bytes[at..at + size]);
        at += size;
        size
    });
    result.is_ok()
}

/// A snapshot restores to an equal state; no cut, grown or bent snapshot passes for that state.
pub fn check_snapshot<S: StateMachine>(service: &S, other: &mut S) {
    let bytes = snapshot(service);
    assert!(restore(other, &bytes));
    assert_eq!(other.digest(), service.digest());
    assert_eq!(snapshot(other), bytes);
    for end in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        assert!(!restore(other, &bytes[..end]), "cut at {end}");
    }
    assert!(!restore(other, &[&bytes[..], &[0]].concat()), "grown");
    assert_eq!(other.digest(), service.digest(), "a refused snapshot changes nothing");
    let step = (bytes.len() / 200).max(1);
    for at in (0..bytes.len()).step_by(step) {
        let mut bent = bytes.clone();
        bent[at] ^= 1;
        if restore(other, &bent) {
            assert_ne!(other.digest(), service.digest(), "bent at {at}");
            assert_eq!(snapshot(other), bent, "accepted, so it is what would have been written");
        }
    }
    assert!(restore(other, &bytes));
}
