//! From one view to the next: the View Manager's request, where a view ends, and who enters the next one
//! when.
//!
//! Owns which membership rules the next instance, as far as was decided here, and the handover from the
//! view that this replica is in. Always true: what rules is a function of the decisions alone; a
//! replica is in one view at a time, and votes in no other; it leaves a view only when others can teach
//! the rest what was decided there. Must not: verify the View Manager's signature (ingress has).

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cmp::Ordering;

use crate::action::{Action, Recipients};
use crate::batch::{Batch, Selection};
use crate::checkpoint::{Ending, Ordered, Ruled};
use crate::config::View;
use crate::limits::REPLICAS_MAX;
use crate::membership::{Membership, RefusedView, ViewAnswer, ViewRequest, is_view_manager};
use crate::message::{Message, Status};
use crate::payload::Payload;
use crate::protocol::Actions;
use crate::record::Record;
use crate::smr::bodies::{Answers, Lacking};
use crate::smr::complaints::Complaints;
use crate::smr::durability::RestoreError;
use crate::smr::helping::{Former, Helping};
use crate::smr::ignored::Ignored;
use crate::smr::out_of_context::OutOfContext;
use crate::smr::progress::Progress;
use crate::smr::replica::Replica;
use crate::smr::synchronization::Synchronization;
use crate::spec;
use crate::types::{ConsensusId, Lsn, Regency, ReplicaId, ReplicaSet, ViewId};
use crate::vp::safe_value::Resume;

/// See the module.
pub(super) struct Views {
    /// What rules the instance after the last one decided; `None`: no view ever follows the first.
    pub(super) ruling: Option<Box<ViewRequest>>,
    /// What was accepted, and rules later.
    pub(super) ending: Option<Box<Ending>>,
    /// The first instance of the ruling view.
    pub(super) start: ConsensusId,
    /// What has to be durable before this replica counts among those that have the whole view before.
    end_lsn: Lsn,
    /// Of the members of the ruling view, by their places: who is in it, or in a later one.
    arrived: ReplicaSet,
    /// Members of earlier views that are none now, the latest last.
    former: Vec<Former>,
    /// This replica is in no later view, and nobody needs it any more. That was said.
    retired: bool,
}

impl Views {
    pub(super) fn new(first: Option<Box<Membership>>) -> Self {
        Self {
            ruling: first.map(|next| Box::new(ViewRequest { next: *next, signature: [0; 64] })),
            ending: None,
            start: ConsensusId(1),
            end_lsn: Lsn(0),
            arrived: ReplicaSet::EMPTY,
            former: Vec::new(),
            retired: false,
        }
    }
}

impl<P: Payload> Replica<P> {
    /// The membership that rules the instance after the last one that was decided here, if views may
    /// follow each other.
    pub fn membership(&self) -> Option<&Membership> {
        self.views.ruling.as_ref().map(|ruling| &ruling.next)
    }

    /// The same with the View Manager's signature, which is zero in the first view.
    pub fn signed_membership(&self) -> Option<&ViewRequest> {
        self.views.ruling.as_deref()
    }

    /// The view that this replica is in, or waits to enter.
    pub fn view(&self) -> &View {
        &self.config.view
    }

    /// Does this replica wait for the view that it joins in?
    pub fn is_joining(&self) -> bool {
        self.lag.joining
    }

    /// Has this replica decided everything in its view, and not entered the next one?
    pub fn is_between_views(&self) -> bool {
        self.window.is_closed()
    }

    /// The view that the instance after the last decided one belongs to.
    pub(super) fn ruling_id(&self) -> ViewId {
        self.views.ruling.as_ref().map_or(self.config.view.id(), |ruling| ruling.next.id())
    }

    /// The view that others are told: a member that joins is not in its view yet.
    pub(super) fn told_view(&self) -> ViewId {
        let own = self.config.view.id();
        if self.lag.joining { ViewId(own.0.saturating_sub(1)) } else { own }
    }

    /// What becomes of a decided request of the View Manager, if `batch` in instance `cid` is one. Such
    /// a request is not given to the application, and counts only alone.
    pub(super) fn judge_view_request(
        &mut self,
        cid: ConsensusId,
        batch: &Batch<P>,
        selection: &mut Selection,
    ) -> Option<ViewAnswer> {
        spec!("VIEW.3");
        self.views.ruling.as_ref()?;
        if batch.len() > 1 {
            // No correct member writes it: then nobody's request, and nobody's answer.
            for (index, request) in batch.outlines().enumerate() {
                if is_view_manager(request.client) {
                    selection.remove(index);
                }
            }
            return None;
        }
        let view = batch.requests().next().filter(|view| is_view_manager(view.client))?;
        if !selection.contains(0) {
            return None;
        }
        Some(match self.accept_view(cid, view.operation) {
            Ok(answer) => answer,
            Err(refused) => ViewAnswer::Refused(refused),
        })
    }

    fn accept_view(
        &mut self,
        cid: ConsensusId,
        operation: &[u8],
    ) -> Result<ViewAnswer, RefusedView> {
        let ruling = self.views.ruling.as_ref().expect("asked of one that has a membership");
        if let Some(ending) = &self.views.ending {
            return Err(RefusedView::UnderWay(ending.next.next.id()));
        }
        let request = ViewRequest::decode(operation).map_err(|_| RefusedView::Malformed)?;
        ruling.next.check_next(&request.next)?;
        spec!("VIEW.4");
        let last = ConsensusId(cid.0 + self.window.depth() as u64 - 1);
        let view = request.next.id();
        if ruling.next.id() == self.config.view.id() {
            self.window.set_limit(last);
        }
        self.views.ending = Some(Box::new(Ending { last, next: request }));
        Ok(ViewAnswer::Accepted { view, last })
    }

    /// Instance `decided` was the last one of a view, maybe: then another one rules, and this replica is
    /// between the two, unless it joins in a later one.
    pub(super) fn end_view(&mut self, actions: &mut Actions<Action<P>>) {
        self.note_end_of_view();
        self.pass_end();
        if self.window.is_closed() {
            let next = self.views.ruling.clone().expect("only a view that is followed ends");
            actions.push(Action::ViewEnded { next });
            self.tell_status(actions);
        }
    }

    pub(super) fn pass_end(&mut self) {
        spec!("VIEW.4");
        let ends = |ending: &mut Box<Ending>| ending.last == self.decided;
        let Some(ending) = self.views.ending.take_if(ends) else {
            return;
        };
        self.views.start = ending.last.next();
        self.views.ruling = Some(Box::new(ending.next));
        self.views.arrived = ReplicaSet::EMPTY;
        self.views.end_lsn = self.last_record();
    }

    /// Enters the ruling view, if this replica is a member of it, is not in it, and may be.
    pub(super) fn try_enter_view(&mut self, actions: &mut Actions<Action<P>>) -> bool {
        spec!("VIEW.5", "VIEW.8");
        let own = self.config.view.id();
        let waits = self.window.is_closed() || (self.lag.joining && self.ruling_id() == own);
        if !waits {
            return false;
        }
        let ruling = self.views.ruling.as_ref().expect("only a view that is followed ends");
        let next = &ruling.next;
        if next.member(self.config.id).is_none() || !self.may_enter_view(next) {
            return false;
        }
        let view = next.id();
        self.persist(|_| Record::Entered { view }, actions);
        self.end_transfer(actions);
        self.enter_view();
        let entered = self.views.ruling.clone().expect("just entered");
        let leader = self.leader();
        let since = self.views.start;
        actions.push(Action::ViewEntered { entered, since, leader });
        self.tell_status(actions);
        true
    }

    /// Are enough others known to have the whole view before, or to be in `ruling`?
    fn may_enter_view(&self, ruling: &Membership) -> bool {
        if !self.config.checks.handover {
            return true;
        }
        let arrived = self.views.arrived.count() >= ruling.view().quorums().one_correct();
        arrived || (self.window.is_closed() && self.has_quorum_at_end())
    }

    /// Are Q members of this replica's view known to have decided everything in it?
    fn has_quorum_at_end(&self) -> bool {
        let last = self.decided;
        let have = |(index, member): (usize, &Progress)| {
            let decided = if index == self.index { last } else { member.decided };
            let durable = index != self.index || self.views.end_lsn <= self.durability.durable;
            decided >= last && durable
        };
        let count = self.lag.members.iter().enumerate().filter(|it| have(*it)).count();
        count >= self.quorums.certificate()
    }

    /// From here on this replica is in the ruling view.
    pub(super) fn enter_view(&mut self) {
        spec!("VIEW.6", "VIEW.7", "VIEW.8");
        let ruling = self.views.ruling.as_ref().expect("only a view that follows is entered");
        let same = ruling.next.id() == self.config.view.id();
        let view = ruling.next.view().clone();
        self.lag.joining = false;
        self.lag.read_from = self.decided;
        if same {
            // What it learned of the view while it joined still holds.
            return;
        }
        let before = self.take_view(view);
        self.requests.enter_view(self.now, &self.config);
        self.speculate_again();
        self.note_former(&before);
    }

    /// Is in `view` from now on, in regency 0, and knows nothing of what its members said so far. Returns
    /// the view before.
    fn take_view(&mut self, view: View) -> View {
        let before = core::mem::replace(&mut self.config.view, view);
        let view = &self.config.view;
        let n = view.n();
        self.index = view.index_of(self.config.id).expect("only a member enters a view");
        // (A mutant keeps smaller thresholds than it should; larger ones there may not be members for.)
        if self.config.checks.view_quorums || view.n() < before.n() {
            self.quorums = view.quorums();
        }
        (self.regency, self.wanted, self.stopped) = (Regency(0), Regency(0), false);
        self.resume = Resume { start: self.decided.next(), bound: Vec::new() };
        self.synchronization = Synchronization::new(n);
        self.window.enter_view(view.id());
        self.later = OutOfContext::new(n);
        self.complaints = Complaints::new(&self.config);
        self.lacking = Lacking::new(&self.config, self.now);
        self.answers = Answers::new(n);
        self.helping = Helping::new(n);
        self.lag.enter_view(&before, &self.config.view);
        self.transfer.enter_view(&self.config);
        self.serving.enter_view(&self.config);
        self.timers.decided();
        self.durability.restored = None;
        before
    }

    /// Begins in the view of a checkpoint, or waits for the one that this replica joins in.
    pub(super) fn begin_views(
        &mut self,
        ordered: &Ordered,
        of_base: ViewId,
        joining: bool,
    ) -> Result<(), RestoreError> {
        spec!("CKP.4", "VIEW.4");
        let own = self.config.view.id();
        let wrong = Err(RestoreError::View(of_base));
        let ruled = match (&ordered.ruled, &self.views.ruling) {
            (None, None) if of_base == own && ordered.view == own => return Ok(()),
            (Some(ruled), Some(_)) if ruled.request.next.id() == ordered.view => ruled,
            _ => return wrong,
        };
        let ended = ruled.ending.as_ref().filter(|ending| ending.last == ordered.cid);
        if let Some(Ending { last, next }) = ended
            && next.next.id() == of_base
            && !joining
        {
            // It was taken in the next view, in which nothing had been decided (rule CKP.6).
            return self.begin_view(*last, next).then_some(()).ok_or(RestoreError::View(of_base));
        }
        let view = ruled.request.next.view();
        if of_base == view.id() {
            if view.index_of(self.config.id).is_none() {
                return wrong;
            }
            if own != view.id() {
                self.take_view(view.clone());
                self.requests.enter_view(self.now, &self.config);
            }
            self.lag.joining = joining;
        } else if of_base != own || own < view.id() || !joining {
            return wrong;
        }
        self.take_ruled(ruled);
        Ok(())
    }

    /// Begins in `next`, which rules behind `last`. False: it does not name this replica.
    fn begin_view(&mut self, last: ConsensusId, next: &ViewRequest) -> bool {
        spec!("CKP.4", "CKP.6");
        let view = next.next.view();
        if view.index_of(self.config.id).is_none() {
            return false;
        }
        if self.config.view.id() != view.id() {
            self.take_view(view.clone());
            self.requests.enter_view(self.now, &self.config);
        }
        self.lag.joining = false;
        self.views.start = last.next();
        self.views.ruling = Some(Box::new(next.clone()));
        true
    }

    /// Does a checkpoint of others say which membership its view has, if views may follow, and can this replica go
    /// on from there: in its own view, in a later one that names it, or, while it joins, in one before?
    pub(super) fn is_ruled(&self, ordered: &Ordered) -> bool {
        spec!("ST.5", "VIEW.8", "VIEW.10");
        let own = &self.config.view;
        let view = match (&ordered.ruled, &self.views.ruling) {
            (None, None) => return ordered.view == own.id(),
            (Some(ruled), Some(_)) => ruled.request.next.view(),
            _ => return false,
        };
        let possible = match view.id().cmp(&own.id()) {
            Ordering::Less => self.lag.joining,
            Ordering::Equal => view == own,
            Ordering::Greater => view.index_of(self.config.id).is_some(),
        };
        possible && view.id() == ordered.view
    }

    /// Enters the view of a checkpoint of others that was found possible, if it is a later one. True if it did.
    pub(super) fn pass_to_view_of(&mut self, ordered: &Ordered) -> bool {
        spec!("VIEW.6", "VIEW.10");
        let Some(ruled) = ordered.ruled.as_deref() else {
            return false;
        };
        if ordered.view <= self.config.view.id() {
            return false;
        }
        self.views.ruling = Some(Box::new(ruled.request.clone()));
        self.views.arrived = ReplicaSet::EMPTY;
        self.enter_view();
        true
    }

    /// Rules as a checkpoint says.
    pub(super) fn take_ruled(&mut self, ruled: &Ruled) {
        self.views.start = ruled.since;
        self.views.ruling = Some(Box::new(ruled.request.clone()));
        self.views.ending = ruled.ending.clone().map(Box::new);
        if let Some(ending) = &ruled.ending
            && ruled.request.next.id() == self.config.view.id()
        {
            self.window.set_limit(ending.last);
        }
    }

    /// What everybody agrees on about views after the last decision, before a view ends with it.
    pub(super) fn ruled(&self) -> Option<Box<Ruled>> {
        let request = self.views.ruling.as_deref()?.clone();
        let ending = self.views.ending.as_deref().cloned();
        Some(Box::new(Ruled { request, since: self.views.start, ending }))
    }

    /// Would [`Replica::ruled`] say this?
    pub(super) fn rules_as(&self, ruled: Option<&Ruled>) -> bool {
        match (ruled, self.views.ruling.as_deref()) {
            (None, None) => true,
            (Some(ruled), Some(request)) => {
                let ending = self.views.ending.as_deref();
                ruled.since == self.views.start
                    && ruled.request == *request
                    && ruled.ending.as_ref() == ending
            }
            _ => false,
        }
    }

    /// A record says that this replica entered `view` here.
    pub(super) fn enter_again(&mut self, view: ViewId) -> Result<(), RestoreError> {
        spec!("DUR.4", "VIEW.6");
        let waits = self.window.is_closed() || self.lag.joining;
        let ruling = self.views.ruling.as_ref().filter(|_| waits);
        let entered = ruling.is_some_and(|ruling| {
            ruling.next.id() == view && ruling.next.member(self.config.id).is_some()
        });
        if !entered {
            return Err(RestoreError::View(view));
        }
        self.enter_view();
        Ok(())
    }

    /// Remembers who was a member before, so that those who do not know that they are none are told.
    fn note_former(&mut self, before: &View) {
        let view = &self.config.view;
        let former = &mut self.views.former;
        former.retain(|it| view.index_of(it.id).is_none() && before.index_of(it.id).is_none());
        let left = before.members().iter().filter(|id| view.index_of(**id).is_none());
        former.extend(left.map(|id| Former::new(*id)));
        let excess = former.len().saturating_sub(REPLICAS_MAX);
        former.drain(..excess);
    }

    /// A member says in which view it is.
    pub(super) fn note_arrival(&mut self, from: ReplicaId, view: ViewId) {
        spec!("VIEW.5");
        if let Some(ruling) = &self.views.ruling
            && view >= ruling.next.id()
            && let Some(place) = ruling.next.view().index_of(from)
        {
            self.views.arrived.insert(place);
        }
    }

    /// What a member that is in another view than this replica says of itself.
    pub(super) fn on_status_elsewhere(
        &mut self,
        index: usize,
        status: &Status,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("VIEW.7");
        let member = self.config.view.members()[index];
        self.help(index, actions, |this, actions| {
            this.send_decision_claims(member, status, actions);
        });
        self.pursue(actions);
    }

    /// A message of somebody who is no member of this replica's view: of the one before, or of the next
    /// one.
    pub(super) fn on_outsider(
        &mut self,
        from: ReplicaId,
        message: &Message<P>,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("VIEW.7", "VIEW.9");
        let next = self.window.is_closed()
            && self.views.ruling.as_ref().is_some_and(|ruling| ruling.next.member(from).is_some());
        let former = self.views.former.iter().any(|former| former.id == from);
        if !next && !former {
            return self.ignored.add(Ignored::NotMember);
        }
        // All of them together are helped as much as one member.
        let outsiders = self.config.view.n();
        match message {
            Message::Status(status) => {
                self.note_arrival(from, status.view);
                let lacks = ConsensusId(status.decided.0.saturating_add(1));
                let may_ask = self.may_outsider_ask(from, lacks);
                self.help(outsiders, actions, |this, actions| {
                    if may_ask {
                        this.send_decision_claims(from, status, actions);
                    }
                    let own = this.status();
                    // Whoever is behind is told; two that both are former members are not for ever.
                    if status.view < own.view {
                        this.send(Recipients::One(from), Message::Status(own), actions);
                    }
                });
            }
            Message::Fetch(fetch) if self.may_outsider_ask(from, fetch.from) => {
                self.help(outsiders, actions, |this, actions| {
                    this.send_decisions(from, fetch, actions);
                });
            }
            Message::FetchBatch(fetch) if self.may_outsider_ask(from, fetch.cid) => {
                self.help(outsiders, actions, |this, actions| {
                    this.send_batch(from, fetch, actions);
                });
            }
            Message::Fetch(_) | Message::FetchBatch(_) => self.ignored.add(Ignored::NotNeeded),
            _ => self.ignored.add(Ignored::NotMember),
        }
    }

    /// May somebody who is no member be sent decisions from `lacks` on? A former member alone may not, if it asks again
    /// and again: maybe too few are left that could tell it.
    fn may_outsider_ask(&mut self, from: ReplicaId, lacks: ConsensusId) -> bool {
        spec!("VIEW.7");
        let (now, patience) = (self.now, self.patience());
        let former = self.views.former.iter_mut().find(|former| former.id == from);
        former.is_none_or(|former| former.may_ask(lacks, now, patience))
    }

    /// With the status: who is in no later view asks those of the next how far they are, and says when
    /// it is not needed any more.
    pub(super) fn try_retire(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("VIEW.9");
        let Some(ruling) = self.views.ruling.as_ref().filter(|_| self.window.is_closed()) else {
            return;
        };
        let (view, own) = (ruling.next.view(), &self.config.view);
        if view.index_of(self.config.id).is_some() {
            return;
        }
        let stays = |place: &usize| own.index_of(view.members()[*place]).is_some();
        let staying = (0..view.n()).filter(stays).count();
        let moved = self.views.arrived.iter().filter(stays).count();
        let taught = moved >= staying.min(self.quorums.taught());
        let works = self.views.arrived.count() >= view.quorums().certificate();
        if taught && works && !self.views.retired {
            self.views.retired = true;
            actions.push(Action::Retired { view: view.id() });
        }
        let status = self.status();
        let joined = view.members().iter().filter(|id| own.index_of(**id).is_none());
        for id in joined {
            let to = Recipients::One(*id);
            self.send(to, Message::Status(status), actions);
        }
    }

    fn tell_status(&mut self, actions: &mut Actions<Action<P>>) {
        self.send(Recipients::Others, Message::Status(self.status()), actions);
    }
}
