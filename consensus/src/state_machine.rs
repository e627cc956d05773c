//! The application: a deterministic state machine, and what it may know about the world.

use alloc::boxed::Box;
use core::fmt;

use crate::smr::{EqualShares, StateManager};
use crate::{ClientId, ConsensusId, Digest, RequestView, ViewId};

/// What all replicas agree on about a batch: the only environment an application has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// The instance that ordered the batch.
    pub cid: ConsensusId,
    /// The view that the instance belongs to.
    pub view: ViewId,
    /// Nanoseconds since the UNIX epoch, strictly growing from batch to batch.
    pub timestamp_ns: u64,
    /// Equal on all replicas, different for each batch. Not secret, and the leader can influence it.
    pub seed: u64,
}

/// Where replies are written. `reply` is called once for each request executed, in order; `notify` as often as the service
/// likes.
pub trait Replies {
    /// `size` bytes for the answer to `to`'s current request.
    fn reply(&mut self, to: ClientId, size: usize) -> &mut [u8];

    /// `size` bytes for something that another session is told without having asked (the thesis' custom `Replier`,
    /// 4.4): an event it subscribed to, a block, an answer that is for somebody else. While an ordered request is
    /// executed only. `None`: there is no room for more in this batch, it is too large
    /// ([`NOTICE_SIZE_MAX`](crate::limits::NOTICE_SIZE_MAX)), or nobody is told here; the state must not depend on it. A
    /// notice may be lost with a link or a crash: who must have all numbers them and asks for what is missing.
    fn notify(&mut self, _to: ClientId, _size: usize) -> Option<&mut [u8]> {
        None
    }
}

/// Is this a well-formed command of the service (the thesis' validCmd)? Stateless: it runs on ingress
/// cores, many at a time, and again inside the validity predicate.
pub trait RequestValidator: Send + Sync {
    /// Must depend on nothing but the operation's bytes.
    fn valid(&self, operation: &[u8]) -> bool;
}

/// The application. One that executes request by request implements [`StateMachine::execute`] and leaves
/// [`StateMachine::begin_batch`] alone; one that gains from seeing a batch as a whole (the thesis'
/// `appExecuteOrdered`) does its work there, and hands out a result at each `execute`.
pub trait StateMachine: Send {
    /// Called before the first request of a batch, with all requests that will be executed, in order: a place
    /// to fetch what they need, or to execute them at once, in parallel if the outcome is the same.
    fn begin_batch<'a>(
        &mut self,
        _context: &Context,
        _requests: &mut dyn Iterator<Item = RequestView<'a>>,
    ) {
    }

    /// Executes one ordered request: a function of state, context and request. Must not read clocks,
    /// files or random numbers. Called in batch order; must reply exactly once, and at all replicas the same,
    /// because replies are kept in checkpoints.
    fn execute(&mut self, context: &Context, request: &RequestView<'_>, replies: &mut dyn Replies);

    /// Called after the last request of a batch: a place to expire or compact, deterministically.
    fn end_batch(&mut self, _context: &Context) {}

    /// Executes a read-only request against the current state without changing it. Where the client has a
    /// comparator and an extractor, replicas may answer what is not the same.
    fn query(&self, request: &RequestView<'_>, replies: &mut dyn Replies);

    /// A digest of the whole state: equal on all replicas that executed the same batches.
    fn digest(&self) -> Digest;

    /// Writes the state as bytes, deterministically.
    fn snapshot(&self, out: &mut dyn FnMut(&[u8]));

    /// Begins a snapshot of the state as it is now, for [`StateMachine::continue_snapshot`] to write in
    /// pieces between batches, in place of one that was begun before. `false`: it can be written as a whole
    /// only, by [`StateMachine::snapshot`], while execution waits.
    fn begin_snapshot(&mut self) -> bool {
        false
    }

    /// Writes about `size` further bytes of the snapshot that was begun: all pieces together are what
    /// [`StateMachine::snapshot`] would have written when it was. `true`: that was the last piece.
    fn continue_snapshot(&mut self, _size: usize, _out: &mut dyn FnMut(&[u8])) -> bool {
        true
    }

    /// How a replica gets a state that it lacks from others (the thesis' `getStateManager`). Asked once, at the start.
    fn state_manager(&self) -> Box<dyn StateManager> {
        Box::new(EqualShares)
    }

    /// Replaces the state by a snapshot. `read` fills what it can and returns how much.
    ///
    /// # Errors
    /// [`BadSnapshot`] when the bytes are not a snapshot; the state is then unchanged.
    fn restore(&mut self, read: &mut dyn FnMut(&mut [u8]) -> usize) -> Result<(), BadSnapshot>;
}

/// A snapshot that cannot be restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadSnapshot;

impl fmt::Display for BadSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes are not a snapshot of this service")
    }
}

impl core::error::Error for BadSnapshot {}
