//! Requests that wait to be ordered, and the sessions they belong to.
//!
//! Owns, for each session, what was executed last and what is pending after it; whose turn it is;
//! the clock of the oldest work. Always true: a session's number moves at execution and nowhere
//! else; everything pending comes after it; memory is bounded by the client list and by bytes for
//! each client. Must not: authenticate, send, or decide when a regency ends.

use alloc::vec::Vec;
use core::marker::PhantomData;
use core::time::Duration;

use crate::batch::{Batch, Selection};
use crate::config::Config;
use crate::message::Request;
use crate::payload::Payload;
use crate::smr::complaints::Complaints;
use crate::types::{ClientId, Instant, Sequence};

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Pending now, or pending before and now signed: the leader may have something new to propose.
    Accepted,
    /// Pending already. Nothing changed.
    Duplicate,
    /// Executed already: ask the reply cache (rule SMR.10).
    Executed,
    /// Dropped.
    Refused(RefusedRequest),
}

/// Why a request was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusedRequest {
    /// More than `SESSION_WINDOW` ahead of the session's last executed one.
    BeyondWindow,
    /// No such client, or a session number beyond the configured limit.
    UnknownSession,
    /// Of an incarnation that the client has given up, or numbered 0.
    Stale,
    /// A MAC vector of a client that may only sign.
    Demoted,
    /// This client has too many bytes pending.
    TooManyBytes,
    /// Larger than any batch.
    TooLarge,
}

/// Why no correct leader could have proposed a batch (rule VAL.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Impossible {
    /// No request.
    Empty,
    /// More requests or bytes than the configured batch.
    TooLarge,
    /// Not later than the last decided batch.
    Timestamp,
    /// A client or session number beyond the limit.
    UnknownSession(ClientId),
    /// A request does not follow the last one of its session.
    OutOfOrder(ClientId),
}

/// The oldest work: what the leader is suspected for if it takes too long (rule TIME.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Work {
    /// When its clock started: when it became the oldest, or the last strike.
    pub since: Instant,
    /// Strikes so far.
    pub strikes: u8,
    /// Is it signed, so that everybody can authenticate it? Only then a second strike counts.
    pub signed: bool,
}

/// All sessions.
#[derive(Debug)]
pub struct Requests<P> {
    payload: PhantomData<P>,
}

impl<P: Payload> Requests<P> {
    /// No sessions.
    pub fn new(config: &Config) -> Self {
        let _ = config;
        Self { payload: PhantomData }
    }

    /// Takes in an authentic request. A signed one replaces the same request with a MAC vector.
    pub fn admit(
        &mut self,
        now: Instant,
        request: Request<P>,
        complaints: &Complaints,
    ) -> Admission {
        let _ = (now, request, complaints);
        Admission::Duplicate
    }

    /// The session's last executed request.
    pub fn executed(&self, client: ClientId) -> Sequence {
        let _ = client;
        Sequence::NONE
    }

    /// Appends the next batch to `out` (emptied first): fair, within the configured limits. Nothing
    /// stops being pending.
    pub fn select(&mut self, complaints: &Complaints, out: &mut Vec<Request<P>>) {
        let _ = complaints;
        out.clear();
    }

    /// Is there anything that [`Requests::select`] would take? Cheap.
    pub fn has_orderable(&self) -> bool {
        false
    }

    /// Could a correct leader have proposed `batch` next? Then, which of its requests are convincing:
    /// authentic, or pending with the same digest (rule VAL.2).
    ///
    /// # Errors
    /// [`Impossible`] when not (rule VAL.1; `last_timestamp_ns` is that of the last decided batch).
    pub fn check_batch(
        &mut self,
        batch: &Batch<P>,
        last_timestamp_ns: u64,
    ) -> Result<Selection, Impossible> {
        let _ = last_timestamp_ns;
        Ok(batch.authentic)
    }

    /// The batch was decided: moves the sessions, forgets what is not pending any more and hands the
    /// work over. The requests to be executed: those that follow their session's last one. (With
    /// `suppress` false, a mutant, all of them.)
    pub fn execute(&mut self, now: Instant, batch: &Batch<P>, suppress: bool) -> Selection {
        let _ = (now, batch, suppress);
        Selection::NONE
    }

    /// Forgets the MAC-vector requests of a client that was demoted.
    pub fn demote(&mut self, now: Instant, identity: u32) {
        let _ = (now, identity);
    }

    /// The oldest request that the leader may order: a signed one if there is any.
    pub fn oldest(&self) -> Option<Work> {
        None
    }

    /// One more strike against the leader; the clock of the work starts again.
    pub fn strike(&mut self, now: Instant) {
        let _ = now;
    }

    /// Appends to `out` (emptied first) the orderable requests that were admitted at least `timeout`
    /// ago, the oldest work first, at most `max` and as many as fit into a batch: what FORWARDED
    /// and STOP carry.
    pub fn overdue(
        &mut self,
        now: Instant,
        timeout: Duration,
        max: usize,
        out: &mut Vec<Request<P>>,
    ) {
        let _ = (now, timeout, max);
        out.clear();
    }

    /// A new leader starts: no strikes, and the clock of the work starts now.
    pub fn restart_clocks(&mut self, now: Instant) {
        let _ = now;
    }

    /// Is nothing pending?
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Requests pending.
    pub fn pending_count(&self) -> usize {
        0
    }

    /// Bytes that the pending requests would take in batches.
    pub fn pending_bytes(&self) -> usize {
        0
    }
}
