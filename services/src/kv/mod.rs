//! A key-value store with Redis' types and commands, as a replicated state machine.
//!
//! Owns the keyspace, the operation and reply formats, and the reading of Redis commands. Always
//! true: replicas that execute the same batches answer the same and have the same digest; time is
//! the batches' time, and nothing else. Must not: know about connections or RESP, which are the
//! gateway's.

mod codec;
pub mod command;
mod execute;
pub mod glob;
pub mod keyspace;
pub mod limits;
pub mod op;
pub mod reply;
mod siphash;
mod snapshot;
pub mod table;
pub mod text;
pub mod text_value;
pub mod value;

use std::cell::RefCell;
use std::collections::BTreeMap;

use tetrarch_consensus::{
    BadSnapshot, Context, Digest, Replies, RequestValidator, RequestView, StateMachine,
};

use execute::{Store, View};
use keyspace::Keyspace;
use limits::{EXPIRED_PER_BATCH_MAX, Limits, REPLY_SIZE_MAX};
use op::Operation;
use reply::{FIXED_SIZE_MAX, Failure, ReplyWriter, Stop};

/// What all replicas of a cluster must agree on about their stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KvConfig {
    /// Orders the keyspace. Best drawn when the cluster is made, and not published.
    pub seed: [u64; 2],
    /// What clients may store.
    pub limits: Limits,
}

/// Checks operations without a store.
#[derive(Clone, Copy, Debug, Default)]
pub struct KvValidator;

impl RequestValidator for KvValidator {
    fn valid(&self, operation: &[u8]) -> bool {
        Operation::parse(operation).is_ok()
    }
}

/// The replicated state.
#[derive(Clone, Debug)]
struct State {
    keys: Keyspace,
    /// Time of the last batch, ns since the UNIX epoch.
    now_ns: u64,
    /// For each session that had a command skipped: the attempt of its operation. Until the session
    /// sends another attempt, all its operations are skipped, so that commands sent after the
    /// skipped one are not executed before it.
    skipping: BTreeMap<u64, u16>,
}

/// The store.
///
/// The commands of an operation are executed one after the other. When the reply of one has no room
/// left beside the replies before it, that command and the rest of the operation are skipped
/// ([`reply::Reply::Skipped`]), and with them the session's later operations, until one comes with
/// another attempt number. So a client can have many operations in flight, of many commands each,
/// without knowing the sizes of the replies, and its commands still take effect in order.
#[derive(Debug)]
pub struct KvService {
    config: KvConfig,
    state: State,
    scratch: RefCell<Vec<u8>>,
    shard_digests: RefCell<Vec<[u8; 32]>>,
    /// What a snapshot that was begun writes first, until it is written.
    begun: Option<Vec<u8>>,
}

impl KvService {
    /// An empty store.
    pub fn new(config: KvConfig) -> Self {
        Self {
            state: State::new(&config),
            config,
            scratch: RefCell::new(Vec::with_capacity(REPLY_SIZE_MAX)),
            shard_digests: RefCell::default(),
            begun: None,
        }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.state.keys.len()
    }

    /// Are there no keys?
    pub fn is_empty(&self) -> bool {
        self.state.keys.is_empty()
    }
}

impl StateMachine for KvService {
    fn execute(&mut self, context: &Context, request: &RequestView<'_>, replies: &mut dyn Replies) {
        self.state.now_ns = context.timestamp_ns;
        let scratch = self.scratch.get_mut();
        scratch.clear();
        match Operation::parse(request.operation) {
            Ok(operation) => {
                self.state.execute(&self.config.limits, request.client.0, &operation, scratch);
            }
            Err(_) => ReplyWriter::new(scratch, REPLY_SIZE_MAX).failure(Failure::Malformed),
        }
        replies.reply(request.client, scratch.len()).copy_from_slice(scratch);
    }

    fn end_batch(&mut self, context: &Context) {
        self.state.now_ns = context.timestamp_ns;
        self.state.keys.expire(self.state.now_ms(), EXPIRED_PER_BATCH_MAX);
    }

    fn query(&self, request: &RequestView<'_>, replies: &mut dyn Replies) {
        let scratch = &mut *self.scratch.borrow_mut();
        scratch.clear();
        match Operation::parse(request.operation) {
            Ok(operation) => self.state.query(&self.config.limits, &operation, scratch),
            Err(_) => ReplyWriter::new(scratch, REPLY_SIZE_MAX).failure(Failure::Malformed),
        }
        replies.reply(request.client, scratch.len()).copy_from_slice(scratch);
    }

    fn digest(&self) -> Digest {
        snapshot::digest(&self.config, &self.state, &mut self.shard_digests.borrow_mut())
    }

    fn snapshot(&self, out: &mut dyn FnMut(&[u8])) {
        snapshot::write(&self.config, &self.state, out);
    }

    fn begin_snapshot(&mut self) -> bool {
        self.begun = Some(snapshot::begin(&self.config, &mut self.state));
        true
    }

    fn continue_snapshot(&mut self, size: usize, out: &mut dyn FnMut(&[u8])) -> bool {
        if let Some(begun) = self.begun.take() {
            out(&begun);
        }
        snapshot::continue_keys(&mut self.state, size, out)
    }

    fn restore(&mut self, read: &mut dyn FnMut(&mut [u8]) -> usize) -> Result<(), BadSnapshot> {
        // A new keyspace counts as changed everywhere, so no old digest survives.
        self.state = snapshot::read(&self.config, read)?;
        self.begun = None;
        Ok(())
    }
}

impl State {
    fn now_ms(&self) -> u64 {
        self.now_ns / 1_000_000
    }

    fn execute(
        &mut self,
        limits: &Limits,
        client: u64,
        operation: &Operation<'_>,
        scratch: &mut Vec<u8>,
    ) {
        let now_ms = self.now_ms();
        let mut skip = match self.skipping.get(&client) {
            Some(&attempt) if attempt == operation.attempt => true,
            Some(_) => {
                self.skipping.remove(&client);
                false
            }
            None => false,
        };
        let mut store = Store { keys: &mut self.keys, limits, now_ms };
        let mut out = ReplyWriter::new(scratch, 0);
        for (index, command) in operation.commands().enumerate() {
            if skip {
                out.skipped();
                continue;
            }
            let left = operation.count() - index - 1;
            out.set_limit(REPLY_SIZE_MAX - left * FIXED_SIZE_MAX);
            let start = out.size();
            let Err(stop) = execute::execute(&mut store, &command, &mut out) else { continue };
            out.truncate(start);
            // Alone in its operation, or in a transaction, a command is not helped by trying again.
            skip = stop == Stop::NoRoom && operation.count() > 1 && !operation.transaction;
            if skip {
                self.skipping.insert(client, operation.attempt);
            }
            write_stop(stop, skip, &mut out);
        }
    }

    fn query(&self, limits: &Limits, operation: &Operation<'_>, scratch: &mut Vec<u8>) {
        let view = View { keys: &self.keys, limits, now_ms: self.now_ms(), timeless: true };
        let mut out = ReplyWriter::new(scratch, 0);
        for (index, command) in operation.commands().enumerate() {
            let left = operation.count() - index - 1;
            out.set_limit(REPLY_SIZE_MAX - left * FIXED_SIZE_MAX);
            let start = out.size();
            if let Err(stop) = execute::query(&view, &command, &mut out) {
                out.truncate(start);
                // Sent again in smaller company; what comes after it can be answered now.
                write_stop(stop, stop == Stop::NoRoom && operation.count() > 1, &mut out);
            }
        }
    }
}

fn write_stop(stop: Stop, skipped: bool, out: &mut ReplyWriter<'_>) {
    match stop {
        Stop::Failure(failure) => out.failure(failure),
        Stop::Order => out.order(),
        Stop::NoRoom if skipped => out.skipped(),
        Stop::NoRoom => out.failure(Failure::ReplyTooLong),
    }
}
