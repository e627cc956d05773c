//! A list of sessions that a session can leave from the middle without a search.
//!
//! Owns one pair of links for each session. Always true: a session is in the list once or not at
//! all, and the order is that of `push_back` but for those moved to the front since. Must not:
//! allocate except when there are more sessions than ever before, and than it was made for.

use alloc::vec::Vec;

/// No session, no slot.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
}

const ABSENT: Link = Link { previous: NONE, next: NONE };

/// A ring of links. Node 0 is where it begins and ends, node `at + 1` is session `at`: so nothing has
/// to ask whether a neighbour is there.
#[derive(Debug)]
pub(super) struct List {
    links: Vec<Link>,
}

impl List {
    /// With room for so many sessions.
    pub(super) fn new(sessions: usize) -> Self {
        let mut links = Vec::with_capacity(sessions + 1);
        links.push(Link { previous: 0, next: 0 });
        Self { links }
    }

    /// Bytes that [`List::new`] reserves.
    pub(super) const fn reserved_size(sessions: usize) -> usize {
        (sessions + 1) * size_of::<Link>()
    }

    /// Makes room for the links of session `at`.
    pub(super) fn grow(&mut self, at: u32) {
        let nodes = at as usize + 2;
        if self.links.len() < nodes {
            self.links.resize(nodes, ABSENT);
        }
    }

    /// The first session, or `NONE`.
    #[inline]
    pub(super) fn head(&self) -> u32 {
        // Node 0 is no session: one below it is `NONE`.
        self.links[0].next.wrapping_sub(1)
    }

    /// The session after `at`, or `NONE`.
    #[inline]
    pub(super) fn next(&self, at: u32) -> u32 {
        self.links[at as usize + 1].next.wrapping_sub(1)
    }

    #[inline]
    pub(super) fn contains(&self, at: u32) -> bool {
        self.links[at as usize + 1].previous != NONE
    }

    /// Appends a session unless it is there, in which case it keeps its place.
    #[inline]
    pub(super) fn push_back(&mut self, at: u32) {
        if self.contains(at) {
            return;
        }
        let tail = self.links[0].previous;
        self.links[at as usize + 1] = Link { previous: tail, next: 0 };
        self.links[tail as usize].next = at + 1;
        self.links[0].previous = at + 1;
    }

    /// Moves a session to the front, if it is there.
    pub(super) fn move_to_front(&mut self, at: u32) {
        if !self.contains(at) {
            return;
        }
        self.remove(at);
        let head = self.links[0].next;
        self.links[at as usize + 1] = Link { previous: 0, next: head };
        self.links[head as usize].previous = at + 1;
        self.links[0].next = at + 1;
    }

    /// Takes a session out, if it is there.
    #[inline]
    pub(super) fn remove(&mut self, at: u32) {
        let Link { previous, next } = self.links[at as usize + 1];
        if previous == NONE {
            return;
        }
        self.links[at as usize + 1] = ABSENT;
        self.links[previous as usize].next = next;
        self.links[next as usize].previous = previous;
    }

    /// Appends a session or takes it out.
    #[inline]
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
            steps in proptest::collection::vec((0u32..8, 0u8..5), 0..200),
        ) {
            let mut list = List::new(3);
            list.grow(7);
            let mut model: Vec<u32> = vec![];
            for (at, what) in steps {
                let (present, known) = (what > 1, model.contains(&at));
                if what == 4 {
                    list.move_to_front(at);
                } else {
                    list.set(at, present);
                }
                if !present || (what == 4 && known) {
                    model.retain(|&other| other != at);
                }
                if what == 4 && known {
                    model.insert(0, at);
                } else if what != 4 && present && !known {
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
