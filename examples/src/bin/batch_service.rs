//! A service that executes whole batches: a slow function of many inputs, computed in parallel.
//!
//! Shows `StateMachine::begin_batch`. Replicas are deterministic although threads share the work, because what
//! each of them computes depends on its request alone, and results join the state in the order of the batch.

use std::collections::VecDeque;
use std::thread;

use anyhow::{Result, ensure};
use tetrarch_client::{Client, Mode};
use tetrarch_consensus::{
    BadSnapshot, Context, Digest, Replies, RequestValidator, RequestView, StateMachine,
};
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_examples::tcp_replicas_of;

/// Times that a password is hashed: it shall be slow.
const ROUNDS: usize = 200;
/// Threads that share a batch.
const THREADS: usize = 2;
/// Passwords that are hashed.
const PASSWORDS: u32 = 200;

fn slow_hash(password: &[u8]) -> [u8; 32] {
    (0..ROUNDS).fold(body_digest(password), |digest, _| body_digest(&digest))
}

/// Every operation is a password.
struct AnyBytes;

impl RequestValidator for AnyBytes {
    fn valid(&self, _operation: &[u8]) -> bool {
        true
    }
}

/// Hashes passwords, and counts them.
#[derive(Default)]
struct Hasher {
    hashed: u64,
    /// Results of the batch that is being executed, in its order.
    results: VecDeque<[u8; 32]>,
}

impl StateMachine for Hasher {
    fn begin_batch<'a>(
        &mut self,
        _context: &Context,
        requests: &mut dyn Iterator<Item = RequestView<'a>>,
    ) {
        let passwords: Vec<&[u8]> = requests.map(|request| request.operation).collect();
        let share = passwords.len().div_ceil(THREADS).max(1);
        thread::scope(|scope| {
            let hash = |part: &[&[u8]]| part.iter().map(|it| slow_hash(it)).collect::<Vec<_>>();
            let threads: Vec<_> =
                passwords.chunks(share).map(|part| scope.spawn(move || hash(part))).collect();
            for thread in threads {
                self.results.extend(thread.join().expect("hashing does not panic"));
            }
        });
    }

    fn execute(&mut self, _: &Context, request: &RequestView<'_>, replies: &mut dyn Replies) {
        let result = self.results.pop_front().expect("a result for each request of the batch");
        self.hashed += 1;
        replies.reply(request.client, result.len()).copy_from_slice(&result);
    }

    fn query(&self, request: &RequestView<'_>, replies: &mut dyn Replies) {
        replies.reply(request.client, 8).copy_from_slice(&self.hashed.to_le_bytes());
    }

    fn digest(&self) -> Digest {
        let mut digest = Digest::ZERO;
        digest.0[..8].copy_from_slice(&self.hashed.to_le_bytes());
        digest
    }

    fn snapshot(&self, out: &mut dyn FnMut(&[u8])) {
        out(&self.hashed.to_le_bytes());
    }

    fn restore(&mut self, read: &mut dyn FnMut(&mut [u8]) -> usize) -> Result<(), BadSnapshot> {
        let (mut bytes, mut have) = ([0; 9], 0);
        while let size @ 1.. = read(&mut bytes[have..]) {
            have += size;
        }
        let number = bytes[..have].try_into().map_err(|_| BadSnapshot)?;
        self.hashed = u64::from_le_bytes(number);
        Ok(())
    }
}

fn main() -> Result<()> {
    let (replicas, config) = tcp_replicas_of(|| (Box::new(Hasher::default()), Box::new(AnyBytes)))?;
    let client = Client::connect(config)?;
    let session = client.session()?;
    // As many at a time as the session may have in flight: the leader puts them into few batches.
    let mut pending = VecDeque::new();
    for number in 0..PASSWORDS {
        if pending.len() == 32 {
            check(&mut pending)?;
        }
        let password = format!("password {number}").into_bytes();
        let answer = session.submit(&password, Mode::Ordered)?;
        pending.push_back((password, answer));
    }
    while !pending.is_empty() {
        check(&mut pending)?;
    }
    let hashed = session.query(b"")?;
    ensure!(hashed == u64::from(PASSWORDS).to_le_bytes(), "each was hashed once");
    println!(
        "{PASSWORDS} passwords hashed {ROUNDS} times each, by four replicas with {THREADS} threads"
    );
    drop(client);
    for replica in replicas {
        replica.stop()?;
    }
    Ok(())
}

/// Waits for the oldest answer.
fn check(pending: &mut VecDeque<(Vec<u8>, tetrarch_client::Pending)>) -> Result<()> {
    if let Some((password, answer)) = pending.pop_front() {
        ensure!(answer.wait()? == slow_hash(&password), "the hash of another password");
    }
    Ok(())
}
