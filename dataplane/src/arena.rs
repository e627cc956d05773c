//! Memory for messages: fixed slots in a few size classes, reserved once at start.
//!
//! Owns the slots' memory, their reference counts and the free lists. Always true: after `heap`
//! returned, nothing here allocates; a slot has one writer (`FrameMut`) or any number of readers
//! (`Frame`), never both; the last one to let go returns the slot; the memory lives as long as the
//! arena, a pool or any frame does. Must not: grow. `None` from `alloc` is backpressure.
//!
//! What makes the unsafe code sound: a `SlotRef` can only be made by `FramePool::alloc`, which took
//! the slot from the free list; each holds one count of `Slot::refs`; as long as that is not zero
//! the slot holds one strong count of the `Shared` that owns it, so pointers to it stay valid.

mod memory;

use crate::frame::{Frame, FrameMut};
use crate::free_list::FreeList;
use crate::limits::{SLOT_CLASSES_MAX, SLOT_COUNT_MAX, SLOT_SIZE_MAX};
use crate::types::OpenError;
use memory::Memory;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

#[cfg(loom)]
use loom::sync::atomic::{AtomicPtr, AtomicU32, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering, fence};

/// Slots start at a multiple of this: a cache line, and a BLAKE3 block.
const SLOT_ALIGN: usize = 64;

/// A clone that would exceed this many references aborts, long before the count could wrap.
const REFS_MAX: u32 = u32::MAX / 2;

/// One size class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotClass {
    /// Bytes of one slot.
    pub slot_size: u32,
    /// How many slots.
    pub count: u32,
}

/// What an arena consists of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArenaSpec {
    /// The size classes, in any order.
    pub classes: Vec<SlotClass>,
}

impl ArenaSpec {
    /// Bytes that the arena will reserve for slots, for the memory sum that is printed at start.
    pub fn size(&self) -> usize {
        let class =
            |class: &SlotClass| stride(class.slot_size).saturating_mul(class.count as usize);
        self.classes.iter().map(class).fold(0, usize::saturating_add)
    }

    fn check(&self) -> Result<(), OpenError> {
        if self.classes.is_empty() || self.classes.len() > SLOT_CLASSES_MAX {
            return Err(OpenError::BadValue {
                field: "arena.classes".into(),
                value: format!("{} classes", self.classes.len()),
                problem: "an arena has at least one class of slots and not too many".into(),
                remedy: format!("give 1 to {SLOT_CLASSES_MAX} classes"),
            });
        }
        for (i, class) in self.classes.iter().enumerate() {
            let bounds = [
                ("slot_size", class.slot_size, SLOT_SIZE_MAX),
                ("count", class.count, SLOT_COUNT_MAX),
            ];
            for (name, value, max) in bounds {
                if value == 0 || value > max {
                    return Err(OpenError::BadValue {
                        field: format!("arena.classes[{i}].{name}"),
                        value: value.to_string(),
                        problem: "out of range".into(),
                        remedy: format!("use 1 to {max}"),
                    });
                }
            }
        }
        Ok(())
    }
}

/// Owner of the memory. Frames keep it alive, so it may be dropped before them.
pub struct Arena {
    shared: Arc<Shared>,
}

impl Arena {
    /// Reserve ordinary memory: in huge pages if the system has reserved enough, else with the advice
    /// to use them. All of it is touched here, and so lies on the memory node of the calling thread.
    ///
    /// # Errors
    /// `BadValue` if the specification is out of range, `OutOfMemory` if the system refuses.
    pub fn heap(spec: &ArenaSpec) -> Result<Self, OpenError> {
        spec.check()?;
        let mut classes = spec.classes.clone();
        classes.sort_by_key(|class| class.slot_size);
        let build = |(i, class): (usize, &SlotClass)| Class::new(i, *class);
        let classes =
            classes.iter().enumerate().map(build).collect::<Result<Box<[Class]>, OpenError>>()?;
        Ok(Self { shared: Arc::new(Shared { classes }) })
    }

    /// A handle to allocate frames with; make one for each core.
    pub fn pool(&self) -> FramePool {
        FramePool { shared: Arc::clone(&self.shared) }
    }

    /// Slots that are free now, in all classes.
    pub fn free_slots(&self) -> usize {
        self.shared.free_slots()
    }

    /// Slots in all classes.
    pub fn total_slots(&self) -> usize {
        self.shared.classes.iter().map(|class| class.slots.len()).sum()
    }

    /// Bytes that are in huge pages which the system had reserved. What else is in huge pages, the
    /// system decides while it runs.
    pub fn huge_size(&self) -> usize {
        let classes = self.shared.classes.iter().map(|class| &class.memory);
        classes.filter(|memory| memory.is_huge()).map(Memory::size).sum()
    }

    /// Start and size of each class's memory, for a device that has to register it.
    pub fn regions(&self) -> impl Iterator<Item = (*const u8, usize)> + '_ {
        self.shared.regions()
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arena({} of {} slots free)", self.free_slots(), self.total_slots())
    }
}

/// Hands out slots of one arena. Clones share the same slots.
#[derive(Clone)]
pub struct FramePool {
    shared: Arc<Shared>,
}

impl FramePool {
    /// A writable slot of at least `size` bytes: of the smallest class that fits and has a free
    /// one. `None` if there is none: the caller drops, waits or counts.
    ///
    /// The bytes are those that the last user of the slot left there: write all that you freeze.
    pub fn alloc(&self, size: usize) -> Option<FrameMut> {
        let shared = &self.shared;
        for class in shared.classes.iter().filter(|class| class.slot_size as usize >= size) {
            if let Some(index) = class.free.take() {
                return Some(FrameMut::new(SlotRef::claim(shared, &class.slots[index as usize])));
            }
        }
        None
    }

    /// A frame with a copy of `bytes`.
    pub fn copy_from(&self, bytes: &[u8]) -> Option<Frame> {
        let mut frame = self.alloc(bytes.len())?;
        frame.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        // The slot holds at least these bytes, and its size is a u32.
        Some(frame.freeze(bytes.len() as u32))
    }

    /// As [`Arena::regions`].
    pub fn regions(&self) -> impl Iterator<Item = (*const u8, usize)> + '_ {
        self.shared.regions()
    }

    /// The largest `size` that `alloc` can ever serve.
    pub fn slot_size_max(&self) -> usize {
        self.shared.classes.last().map_or(0, |class| class.slot_size as usize)
    }

    /// Slots that are free now, in all classes.
    pub fn free_slots(&self) -> usize {
        self.shared.free_slots()
    }

    /// Slots that are free now and hold `size` bytes: how many messages of that size can still come.
    pub fn free_slots_for(&self, size: usize) -> usize {
        let fits = |class: &&Class| class.slot_size as usize >= size;
        self.shared.classes.iter().filter(fits).map(|class| class.free.free()).sum()
    }

    /// Bytes of the slots that are free now. Small messages may use large slots, so the bytes say
    /// how much more can come, where the number of slots does not.
    pub fn free_size(&self) -> usize {
        let free = |class: &Class| class.free.free() * class.slot_size as usize;
        self.shared.classes.iter().map(free).sum()
    }
}

impl fmt::Debug for FramePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FramePool({} slots free)", self.free_slots())
    }
}

/// What arena, pools and live slots share.
struct Shared {
    /// Sorted by slot size.
    classes: Box<[Class]>,
}

impl Shared {
    fn regions(&self) -> impl Iterator<Item = (*const u8, usize)> + '_ {
        let region = |memory: &Memory| (memory.base().as_ptr().cast_const(), memory.size());
        self.classes.iter().map(move |class| region(&class.memory))
    }

    fn free_slots(&self) -> usize {
        self.classes.iter().map(|class| class.free.free()).sum()
    }
}

struct Class {
    slot_size: u32,
    free: FreeList,
    slots: Box<[Slot]>,
    memory: Memory,
}

impl Class {
    fn new(number: usize, class: SlotClass) -> Result<Self, OpenError> {
        let stride = stride(class.slot_size);
        let memory = Memory::new(number, stride.saturating_mul(class.count as usize))?;
        let slot = |index: u32| Slot {
            refs: AtomicU32::new(0),
            home: AtomicPtr::new(std::ptr::null_mut()),
            // SAFETY: index < count, so the offset is within the `stride * count` bytes of
            // `memory`, whose size was accepted as a layout and so fits an isize.
            data: unsafe { memory.base().add(index as usize * stride) },
            size: class.slot_size,
            class: number as u32,
            index,
            #[cfg(loom)]
            access: loom::cell::UnsafeCell::new(()),
        };
        let slots = (0..class.count).map(slot).collect();
        let free = FreeList::all_free(class.count as usize);
        Ok(Self { slot_size: class.slot_size, free, slots, memory })
    }
}

/// The book-keeping of a slot, away from its bytes: a device may own those. A cache line of its
/// own, so that counting on one core does not disturb another.
#[repr(align(64))]
struct Slot {
    /// How many `SlotRef` there are.
    refs: AtomicU32,
    /// The arena, as the strong count that a slot in use holds. Written by the one who took the
    /// slot, read by the one who returns it.
    home: AtomicPtr<Shared>,
    data: NonNull<u8>,
    size: u32,
    class: u32,
    index: u32,
    /// Lets the model checker see reads and writes of the bytes.
    #[cfg(loom)]
    access: loom::cell::UnsafeCell<()>,
}

// SAFETY: `data` points to memory that `Class` owns and that is only reached through `SlotRef`,
// which keeps one writer or many readers; all other fields are atomics or never change.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

/// One counted reference to a slot in use.
pub(crate) struct SlotRef {
    slot: NonNull<Slot>,
}

// SAFETY: it is a counted reference to a `Slot`, which is Sync; the count is atomic, and the bytes
// are written only through `bytes_mut`, which needs the only reference.
unsafe impl Send for SlotRef {}
// SAFETY: as above; `&SlotRef` gives only shared access to the bytes.
unsafe impl Sync for SlotRef {}

impl SlotRef {
    /// The first reference to a slot that was just taken from its free list.
    fn claim(shared: &Arc<Shared>, slot: &Slot) -> Self {
        let home = Arc::into_raw(Arc::clone(shared)).cast_mut();
        slot.home.store(home, Ordering::Relaxed);
        // Nobody else reaches a slot that was just taken: no read-modify-write is needed.
        assert!(slot.refs.load(Ordering::Relaxed) == 0, "a free slot has no references");
        slot.refs.store(1, Ordering::Relaxed);
        Self { slot: NonNull::from(slot) }
    }

    fn slot(&self) -> &Slot {
        // SAFETY: we hold a count of `refs`, so the slot is in use and keeps its arena alive.
        unsafe { self.slot.as_ref() }
    }

    /// Bytes of the slot.
    pub(crate) fn size(&self) -> u32 {
        self.slot().size
    }

    /// Is this the only reference? If so it stays the only one: another can only be made from it.
    pub(crate) fn is_only(&self) -> bool {
        // Acquire: what the others did with the slot happened before this says so.
        self.slot().refs.load(Ordering::Acquire) == 1
    }

    /// Part of the slot's bytes.
    pub(crate) fn bytes(&self, start: u32, size: u32) -> &[u8] {
        let slot = self.slot();
        assert!(u64::from(start) + u64::from(size) <= u64::from(slot.size), "within the slot");
        #[cfg(loom)]
        slot.access.with(|_| ());
        // SAFETY: within the slot (asserted); the memory is initialised (written at start) and
        // lives while we hold a count; nobody writes, because a writer needs the only reference
        // and `&mut`, which cannot coexist with `&self`.
        unsafe { std::slice::from_raw_parts(slot.data.as_ptr().add(start as usize), size as usize) }
    }

    /// All bytes of the slot.
    ///
    /// # Safety
    /// This must be the only reference to the slot: it was claimed and never cloned.
    pub(crate) unsafe fn bytes_mut(&mut self) -> &mut [u8] {
        let slot = self.slot();
        debug_assert!(slot.refs.load(Ordering::Relaxed) == 1, "a writer is alone");
        #[cfg(loom)]
        slot.access.with_mut(|_| ());
        // SAFETY: the whole slot, initialised memory that lives while we hold a count; the only
        // reference (by contract), borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(slot.data.as_ptr(), slot.size as usize) }
    }
}

impl Clone for SlotRef {
    fn clone(&self) -> Self {
        // Relaxed: a new reference is made from an existing one, which already synchronised.
        let before = self.slot().refs.fetch_add(1, Ordering::Relaxed);
        if before > REFS_MAX {
            // Only a leak in a loop gets here; a wrapped count would free a slot in use.
            std::process::abort();
        }
        Self { slot: self.slot }
    }
}

impl Drop for SlotRef {
    fn drop(&mut self) {
        let slot = self.slot();
        // The only reference stays the only one: another can only be made from it. Then a store is
        // enough. Acquire: the reads and writes of all others happened before we return the slot.
        if slot.refs.load(Ordering::Acquire) == 1 {
            slot.refs.store(0, Ordering::Relaxed);
        } else {
            // Release: our reads and writes happen before the slot is used again.
            if slot.refs.fetch_sub(1, Ordering::Release) != 1 {
                return;
            }
            // Acquire: as above.
            fence(Ordering::Acquire);
        }
        let home = slot.home.load(Ordering::Relaxed).cast_const();
        // SAFETY: the pointer comes from `Arc::into_raw` in `claim`; that count is given up here,
        // once per claim, because only one drop sees the count go from 1 to 0.
        let home = unsafe { Arc::from_raw(home) };
        let (class, index) = (slot.class as usize, slot.index);
        home.classes[class].free.give(index);
        // From here on the slot may be in use by another thread; only `home` is touched.
    }
}

fn stride(slot_size: u32) -> usize {
    (slot_size as usize).next_multiple_of(SLOT_ALIGN)
}
