//! From one view to the next, with everything that is in flight (rule CLI.12).
//!
//! Owns what a change of members means to requests. Always true: a request keeps its number, whatever view
//! it is sent in, so it is executed once; nothing that was said in the view before counts. Must not: end an
//! operation, or send it otherwise than as the first time.

use super::*;
use crate::batch::REQUEST_HEADER_SIZE;
use crate::membership::ViewRequest;
use crate::spec;
use crate::verified::Verified;

impl<P: Payload> ClientCore<P> {
    /// A member says that it is in a later view.
    pub(super) fn on_news(
        &mut self,
        now: Instant,
        from: ReplicaId,
        news: &Verified<ViewRequest>,
        actions: &mut Actions<ClientAction<P>>,
    ) {
        self.now = self.now.max(now);
        let before = self.follower.view().clone();
        if self.follower.hear(from, news) {
            self.enter_view(&before);
            actions.push(ClientAction::Followed { membership: Box::new(news.get().clone()) });
        }
    }

    /// Has members say in which view they are, if that is a later one than this client's: they are sent a
    /// read-only request without a number, to which no other answer counts.
    pub fn ask_for_view(&mut self, now: Instant, to: To, actions: &mut Actions<ClientAction<P>>) {
        spec!("CLI.12");
        self.now = self.now.max(now);
        let client = ClientId::new(self.config.identity, 0);
        let header = RequestHeader {
            client,
            sequence: Sequence::NONE,
            view: self.follower.view().id().0,
            read_only: true,
            replier: Replier::EVERYONE,
            unanswered: 0,
            operation_size: 0,
        };
        if let Some(body) = self.pool.build(REQUEST_HEADER_SIZE, &mut |out| header.write(out)) {
            actions.push(ClientAction::Send { to, client, body, sign: false });
        }
    }

    /// Is in the follower's view from now on, and begins to send again what is in flight.
    fn enter_view(&mut self, before: &View) {
        spec!("CLI.12");
        let view = self.follower.view();
        let (n, id) = (view.n(), view.id());
        self.repliers.enter_view(before, view);
        (self.views, self.outdated) = (alloc::vec![id; n], id);
        (self.catch_up, self.connected) = (alloc::vec![None; n], alloc::vec![None; n]);
        for slot in 0..self.slots.places() {
            self.forget_kept(slot);
        }
        self.slots.enter_view(n);
        self.notices.enter_view();
        for session in &mut self.sessions {
            session.enter_view(self.now);
        }
        self.resend_from = Some(0);
    }

    /// Sends the requests of one session in the present view. Says whether there may be more.
    pub(super) fn follow_one(&mut self, actions: &mut Actions<ClientAction<P>>) -> bool {
        let Some(session) = self.resend_from else { return false };
        let Some(state) = self.sessions.get(session) else {
            self.resend_from = None;
            return false;
        };
        self.resend_from = Some(session + 1);
        let lengths = [state.ordered.len(), state.reads.len()];
        for (reads, length) in [false, true].into_iter().zip(lengths) {
            for at in 0..length {
                let state = &self.sessions[session];
                let window = if reads { &state.reads } else { &state.ordered };
                if let Some(slot) = window.at(at) {
                    self.send(slot, To::All, actions);
                }
            }
        }
        self.arm(session as u32);
        true
    }

    /// Names the present view in the request in `slot`, and a replier of it. False without memory, or when
    /// it has ended: then nothing is sent before another timer.
    #[cold]
    pub(super) fn renew(&mut self, slot: SlotIndex) -> bool {
        let (view, replier) = (self.follower.view().id(), self.choose_replier());
        let entry = self.slots.get_mut(slot);
        let Some(body) = entry.body.take() else { return false };
        let mut header = RequestHeader::parse(body.bytes()).expect("this core's own request");
        (header.view, header.replier) = (view.0, replier);
        let (body, renewed) = match self.pool.alter(body, &mut |bytes| header.write(bytes)) {
            Ok(body) => (body, true),
            Err(body) => (body, false),
        };
        entry.body = Some(body);
        if renewed {
            (entry.view, entry.replier) = (view, replier);
        }
        renewed
    }
}
