//! A list of sessions that a session can leave from the middle without a search.
//!
//! Owns one pair of links for each session. Always true: a session is in the list once or not at
//! all, and the order is that of `push_back`. Must not: allocate except when there are more sessions
//! than ever before.

use alloc::vec::Vec;

/// No session, no slot.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
    present: bool,
}

const ABSENT: Link = Link { previous: NONE, next: NONE, present: false };

#[derive(Debug)]
pub(super) struct List {
    links: Vec<Link>,
    head: u32,
    tail: u32,
}

impl List {
    pub(super) fn new() -> Self {
        Self { links: Vec::new(), head: NONE, tail: NONE }
    }

    /// Makes room for the links of session `at`.
    pub(super) fn grow(&mut self, at: u32) {
        if self.links.len() <= at as usize {
            self.links.resize(at as usize + 1, ABSENT);
        }
    }

    /// The first session, or `NONE`.
    pub(super) fn head(&self) -> u32 {
        self.head
    }

    /// The session after `at`, or `NONE`.
    pub(super) fn next(&self, at: u32) -> u32 {
        self.links[at as usize].next
    }

    pub(super) fn contains(&self, at: u32) -> bool {
        self.links[at as usize].present
    }

    /// Appends a session unless it is there, in which case it keeps its place.
    pub(super) fn push_back(&mut self, at: u32) {
        if self.contains(at) {
            return;
        }
        self.links[at as usize] = Link { previous: self.tail, next: NONE, present: true };
        match self.tail {
            NONE => self.head = at,
            tail => self.links[tail as usize].next = at,
        }
        self.tail = at;
    }

    /// Takes a session out, if it is there.
    pub(super) fn remove(&mut self, at: u32) {
        let link = self.links[at as usize];
        if !link.present {
            return;
        }
        match link.previous {
            NONE => self.head = link.next,
            previous => self.links[previous as usize].next = link.next,
        }
        match link.next {
            NONE => self.tail = link.previous,
            next => self.links[next as usize].previous = link.previous,
        }
        self.links[at as usize] = ABSENT;
    }

    /// Appends a session or takes it out.
    pub(super) fn set(&mut self, at: u32, present: bool) {
        if present { self.push_back(at) } else { self.remove(at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_a_vector_without_repetitions(
            steps in proptest::collection::vec((0u32..8, any::<bool>()), 0..200),
        ) {
            let mut list = List::new();
            list.grow(7);
            let mut model: Vec<u32> = vec![];
            for (at, present) in steps {
                list.set(at, present);
                if !present {
                    model.retain(|&other| other != at);
                } else if !model.contains(&at) {
                    model.push(at);
                }
                let mut got = vec![];
                let mut at = list.head();
                while at != NONE {
                    got.push(at);
                    at = list.next(at);
                }
                prop_assert_eq!(&got, &model);
                prop_assert!((0..8).all(|at| list.contains(at) == model.contains(&at)));
            }
        }
    }
}
