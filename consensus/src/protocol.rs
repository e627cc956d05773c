//! The shape every pure core has: Mod-SMaRt, its client, later other protocols.

use alloc::vec::Vec;

use crate::Instant;

/// The ordering stage, the flight recorder and the simulator are written once, against this.
pub trait Protocol {
    /// What happens to the core.
    type Input;
    /// What the core wants done.
    type Action;

    /// The only entry. Same inputs, same actions, on every machine.
    ///
    /// The caller empties `actions` between steps, in order.
    fn step(&mut self, now: Instant, input: Self::Input, actions: &mut Actions<Self::Action>);

    /// When to call `step` with the deadline input, if nothing comes before.
    fn next_deadline(&self) -> Option<Instant>;
}

/// A caller-owned list that a step appends to. Its room is reserved once and reused, so a step does
/// not allocate; no step appends more than a bounded number of actions (rule CORE.2).
#[derive(Debug)]
pub struct Actions<A> {
    list: Vec<A>,
}

impl<A> Actions<A> {
    /// Room for `capacity` actions.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { list: Vec::with_capacity(capacity) }
    }

    /// Appends one action.
    pub fn push(&mut self, action: A) {
        self.list.push(action);
    }

    /// Takes all actions out, in order, and keeps the room.
    pub fn drain(&mut self) -> impl Iterator<Item = A> + '_ {
        self.list.drain(..)
    }

    /// The actions so far, in order.
    pub fn as_slice(&self) -> &[A] {
        &self.list
    }

    /// Is there nothing to do?
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}
