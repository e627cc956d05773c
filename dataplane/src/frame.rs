//! A message in a slot: written once by its only owner, then shared read-only.
//!
//! Owns nothing but a counted reference to a slot of an arena. Always true: the bytes of a `Frame`
//! never change; the last drop returns the slot. Must not: allocate.

pub use crate::arena::FramePool;
use crate::arena::SlotRef;
use std::fmt;

/// A slot with one owner, who may write. Dropping it returns the slot.
pub struct FrameMut {
    /// Never cloned while we hold it: that is what `bytes_mut` relies on.
    slot: SlotRef,
}

impl FrameMut {
    /// The only reference to a slot: one that was just claimed, or that nobody else has any more.
    pub(crate) fn new(slot: SlotRef) -> Self {
        Self { slot }
    }

    /// The bytes of the slot, all of them: at least as many as were asked for. They hold what the
    /// slot's last user left.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `FrameMut` is made from the only reference to a slot and never clones it.
        unsafe { self.slot.bytes_mut() }
    }

    /// What was written so far.
    pub fn bytes(&self) -> &[u8] {
        self.slot.bytes(0, self.slot.size())
    }

    /// Bytes of the slot.
    pub fn capacity(&self) -> usize {
        self.slot.size() as usize
    }

    /// Give up writing: from here on the first `size` bytes never change.
    ///
    /// # Panics
    /// If `size` is more than the slot has.
    pub fn freeze(self, size: u32) -> Frame {
        assert!(size <= self.slot.size(), "a frame is not larger than its slot");
        Frame { slot: self.slot, start: 0, size }
    }
}

impl fmt::Debug for FrameMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameMut({} bytes)", self.capacity())
    }
}

/// Shared, read-only bytes of a slot. Cloning counts, it does not copy.
#[derive(Clone)]
pub struct Frame {
    slot: SlotRef,
    start: u32,
    size: u32,
}

impl Frame {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.slot.bytes(self.start, self.size)
    }

    /// How many bytes.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// Has it no bytes?
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Does nobody else hold a part of the slot?
    pub fn is_only(&self) -> bool {
        self.slot.is_only()
    }

    /// The slot for writing again, with the bytes that are in it.
    ///
    /// # Errors
    /// Gives the frame back: somebody else has a part of the slot, or this is not its beginning.
    pub fn into_mut(self) -> Result<FrameMut, Frame> {
        // Who is alone stays alone: another reference can only be made from this one.
        if self.start == 0 && self.is_only() { Ok(FrameMut::new(self.slot)) } else { Err(self) }
    }

    /// `size` bytes from `start` of this frame, in the same slot. `None` if they are not within it.
    pub fn slice(&self, start: usize, size: usize) -> Option<Frame> {
        let end = start.checked_add(size)?;
        if end > self.size as usize {
            return None;
        }
        // Both are at most `self.size`, and `self.start + self.size` is within the slot.
        Some(Frame { slot: self.slot.clone(), start: self.start + start as u32, size: size as u32 })
    }

    /// As [`Frame::slice`], with the count of this frame.
    pub fn into_slice(self, start: usize, size: usize) -> Option<Frame> {
        let end = start.checked_add(size)?;
        if end > self.size as usize {
            return None;
        }
        Some(Frame { slot: self.slot, start: self.start + start as u32, size: size as u32 })
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} bytes)", self.size)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::arena::{Arena, ArenaSpec, SlotClass};
    use crate::types::OpenError;
    use proptest::prelude::*;

    fn arena(classes: &[(u32, u32)]) -> Arena {
        let class = |&(slot_size, count)| SlotClass { slot_size, count };
        let spec = ArenaSpec { classes: classes.iter().map(class).collect() };
        Arena::heap(&spec).expect("a small arena")
    }

    #[test]
    fn the_smallest_class_with_room_serves() {
        let arena = arena(&[(1024, 1), (64, 1), (256, 1)]);
        let pool = arena.pool();
        let a = pool.alloc(64).unwrap();
        let b = pool.alloc(10).unwrap();
        let c = pool.alloc(0).unwrap();
        assert_eq!([a.capacity(), b.capacity(), c.capacity()], [64, 256, 1024]);
        assert_eq!((pool.free_slots(), pool.free_size()), (0, 0));
        assert!(pool.alloc(1).is_none(), "exhausted");
        drop(a);
        assert_eq!((pool.free_slots(), pool.free_size()), (1, 64));
        assert!(pool.alloc(65).is_none(), "only a small one is free");
        assert_eq!(pool.alloc(1).unwrap().capacity(), 64);
        assert!(pool.alloc(1025).is_none());
        assert_eq!(pool.slot_size_max(), 1024);
        drop((b, c));
        assert_eq!(arena.free_slots(), arena.total_slots());
    }

    #[test]
    fn slices_share_the_slot_until_the_last_drop() {
        let arena = arena(&[(128, 2)]);
        let frame = arena.pool().copy_from(b"header body").unwrap();
        let body = frame.slice(7, 4).unwrap();
        let inner = body.clone().into_slice(1, 2).unwrap();
        assert_eq!((body.bytes(), inner.bytes()), (&b"body"[..], &b"od"[..]));
        assert!(body.clone().into_slice(usize::MAX, 2).is_none());
        assert!(body.clone().into_slice(0, 5).is_none());
        assert!(frame.slice(11, 0).unwrap().is_empty());
        assert!(!frame.is_only());
        assert!(frame.slice(11, 1).is_none() && frame.slice(12, 0).is_none());
        assert!(body.slice(usize::MAX, 2).is_none() && body.slice(0, 5).is_none());
        drop(frame);
        drop(body);
        assert_eq!(arena.free_slots(), 1);
        assert_eq!(inner.bytes(), b"od");
        assert!(inner.is_only());
        drop(inner);
        assert_eq!(arena.free_slots(), 2);
    }

    #[test]
    fn a_writer_that_gives_up_returns_its_slot() {
        let arena = arena(&[(128, 1)]);
        let pool = arena.pool();
        let mut writer = pool.alloc(1).unwrap();
        writer.bytes_mut().fill(7);
        assert!(writer.bytes().iter().all(|b| *b == 7));
        assert!(pool.alloc(1).is_none());
        drop(writer);
        assert_eq!(pool.alloc(1).unwrap().freeze(128).bytes(), &[7; 128]);
    }

    #[test]
    fn whoever_is_alone_may_write_again() {
        let arena = arena(&[(64, 1)]);
        let frame = arena.pool().copy_from(b"abc").unwrap();
        let other = frame.clone();
        let frame = frame.into_mut().unwrap_err();
        drop(other);
        let mut writer = frame.into_mut().unwrap();
        writer.bytes_mut()[1] = b'x';
        let frame = writer.freeze(3);
        assert_eq!((frame.bytes(), frame.is_only(), arena.free_slots()), (&b"axc"[..], true, 0));
        let part = frame.into_slice(1, 2).unwrap();
        assert!(part.into_mut().is_err(), "a part is not the whole");
    }

    #[test]
    #[should_panic(expected = "not larger than its slot")]
    fn a_frame_cannot_exceed_its_slot() {
        drop(arena(&[(64, 1)]).pool().alloc(1).unwrap().freeze(65));
    }

    #[test]
    fn frames_outlive_arena_and_pool() {
        let arena = arena(&[(64, 1)]);
        let frame = arena.pool().copy_from(b"still here").unwrap();
        let clone = frame.clone();
        drop(arena);
        drop(frame);
        assert_eq!(clone.bytes(), b"still here");
    }

    #[test]
    fn slots_are_aligned_and_apart() {
        let small = arena(&[(100, 70)]);
        let pool = small.pool();
        let mut slots: Vec<_> = std::iter::from_fn(|| pool.alloc(100)).collect();
        assert_eq!(slots.len(), 70);
        for (i, slot) in slots.iter_mut().enumerate() {
            assert_eq!(slot.bytes_mut().as_ptr() as usize % 64, 0);
            slot.bytes_mut().fill(i as u8);
        }
        for (i, slot) in slots.iter().enumerate() {
            assert!(slot.bytes().iter().all(|b| *b == i as u8));
        }
        let (base, size) = small.regions().next().unwrap();
        assert_eq!((base as usize % 4096, size), (0, 128 * 70));
        let huge = arena(&[(1 << 20, 3)]);
        let (base, size) = huge.regions().next().unwrap();
        assert_eq!((base as usize % (2 << 20), size), (0, 3 << 20));
    }

    #[test]
    fn a_bad_specification_names_the_field() {
        let error = |classes: &[(u32, u32)]| {
            let class = |&(slot_size, count)| SlotClass { slot_size, count };
            let spec = ArenaSpec { classes: classes.iter().map(class).collect() };
            Arena::heap(&spec).unwrap_err().to_string()
        };
        assert!(error(&[]).starts_with("arena.classes = 0 classes"));
        assert!(error(&[(64, 1), (0, 1)]).starts_with("arena.classes[1].slot_size = 0"));
        assert!(error(&[(64, 0)]).contains("arena.classes[0].count = 0"));
        assert!(error(&[(64, u32::MAX)]).contains("count"));
        assert!(error(&[(1, 1); 17]).contains("17 classes"));
    }

    #[test]
    fn refused_memory_is_an_error() {
        let class = SlotClass { slot_size: 1 << 30, count: 1 << 20 };
        let spec = ArenaSpec { classes: vec![class; 16] };
        assert_eq!(spec.size(), 1 << 54);
        assert!(matches!(Arena::heap(&spec), Err(OpenError::OutOfMemory { .. })));
    }

    #[test]
    fn threads_drop_in_any_order_and_nothing_leaks() {
        let arena = arena(&[(64, 8), (256, 8)]);
        std::thread::scope(|scope| {
            let (tx, rx) = std::sync::mpsc::sync_channel::<(u8, super::Frame)>(4);
            let reader = scope.spawn(move || {
                let mut kept = std::collections::VecDeque::new();
                for (value, frame) in rx {
                    kept.push_back((value, frame.slice(1, 63).unwrap()));
                    if kept.len() > 5 {
                        let (value, frame) = kept.pop_front().unwrap();
                        assert!(frame.bytes().iter().all(|b| *b == value));
                    }
                }
            });
            for thread in 0..3u8 {
                let (pool, tx) = (arena.pool(), tx.clone());
                scope.spawn(move || {
                    let mut sent = 0u32;
                    while sent < 2000 {
                        let Some(mut frame) = pool.alloc(64) else {
                            std::thread::yield_now();
                            continue;
                        };
                        let value = thread.wrapping_mul(83) ^ sent as u8;
                        frame.bytes_mut()[..64].fill(value);
                        let frame = frame.freeze(64);
                        tx.send((value, frame.clone())).unwrap();
                        assert!(frame.bytes().iter().all(|b| *b == value));
                        sent += 1;
                    }
                });
            }
            drop(tx);
            reader.join().unwrap();
        });
        assert_eq!(arena.free_slots(), arena.total_slots());
    }

    proptest! {
        /// Any mix of allocating, cloning, slicing and dropping keeps contents and counts.
        #[test]
        fn any_use_keeps_bytes_and_leaks_nothing(
            steps in proptest::collection::vec((0u8..4, any::<u16>(), any::<u8>()), 1..200),
        ) {
            let arena = arena(&[(64, 4), (300, 3)]);
            let pool = arena.pool();
            let mut live: Vec<(super::Frame, Vec<u8>)> = Vec::new();
            for (step, a, b) in steps {
                match step {
                    0 | 1 => {
                        let size = usize::from(a) % 301;
                        let model = vec![b; size];
                        if let Some(frame) = pool.copy_from(&model) {
                            live.push((frame, model));
                        }
                    }
                    2 if !live.is_empty() => {
                        let (frame, model) = &live[usize::from(a) % live.len()];
                        let start = usize::from(b).min(model.len());
                        let slice = frame.slice(start, model.len() - start).unwrap();
                        let model = model[start..].to_vec();
                        live.push((slice, model));
                    }
                    _ if !live.is_empty() => {
                        live.swap_remove(usize::from(a) % live.len());
                    }
                    _ => {}
                }
                for (frame, model) in &live {
                    prop_assert_eq!(frame.bytes(), &model[..]);
                }
            }
            live.clear();
            prop_assert_eq!(arena.free_slots(), arena.total_slots());
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use crate::arena::{Arena, ArenaSpec, SlotClass};
    use loom::thread;

    /// Two readers let go on two threads while a third party allocates: the slot comes back once,
    /// and no write meets a read (the model checker watches every access to the bytes).
    #[test]
    fn loom_last_drop_returns_the_slot() {
        loom::model(|| {
            let classes = vec![SlotClass { slot_size: 64, count: 1 }];
            let arena = Arena::heap(&ArenaSpec { classes }).expect("one small slot");
            let pool = arena.pool();
            let frame = pool.copy_from(b"a").expect("the slot is free");
            let clone = frame.clone();
            let other = thread::spawn(move || {
                assert_eq!(clone.bytes(), b"a");
                drop(clone);
            });
            assert_eq!(frame.bytes(), b"a");
            drop(frame);
            // Succeeds only after both readers are gone.
            let again = pool.copy_from(b"b");
            if let Some(again) = &again {
                assert_eq!(again.bytes(), b"b");
            }
            other.join().expect("the model's thread does not panic");
            drop(again);
            assert_eq!(arena.free_slots(), 1);
        });
    }
}
