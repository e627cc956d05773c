//! Requests that wait to be ordered, and the sessions they belong to.
//!
//! Owns, for each session, what was executed last and what is pending after it; whose turn it is;
//! the clock of the oldest work. Always true: a session's number moves at execution and nowhere
//! else; everything pending comes after it; memory is bounded by the client list and by bytes for
//! each client. Must not: authenticate, send, or decide when a regency ends.

mod batching;
mod clock;
mod favour;
mod incarnations;
mod list;
mod room;
mod speculation;
mod table;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::time::Duration;

use self::clock::{Clock, Item};
use self::favour::Favour;
use self::list::{List, NONE};
pub use self::room::Room;
use self::room::{Limits, Place};
use self::table::{Table, Turn, is_signed};
use crate::batch::{BATCH_HEADER_SIZE, IDENTITY_SIZE, Identity, LAYOUT_SIZE, encoded_size};
use crate::config::Config;
use crate::limits::{ADMISSION_WINDOW, BATCH_REQUESTS_MAX, BATCH_SIZE_MAX};
use crate::message::Request;
use crate::payload::Payload;
use crate::smr::complaints::Complaints;
use crate::spec;
use crate::types::{ClientId, Instant, Sequence};

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Pending now, or pending before and now signed: the leader may have something new to propose.
    Accepted,
    /// Likewise, but it is one too many for the configured limits: only here there is room for it.
    Spare,
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
    /// More than `ADMISSION_WINDOW` ahead of the session's last executed one.
    BeyondWindow,
    /// No such client, or a session number beyond the configured limit.
    UnknownSession,
    /// Of an incarnation that the client has given up, or numbered 0.
    Stale,
    /// Of a later incarnation, but no match for what the leader may order next in this session.
    NotYet,
    /// A MAC vector of a client that may only sign.
    Demoted,
    /// This client has too many bytes pending.
    TooManyBytes,
    /// Too much is pending, and this request is none of the next two of its session.
    Overload,
    /// Larger than any batch.
    TooLarge,
    /// Read-only: no business of the core's (rule SMR.3).
    ReadOnly,
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
    /// A request of the View Manager is not alone in its batch (rule VIEW.3).
    NotAlone,
}

/// The oldest work: what the leader is suspected for if it takes too long (rule TIME.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Work {
    /// When its clock started: when it became the oldest, or the last strike.
    pub since: Instant,
    /// Strikes so far. An unsigned request has none: after its first it is no work any more.
    pub strikes: u8,
    /// Is it signed, so that everybody can authenticate it? Only then a second strike counts.
    pub signed: bool,
}

/// All sessions.
#[derive(Debug)]
pub struct Requests<P> {
    table: Table<P>,
    /// Sessions with a request that may be ordered next, the longest waiting first.
    ready: List,
    /// Those whose next request is signed, in the order in which it became so.
    signed: List,
    /// The first of those that are ready whose next request is not signed and had no strike yet, or
    /// `NONE`. It only moves towards the end: a session never becomes such a one where it is.
    oldest_unsigned: u32,
    clock: Clock,
    /// What was ordered first for each member, at its place in the view.
    favours: Vec<Favour>,
    favour_period: Duration,
    /// With open instances above the lowest: sessions with a request that may be proposed next, behind
    /// what is in the open instances. Else empty: then those are the ones that are `ready`.
    fresh: List,
    pipelined: bool,
    /// Number of the current speculation: sessions remember which one they are part of.
    speculation: u64,
    /// Number of the current check of a batch: sessions remember which check they saw last, so that
    /// nothing has to be reset.
    check: u64,
    batch_requests_max: usize,
    batch_size_max: usize,
    /// Bytes of the largest proof that a client may use.
    proof_size_max: usize,
    /// Bytes of the largest body that fits a batch alone.
    body_size_max: usize,
    limits: Limits,
    /// Off in a mutant only: then a repeated request is neither kept out of batches nor skipped.
    suppress: bool,
    /// Room for a batch in the making: the slots that were chosen for it, and that from which each
    /// session continues.
    chosen: Vec<u32>,
    turns: Vec<u32>,
}

impl<P: Payload> Requests<P> {
    /// No sessions.
    pub fn new(config: &Config) -> Self {
        let batch_size_max = config.batch_size_max.min(BATCH_SIZE_MAX);
        let proof_size_max = config.view.request_proof_size_max();
        let around = BATCH_HEADER_SIZE + IDENTITY_SIZE + LAYOUT_SIZE + proof_size_max;
        let sessions_max = config.sessions_per_client_max;
        let list = || List::new(sessions_max as usize);
        let clients = (config.clients_max, config.first.is_some());
        Self {
            table: Table::new(clients, sessions_max, Limits::count_max(config)),
            ready: list(),
            signed: list(),
            oldest_unsigned: NONE,
            clock: Clock::new(),
            favours: alloc::vec![Favour::NONE; config.view.n()],
            favour_period: config.request_timeout / 2,
            fresh: list(),
            pipelined: config.depth > 1,
            speculation: 1,
            check: 0,
            batch_requests_max: config.batch_requests_max.min(BATCH_REQUESTS_MAX),
            batch_size_max,
            proof_size_max,
            body_size_max: batch_size_max.saturating_sub(around),
            limits: Limits::new(config),
            suppress: config.checks.duplicate_suppression,
            chosen: Vec::with_capacity(BATCH_REQUESTS_MAX),
            turns: Vec::with_capacity(BATCH_REQUESTS_MAX),
        }
    }

    /// Bytes that [`Requests::new`] reserves for sessions and pending requests.
    pub(crate) fn reserved_size(config: &Config) -> usize {
        let sessions = config.sessions_per_client_max;
        let table = Table::<P>::reserved_size(sessions, Limits::count_max(config));
        table.saturating_add(3 * List::reserved_size(sessions as usize))
    }

    /// Takes in an authentic request. A signed one replaces the same request with a MAC vector. `room`
    /// is asked how much there is for a request that is one too many.
    #[inline(always)]
    pub fn admit(
        &mut self,
        now: Instant,
        request: Request<P>,
        complaints: &Complaints,
        room: impl FnOnce(&Request<P>) -> Room,
    ) -> Admission {
        spec!("SMR.4", "SYNC.4", "VAL.8");
        match self.table.in_order(request.client, request.sequence) {
            Some(at) if self.is_welcome(&request, complaints) => {
                self.append(at, now, request);
                Admission::Accepted
            }
            _ => self.admit_any(now, request, complaints, room),
        }
    }

    /// Is a request that comes in order taken in? Else `admit_any` says why not.
    #[inline]
    fn is_welcome(&self, request: &Request<P>, complaints: &Complaints) -> bool {
        let identity = request.client.identity();
        !request.read_only
            && request.body_size as usize <= self.body_size_max
            && self.is_ample(identity, encoded_size(request))
            && (is_signed(request) || !complaints.is_demoted(identity))
    }

    /// Takes in a request that comes in order. Behind others of its session it changes nobody's turn,
    /// and the clock is handed over only if it is the work from now on.
    #[inline(always)]
    fn append(&mut self, at: u32, now: Instant, request: Request<P>) {
        let turn = if is_signed(&request) { Turn::Signed } else { Turn::Unsigned };
        if self.table.append(at, now, request) {
            self.enter(at, turn);
            if self.oldest_session() == at {
                self.settle(now, false);
            }
        }
        self.refresh_fresh(at);
    }

    #[cold]
    fn admit_any(
        &mut self,
        now: Instant,
        request: Request<P>,
        complaints: &Complaints,
        room: impl FnOnce(&Request<P>) -> Room,
    ) -> Admission {
        let session = self.table.find(request.client);
        if let Some(outcome) = self.turned_away(&request, session, complaints) {
            return outcome;
        }
        let Some(at) = session.or_else(|| self.open(request.client)) else {
            return Admission::Refused(RefusedRequest::UnknownSession);
        };
        let supersedes = match self.supersedes(at, &request) {
            Ok(supersedes) => supersedes,
            Err(reason) => return Admission::Refused(reason),
        };
        let known = self.table.position(at, request.sequence);
        if let Some(slot) = known {
            let upgrade = is_signed(&request) && !self.table.slot(slot).is_signed();
            if !upgrade {
                return Admission::Duplicate;
            }
        }
        let place = match self.place(at, &request, known.is_some(), room) {
            Ok(place) => place,
            Err(reason) => {
                self.settle(now, false);
                return Admission::Refused(reason);
            }
        };
        match known {
            Some(slot) => self.table.replace(slot, request),
            None if supersedes => self.supersede(at, now, request),
            None => self.table.insert(at, now, request),
        }
        self.refresh(at);
        self.settle(now, false);
        match place {
            Place::Ample => Admission::Accepted,
            Place::Spare => Admission::Spare,
        }
    }

    /// Why a request does not even reach its session, or that it was executed.
    fn turned_away(
        &self,
        request: &Request<P>,
        session: Option<u32>,
        complaints: &Complaints,
    ) -> Option<Admission> {
        let sequence = request.sequence;
        if request.read_only {
            spec!("SMR.3");
            return Some(Admission::Refused(RefusedRequest::ReadOnly));
        }
        if session.is_none() && !self.table.allows(request.client) {
            return Some(Admission::Refused(RefusedRequest::UnknownSession));
        }
        let executed = session.map_or(Sequence::NONE, |at| self.table.session(at).executed);
        if sequence.counter() == 0 || sequence.incarnation() < executed.incarnation() {
            return Some(Admission::Refused(RefusedRequest::Stale));
        }
        if sequence <= executed {
            spec!("SMR.10");
            return Some(Admission::Executed);
        }
        let same = sequence.incarnation() == executed.incarnation();
        let before = if same { executed.counter() } else { 0 };
        if (sequence.counter() - before) as usize > ADMISSION_WINDOW {
            return Some(Admission::Refused(RefusedRequest::BeyondWindow));
        }
        if request.body_size as usize > self.body_size_max {
            return Some(Admission::Refused(RefusedRequest::TooLarge));
        }
        if !is_signed(request) && complaints.is_demoted(request.client.identity()) {
            spec!("VAL.5");
            return Some(Admission::Refused(RefusedRequest::Demoted));
        }
        None
    }

    /// What a request with a body of `body_size` bytes counts in the size of a batch: the same for all
    /// replicas, whichever proof of it each of them has.
    pub(crate) fn size_in_batch(&self, body_size: usize) -> usize {
        spec!("BODY.7");
        IDENTITY_SIZE + LAYOUT_SIZE + body_size + self.proof_size_max
    }

    /// Encoded bytes of a batch at most, as [`Requests::size_in_batch`] counts.
    pub(crate) fn batch_size_max(&self) -> usize {
        self.batch_size_max
    }

    /// Could this be a client's proof, by its size?
    pub(crate) fn may_be_proof(&self, proof: &[u8]) -> bool {
        proof.len() <= self.proof_size_max
    }

    /// Where the request with exactly this identity is pending. Cheap when those of one session are
    /// looked for in order. (With `compare` false, a mutant, its digest may be another one.)
    #[inline(always)]
    pub(crate) fn find(&mut self, identity: &Identity, compare: bool) -> Option<u32> {
        spec!("BODY.2");
        let at = self.table.find(identity.client)?;
        let first = self.table.session(at).first;
        let slot = match self.table.slots.get(first as usize) {
            Some(slot) if slot.request().sequence == identity.sequence => first,
            _ => self.table.find_next(at, identity.client, identity.sequence)?,
        };
        let same = self.table.slot(slot).request().digest == identity.digest;
        (same || !compare).then_some(slot)
    }

    /// The request that [`Requests::find`] found, as long as nothing was decided or forgotten since.
    pub(crate) fn found(&self, slot: u32) -> &Request<P> {
        self.table.slot(slot).request()
    }

    /// The session's last executed request.
    pub fn executed(&self, client: ClientId) -> Sequence {
        self.table.find(client).map_or(Sequence::NONE, |at| self.table.session(at).executed)
    }

    /// Last executed request of each session that has one, clients ascending.
    pub fn sessions(&self) -> impl Iterator<Item = (ClientId, Sequence)> + '_ {
        self.table.executed()
    }

    /// Before anything else: the last executed request of a session was `executed`. `false`: there may
    /// be no such session.
    pub fn restore(&mut self, client: ClientId, executed: Sequence) -> bool {
        spec!("CKP.4");
        let Some(at) = self.open(client) else {
            return false;
        };
        self.table.sessions[at as usize].executed = executed;
        true
    }

    /// Is there anything that [`Requests::select`] would take?
    pub fn has_orderable(&self) -> bool {
        self.proposable().head() != NONE
    }

    /// Forgets the MAC-vector requests of a client that was demoted (`Complaint::Demoted`): its
    /// requests have to come again, signed. Walks all its sessions, once in the client's life.
    pub fn demote(&mut self, now: Instant, identity: u32) {
        spec!("VAL.5");
        let mut number = 0;
        while let Some(at) = self.table.session_of(identity, number) {
            number += 1;
            if at != NONE {
                self.table.forget(at, true, |request| !is_signed(request));
                // A signed request that was the session's next one still is: it keeps its turn.
                self.refresh(at);
            }
        }
        self.settle(now, false);
    }

    /// Another view begins: what is pending names the members of the one before, and comes again.
    pub fn enter_view(&mut self, now: Instant, config: &Config) {
        spec!("VIEW.6");
        self.forget_speculation();
        for at in 0..self.table.sessions.len() as u32 {
            self.table.forget(at, true, |_| true);
            self.refresh(at);
        }
        self.settle(now, false);
        self.favours.clear();
        self.favours.resize(config.view.n(), Favour::NONE);
        self.set_proof_size(config);
    }

    fn set_proof_size(&mut self, config: &Config) {
        self.proof_size_max = config.view.request_proof_size_max();
        let around = BATCH_HEADER_SIZE + IDENTITY_SIZE + LAYOUT_SIZE + self.proof_size_max;
        self.body_size_max = self.batch_size_max.saturating_sub(around);
    }

    /// The oldest request that the leader may order: a signed one if there is any, else one that
    /// had no strike yet.
    pub fn oldest(&self) -> Option<Work> {
        spec!("TIME.1");
        self.clock.work()
    }

    /// One more strike against the leader: the clock of the work starts again. An unsigned request
    /// is no work any more afterwards, and the next oldest is.
    pub fn strike(&mut self, now: Instant) {
        spec!("TIME.1", "VAL.7");
        let Some(item) = self.clock.item() else {
            return;
        };
        if item.signed {
            self.clock.strike(now);
        } else {
            let first = self.table.session(item.session).first;
            self.table.slots[first as usize].struck = true;
            self.refresh(item.session);
            self.settle(now, false);
        }
    }

    /// A new leader starts: no strikes, and the clock of the work starts now.
    pub fn restart_clocks(&mut self, now: Instant) {
        self.clock.restart(now);
    }

    /// Is nothing pending?
    pub fn is_empty(&self) -> bool {
        self.table.load().count == 0
    }

    /// Requests pending.
    pub fn pending_count(&self) -> usize {
        self.table.load().count
    }

    /// Bytes that the pending requests would take in batches.
    pub fn pending_bytes(&self) -> usize {
        self.table.load().bytes
    }

    #[inline]
    fn open(&mut self, client: ClientId) -> Option<u32> {
        match self.table.find(client) {
            Some(at) => Some(at),
            None => self.open_new(client),
        }
    }

    #[cold]
    fn open_new(&mut self, client: ClientId) -> Option<u32> {
        let at = self.table.open(client)?;
        for list in [&mut self.ready, &mut self.signed, &mut self.fresh] {
            list.grow(at);
        }
        Some(at)
    }

    /// Session `at` goes to the end of every list.
    #[inline(always)]
    fn lose_turn(&mut self, at: u32) {
        self.leave(at);
        if self.table.session(at).first != NONE {
            self.refresh(at);
        } else if self.pipelined {
            self.fresh.remove(at);
        }
    }

    /// Enters session `at` into the lists it belongs to and takes it out of the others.
    fn refresh(&mut self, at: u32) {
        let turn = self.table.turn(at);
        self.take_turn(at, turn);
        self.refresh_fresh(at);
    }

    /// Session `at` waits for this turn from now on. Where it is already, it keeps its place.
    fn take_turn(&mut self, at: u32, turn: Turn) {
        let before = self.table.session(at).turn;
        if before == turn {
            return;
        }
        match (before, turn) {
            // From the middle of the list nothing becomes unsigned.
            (_, Turn::None | Turn::Unsigned) => self.leave(at),
            (Turn::Unsigned, _) => self.pass_on(at),
            (Turn::Signed, _) => self.signed.remove(at),
            (Turn::None | Turn::Struck, _) => {}
        }
        if turn != Turn::None {
            self.enter(at, turn);
        }
    }

    /// Session `at`, which is still ready, is no oldest unsigned one any more.
    #[inline]
    fn pass_on(&mut self, at: u32) {
        if self.oldest_unsigned != at {
            return;
        }
        // Each session is passed over once while it is ready.
        let mut next = self.ready.next(at);
        while next != NONE && self.table.session(next).turn != Turn::Unsigned {
            next = self.ready.next(next);
        }
        self.oldest_unsigned = next;
    }

    /// Session `at` begins to wait for this turn, or goes on in the list of another one.
    #[inline]
    fn enter(&mut self, at: u32, turn: Turn) {
        self.table.sessions[at as usize].turn = turn;
        self.ready.push_back(at);
        match turn {
            Turn::Unsigned if self.oldest_unsigned == NONE => self.oldest_unsigned = at,
            Turn::Signed => self.signed.push_back(at),
            Turn::None | Turn::Unsigned | Turn::Struck => {}
        }
    }

    /// Session `at` waits for nothing any more.
    #[inline(always)]
    fn leave(&mut self, at: u32) {
        let turn = &mut self.table.sessions[at as usize].turn;
        match core::mem::replace(turn, Turn::None) {
            Turn::Unsigned => self.pass_on(at),
            Turn::Signed => self.signed.remove(at),
            Turn::Struck => {}
            Turn::None => return,
        }
        self.ready.remove(at);
    }

    /// The session with the oldest work, or `NONE`: a signed request comes before all that are not.
    #[inline]
    fn oldest_session(&self) -> u32 {
        match self.signed.head() {
            NONE => self.oldest_unsigned,
            signed => signed,
        }
    }

    /// Hands the clock over if the oldest work is another one now. A signed request comes before
    /// all that are not: a correct client signs what takes long (CLI.4), and a request that nobody
    /// will ever sign must not keep the leader from being suspected for the others.
    fn settle(&mut self, now: Instant, decision: bool) {
        spec!("TIME.1", "VAL.7");
        let session = self.oldest_session();
        if session == NONE {
            return self.clock.hand_over(now, None, false, now, decision);
        }
        let slot = self.table.slot(self.table.session(session).first);
        let item = Item { session, sequence: slot.request().sequence, signed: slot.is_signed() };
        self.clock.hand_over(now, Some(item), slot.forwarded, slot.admitted, decision);
    }
}
