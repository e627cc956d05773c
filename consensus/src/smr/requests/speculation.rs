//! Where sessions stand when the open instances are decided as they were written.
//!
//! Owns, for each session, the last request in the open instances; and, with more than one of them, the
//! list of sessions that have something to propose behind it. Always true: what was executed counts
//! in any case. Must not: know instances; the replica says what was written, and when that is void.

use super::Requests;
use super::list::{List, NONE};
use crate::batch::Batch;
use crate::payload::Payload;
use crate::spec;
use crate::types::Sequence;

impl<P: Payload> Requests<P> {
    /// `batch` was written in the lowest instance that was not: what is judged or selected from now on
    /// follows its requests.
    pub fn speculate(&mut self, batch: &Batch<P>) {
        spec!("VAL.1", "SMR.13");
        for request in batch.outlines() {
            let Some(at) = self.open(request.client) else {
                continue;
            };
            // Like execution (SMR.9): what does not follow will be skipped.
            if !request.sequence.follows(self.reached(at)) {
                continue;
            }
            let session = &mut self.table.sessions[at as usize];
            session.ahead = request.sequence;
            session.speculation = self.speculation;
            self.fresh.remove(at);
            self.refresh_fresh(at);
        }
    }

    /// Nothing that was written counts any more: every session stands at its last executed request.
    pub fn forget_speculation(&mut self) {
        spec!("SMR.13");
        if !self.pipelined {
            return;
        }
        self.speculation += 1;
        while self.fresh.head() != NONE {
            self.fresh.remove(self.fresh.head());
        }
        let mut session = self.ready.head();
        while session != NONE {
            self.fresh.push_back(session);
            session = self.ready.next(session);
        }
    }

    /// The last request of session `at` that was executed or is in an open instance.
    #[inline]
    pub(super) fn reached(&self, at: u32) -> Sequence {
        let session = self.table.session(at);
        if session.speculation == self.speculation {
            session.ahead.max(session.executed)
        } else {
            session.executed
        }
    }

    /// Sessions that a leader may propose from, the longest waiting first.
    pub(super) fn proposable(&self) -> &List {
        if self.pipelined { &self.fresh } else { &self.ready }
    }

    /// The slot of the first request that may be proposed from session `at`. There is one in each session
    /// that is proposable.
    pub(super) fn first_proposable(&self, at: u32) -> Option<u32> {
        if self.pipelined {
            return self.table.after(at, self.reached(at));
        }
        let first = self.table.session(at).first;
        (first != NONE).then_some(first)
    }

    /// Session `at` changed: enters it into the list of what may be proposed, or takes it out.
    #[inline(always)]
    pub(super) fn refresh_fresh(&mut self, at: u32) {
        if self.pipelined {
            self.refresh_pipelined(at);
        }
    }

    fn refresh_pipelined(&mut self, at: u32) {
        let proposable = self.table.after(at, self.reached(at)).is_some();
        self.fresh.set(at, proposable);
    }

    /// Session `at` was executed up to a new request: it goes to the end of the list, unless it did so
    /// when that request was written.
    #[inline]
    pub(super) fn lose_fresh_turn(&mut self, at: u32) {
        if !self.pipelined {
            return;
        }
        let session = self.table.session(at);
        if session.speculation != self.speculation || session.ahead < session.executed {
            self.fresh.remove(at);
        }
    }
}
