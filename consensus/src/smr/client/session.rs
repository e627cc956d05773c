//! One session: what it has in flight, by number.
//!
//! Owns numbering. Always true: numbers of one incarnation have no gaps (rule CLI.1), and the window
//! is as long as the distance from the oldest request in flight to the next number. Must not: look
//! at requests or replies.

use alloc::collections::VecDeque;

use super::overload::Overload;
use crate::types::{Instant, Sequence};

/// Index of a request in the table of all requests in flight.
pub(super) type SlotIndex = u32;

/// Numbers in flight of one kind, oldest first.
pub(super) struct Window {
    incarnation: u32,
    /// Counter of the next request.
    next: u32,
    /// The slot of each number from the oldest in flight to `next`; `None` when it has ended.
    slots: VecDeque<Option<SlotIndex>>,
}

impl Window {
    pub(super) fn new(incarnation: u32) -> Self {
        Self { incarnation, next: 1, slots: VecDeque::new() }
    }

    /// Numbers from the oldest in flight on.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// May another request be numbered when `limit` may be in flight? Starts the next incarnation
    /// when the counter is used up and nothing is in flight any more.
    pub(super) fn has_room(&mut self, limit: usize) -> bool {
        if self.next == u32::MAX {
            if !self.slots.is_empty() {
                return false;
            }
            self.renumber();
        }
        self.slots.len() < limit
    }

    /// The next number, if it is used now.
    pub(super) fn next(&self) -> Sequence {
        Sequence::new(self.incarnation, self.next)
    }

    /// How far the oldest request in flight is behind the next number.
    pub(super) fn unanswered(&self) -> u8 {
        // The window is at most `SESSION_WINDOW`, and the next request has room in it.
        self.slots.len() as u8
    }

    /// Gives the next number to the request in `slot`.
    pub(super) fn push(&mut self, slot: SlotIndex) {
        self.slots.push_back(Some(slot));
        self.next = self.next.checked_add(1).expect("has_room looked at the counter");
    }

    /// The request with number `sequence`, if it is in flight.
    pub(super) fn get(&self, sequence: Sequence) -> Option<SlotIndex> {
        *self.slots.get(self.position(sequence)?)?
    }

    /// Ends the request with number `sequence`.
    pub(super) fn end(&mut self, sequence: Sequence) {
        if let Some(entry) = self.position(sequence).and_then(|at| self.slots.get_mut(at)) {
            *entry = None;
        }
        while self.slots.front() == Some(&None) {
            self.slots.pop_front();
        }
    }

    /// The oldest request in flight.
    pub(super) fn front(&self) -> Option<SlotIndex> {
        self.slots.front().copied().flatten()
    }

    /// Number of the oldest request in flight.
    pub(super) fn oldest(&self) -> Option<Sequence> {
        let first = self.next - self.slots.len() as u32;
        (!self.slots.is_empty()).then(|| Sequence::new(self.incarnation, first))
    }

    /// The last number that was given.
    pub(super) fn newest(&self) -> Sequence {
        Sequence::new(self.incarnation, self.next - 1)
    }

    /// Requests in flight, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = SlotIndex> + '_ {
        self.slots.iter().flatten().copied()
    }

    /// Request number `at` of those in flight, counted from the oldest with ended ones.
    pub(super) fn at(&self, at: usize) -> Option<SlotIndex> {
        self.slots.get(at).copied().flatten()
    }

    /// Starts the next incarnation. What is in flight must have ended.
    pub(super) fn renumber(&mut self) {
        assert!(self.slots.is_empty(), "no request keeps a number of another incarnation");
        self.incarnation = self.incarnation.saturating_add(1);
        self.next = 1;
    }

    fn position(&self, sequence: Sequence) -> Option<usize> {
        if sequence.incarnation() != self.incarnation || sequence.counter() >= self.next {
            return None;
        }
        let from_end = (self.next - sequence.counter()) as usize;
        self.slots.len().checked_sub(from_end)
    }
}

/// One session of the client.
pub(super) struct Session {
    /// Ordered requests.
    pub(super) ordered: Window,
    /// Read-only requests: numbers of their own (rule SMR.3).
    pub(super) reads: Window,
    /// Read-only requests that have to be ordered and wait for a number.
    pub(super) fallback: VecDeque<SlotIndex>,
    /// When `fallback` was looked at last.
    pub(super) fallback_tried: Instant,
    /// Since when results are missing that a certificate gave the digest of: not later than the
    /// first of them.
    pub(super) missing: Option<Instant>,
    /// What replicas without room said.
    pub(super) overload: Overload,
    /// How often the oldest ordered request was sent again.
    pub(super) attempts: u32,
    /// When an ordered request ended last.
    pub(super) progress: Instant,
    /// The earliest entry of the timer queue that counts.
    pub(super) armed: Option<Instant>,
}

impl Session {
    pub(super) fn new(incarnation: u32) -> Self {
        Self {
            ordered: Window::new(incarnation),
            reads: Window::new(incarnation),
            fallback: VecDeque::new(),
            fallback_tried: Instant(0),
            missing: None,
            overload: Overload::new(),
            attempts: 0,
            progress: Instant(0),
            armed: None,
        }
    }

    /// Other members than before: what was said is void, and pauses begin anew.
    pub(super) fn enter_view(&mut self, now: Instant) {
        (self.missing, self.attempts, self.progress) = (None, 0, now);
        self.overload.enter_view();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_no_gaps_and_end_in_any_order() {
        // rule: CLI.1
        let mut window = Window::new(3);
        for slot in 10..14 {
            assert!(window.has_room(4));
            assert_eq!(window.next(), Sequence::new(3, slot - 9));
            window.push(slot);
        }
        assert!(!window.has_room(4));
        assert_eq!(window.get(Sequence::new(3, 2)), Some(11));
        for not_in_flight in [Sequence::new(3, 0), Sequence::new(3, 5), Sequence::new(2, 2)] {
            assert_eq!(window.get(not_in_flight), None);
        }
        window.end(Sequence::new(3, 2));
        assert_eq!((window.len(), window.get(Sequence::new(3, 2))), (4, None));
        window.end(Sequence::new(3, 1));
        assert_eq!((window.len(), window.front()), (2, Some(12)));
        assert_eq!(window.iter().collect::<alloc::vec::Vec<_>>(), [12, 13]);
    }

    #[test]
    fn a_used_up_counter_starts_the_next_incarnation_when_nothing_is_in_flight() {
        let mut window = Window { incarnation: 3, next: u32::MAX - 1, slots: VecDeque::new() };
        assert!(window.has_room(4));
        window.push(1);
        assert!(!window.has_room(4), "one is in flight under the last number");
        window.end(Sequence::new(3, u32::MAX - 1));
        assert!(window.has_room(4));
        assert_eq!(window.next(), Sequence::new(4, 1));
    }
}
