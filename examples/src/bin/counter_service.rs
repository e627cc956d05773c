//! A service of one's own: a counter, replicated by four nodes in this process.
//!
//! Shows all that a service is, a validator and a state machine, and a client that is polled. Nodes
//! and client run in one loop over the memory transport.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tetrarch_appliance::service::Service;
use tetrarch_client::{ClientDriver, Matching, Mode, Outcome};
use tetrarch_consensus::{
    BadSnapshot, Context, Digest, Replies, RequestValidator, RequestView, StateMachine,
};
use tetrarch_dataplane::clock::{Clock, SystemClock};
use tetrarch_dataplane::transport::memory::{Switch, SwitchConfig};
use tetrarch_examples::{client_transport, memory_nodes};

const ADDITIONS: i64 = 200;
const PATIENCE: Duration = Duration::from_secs(30);

/// An operation is a number to add, eight bytes little endian; no bytes ask for the sum.
fn addend(operation: &[u8]) -> Option<i64> {
    let number = || operation.try_into().ok().map(i64::from_le_bytes);
    if operation.is_empty() { Some(0) } else { number() }
}

struct CounterValidator;

impl RequestValidator for CounterValidator {
    fn valid(&self, operation: &[u8]) -> bool {
        addend(operation).is_some()
    }
}

#[derive(Default)]
struct Counter(i64);

impl StateMachine for Counter {
    fn execute(&mut self, _: &Context, request: &RequestView<'_>, replies: &mut dyn Replies) {
        // Wraps on every replica alike; what is not a number does not pass the validator.
        self.0 = self.0.wrapping_add(addend(request.operation).unwrap_or(0));
        replies.reply(request.client, 8).copy_from_slice(&self.0.to_le_bytes());
    }

    fn query(&self, request: &RequestView<'_>, replies: &mut dyn Replies) {
        replies.reply(request.client, 8).copy_from_slice(&self.0.to_le_bytes());
    }

    fn digest(&self) -> Digest {
        let mut digest = Digest::ZERO;
        digest.0[..8].copy_from_slice(&self.0.to_le_bytes());
        digest
    }

    fn snapshot(&self, out: &mut dyn FnMut(&[u8])) {
        out(&self.0.to_le_bytes());
    }

    fn restore(&mut self, read: &mut dyn FnMut(&mut [u8]) -> usize) -> Result<(), BadSnapshot> {
        let (mut bytes, mut have) = ([0; 9], 0);
        while let size @ 1.. = read(&mut bytes[have..]) {
            have += size;
        }
        // The ninth byte has room for what must not be there.
        let number = bytes[..have].try_into().map_err(|_| BadSnapshot)?;
        self.0 = i64::from_le_bytes(number);
        Ok(())
    }
}

fn main() -> Result<()> {
    let (clock, switch) = (SystemClock::new(), Switch::new(SwitchConfig::default()));
    let service = || -> Service { (Box::new(Counter::default()), Box::new(CounterValidator)) };
    let (mut nodes, config) = memory_nodes(&switch, clock.now(), service)?;
    let mut client = ClientDriver::over(&config, &mut client_transport(&switch), Matching::Equal)?;

    // Adds 1, 2, 3, ... as fast as the session's window allows, then waits for the last answer.
    let started = clock.now();
    let (mut next, mut last, mut done) = (1, 0, Vec::new());
    while last != ADDITIONS * (ADDITIONS + 1) / 2 {
        let now = clock.now();
        ensure!(now.since(started) < PATIENCE, "the sum is {last} after {PATIENCE:?}");
        for (node, _) in &mut nodes {
            node.turn(now);
        }
        client.poll(now, &mut done);
        for completion in done.drain(..) {
            let Outcome::Done(result) = completion.outcome else {
                bail!("no answer: {completion:?}");
            };
            last = last.max(i64::from_le_bytes(result[..].try_into()?));
        }
        let linked = client.connected() == 4;
        while linked && next <= ADDITIONS {
            if client.submit(now, 0, Mode::Ordered, &next.to_le_bytes()).is_err() {
                break;
            }
            next += 1;
        }
    }
    println!("1 + 2 + ... + {ADDITIONS} = {last}, says a certificate of replicas");
    for (node, _) in &nodes {
        let digest = node.service().digest();
        println!("replica {}: {}", node.id(), i64::from_le_bytes(digest.0[..8].try_into()?));
    }
    Ok(())
}
