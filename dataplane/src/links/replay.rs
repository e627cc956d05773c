//! Which sequence numbers of a session were seen.
//!
//! Owns the window. Always true: a number is accepted at most once. Must not: be moved by a message
//! whose tag was not checked.

/// How the window of accepted sequences behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplayPolicy {
    /// Each number must be larger than all before: for ordered transports.
    #[default]
    Increasing,
    /// The last 64 numbers may arrive in any order: for datagrams, and for simulated networks that
    /// reorder.
    Window,
}

/// The receive window of a session.
#[derive(Clone, Debug)]
pub(super) struct ReplayWindow {
    /// The largest number accepted; 0 is none, as numbers start at 1.
    last: u64,
    /// Bit `i` is set if `last - i` was accepted.
    seen: u64,
    policy: ReplayPolicy,
}

impl ReplayWindow {
    pub(super) fn new(policy: ReplayPolicy) -> Self {
        Self { last: 0, seen: 0, policy }
    }

    /// Would this number be new? Cheap, before the tag is checked.
    pub(super) fn is_new(&self, sequence: u64) -> bool {
        if sequence > self.last {
            return true;
        }
        let age = self.last - sequence;
        self.policy == ReplayPolicy::Window
            && sequence != 0
            && age < 64
            && self.seen & (1 << age) == 0
    }

    /// Mark a number as seen; `false` if it was. Only for authentic messages.
    pub(super) fn accept(&mut self, sequence: u64) -> bool {
        if !self.is_new(sequence) {
            return false;
        }
        if sequence > self.last {
            let step = sequence - self.last;
            self.seen = if step < 64 { self.seen << step } else { 0 } | 1;
            self.last = sequence;
        } else {
            self.seen |= 1 << (self.last - sequence);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn increasing_accepts_gaps_and_nothing_old() {
        let mut window = ReplayWindow::new(ReplayPolicy::Increasing);
        assert!(!window.accept(0), "numbers start at 1");
        assert!(window.accept(1) && !window.accept(1));
        assert!(window.accept(9) && !window.accept(5));
    }

    #[test]
    fn window_accepts_the_last_64_in_any_order() {
        let mut window = ReplayWindow::new(ReplayPolicy::Window);
        assert!(window.accept(100));
        assert!(window.accept(37), "63 behind");
        assert!(!window.accept(36), "64 behind");
        assert!(window.accept(99) && !window.accept(99) && !window.accept(100));
        assert!(window.accept(u64::MAX) && !window.accept(100));
        assert!(!window.accept(0));
    }

    proptest! {
        #[test]
        fn a_number_is_accepted_at_most_once(
            numbers in proptest::collection::vec(0u64..200, 0..400),
        ) {
            for policy in [ReplayPolicy::Increasing, ReplayPolicy::Window] {
                let mut window = ReplayWindow::new(policy);
                let mut accepted = HashSet::new();
                let mut largest = 0;
                for number in &numbers {
                    let new = window.accept(*number);
                    let due = match policy {
                        ReplayPolicy::Increasing => *number > largest,
                        ReplayPolicy::Window => {
                            *number > 0 && number + 64 > largest && !accepted.contains(number)
                        }
                    };
                    prop_assert_eq!(new, due, "{} after {}", number, largest);
                    if new {
                        prop_assert!(accepted.insert(*number));
                        largest = largest.max(*number);
                    }
                }
            }
        }
    }
}
