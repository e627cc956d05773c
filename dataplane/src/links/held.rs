//! Bundles that somebody still holds a part of.
//!
//! Owns a reference to each of them. Always true: they are at most as many as configured, so what
//! their unused parts take is bounded, whatever peers send. Must not: hold a bundle for longer than
//! its last part and a few calls.

use crate::frame::Frame;

/// How many are looked at in one call: several times what a call receives.
const LOOKS: usize = 16;

/// See the module.
pub(super) struct HeldBundles {
    frames: Vec<Frame>,
    max: usize,
    /// Where to look next.
    next: usize,
}

impl HeldBundles {
    /// Room for `max` bundles.
    pub(super) fn new(max: usize) -> Self {
        Self { frames: Vec::with_capacity(max), max, next: 0 }
    }

    /// Gives up some of those that nobody else holds.
    pub(super) fn reap(&mut self) {
        for _ in 0..LOOKS.min(self.frames.len()) {
            if self.next >= self.frames.len() {
                self.next = 0;
            }
            if self.frames.get(self.next).is_some_and(Frame::is_only) {
                self.frames.swap_remove(self.next);
            } else {
                self.next += 1;
            }
        }
    }

    /// Gives up all that nobody else holds.
    pub(super) fn reap_all(&mut self) {
        self.frames.retain(|frame| !frame.is_only());
    }

    /// Notes a bundle whose parts are about to be handed out; `false`: there are too many already, and
    /// each message needs a slot of its own.
    pub(super) fn add(&mut self, bundle: &Frame) -> bool {
        let room = self.frames.len() < self.max;
        if room {
            self.frames.push(bundle.clone());
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::{Arena, ArenaSpec, SlotClass};

    #[test]
    fn a_bundle_is_held_until_its_last_part_is_gone() {
        let classes = vec![SlotClass { slot_size: 64, count: 40 }];
        let arena = Arena::heap(&ArenaSpec { classes }).unwrap();
        let mut held = HeldBundles::new(30);
        let mut parts = Vec::new();
        for _ in 0..30 {
            let bundle = arena.pool().copy_from(b"one, two").unwrap();
            assert!(held.add(&bundle));
            parts.push(bundle.slice(0, 3).unwrap());
            parts.push(bundle.slice(5, 3).unwrap());
        }
        let more = arena.pool().copy_from(b"more").unwrap();
        assert!(!held.add(&more), "as many as may be");
        drop(more);
        for _ in 0..10 {
            held.reap();
        }
        assert_eq!(arena.free_slots(), 10);
        parts.drain(..21);
        (0..10).for_each(|_| held.reap());
        assert_eq!(arena.free_slots(), 20, "one of the eleventh is left");
        parts.clear();
        held.reap_all();
        assert_eq!(arena.free_slots(), 40);
        let another = arena.pool().copy_from(b"more").unwrap();
        assert!(held.add(&another));
    }
}
