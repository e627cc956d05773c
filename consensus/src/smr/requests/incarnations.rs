//! Clients that restarted: requests of another incarnation than what is pending.
//!
//! Owns which of them stays. Always true: what may be ordered next never makes room for what may not, nor
//! what is signed for what is not. Must not: know which incarnation its client is in.

use core::cmp::Ordering;

use super::list::NONE;
use super::table::{Turn, is_signed};
use super::{RefusedRequest, Requests};
use crate::message::Request;
use crate::payload::Payload;
use crate::spec;
use crate::types::Instant;

impl<P: Payload> Requests<P> {
    /// Does a request take the place of all that is pending in session `at`, because that is of another
    /// incarnation?
    pub(super) fn supersedes(&self, at: u32, request: &Request<P>) -> Result<bool, RefusedRequest> {
        spec!("SMR.4", "TIME.7");
        let (head, sequence) = (self.table.head(at), request.sequence);
        let Some(pending) = self.incarnation(at) else {
            return Ok(false);
        };
        let next = sequence.follows(self.table.session(at).executed);
        match sequence.incarnation().cmp(&pending) {
            Ordering::Equal => Ok(false),
            // What may be ordered goes before what may not.
            Ordering::Less if head.is_none() && next => Ok(true),
            Ordering::Less => Err(RefusedRequest::Stale),
            Ordering::Greater => match head {
                Some(head) if !next || (head.is_signed() && !is_signed(request)) => {
                    Err(RefusedRequest::NotYet)
                }
                // The client has restarted, and has forgotten these.
                _ => Ok(true),
            },
        }
    }

    /// Puts a request in the place of all that is pending in session `at`. The session keeps its turn; but
    /// what is new has not waited, so whoever has goes before it on the clock, and what was no work is
    /// none.
    pub(super) fn supersede(&mut self, at: u32, now: Instant, request: Request<P>) {
        let turn = self.table.turn(at);
        self.table.forget(at, true, |_| true);
        self.table.insert(at, now, request);
        match turn {
            Turn::Signed => {
                self.signed.remove(at);
                self.signed.push_back(at);
            }
            Turn::Struck => {
                let first = self.table.session(at).first;
                self.table.slots[first as usize].struck = true;
            }
            Turn::None | Turn::Unsigned => {}
        }
    }

    /// The incarnation of what is pending in session `at`.
    fn incarnation(&self, at: u32) -> Option<u32> {
        let first = self.table.session(at).first;
        (first != NONE).then(|| self.table.slot(first).request().sequence.incarnation())
    }
}
