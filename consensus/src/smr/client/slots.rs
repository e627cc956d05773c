//! The table of requests in flight, of all sessions.
//!
//! Owns their memory: slots are used again, so that a steady load allocates nothing. Always true: a
//! ticket names one request, never the next one in the same slot. Must not: decide anything.

use alloc::vec::Vec;

use super::matching::{Voice, Voices};
use super::session::SlotIndex;
use crate::batch::Replier;
use crate::message::reply::{Reply, Status};
use crate::types::{Instant, Sequence, ViewId};

/// Names one operation until it is completed. Its [`index`](Ticket::index) is small and dense, so a
/// driver can keep what it knows of the operation in an array.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket {
    index: SlotIndex,
    generation: u32,
}

impl Ticket {
    /// Place in the table of operations in flight; used again after the operation is completed.
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// As one number.
    pub fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }
}

/// One operation in flight.
pub(super) struct Slot<P> {
    generation: u32,
    /// Session.
    pub(super) session: u32,
    /// Its number now; a read that is ordered after all gets another one.
    pub(super) sequence: Sequence,
    /// Is it in flight as a read-only request?
    pub(super) read_only: bool,
    /// When it was sent last.
    pub(super) sent: Instant,
    /// The view that the body names.
    pub(super) view: ViewId,
    /// The request's body; `None` once it has ended.
    pub(super) body: Option<P>,
    /// Who was asked for the whole result.
    pub(super) replier: Replier,
    /// What that member answered, while too few agree with it.
    pub(super) kept: Option<Reply<P>>,
    /// When enough members agreed on a result.
    pub(super) certified: Option<Instant>,
    /// Was everybody asked for the result?
    pub(super) asked: bool,
    /// Members that had no room for it when it was sent last: bit i is the member at place i.
    pub(super) turned_away: u64,
    /// Members that it was sent to again at once when they said so, likewise.
    pub(super) tried_again: u64,
    /// How it ended, while it waits for those before it.
    pub(super) ended: Option<(Status, P)>,
}

impl<P> Slot<P> {
    /// Does only the result of its replier lack?
    pub(super) fn is_missing(&self) -> bool {
        let open = self.ended.is_none() && !self.asked;
        open && self.certified.is_some() && self.replier != Replier::EVERYONE
    }
}

/// All operations in flight.
pub(super) struct Slots<P> {
    slots: Vec<Slot<P>>,
    /// `members` entries for each slot.
    voices: Vec<Option<Voice<P>>>,
    members: usize,
    free: Vec<SlotIndex>,
}

impl<P> Slots<P> {
    pub(super) fn new(members: usize) -> Self {
        Self { slots: Vec::new(), voices: Vec::new(), members, free: Vec::new() }
    }

    /// Operations in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn insert(
        &mut self,
        session: u32,
        sequence: Sequence,
        read_only: bool,
        sent: Instant,
        view: ViewId,
        body: P,
    ) -> SlotIndex {
        let slot = |generation| Slot {
            generation,
            session,
            sequence,
            read_only,
            sent,
            view,
            body: Some(body),
            replier: Replier::EVERYONE,
            kept: None,
            certified: None,
            asked: false,
            turned_away: 0,
            tried_again: 0,
            ended: None,
        };
        if let Some(index) = self.free.pop() {
            let generation = self.slots[index as usize].generation.wrapping_add(1);
            self.slots[index as usize] = slot(generation);
            return index;
        }
        let index = SlotIndex::try_from(self.slots.len()).expect("sessions times windows fit");
        self.slots.push(slot(0));
        self.voices.resize_with(self.slots.len() * self.members, || None);
        index
    }

    /// Ends the use of a slot.
    pub(super) fn free(&mut self, index: SlotIndex) {
        self.forget_voices(index);
        let slot = &mut self.slots[index as usize];
        assert!(slot.ended.is_none(), "what ended was handed over");
        assert!(slot.kept.is_none(), "what ended keeps nothing");
        slot.body = None;
        self.free.push(index);
    }

    /// Places in the table, in use or not.
    pub(super) fn places(&self) -> SlotIndex {
        self.slots.len() as SlotIndex
    }

    /// There are `members` others now: what those of before said is void. Nothing is kept any more.
    pub(super) fn enter_view(&mut self, members: usize) {
        self.members = members;
        self.voices.clear();
        self.voices.resize_with(self.slots.len() * members, || None);
        for slot in &mut self.slots {
            (slot.replier, slot.certified, slot.asked) = (Replier::EVERYONE, None, false);
            (slot.turned_away, slot.tried_again) = (0, 0);
        }
    }

    /// Drops the replies so far: they answered another number.
    pub(super) fn forget_voices(&mut self, index: SlotIndex) {
        self.voices_mut(index).fill_with(|| None);
    }

    pub(super) fn get(&self, index: SlotIndex) -> &Slot<P> {
        &self.slots[index as usize]
    }

    pub(super) fn get_mut(&mut self, index: SlotIndex) -> &mut Slot<P> {
        &mut self.slots[index as usize]
    }

    pub(super) fn voices(&self, index: SlotIndex) -> &Voices<P> {
        let start = index as usize * self.members;
        &self.voices[start..start + self.members]
    }

    pub(super) fn voices_mut(&mut self, index: SlotIndex) -> &mut Voices<P> {
        let start = index as usize * self.members;
        &mut self.voices[start..start + self.members]
    }

    pub(super) fn ticket(&self, index: SlotIndex) -> Ticket {
        Ticket { index, generation: self.get(index).generation }
    }

    /// The slot of an operation that is in flight.
    pub(super) fn find(&self, ticket: Ticket) -> Option<SlotIndex> {
        let slot = self.slots.get(ticket.index())?;
        let in_flight = slot.body.is_some() || slot.ended.is_some();
        (slot.generation == ticket.generation && in_flight).then_some(ticket.index)
    }
}
