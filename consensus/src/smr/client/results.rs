//! Results that only one member was asked for: kept until the others' digests agree with them, and
//! asked for again when they do not come.
//!
//! Owns what a slot knows beyond its voices. Always true: a result is the one that a certificate of
//! members gave the digest of; what is kept without a certificate is bounded in bytes; a member that
//! does not serve delays each request once, by the patience at most. Must not: count voices.

use super::*;
use crate::types::Digest;

/// A kept reply takes a slot of memory, however small it is.
const KEPT_SIZE_MIN: usize = 256;

impl<P: Payload> ClientCore<P> {
    /// Who shall answer the next request in full.
    pub(super) fn choose_replier(&mut self) -> Replier {
        crate::spec!("CLI.7");
        let wanted = self.config.reply == ReplyForm::Digest;
        if wanted && matches!(self.matching, Matching::Equal) {
            self.repliers.choose(self.now)
        } else {
            Replier::EVERYONE
        }
    }

    /// Takes in a whole reply that does not make a certificate. Only the one who was asked for it can
    /// make the client keep it.
    pub(super) fn keep(
        &mut self,
        slot: SlotIndex,
        member: usize,
        reply: Reply<P>,
        actions: &mut Actions<ClientAction<P>>,
    ) {
        if self.slots.get(slot).replier.index() != Some(member) {
            return;
        }
        if self.slots.get(slot).certified.is_some() {
            // It is not what the others agree on.
            return self.ask_everyone(slot, true, actions);
        }
        self.forget_kept(slot);
        let size = kept_size(&reply);
        if self.kept_size + size <= self.config.kept_size_max {
            self.kept_size += size;
            self.slots.get_mut(slot).kept = Some(reply);
        }
    }

    pub(super) fn forget_kept(&mut self, slot: SlotIndex) {
        if let Some(reply) = self.slots.get_mut(slot).kept.take() {
            self.kept_size -= kept_size(&reply);
        }
    }

    /// A certificate of members agrees on a whole reply with this digest, and the last of them sent
    /// the digest only.
    pub(super) fn on_certified(
        &mut self,
        slot: SlotIndex,
        digest: Digest,
        actions: &mut Actions<ClientAction<P>>,
    ) {
        crate::spec!("CLI.7", "CLI.8");
        self.note_certificate(slot);
        let entry = self.slots.get(slot);
        let (session, replier) = (entry.session, entry.replier.index());
        if let Some(reply) = entry.kept.as_ref().filter(|reply| reply.digest == digest) {
            let (status, result) = (reply.header.status, reply.clone().into_result());
            self.note_service(slot, replier);
            return self.end(slot, status, result, actions);
        }
        // Whoever was not asked for more has nothing to hurry for.
        let Some(replier) = replier else { return };
        match &self.slots.voices(slot)[replier] {
            None => {
                let state = &mut self.sessions[session as usize];
                state.missing.get_or_insert(self.now);
                self.arm(session);
            }
            Some(voice) => {
                let served = voice.is_whole(&digest);
                self.ask_everyone(slot, !served, actions);
            }
        }
    }

    /// Remembers when the voices agreed, and how long it took.
    pub(super) fn note_certificate(&mut self, slot: SlotIndex) {
        let entry = self.slots.get_mut(slot);
        if entry.certified.is_none() {
            entry.certified = Some(self.now);
            self.repliers.certified(self.now.since(entry.sent));
        }
    }

    /// The result of `slot` came from `member`, or had come from it before.
    pub(super) fn note_service(&mut self, slot: SlotIndex, member: Option<usize>) {
        let entry = self.slots.get(slot);
        let certified = entry.certified.unwrap_or(self.now);
        if let Some(replier) = entry.replier.index().filter(|_| entry.replier.index() == member) {
            self.repliers.served(replier, self.now.since(certified));
        }
    }

    /// Has an operation whose result is missing answered by everybody, once: a later time is a matter
    /// of the usual retransmission. `at_fault`: the replier is.
    fn ask_everyone(
        &mut self,
        slot: SlotIndex,
        at_fault: bool,
        actions: &mut Actions<ClientAction<P>>,
    ) {
        crate::spec!("CLI.8");
        let entry = self.slots.get_mut(slot);
        if core::mem::replace(&mut entry.asked, true) {
            return;
        }
        if let Some(replier) = entry.replier.index().filter(|_| at_fault) {
            self.repliers.failed(replier, self.now);
        }
        if entry.read_only {
            self.fall_back(slot, actions);
        } else {
            self.send_again(slot, actions);
        }
    }

    /// Asks for the results of `session` that are missing for too long, some at a time.
    pub(super) fn ask_for_missing(&mut self, session: u32, actions: &mut Actions<ClientAction<P>>) {
        let patience = self.repliers.patience();
        let state = &self.sessions[session as usize];
        if state.missing.is_none_or(|since| since + patience > self.now) {
            return;
        }
        let mut overdue = [0; RESEND_MAX];
        let (mut count, mut since) = (0, None);
        for slot in state.ordered.iter().chain(state.reads.iter()) {
            let entry = self.slots.get(slot);
            let Some(certified) = entry.certified.filter(|_| entry.is_missing()) else { continue };
            if certified + patience <= self.now && count < RESEND_MAX {
                overdue[count] = slot;
                count += 1;
            } else {
                // Those beyond the limit wait for as long again.
                let from = if certified + patience <= self.now { self.now } else { certified };
                since = Some(since.map_or(from, |other: Instant| other.min(from)));
            }
        }
        self.sessions[session as usize].missing = since;
        for slot in overdue.into_iter().take(count) {
            // It may be this client that had no room for it.
            let had_room = self.held_large < HELD_LARGE_MAX;
            self.ask_everyone(slot, had_room, actions);
        }
    }

    /// The link to a member is gone: it is not asked for results.
    pub(super) fn on_disconnected(&mut self, now: Instant, from: ReplicaId) {
        self.now = self.now.max(now);
        if let Some(member) = self.follower.view().index_of(from) {
            self.repliers.set_up(member, false);
        }
    }
}

fn kept_size<P: Payload>(reply: &Reply<P>) -> usize {
    (REPLY_HEADER_SIZE + reply.result().len()).max(KEPT_SIZE_MIN)
}
