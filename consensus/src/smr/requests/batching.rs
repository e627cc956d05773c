//! From pending requests to batches and back: what to propose, what may be proposed, what was
//! decided.

use alloc::vec::Vec;
use core::time::Duration;

use super::list::NONE;
use super::table::is_signed;
use super::{Impossible, Requests};
use crate::batch::{BATCH_HEADER_SIZE, Batch, Selection, encoded_size};
use crate::limits::BATCH_SIZE_MAX;
use crate::message::Request;
use crate::payload::Payload;
use crate::smr::complaints::Complaints;
use crate::spec;
use crate::types::{Instant, ReplicaSet};

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
    /// Puts the next batch into `out` (emptied first): sessions take turns, one request each, the
    /// longest waiting first, within the configured limits. Nothing stops being pending.
    pub fn select(&mut self, complaints: &Complaints, out: &mut Vec<Request<P>>) {
        spec!("SMR.6", "VAL.6");
        out.clear();
        let mut room = Room::new(self.batch_requests_max, self.batch_size_max);
        let mut complainants = ReplicaSet::EMPTY;
        let without_body = self.size_in_batch(0);
        let mut verdict = |request: &Request<P>| {
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
            Verdict::Take
        };
        self.turns.clear();
        let mut session = self.proposable().head();
        while session != NONE {
            let slot = self.first_proposable(session);
            match verdict(self.table.slot(slot).request()) {
                Verdict::Take => self.take(slot, out),
                Verdict::Skip => {}
                Verdict::Stop => return,
            }
            session = self.proposable().next(session);
        }
        // A queue: each session that had its turn is behind all others with what comes next.
        let mut turn = 0;
        while let Some(&slot) = self.turns.get(turn) {
            turn += 1;
            match verdict(self.table.slot(slot).request()) {
                Verdict::Take => self.take(slot, out),
                Verdict::Skip => {}
                Verdict::Stop => return,
            }
        }
    }

    fn take(&mut self, slot: u32, out: &mut Vec<Request<P>>) {
        out.push(self.table.slot(slot).request().clone());
        self.turns.extend(self.table.successor(slot));
    }

    /// Could a correct leader have proposed `batch` next? Then, which of its requests are convincing:
    /// authentic, or pending with the same digest (rule VAL.2).
    ///
    /// # Errors
    /// [`Impossible`] when not (rule VAL.1; `last_timestamp_ns` is that of the instance below).
    pub fn check_batch(
        &mut self,
        batch: &Batch<P>,
        last_timestamp_ns: u64,
    ) -> Result<Selection, Impossible> {
        spec!("VAL.1", "VAL.2", "BODY.7");
        if batch.is_empty() {
            return Err(Impossible::Empty);
        }
        if batch.len() > self.batch_requests_max {
            return Err(Impossible::TooLarge);
        }
        if batch.timestamp_ns <= last_timestamp_ns {
            return Err(Impossible::Timestamp);
        }
        self.check += 1;
        let mut convincing = Selection::NONE;
        let mut size = BATCH_HEADER_SIZE;
        for (index, request) in batch.requests().enumerate() {
            let client = request.client;
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
            let is_pending = || {
                let slot = self.table.position(at, request.sequence);
                slot.is_some_and(|slot| self.table.slot(slot).request().digest == request.digest)
            };
            size += self.size_in_batch(request.body.len());
            if batch.authentic.contains(index) || is_pending() {
                convincing.insert(index);
            }
        }
        if size > self.batch_size_max {
            return Err(Impossible::TooLarge);
        }
        Ok(convincing)
    }

    /// The batch was decided: moves the sessions, forgets what is not pending any more and hands the
    /// work over. The requests to be executed: those that follow their session's last one. (With
    /// `suppress` false, a mutant, all of them.)
    pub fn execute(&mut self, now: Instant, batch: &Batch<P>, suppress: bool) -> Selection {
        spec!("SMR.8", "SMR.9");
        let mut selection = Selection::NONE;
        for (index, request) in batch.requests().enumerate() {
            let session = self.open(request.client);
            let follows =
                session.is_some_and(|at| request.sequence.follows(self.table.session(at).executed));
            if let (Some(at), true) = (session, follows) {
                self.table.sessions[at as usize].executed = request.sequence;
                self.table.forget(at, false, |pending| pending.sequence <= request.sequence);
                self.lose_fresh_turn(at);
                self.lose_turn(at);
            }
            if follows || !suppress {
                selection.insert(index);
            }
        }
        self.settle(now, true);
        selection
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
