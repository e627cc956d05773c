//! A sparse proposal that waits for bodies.
//!
//! Owns the proposal of one instance and epoch until it is complete, and the bodies that members sent
//! for it. Always true: it holds bodies of exactly the identities that the proposal names, and at most
//! as many bytes as a batch may have. Must not: send, judge, or look at a clock; `smr::assembly` does.

use alloc::vec::Vec;

use crate::batch::{BATCH_HEADER_SIZE, Batch, Identity, Selection, SparseBatch};
use crate::limits::BATCH_REQUESTS_MAX;
use crate::message::Request;
use crate::payload::{Payload, PayloadPool};
use crate::smr::requests::Requests;
use crate::spec;
use crate::types::{Digest, Instant};

/// Instead of a slot: the body was sent by a member.
const SENT: u32 = u32::MAX;

/// What became of an attempt to complete a proposal.
pub(crate) enum Completion<P> {
    /// A body is missing.
    Missing,
    /// There is no memory for it now.
    NoMemory,
    /// It is larger than any batch: no correct leader proposed it (rule BODY.7).
    TooLarge,
    /// Here it is.
    Whole(Batch<P>),
}

/// See the module. Made once for each instance that can be open, and used again.
pub(crate) struct Assembly<P> {
    batch: Option<SparseBatch<P>>,
    /// Everything left out before this place was found at some time.
    next: usize,
    /// What was missing at the last look: without it another look finds nothing new.
    missing: Option<Identity>,
    /// By place: where the request is pending, or [`SENT`].
    slots: Vec<u32>,
    /// By place: what members sent, and which of it this replica could authenticate.
    sent: Vec<Option<Request<P>>>,
    authentic: Selection,
    /// Places of what a member sent now, and whether it is authentic; only of use within a call.
    useful: Vec<(usize, bool)>,
    /// What the bodies in `sent` count in the size of the batch.
    sent_size: usize,
    /// Bytes of all bodies before `next`; and of what is left out of them, with proofs.
    bodies: usize,
    left_out: usize,
    /// When to ask for what is missing, and how often that was done.
    pub(crate) ask_at: Instant,
    pub(crate) asked: u32,
}

impl<P> Assembly<P> {
    pub(crate) fn new() -> Self {
        Self {
            batch: None,
            next: 0,
            missing: None,
            slots: Vec::with_capacity(BATCH_REQUESTS_MAX),
            sent: Vec::with_capacity(BATCH_REQUESTS_MAX),
            authentic: Selection::NONE,
            useful: Vec::with_capacity(BATCH_REQUESTS_MAX),
            sent_size: 0,
            bodies: 0,
            left_out: 0,
            ask_at: Instant(0),
            asked: 0,
        }
    }

    /// Bytes of its lists.
    pub(crate) const RESERVED_SIZE: usize = BATCH_REQUESTS_MAX
        * (size_of::<u32>() + size_of::<Option<Request<P>>>() + size_of::<(usize, bool)>());

    /// The digest of the proposal that waits.
    pub(crate) fn waiting(&self) -> Option<Digest> {
        self.batch.as_ref().map(|batch| batch.digest)
    }

    /// The identity that was missing at the last look.
    pub(crate) fn missing(&self) -> Option<&Identity> {
        self.missing.as_ref()
    }

    /// Lets go of everything but the memory of its lists.
    pub(crate) fn clear(&mut self) {
        if self.batch.take().is_some() {
            self.missing = None;
            self.slots.clear();
            self.sent.clear();
            self.authentic = Selection::NONE;
            self.sent_size = 0;
            self.asked = 0;
        }
    }
}

impl<P: Payload> Assembly<P> {
    /// From now on `batch` waits.
    pub(crate) fn start(&mut self, batch: SparseBatch<P>, ask_at: Instant) {
        self.clear();
        self.slots.resize(batch.len(), SENT);
        self.next = 0;
        self.ask_at = ask_at;
        self.batch = Some(batch);
    }

    /// Makes the whole batch if everything is there. Looks where the last look ended, so that all looks
    /// at one proposal together cost about as much as one that finds everything. (`compare` is false in
    /// a mutant only.)
    pub(crate) fn complete(
        &mut self,
        requests: &mut Requests<P>,
        pool: &mut dyn PayloadPool<P>,
        compare: bool,
    ) -> Completion<P> {
        spec!("BODY.2");
        let resumed = self.next > 0;
        if !self.look(requests, compare) {
            return Completion::Missing;
        }
        if resumed {
            // What was found before may be gone.
            self.next = 0;
            if !self.look(requests, compare) {
                return Completion::Missing;
            }
        }
        self.make(requests, pool)
    }

    /// Finds what is left out from `next` on; false when something is missing.
    fn look(&mut self, requests: &mut Requests<P>, compare: bool) -> bool {
        let Some(batch) = &self.batch else {
            return false;
        };
        self.missing = None;
        if self.next == 0 {
            (self.bodies, self.left_out) = (0, 0);
        }
        let places = batch.outlines().zip(&mut self.slots).enumerate().skip(self.next);
        for (place, (outline, place_slot)) in places {
            if !outline.omitted {
                self.bodies += outline.body_size;
                continue;
            }
            *place_slot = SENT;
            let sent = self.sent.get(place).and_then(Option::as_ref);
            let request = if let Some(sent) = sent {
                sent
            } else if let Some(slot) = requests.find(&outline.identity(), compare) {
                *place_slot = slot;
                requests.found(slot)
            } else {
                self.next = place;
                self.missing = Some(outline.identity());
                return false;
            };
            self.bodies += request.body_size as usize;
            self.left_out += request.payload.size();
        }
        self.next = batch.len();
        true
    }

    fn make(&self, requests: &Requests<P>, pool: &mut dyn PayloadPool<P>) -> Completion<P> {
        let Some(batch) = &self.batch else {
            return Completion::Missing;
        };
        let part = |place: usize| match self.slots[place] {
            SENT => self.sent[place].as_ref().expect("it was there a moment ago"),
            slot => requests.found(slot),
        };
        let others = BATCH_HEADER_SIZE + batch.len() * requests.size_in_batch(0);
        if others + self.bodies > requests.batch_size_max() {
            return Completion::TooLarge;
        }
        // What is pending was authenticated here.
        let authentic = if self.sent.is_empty() {
            Selection::first(batch.len())
        } else {
            let pending = batch.omitted().filter(|place| self.slots[*place] != SENT);
            pending.fold(self.authentic, |mut authentic, place| {
                authentic.insert(place);
                authentic
            })
        };
        let whole = batch.complete(pool, (&authentic, self.left_out), part);
        whole.map_or(Completion::NoMemory, Completion::Whole)
    }

    /// Is this the body of a request that was left out and not found at the last look?
    pub(crate) fn lacks(&self, request: &Request<P>) -> bool {
        spec!("BODY.8");
        let Request { client, sequence, digest, .. } = *request;
        let wanted = Identity { client, sequence, digest };
        self.batch.as_ref().is_some_and(|batch| {
            let mut omitted = (self.next..batch.len()).filter(|place| batch.omits(*place));
            omitted.any(|place| batch.identity(place) == wanted)
        })
    }

    /// The places of the bodies that are missing.
    pub(crate) fn wanted(&self, requests: &mut Requests<P>) -> Selection {
        let mut wanted = Selection::NONE;
        if let Some(batch) = &self.batch {
            for place in batch.omitted() {
                let sent = self.sent.get(place).is_some_and(Option::is_some);
                if !sent && requests.find(&batch.identity(place), true).is_none() {
                    wanted.insert(place);
                }
            }
        }
        wanted
    }

    /// Takes what a member sent: requests that the proposal names, in its order. Those that are missing
    /// are copied to memory of `pool`, so that nothing else that came with them is held. `None` when
    /// one of them is not named; `TooLarge` when they are more than a batch may hold. `parts` is room
    /// for them, empty before; what it holds after is of no use.
    pub(crate) fn take(
        &mut self,
        list: &Batch<P>,
        requests: &mut Requests<P>,
        pool: &mut dyn PayloadPool<P>,
        parts: &mut Vec<Request<P>>,
        compare: bool,
    ) -> Option<Completion<P>> {
        spec!("BODY.2", "BODY.5");
        let batch = self.batch.as_ref()?;
        let mut places = batch.omitted();
        self.useful.clear();
        for (index, view) in list.requests().enumerate() {
            let named = places.find(|place| {
                let Identity { client, sequence, digest } = batch.identity(*place);
                (client, sequence) == (view.client, view.sequence)
                    && (digest == view.digest || !compare)
            });
            let place = named.filter(|_| requests.may_be_proof(view.proof))?;
            let sent = self.sent.get(place).is_some_and(Option::is_some);
            if !sent && requests.find(&batch.identity(place), compare).is_none() {
                self.useful.push((place, list.authentic.contains(index)));
                parts.push(list.request(&view));
            }
        }
        if parts.is_empty() {
            return Some(Completion::Missing);
        }
        let sizes = parts.iter().map(|request| request.body_size as usize);
        let size = sizes.map(|size| requests.size_in_batch(size)).sum::<usize>();
        if BATCH_HEADER_SIZE + self.sent_size + size > requests.batch_size_max() {
            return Some(Completion::TooLarge);
        }
        let Some(copies) = Batch::build(pool, 0, &*parts) else {
            return Some(Completion::NoMemory);
        };
        self.sent_size += size;
        self.sent.resize(batch.len(), None);
        for ((place, authentic), view) in self.useful.iter().zip(copies.requests()) {
            self.sent[*place] = Some(copies.request(&view));
            if *authentic {
                self.authentic.insert(*place);
            }
        }
        Some(Completion::Missing)
    }
}
