//! How operations end.
//!
//! Owns the order in which results are handed over. Always true: an operation is completed once; ordered
//! ones of a session in the order in which they were invoked. Must not: judge replies.

use super::*;

impl<P: Payload> ClientCore<P> {
    pub(super) fn end(
        &mut self,
        slot: SlotIndex,
        status: Status,
        result: P,
        actions: &mut Actions<ClientAction<P>>,
    ) {
        self.forget_kept(slot);
        let entry = self.slots.get_mut(slot);
        assert!(entry.ended.is_none(), "an operation ends once");
        self.held_large += usize::from(is_large(result.bytes()));
        entry.ended = Some((status, result));
        entry.body = None;
        let (session, read_only) = (entry.session, entry.read_only);
        if read_only {
            self.complete(slot, actions);
        } else {
            self.complete_in_order(session, actions);
        }
        self.arm(session);
    }

    /// Completes ordered operations of `session`, oldest first, up to the first in flight.
    fn complete_in_order(&mut self, session: u32, actions: &mut Actions<ClientAction<P>>) {
        let mut progressed = false;
        while let Some(slot) = self.sessions[session as usize].ordered.front() {
            let Some((status, _)) = &self.slots.get(slot).ended else { break };
            progressed = true;
            let refused = *status == Status::Refused;
            self.complete(slot, actions);
            if refused {
                self.refuse_rest(session, actions);
            }
        }
        if progressed {
            let state = &mut self.sessions[session as usize];
            state.progress = self.now;
            state.attempts = 0;
            self.go_on(session, actions);
            self.order_fallback(session, actions);
        }
    }

    /// A request that is never executed leaves a gap that no later one of its incarnation can pass:
    /// those in flight are refused with it, and the session goes on with the next incarnation.
    fn refuse_rest(&mut self, session: u32, actions: &mut Actions<ClientAction<P>>) {
        while let Some(slot) = self.sessions[session as usize].ordered.front() {
            self.forget_kept(slot);
            let entry = self.slots.get_mut(slot);
            if let Some(body) = entry.body.take() {
                self.held_large += usize::from(is_large(body.bytes()));
                entry.ended = Some((Status::Refused, body));
            }
            self.complete(slot, actions);
        }
        self.sessions[session as usize].ordered.renumber();
    }

    fn complete(&mut self, slot: SlotIndex, actions: &mut Actions<ClientAction<P>>) {
        let ticket = self.slots.ticket(slot);
        let entry = self.slots.get_mut(slot);
        let (status, result) = entry.ended.take().expect("only what ended is completed");
        let (session, sequence, read_only) = (entry.session, entry.sequence, entry.read_only);
        self.held_large -= usize::from(is_large(result.bytes()));
        let state = &mut self.sessions[session as usize];
        if read_only {
            state.reads.end(sequence);
        } else {
            state.ordered.end(sequence);
        }
        self.slots.free(slot);
        let outcome = match status {
            Status::Ok => Outcome::Done(result),
            Status::TooOld | Status::TooLarge => Outcome::Forgotten,
            Status::Refused | Status::Busy | Status::Outdated | Status::Notice => Outcome::Refused,
        };
        actions.push(ClientAction::Completed { ticket, session, outcome });
    }
}
