//! The synchronisation phase: from wishes for another leader to the values it has to go on with.
//!
//! Owns who wants which regency, the signed states of the regency being installed, and its SYNC.
//! Always true: a regency is installed only when enough members want it, and synchronised at most
//! once. Must not: choose values (`vp::safe_value` does) or verify signatures (ingress has).

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::action::{Action, Evidence, Recipients};
use crate::batch::Batch;
use crate::limits::{REPLICAS_MAX, REQUEST_LIST_MAX, decisions_told, write_set_max};
use crate::message::{Message, OpenState, ReplicaState, SignedState, Stop, Sync, Vote, Written};
use crate::payload::Payload;
use crate::protocol::Actions;
use crate::record::Record;
use crate::smr::ignored::Ignored;
use crate::smr::lag::Votes;
use crate::smr::replica::Replica;
use crate::smr::timers::first_strike;
use crate::spec;
use crate::types::{ConsensusId, Digest, Instant, Regency, ReplicaSet};
use crate::vp::instance::Instance;
use crate::vp::safe_value::{self, Choice, Resume};

/// See the module.
pub(super) struct Synchronization {
    /// The highest regency that each member is known to want. This replica's own is not used.
    pub(super) wishes: Vec<Regency>,
    /// The newest state of each member, for this regency or one that is not installed yet.
    states: Vec<Option<SignedState>>,
    /// The newest SYNC of each member for a regency that is not installed yet.
    early: Vec<Option<Sync>>,
    /// What this replica signed for the installed regency: it never says anything else.
    own: Option<ReplicaState>,
    /// The SYNC that this replica sent as leader of the installed regency.
    sent: Option<Sync>,
    /// When an installed regency that is not synchronised is given up.
    pub(super) give_up_at: Instant,
}

impl Synchronization {
    pub(super) fn new(n: usize) -> Self {
        Self {
            wishes: alloc::vec![Regency(0); n],
            states: alloc::vec![None; n],
            early: (0..n).map(|_| None).collect(),
            own: None,
            sent: None,
            give_up_at: Instant(0),
        }
    }
}

impl<P: Payload> Replica<P> {
    /// Something is wrong with the installed regency.
    pub(super) fn ask_for_next_regency(&mut self, actions: &mut Actions<Action<P>>) {
        self.ask_for(self.regency.next(), actions);
    }

    /// Wants a regency of at least `regency`, and says so.
    fn ask_for(&mut self, regency: Regency, actions: &mut Actions<Action<P>>) {
        spec!("SYNC.1", "LAG.5");
        if self.lag.is_mute() || regency <= self.wanted {
            return;
        }
        self.wanted = regency;
        let view = self.config.view.id();
        let requests = self.overdue_requests();
        let stop = Stop { view, regency, requests };
        self.send(Recipients::Others, Message::Stop(stop), actions);
        self.settle_wishes(actions);
    }

    /// The requests that a STOP or FORWARDED carries. None when there is no memory for them.
    pub(super) fn overdue_requests(&mut self) -> Batch<P> {
        let mut overdue = core::mem::take(&mut self.selected);
        let wait = first_strike(self.config.request_timeout);
        self.requests.overdue(self.now, wait, REQUEST_LIST_MAX, &mut overdue);
        let list = match overdue.is_empty() {
            true => None,
            false => Batch::build(&mut *self.pool, 0, &overdue),
        };
        overdue.clear();
        self.selected = overdue;
        list.unwrap_or_else(|| self.no_requests.clone())
    }

    pub(super) fn on_stop(
        &mut self,
        index: usize,
        stop: &Stop<P>,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("SYNC.1", "SYNC.4");
        if stop.view != self.config.view.id() {
            return self.ignored.add(Ignored::OtherView);
        }
        self.on_request_list(index, &stop.requests, actions);
        let wish = self.synchronization.wishes[index].max(stop.regency);
        self.on_wish(index, wish, actions);
    }

    /// The member at `index` wants this regency, and no other any more.
    pub(super) fn on_wish(
        &mut self,
        index: usize,
        wish: Regency,
        actions: &mut Actions<Action<P>>,
    ) {
        assert!(index != self.index, "its own wish is `wanted`");
        self.synchronization.wishes[index] = wish;
        self.settle_wishes(actions);
    }

    /// Joins those who want more, and installs what enough want.
    fn settle_wishes(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("SYNC.1", "SYNC.2", "SYNC.3");
        let joined = self.wanted_by(self.quorums.join());
        // Joining is wanting, which settles the wishes again, this time with nothing to join.
        if joined > self.wanted && !self.lag.is_mute() {
            return self.ask_for(joined, actions);
        }
        let installed = self.wanted_by(self.quorums.install());
        if installed > self.regency {
            self.install(installed, actions);
        }
    }

    /// The highest regency that `count` members want, or one above it.
    fn wanted_by(&self, count: usize) -> Regency {
        let n = self.config.view.n();
        assert!((1..=n).contains(&count), "thresholds are numbers of members");
        let mut wishes = [Regency(0); REPLICAS_MAX];
        wishes[..n].copy_from_slice(&self.synchronization.wishes);
        wishes[self.index] = self.wanted;
        wishes[..n].sort_unstable_by(|a, b| b.cmp(a));
        wishes[count - 1]
    }

    /// A decision of the current regency shows that asking for another one was wrong.
    pub(super) fn withdraw_wish(&mut self) {
        spec!("SYNC.3");
        let struck = self.requests.oldest().is_some_and(|work| work.strikes >= 2);
        if !self.stopped && !struck {
            self.wanted = self.regency;
        }
    }

    fn install(&mut self, regency: Regency, actions: &mut Actions<Action<P>>) {
        spec!("SYNC.2", "SYNC.5", "VP.2");
        assert!(regency > self.regency, "regencies only grow");
        let view = self.config.view.id();
        self.persist(|_| Record::Installed { view, regency }, actions);
        self.enter(regency);
        let leader = self.leader();
        actions.push(Action::Installed { regency, leader });
        self.send_state(actions);
        self.read_early_sync(actions);
    }

    /// Stops voting, and fixes what this replica says of itself in `regency`.
    pub(super) fn enter(&mut self, regency: Regency) {
        self.regency = regency;
        self.wanted = self.wanted.max(regency);
        self.stopped = true;
        self.synchronization.sent = None;
        self.timers.installed();
        self.synchronization.give_up_at = self.now + self.timeout();
        self.requests.restart_clocks(self.now);
        self.lacking.forget(self.now);
        // The state is taken before the epoch's own record is cleared; both name the same values.
        let state = self.state();
        self.window.enter_epoch(regency.epoch());
        self.speculate_again();
        self.synchronization.own = (!self.lag.is_mute()).then_some(state);
    }

    /// What this replica says of itself.
    pub(super) fn state(&self) -> ReplicaState {
        spec!("SYNC.5");
        ReplicaState {
            view: self.config.view.id(),
            regency: self.regency,
            replica: self.config.id,
            decided: self.decided,
            decisions: self.recent.iter().map(|recent| recent.digest).collect(),
            open: self.open_states(),
        }
    }

    /// What it says of its open instances.
    fn open_states(&self) -> Vec<OpenState> {
        let said = |open: &Instance<P>| open.state();
        let mut open: Vec<OpenState> = self.window.iter().map(said).collect();
        let blank = open.iter().rev().take_while(|open| open.is_blank()).count();
        open.truncate(open.len() - blank);
        open
    }

    /// Sends the state of this replica to the leader, itself included: it is signed on the way.
    pub(super) fn send_state(&self, actions: &mut Actions<Action<P>>) {
        if let Some(state) = &self.synchronization.own {
            let signed = SignedState { state: state.clone(), signature: [0; 64] };
            let message = Message::StopData(Box::new(signed));
            self.send(Recipients::One(self.leader()), message, actions);
        }
    }

    /// Sends the SYNC of the installed regency again to a member that lacks it.
    pub(super) fn send_sync_again(&self, index: usize, actions: &mut Actions<Action<P>>) {
        if let Some(sync) = &self.synchronization.sent {
            let member = self.config.view.members()[index];
            self.send(Recipients::One(member), Message::Sync(sync.clone()), actions);
        }
    }

    pub(super) fn on_stop_data(
        &mut self,
        index: usize,
        signed: SignedState,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("SYNC.7", "SYNC.11");
        let state = &signed.state;
        let view = &self.config.view;
        if state.view != view.id() {
            return self.ignored.add(Ignored::OtherView);
        }
        if view.leader(state.regency) != self.config.id {
            return self.ignored.add(Ignored::NotLeader);
        }
        let own = view.members()[index] == state.replica;
        if self.config.checks.stop_data_validation && !(own && self.holds_together(state)) {
            return self.report_synchronization(index, state.regency, actions);
        }
        if state.regency < self.regency || (state.regency == self.regency && !self.stopped) {
            return self.ignored.add(Ignored::Stale);
        }
        let kept = &mut self.synchronization.states[index];
        if kept.as_ref().is_some_and(|kept| kept.state.regency >= state.regency) {
            return self.ignored.add(Ignored::NotNeeded);
        }
        *kept = Some(signed);
        self.try_synchronize(actions);
    }

    /// Could a correct member have signed this?
    fn holds_together(&self, state: &ReplicaState) -> bool {
        spec!("SYNC.7");
        let earlier = |written: &Written| written.epoch < state.regency.epoch();
        let depth = self.window.depth();
        let possible = |open: &OpenState| {
            let written = open.write_set.as_slice();
            open.certified.iter().chain(written).all(earlier)
                && written.len() <= write_set_max(depth)
        };
        let told = state.decided.0.min(decisions_told(depth) as u64);
        state.view == self.config.view.id()
            && self.config.view.index_of(state.replica).is_some()
            && state.decisions.len() as u64 == told
            && state.open.len() <= depth
            && state.open.iter().all(possible)
    }

    /// The leader sends SYNC as soon as the states it has suffice.
    fn try_synchronize(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("SYNC.8");
        if !self.stopped
            || !self.is_leader()
            || self.lag.is_mute()
            || !self.knows_what_it_proposed()
        {
            return;
        }
        let of_regency = |signed: &&SignedState| signed.state.regency == self.regency;
        let states: Vec<SignedState> =
            self.synchronization.states.iter().flatten().filter(of_regency).cloned().collect();
        let Some(resume) = self.choose(&states) else {
            return;
        };
        let sync = Sync { view: self.config.view.id(), regency: self.regency, states };
        self.synchronization.sent = Some(sync.clone());
        self.send(Recipients::Others, Message::Sync(sync), actions);
        self.resume(resume, actions);
    }

    /// The choice, if `states` suffice for one.
    fn choose(&self, states: &[SignedState]) -> Option<Resume> {
        if states.len() < self.quorums.sync() {
            return None;
        }
        let states: Vec<ReplicaState> = states.iter().map(|signed| signed.state.clone()).collect();
        match safe_value::choose(&states, self.quorums, self.window.depth()) {
            Choice::Resume(resume) => Some(resume),
            Choice::Insufficient => None,
        }
    }

    pub(super) fn on_sync(&mut self, index: usize, sync: Sync, actions: &mut Actions<Action<P>>) {
        spec!("SYNC.10", "SYNC.11");
        let view = &self.config.view;
        if sync.view != view.id() {
            return self.ignored.add(Ignored::OtherView);
        }
        if view.members()[index] != view.leader(sync.regency) {
            return self.ignored.add(Ignored::NotLeader);
        }
        if sync.regency < self.regency || (sync.regency == self.regency && !self.stopped) {
            return self.ignored.add(Ignored::Stale);
        }
        if sync.regency > self.regency {
            let kept = &mut self.synchronization.early[index];
            if kept.as_ref().is_none_or(|kept| kept.regency < sync.regency) {
                *kept = Some(sync);
            }
            return;
        }
        if self.config.checks.stop_data_validation && !self.is_sound(&sync) {
            return self.report_synchronization(index, sync.regency, actions);
        }
        match self.choose(&sync.states) {
            Some(resume) => self.resume(resume, actions),
            None => self.report_synchronization(index, sync.regency, actions),
        }
    }

    /// Are these states of distinct members, for this regency, each of them possible?
    fn is_sound(&self, sync: &Sync) -> bool {
        spec!("SYNC.7");
        let mut seen = ReplicaSet::EMPTY;
        sync.states.iter().all(|signed| {
            let index = self.config.view.index_of(signed.state.replica);
            signed.state.regency == sync.regency
                && self.holds_together(&signed.state)
                && index.is_some_and(|index| seen.insert(index))
        })
    }

    /// Reads the states and the SYNC that came before this regency was installed.
    fn read_early_sync(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("SYNC.11");
        let leader = self.config.view.index_of(self.leader()).expect("a leader is a member");
        let early = self.synchronization.early[leader].take();
        match early {
            Some(sync) if sync.regency == self.regency => self.on_sync(leader, sync, actions),
            Some(sync) if sync.regency > self.regency => {
                self.synchronization.early[leader] = Some(sync);
            }
            _ => {}
        }
        self.try_synchronize(actions);
    }

    /// The installed regency is synchronised: go on.
    fn resume(&mut self, resume: Resume, actions: &mut Actions<Action<P>>) {
        spec!("SYNC.9", "SYNC.10");
        assert!(self.stopped, "a regency is synchronised once");
        let (view, regency) = (self.config.view.id(), self.regency);
        let said = resume.clone();
        self.persist(|_| Record::Synchronised { view, regency, resume: said }, actions);
        self.hold_to(resume);
        let oldest = self.window.start().0.saturating_sub(self.window.depth() as u64);
        for cid in (oldest..=self.decided.0).map(ConsensusId) {
            if self.resume.value_at(cid).is_some() {
                self.send_votes(Recipients::Others, self.votes_for_decided(cid), actions);
            }
        }
        self.pursue(actions);
    }

    /// WRITE and ACCEPT for instance `cid`, decided not long ago, in the current epoch, for those who
    /// have it open.
    pub(super) fn votes_for_decided(&self, cid: ConsensusId) -> Votes {
        spec!("VP.9", "SYNC.9");
        if self.stopped || self.lag.is_mute() {
            return Votes::NONE;
        }
        let since = self.decided.0.checked_sub(cid.0).and_then(|since| usize::try_from(since).ok());
        let kept = since.filter(|since| *since < self.window.depth());
        // Who votes in this view has decided what was decided before it (VIEW.5).
        let kept = kept.filter(|_| self.window.is_closed() || cid >= self.views.start);
        let Some(recent) = kept.and_then(|since| self.recent.get(since)) else {
            return Votes::NONE;
        };
        let at = self.window.position(cid);
        let vote = Vote { at, digest: recent.digest };
        let agrees = |sent: Option<Digest>| {
            recent.epoch != at.epoch || sent.is_none_or(|sent| sent == vote.digest)
        };
        Votes {
            write: (!self.crash_only() && agrees(recent.wrote)).then_some(vote),
            accept: agrees(recent.accepted).then_some(vote),
        }
    }

    fn report_synchronization(
        &mut self,
        index: usize,
        regency: Regency,
        actions: &mut Actions<Action<P>>,
    ) {
        self.ignored.add(Ignored::Invalid);
        if self.window.lowest_mut().reported.insert(index) {
            let member = self.config.view.members()[index];
            actions.push(Action::Report(Evidence::InvalidSynchronization { member, regency }));
        }
    }
}
