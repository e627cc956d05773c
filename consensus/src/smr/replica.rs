//! One member of the cluster as a state machine: its state, `step`, and the one flat dispatch.
//!
//! Always true: what `invariants.rs` says, after every step. Must not: decide anything about a
//! message beyond whom it concerns; the phases do.

use alloc::boxed::Box;

use crate::config::Config;
use crate::payload::{Payload, PayloadPool};
use crate::protocol::{Actions, Protocol};
use crate::types::{ConsensusId, Instant, Regency, ReplicaId};
use crate::{Action, Input};

/// A replica's protocol core.
pub struct Replica<P> {
    config: Config,
    _pool: Box<dyn PayloadPool<P> + Send>,
    now: Instant,
    regency: Regency,
    wanted: Regency,
    decided: ConsensusId,
    stopped: bool,
}

impl<P: Payload> Replica<P> {
    /// A replica that starts at `now` with nothing decided.
    ///
    /// # Panics
    /// When `config.id` is not a member of `config.view`.
    pub fn new(config: Config, pool: Box<dyn PayloadPool<P> + Send>, now: Instant) -> Self {
        assert!(config.view.index_of(config.id).is_some(), "a replica is a member of its view");
        Self {
            config,
            _pool: pool,
            now,
            regency: Regency(0),
            wanted: Regency(0),
            decided: ConsensusId(0),
            stopped: false,
        }
    }

    /// Who this is.
    pub fn id(&self) -> ReplicaId {
        self.config.id
    }

    /// The installed regency.
    pub fn regency(&self) -> Regency {
        self.regency
    }

    /// The regency asked for; equal to `regency` when content.
    pub fn wanted(&self) -> Regency {
        self.wanted
    }

    /// Leader of the installed regency.
    pub fn leader(&self) -> ReplicaId {
        self.config.view.leader(self.regency)
    }

    /// Last instance decided, with its batch; 0 when none.
    pub fn decided(&self) -> ConsensusId {
        self.decided
    }

    /// Requests admitted and not yet decided.
    pub fn pending(&self) -> usize {
        0
    }

    /// Has a regency been installed whose SYNC has not come?
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Oldest decision this replica can still send to others; `decided + 1` when it keeps none.
    pub fn log_start(&self) -> ConsensusId {
        self.decided.next()
    }
}

impl<P: Payload> Protocol for Replica<P> {
    type Input = Input<P>;
    type Action = Action<P>;

    fn step(&mut self, now: Instant, _input: Input<P>, _actions: &mut Actions<Action<P>>) {
        self.now = now.max(self.now);
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }
}
