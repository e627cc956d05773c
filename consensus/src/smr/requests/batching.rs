//! From pending requests to batches and back: what to propose, what may be proposed, what was
//! decided.

use alloc::vec::Vec;
use core::time::Duration;

use super::list::NONE;
use super::table::is_signed;
use super::{Impossible, Requests};
use crate::batch::{BATCH_HEADER_SIZE, Batch, Selection, encoded_size};
use crate::limits::BATCH_SIZE_MAX;
use crate::membership::is_view_manager;
use crate::message::Request;
use crate::payload::Payload;
use crate::smr::complaints::Complaints;
use crate::spec;
use crate::types::{ClientId, Instant, ReplicaSet, Sequence};

/// Room left in a list of requests.
struct Room {
    requests: usize,
    bytes: usize,
}

impl Room {
    fn new(requests: usize, bytes: usize) -> Self {
        Self { requests, bytes: bytes.saturating_sub(BATCH_HEADER_SIZE) }
    }

    fn take(&mut self, size: usize) -> bool {
        if self.requests == 0 || size > self.bytes {
            return false;
        }
        self.requests -= 1;
        self.bytes -= size;
        true
    }
}

/// What to do with the request that is up next in a session.
enum Verdict {
    Take,
    /// Not this one, so none of this session after it either.
    Skip,
    /// There is no more room. A smaller request of another session does not overtake: the session
    /// that was stopped here is the first of the next batch.
    Stop,
}

impl<P: Payload> Requests<P> {
    /// Chooses the next batch: sessions take turns, one request each, the longest waiting first, within
    /// the configured limits. Nothing stops being pending. [`Requests::selected`] is what was chosen.
    pub fn select(&mut self, complaints: &Complaints) {
        spec!("SMR.6", "VAL.6");
        self.turns.clear();
        self.chosen.clear();
        let mut room = Room::new(self.batch_requests_max, self.batch_size_max);
        let mut complainants = ReplicaSet::EMPTY;
        let without_body = self.size_in_batch(0);
        let (mut taken, mut alone) = (0, false);
        let mut verdict = |request: &Request<P>| {
            if alone {
                return Verdict::Stop;
            }
            if is_view_manager(request.client) {
                spec!("VIEW.3");
                if taken > 0 {
                    return Verdict::Skip;
                }
                alone = true;
            }
            let together = if is_signed(request) {
                complainants
            } else {
                match complaints.join(complainants, request.client.identity()) {
                    Some(together) => together,
                    None => return Verdict::Skip,
                }
            };
            if !room.take(without_body + request.body_size as usize) {
                return Verdict::Stop;
            }
            complainants = together;
            taken += 1;
            Verdict::Take
        };
        let mut session = self.proposable().head();
        while session != NONE {
            if let Some(slot) = self.first_proposable(session) {
                match verdict(self.table.slot(slot).request()) {
                    Verdict::Take => self.take(slot),
                    Verdict::Skip => {}
                    Verdict::Stop => return,
                }
            }
            session = self.proposable().next(session);
        }
        // A queue: each session that had its turn is behind all others with what comes next.
        let mut turn = 0;
        while let Some(&slot) = self.turns.get(turn) {
            turn += 1;
            match verdict(self.table.slot(slot).request()) {
                Verdict::Take => self.take(slot),
                Verdict::Skip => {}
                Verdict::Stop => return,
            }
        }
    }

    fn take(&mut self, slot: u32) {
        self.chosen.push(slot);
        if let Some(next) = self.table.successor(slot) {
            self.turns.push(next);
        }
    }

    /// What [`Requests::select`] chose, in order, as long as nothing was admitted, decided or forgotten
    /// since.
    pub fn selected(&self) -> impl ExactSizeIterator<Item = &Request<P>> + Clone {
        self.chosen.iter().map(|slot| self.table.slot(*slot).request())
    }

    /// Could a correct leader have proposed `batch` next? Then, the client of its first request that is
    /// not convincing: neither authentic nor pending with the same digest (rule VAL.2).
    ///
    /// # Errors
    /// [`Impossible`] when not (rule VAL.1; `last_timestamp_ns` is that of the instance below; without
    /// requests it is only possible where a view ends, rule VIEW.4).
    pub fn check_batch(
        &mut self,
        batch: &Batch<P>,
        last_timestamp_ns: u64,
        may_be_empty: bool,
    ) -> Result<Option<ClientId>, Impossible> {
        spec!("VAL.1", "VAL.2", "BODY.7");
        if batch.is_empty() && !may_be_empty {
            return Err(Impossible::Empty);
        }
        if batch.len() > self.batch_requests_max {
            return Err(Impossible::TooLarge);
        }
        if batch.timestamp_ns <= last_timestamp_ns {
            return Err(Impossible::Timestamp);
        }
        self.check += 1;
        let all_authentic = batch.authentic.contains_first(batch.len());
        let mut doubtful = None;
        let alone = batch.len() == 1;
        let mut size = BATCH_HEADER_SIZE + batch.len() * self.size_in_batch(0);
        for (index, request) in batch.outlines().enumerate() {
            let client = request.client;
            if is_view_manager(client) && !alone {
                spec!("VIEW.3");
                return Err(Impossible::NotAlone);
            }
            let at = self.open(client).ok_or(Impossible::UnknownSession(client))?;
            let below = self.reached(at);
            let session = &mut self.table.sessions[at as usize];
            if session.check != self.check {
                session.check = self.check;
                session.checked = below;
            }
            if self.suppress && !request.sequence.follows(session.checked) {
                return Err(Impossible::OutOfOrder(client));
            }
            session.checked = request.sequence;
            size += request.body_size;
            if !all_authentic && doubtful.is_none() && !batch.authentic.contains(index) {
                let slot = self.table.position(at, request.sequence);
                let pending = slot.map(|slot| &self.table.slot(slot).request().digest.0);
                doubtful = (pending != Some(request.digest)).then_some(client);
            }
        }
        if size > self.batch_size_max {
            return Err(Impossible::TooLarge);
        }
        Ok(doubtful)
    }

    /// The batch was decided: moves the sessions, forgets what is not pending any more and hands the
    /// work over. The requests to be executed: those that follow their session's last one. (With
    /// `suppress` false, a mutant, all of them.)
    pub fn execute(&mut self, now: Instant, batch: &Batch<P>, suppress: bool) -> Selection {
        spec!("SMR.8", "SMR.9");
        let mut selection = Selection::first(batch.len());
        for (index, request) in batch.outlines().enumerate() {
            let session = self.open(request.client);
            let follows = |at: &u32| request.sequence.follows(self.table.session(*at).executed);
            match session.filter(follows) {
                Some(at) => self.move_on(at, request.sequence),
                None if suppress => selection.remove(index),
                None => {}
            }
        }
        self.settle(now, true);
        selection
    }

    /// Sessions stand where others say that they do: forgets what is not pending any more. As if everything up to
    /// there had been decided.
    pub fn install(&mut self, now: Instant, sessions: &[(ClientId, Sequence)]) {
        spec!("ST.5");
        for (client, executed) in sessions {
            let session = self.open(*client);
            let behind = |at: &u32| self.table.session(*at).executed < *executed;
            if let Some(at) = session.filter(behind) {
                self.move_on(at, *executed);
            }
        }
        self.settle(now, true);
    }

    /// May there be such a session?
    pub fn allows(&self, client: ClientId) -> bool {
        self.table.allows(client)
    }

    /// Request `sequence` of session `at`, one after its last, was decided.
    #[inline]
    fn move_on(&mut self, at: u32, sequence: Sequence) {
        self.table.sessions[at as usize].executed = sequence;
        self.table.forget_executed(at, sequence);
        self.lose_fresh_turn(at);
        self.lose_turn(at);
    }

    /// Puts into `out` (emptied first) what FORWARDED and STOP carry: requests that may be ordered
    /// and were admitted at least `timeout` ago, signed ones first, then by turns; at most `max`,
    /// and as many as fit into one list. Unsigned ones are given out once: who could not
    /// authenticate them then cannot later.
    pub fn overdue(
        &mut self,
        now: Instant,
        timeout: Duration,
        max: usize,
        out: &mut Vec<Request<P>>,
    ) {
        spec!("TIME.2");
        out.clear();
        self.turns.clear();
        for signed in [true, false] {
            let list = if signed { &self.signed } else { &self.ready };
            let mut session = list.head();
            while session != NONE && self.turns.len() < max {
                let first = self.table.session(session).first;
                if self.table.slot(first).is_signed() == signed
                    && self.is_overdue(first, now, timeout)
                {
                    self.turns.push(first);
                }
                session = list.next(session);
            }
        }
        let mut room = Room::new(max, BATCH_SIZE_MAX);
        let mut turn = 0;
        while let Some(&slot) = self.turns.get(turn) {
            turn += 1;
            if !room.take(encoded_size(self.table.slot(slot).request())) {
                break;
            }
            out.push(self.table.slot(slot).request().clone());
            self.mark_forwarded(slot);
            let next = self.table.successor(slot);
            self.turns.extend(next.filter(|&next| self.is_overdue(next, now, timeout)));
        }
        self.settle(now, false);
    }

    fn is_overdue(&self, slot: u32, now: Instant, timeout: Duration) -> bool {
        let slot = self.table.slot(slot);
        slot.admitted + timeout <= now && (slot.is_signed() || !slot.forwarded)
    }

    /// All members get it: for an unsigned request that is its first strike.
    fn mark_forwarded(&mut self, slot: u32) {
        let client = self.table.slot(slot).request().client;
        let slot = &mut self.table.slots[slot as usize];
        slot.forwarded = true;
        slot.struck = !slot.is_signed();
        if let Some(session) = self.table.find(client) {
            self.refresh(session);
        }
    }
}
