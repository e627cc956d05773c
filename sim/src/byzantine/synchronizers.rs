//! Misbehaviour at a change of leader: stale and false states, different collections.

use tetrarch_consensus::limits::decisions_told;
use tetrarch_consensus::message::{
    Decided, OpenState, Position, Propose, ReplicaState, SignedState, Sync, Vote, Written,
};
use tetrarch_consensus::payload::{HeapPool, SharedBytes};
use tetrarch_consensus::{Batch, ConsensusId, Epoch, Message, Regency};

use super::{Behaviour, Msg, Outbox, Scene};

/// States, collections and claims that were true for another instance or regency.
#[derive(Debug)]
pub struct StaleProof;

impl Behaviour for StaleProof {
    fn speak(&mut self, scene: &mut Scene<'_>, to: usize, mut message: Msg, out: &mut Outbox) {
        match &mut message {
            Message::StopData(signed) => {
                let signed: &mut SignedState = signed;
                scene.dossier.hear(&Message::<SharedBytes>::StopData(signed.clone().into()));
                if scene.rng.chance(600)
                    && let Some(old) = scene.dossier.state(scene.rng)
                {
                    *signed = old;
                }
            }
            Message::Sync(sync) => spoil(scene, sync),
            Message::Decided(decided) if scene.rng.chance(600) => {
                if let Some((_, digest)) = scene.dossier.vote(scene.rng) {
                    decided.digest = digest;
                }
            }
            _ => {}
        }
        out.push((to, message));
    }

    fn act(&mut self, scene: &mut Scene<'_>, out: &mut Outbox) {
        for _ in 0..scene.rng.below(3) {
            let Some((cid, digest)) = scene.dossier.vote(scene.rng) else { return };
            // True of one instance at best, claimed of the next one.
            let cid = ConsensusId(cid.0.saturating_add(scene.rng.below(3)));
            let at = Position { view: scene.view.id(), cid, epoch: Epoch(scene.any_regency().0) };
            let claim = Message::Decided(Decided { at, digest, batch: None });
            scene.to_all(&claim, out);
        }
        if scene.rng.chance(300)
            && let Some(message) = stale_sync(scene)
        {
            scene.to_all(&message, out);
        }
    }
}

/// A collection for the present regency made of states for another one.
fn stale_sync(scene: &mut Scene<'_>) -> Option<Msg> {
    let old = scene.dossier.state(scene.rng)?;
    let mut states = scene.dossier.states_for(old.state.regency);
    distinct(&mut states);
    let regency = if scene.rng.chance(500) { scene.dossier.regency } else { scene.regency };
    Some(Message::Sync(Sync { view: scene.view.id(), regency, states }))
}

fn distinct(states: &mut Vec<SignedState>) {
    states.sort_by_key(|signed| signed.state.replica);
    states.dedup_by_key(|signed| signed.state.replica);
}

fn spoil(scene: &mut Scene<'_>, sync: &mut Sync) {
    match scene.rng.below(4) {
        0 => {
            // Somebody twice, somebody not at all.
            let copied = sync.states.first().cloned();
            if let (Some(first), Some(last)) = (copied, sync.states.last_mut()) {
                *last = first;
            }
        }
        1 => drop(sync.states.pop()),
        2 => {
            // As many as wanted, from any regency.
            for at in 0..sync.states.len() {
                if let Some(old) = scene.dossier.state(scene.rng)
                    && (scene.rng.chance(300) || old.state.replica == sync.states[at].state.replica)
                {
                    sync.states[at] = old;
                }
            }
        }
        _ => {}
    }
}

/// A false state of a faulty member, properly signed.
pub fn false_state(scene: &mut Scene<'_>, honest: &ReplicaState) -> Option<SignedState> {
    let mut state = honest.clone();
    for _ in 0..=scene.rng.below(3) {
        match scene.rng.below(8) {
            0 => some_open(scene, &mut state).certified = None,
            1 => {
                let epoch = Epoch(scene.rng.below(u64::from(state.regency.0) + 1) as u32);
                let digest = scene.digest();
                some_open(scene, &mut state).certified = Some(Written { epoch, digest });
            }
            2 => {
                let epoch = Epoch(state.regency.0.saturating_sub(1));
                let digest = scene.digest();
                let open = some_open(scene, &mut state);
                open.certified = Some(Written { epoch, digest });
                open.write_set.insert(Written { epoch, digest });
            }
            3 => state.decided = scene.instance(),
            4 => {
                state.decided = ConsensusId(state.decided.0.saturating_add(1));
                state.decisions.insert(0, scene.digest());
                state.open.drain(..state.open.len().min(1));
            }
            5 if state.decided.0 > 0 => {
                state.decided = ConsensusId(state.decided.0 - 1);
                state.decisions.drain(..state.decisions.len().min(1));
                state.open.clear();
            }
            6 => state.decisions.fill_with(|| scene.digest()),
            _ => {
                let epoch = Epoch(scene.any_regency().0);
                let digest = scene.digest();
                some_open(scene, &mut state).write_set.insert(Written { epoch, digest });
            }
        }
    }
    make_possible(scene, &mut state);
    scene.keyring.sign_state(state)
}

/// An instance that is open in `state`.
fn some_open<'a>(scene: &mut Scene<'_>, state: &'a mut ReplicaState) -> &'a mut OpenState {
    let at = scene.rng.index(scene.depth);
    state.open.resize(state.open.len().max(at + 1), OpenState::BLANK);
    &mut state.open[at]
}

/// A lie that could not be true would be thrown away: as many decisions as there must be, and no blank
/// instance at the end.
fn make_possible(scene: &mut Scene<'_>, state: &mut ReplicaState) {
    let told = state.decided.0.min(decisions_told(scene.depth) as u64) as usize;
    state.decisions.resize_with(told, || scene.digest());
    state.open.truncate(scene.depth);
    while state.open.last().is_some_and(OpenState::is_blank) {
        state.open.pop();
    }
}

/// Lies in its STOPDATA, to each leader-to-be differently, and in the SYNC that it makes itself.
#[derive(Debug)]
pub struct LyingState;

impl Behaviour for LyingState {
    fn speak(&mut self, scene: &mut Scene<'_>, to: usize, mut message: Msg, out: &mut Outbox) {
        match &mut message {
            Message::StopData(signed) => {
                if let Some(lie) = false_state(scene, &signed.state.clone()) {
                    **signed = lie;
                }
            }
            Message::Sync(sync) => lie_in(scene, &mut sync.states),
            _ => {}
        }
        out.push((to, message));
    }
}

/// Replaces the faulty members' states in a collection by false ones.
fn lie_in(scene: &mut Scene<'_>, states: &mut [SignedState]) {
    for signed in states {
        if scene.keyring.members().contains(&signed.state.replica)
            && let Some(lie) = false_state(scene, &signed.state.clone())
        {
            *signed = lie;
        }
    }
}

/// As a new leader: different collections for different members, before and after the honest one.
#[derive(Debug)]
pub struct SplitSync;

impl SplitSync {
    /// Some collection for `regency` out of everything that the adversary has.
    fn collection(scene: &mut Scene<'_>, regency: Regency) -> Vec<SignedState> {
        let mut pool = scene.dossier.states_for(regency);
        let template = pool.first().cloned();
        scene.rng.shuffle(&mut pool);
        let mut states: Vec<SignedState> = Vec::new();
        for signed in pool {
            if states.iter().all(|known| known.state.replica != signed.state.replica) {
                states.push(signed);
            }
        }
        for at in 0..scene.keyring.members().len() {
            let replica = scene.keyring.members()[at];
            let Some(template) = &template else { break };
            states.retain(|signed| signed.state.replica != replica);
            let state = ReplicaState { replica, ..template.state.clone() };
            let honest = scene.rng.chance(300);
            let signed = match honest {
                true => scene.keyring.sign_state(state),
                false => false_state(scene, &state),
            };
            states.extend(signed);
        }
        scene.rng.shuffle(&mut states);
        let quorums = scene.view.quorums();
        let size = quorums.sync() + scene.rng.index(quorums.f() + 1);
        states.truncate(size);
        states
    }
}

impl Behaviour for SplitSync {
    fn speak(&mut self, scene: &mut Scene<'_>, to: usize, mut message: Msg, out: &mut Outbox) {
        if let Message::Sync(sync) = &mut message {
            for signed in &sync.states {
                scene.dossier.hear(&Message::<SharedBytes>::StopData(signed.clone().into()));
            }
            if scene.rng.chance(700) {
                sync.states = Self::collection(scene, sync.regency);
            }
        }
        out.push((to, message));
    }

    fn hear(&mut self, scene: &mut Scene<'_>, message: &Msg, out: &mut Outbox) {
        let Message::StopData(signed) = message else { return };
        let regency = signed.state.regency;
        if scene.view.index_of(scene.view.leader(regency)) == Some(scene.me)
            && scene.rng.chance(500)
        {
            let me = scene.me;
            for to in (0..scene.view.n()).filter(|&to| to != me) {
                let states = Self::collection(scene, regency);
                out.push((to, Message::Sync(Sync { view: scene.view.id(), regency, states })));
            }
        }
    }
}

/// Makes a SYNC of copies of one false state of its own that says "nothing decided, nothing written",
/// and proposes something new where others may have decided.
#[derive(Debug, Default)]
pub struct Usurp {
    done: Option<(Regency, ConsensusId)>,
}

impl Behaviour for Usurp {
    fn speak(&mut self, _scene: &mut Scene<'_>, to: usize, message: Msg, out: &mut Outbox) {
        // What its honest core would say in the regency that was taken over would spoil it.
        let regency = match &message {
            Message::Sync(sync) => sync.regency,
            Message::Propose(propose) => Regency(propose.at.epoch.0),
            Message::ProposeSparse(propose) => Regency(propose.at.epoch.0),
            Message::Write(vote) | Message::Accept(vote) => Regency(vote.at.epoch.0),
            _ => return out.push((to, message)),
        };
        if self.done.is_none_or(|(taken, _)| taken != regency) {
            out.push((to, message));
        }
    }

    fn hear(&mut self, scene: &mut Scene<'_>, message: &Msg, out: &mut Outbox) {
        let Message::StopData(signed) = message else { return };
        let state = signed.state.clone();
        let leads = scene.view.index_of(scene.view.leader(state.regency)) == Some(scene.me);
        let attempt = (state.regency, state.decided);
        if !leads || self.done.is_some_and(|done| done >= attempt) || state.decided.0 == 0 {
            return;
        }
        self.done = Some(attempt);
        self.usurp(scene, &state, out);
    }
}

impl Usurp {
    fn usurp(&self, scene: &mut Scene<'_>, honest: &ReplicaState, out: &mut Outbox) {
        let replica = scene.view.members()[scene.me];
        let before = ConsensusId(honest.decided.0 - 1);
        let mut lie = ReplicaState { replica, decided: before, ..honest.clone() };
        lie.decisions.drain(..lie.decisions.len().min(1));
        lie.open.clear();
        make_possible(scene, &mut lie);
        let Some(signed) = scene.keyring.sign_state(lie) else { return };
        let states = vec![signed; scene.view.quorums().sync()];
        let regency = honest.regency;
        scene.to_all(&Message::Sync(Sync { view: scene.view.id(), regency, states }), out);
        let cid = honest.decided;
        let Some(old) = scene.dossier.proposal(cid) else { return };
        let requests = super::requests_of(&old);
        let references: Vec<_> = requests.iter().collect();
        let time = old.timestamp_ns + 1;
        let Some(batch) = Batch::build(&mut HeapPool, time, &references) else { return };
        let at = Position { view: scene.view.id(), cid, epoch: regency.epoch() };
        let vote = Vote { at, digest: batch.digest };
        scene.to_all(&Message::Propose(Propose { at, batch }), out);
        scene.to_all(&Message::Write(vote), out);
        scene.to_all(&Message::Accept(vote), out);
    }
}
