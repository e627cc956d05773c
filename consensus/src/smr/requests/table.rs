//! Sessions and the requests that are pending in them.
//!
//! Owns both, and the bytes that each client has pending. Always true: the requests of a session are
//! of one incarnation, ascending, and come after the last executed one; freed slots are used again,
//! and there are enough from the start for all that may be pending. Must not: know order among
//! sessions.

use alloc::vec::Vec;

use super::list::NONE;
use crate::batch::encoded_size;
use crate::limits::ADMISSION_WINDOW;
use crate::membership::VIEW_MANAGER;
use crate::message::{Request, proof};
use crate::payload::Payload;
use crate::types::{ClientId, Instant, Sequence};

#[derive(Debug)]
pub(super) struct Session {
    /// Last executed request. Moves at execution only.
    pub(super) executed: Sequence,
    /// Slots of the pending requests, `NONE` when there is none.
    pub(super) first: u32,
    last: u32,
    /// The last request in the open instances, if `speculation` is the current one.
    pub(super) ahead: Sequence,
    pub(super) speculation: u64,
    /// Which check of a batch `checked` belongs to.
    pub(super) check: u64,
    /// Last request of this session that this check has seen.
    pub(super) checked: Sequence,
    /// Slot of the request that was looked for last. Only a hint: it may hold another one by now.
    found: u32,
    /// What its next request is to the clock: says which lists the session is in.
    pub(super) turn: Turn,
    /// Since when its client was told, and how often, that there is no room.
    pub(super) told_busy: (Instant, u32),
}

/// What the request that may be ordered next in a session is to the clock (rule TIME.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// There is none.
    None,
    Signed,
    /// Not signed, and without a strike.
    Unsigned,
    /// No work until it is signed.
    Struck,
}

#[derive(Debug)]
pub(super) struct Slot<P> {
    /// `None`: the slot is free, and `next` the next free one.
    request: Option<Request<P>>,
    /// The next pending request of the same session.
    pub(super) next: u32,
    pub(super) admitted: Instant,
    /// Every member was sent it, as it is now.
    pub(super) forwarded: bool,
    /// Had its first strike unsigned: no work until it is signed (TIME.1).
    pub(super) struck: bool,
}

impl<P: Payload> Slot<P> {
    pub(super) fn request(&self) -> &Request<P> {
        self.request.as_ref().expect("slots in a session's chain hold a request")
    }

    pub(super) fn is_signed(&self) -> bool {
        is_signed(self.request())
    }

    fn turn(&self) -> Turn {
        match (self.is_signed(), self.struck) {
            (true, _) => Turn::Signed,
            (false, false) => Turn::Unsigned,
            (false, true) => Turn::Struck,
        }
    }
}

pub(super) fn is_signed<P>(request: &Request<P>) -> bool {
    request.auth == proof::SIGNATURE
}

#[derive(Debug)]
pub(super) struct Table<P> {
    pub(super) sessions: Vec<Session>,
    pub(super) slots: Vec<Slot<P>>,
    free: u32,
    /// Each of the cluster's list; and the View Manager behind them, if there is one.
    clients: Vec<Client>,
    clients_max: u32,
    sessions_per_client_max: u32,
    /// Requests that may be pending beside the next one of each session.
    pending_max: usize,
    /// Of all clients together.
    load: Load,
}

#[derive(Debug, Default)]
struct Client {
    /// Index of each of its sessions in `Table::sessions`, or `NONE`.
    sessions: Vec<u32>,
    /// What of it is pending.
    load: Load,
}

/// Requests that are pending.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Load {
    pub(super) count: usize,
    /// Encoded.
    pub(super) bytes: usize,
}

impl Load {
    fn add(&mut self, size: usize) {
        self.count += 1;
        self.bytes += size;
    }

    fn take(&mut self, size: usize) {
        self.count -= 1;
        self.bytes -= size;
    }
}

impl<P: Payload> Table<P> {
    /// Room for the sessions of one client, for the next request of each, and for `pending_max` more:
    /// only further sessions make it grow.
    pub(super) fn new(
        (clients_max, view_manager): (u32, bool),
        sessions_per_client_max: u32,
        pending_max: usize,
    ) -> Self {
        let mut clients = Vec::new();
        clients.resize_with(clients_max as usize + usize::from(view_manager), Client::default);
        let sessions = sessions_per_client_max as usize;
        Self {
            sessions: Vec::with_capacity(sessions),
            slots: Vec::with_capacity(pending_max + sessions),
            free: NONE,
            clients,
            clients_max,
            sessions_per_client_max,
            pending_max,
            load: Load::default(),
        }
    }

    /// May there be such a session?
    pub(super) fn allows(&self, client: ClientId) -> bool {
        self.place(client.identity()) < self.clients.len()
            && client.session() < self.sessions_per_client_max
    }

    /// Where in `clients` the client with this identity is, if there is one.
    #[inline]
    fn place(&self, identity: u32) -> usize {
        match identity {
            listed if listed < self.clients_max => listed as usize,
            VIEW_MANAGER => self.clients_max as usize,
            _ => usize::MAX,
        }
    }

    #[inline]
    pub(super) fn find(&self, client: ClientId) -> Option<u32> {
        let sessions = &self.clients.get(self.place(client.identity()))?.sessions;
        sessions.get(client.session() as usize).copied().filter(|&at| at != NONE)
    }

    /// Bytes that [`Table::new`] reserves for these limits, without the list of clients.
    pub(super) fn reserved_size(sessions_per_client_max: u32, pending_max: usize) -> usize {
        let sessions = sessions_per_client_max as usize;
        let slots = pending_max.saturating_add(sessions).saturating_mul(size_of::<Slot<P>>());
        slots.saturating_add(sessions * size_of::<Session>())
    }

    /// The session, made if it is new. The only place that allocates for a session. `None` when
    /// there may not be one.
    pub(super) fn open(&mut self, client: ClientId) -> Option<u32> {
        if let Some(at) = self.find(client) {
            return Some(at);
        }
        if !self.allows(client) {
            return None;
        }
        let at = self.sessions.len() as u32;
        let slots = self.pending_max + self.sessions.len() + 1;
        self.slots.reserve(slots.saturating_sub(self.slots.len()));
        self.sessions.push(Session {
            executed: Sequence::NONE,
            first: NONE,
            last: NONE,
            ahead: Sequence::NONE,
            speculation: 0,
            check: 0,
            checked: Sequence::NONE,
            found: NONE,
            turn: Turn::None,
            told_busy: (Instant(0), 0),
        });
        let place = self.place(client.identity());
        let sessions = &mut self.clients[place].sessions;
        let number = client.session() as usize;
        if sessions.len() <= number {
            sessions.resize(number + 1, NONE);
        }
        sessions[number] = at;
        Some(at)
    }

    /// Sessions of one client so far, by position.
    pub(super) fn session_of(&self, identity: u32, number: usize) -> Option<u32> {
        self.clients.get(self.place(identity))?.sessions.get(number).copied()
    }

    /// Last executed request of each session that has one, clients ascending.
    pub(super) fn executed(&self) -> impl Iterator<Item = (ClientId, Sequence)> + '_ {
        self.clients.iter().enumerate().flat_map(move |(place, client)| {
            let listed = place < self.clients_max as usize;
            let identity = if listed { place as u32 } else { VIEW_MANAGER };
            let known = client.sessions.iter().enumerate().filter(|(_, at)| **at != NONE);
            let executed = move |(number, at): (usize, &u32)| {
                let client = ClientId::new(identity, number as u32);
                (client, self.session(*at).executed)
            };
            known.map(executed).filter(|(_, executed)| *executed != Sequence::NONE)
        })
    }

    /// What is pending of one client.
    pub(super) fn client_load(&self, identity: u32) -> Load {
        self.clients[self.place(identity)].load
    }

    /// What is pending of all.
    pub(super) fn load(&self) -> Load {
        self.load
    }

    pub(super) fn slot(&self, at: u32) -> &Slot<P> {
        &self.slots[at as usize]
    }

    pub(super) fn session(&self, at: u32) -> &Session {
        &self.sessions[at as usize]
    }

    /// The pending request of session `at` that comes directly after its last executed one.
    #[inline]
    pub(super) fn head(&self, at: u32) -> Option<&Slot<P>> {
        let session = self.session(at);
        let slot = self.slots.get(session.first as usize)?;
        slot.request().sequence.follows(session.executed).then_some(slot)
    }

    /// What that request is to the clock.
    pub(super) fn turn(&self, at: u32) -> Turn {
        self.head(at).map_or(Turn::None, Slot::turn)
    }

    /// The session in which `sequence` comes directly after everything that was executed or is
    /// pending, and within the window. Most requests come so.
    #[inline]
    pub(super) fn in_order(&self, client: ClientId, sequence: Sequence) -> Option<u32> {
        let at = self.find(client)?;
        let session = self.session(at);
        let newest = match self.slots.get(session.last as usize) {
            Some(slot) => slot.request().sequence,
            None => session.executed,
        };
        let same = sequence.incarnation() == session.executed.incarnation();
        let before = if same { session.executed.counter() } else { 0 };
        // A counter that overflows is 0.
        let next = sequence.0 == newest.0.wrapping_add(1) && sequence.counter() != 0;
        (next && (sequence.counter() - before) as usize <= ADMISSION_WINDOW).then_some(at)
    }

    /// Enters `request`, which is [`Table::in_order`] in session `at`. True when it is the only one.
    #[inline(always)]
    pub(super) fn append(&mut self, at: u32, now: Instant, request: Request<P>) -> bool {
        let slot = self.fill(now, request, NONE);
        let session = &mut self.sessions[at as usize];
        let last = core::mem::replace(&mut session.last, slot);
        match self.slots.get_mut(last as usize) {
            Some(last) => last.next = slot,
            None => session.first = slot,
        }
        last == NONE
    }

    /// The slot of the request of session `at` that comes directly after `last`, if it is pending.
    pub(super) fn after(&self, at: u32, last: Sequence) -> Option<u32> {
        let mut slot = self.session(at).first;
        while slot != NONE {
            let pending = self.slot(slot);
            if pending.request().sequence > last {
                return pending.request().sequence.follows(last).then_some(slot);
            }
            slot = pending.next;
        }
        None
    }

    /// The slot of the request that comes directly after the one in slot `at`, if it is pending.
    pub(super) fn successor(&self, at: u32) -> Option<u32> {
        let slot = self.slot(at);
        let next = self.slots.get(slot.next as usize)?;
        next.request().sequence.follows(slot.request().sequence).then_some(slot.next)
    }

    /// The slot of request `sequence` of session `at`, if it is pending.
    pub(super) fn position(&self, at: u32, sequence: Sequence) -> Option<u32> {
        self.position_from(self.session(at).first, sequence)
    }

    /// As `position`, for callers that look for the requests of a session in order: goes on where the
    /// last call has stopped. `client` is whose session it is.
    pub(super) fn find_next(
        &mut self,
        at: u32,
        client: ClientId,
        sequence: Sequence,
    ) -> Option<u32> {
        let Session { first, found, .. } = *self.session(at);
        // A slot that holds a request of this session is in its chain.
        let ahead = self.slots.get(found as usize).and_then(|slot| slot.request.as_ref());
        let ahead = ahead.is_some_and(|it| it.client == client && it.sequence <= sequence);
        let slot = self.position_from(if ahead { found } else { first }, sequence)?;
        self.sessions[at as usize].found = slot;
        Some(slot)
    }

    fn position_from(&self, mut slot: u32, sequence: Sequence) -> Option<u32> {
        while slot != NONE {
            let pending = self.slot(slot).request().sequence;
            if pending >= sequence {
                return (pending == sequence).then_some(slot);
            }
            slot = self.slot(slot).next;
        }
        None
    }

    /// Enters a request that is not pending into session `at`, in order.
    pub(super) fn insert(&mut self, at: u32, now: Instant, request: Request<P>) {
        let sequence = request.sequence;
        let (first, last) = (self.session(at).first, self.session(at).last);
        // Most requests come in order: look at the last one first.
        let previous = if last != NONE && self.slot(last).request().sequence < sequence {
            last
        } else {
            let mut previous = NONE;
            let mut slot = first;
            while slot != NONE && self.slot(slot).request().sequence < sequence {
                previous = slot;
                slot = self.slot(slot).next;
            }
            previous
        };
        let next = if previous == NONE { first } else { self.slot(previous).next };
        let slot = self.fill(now, request, next);
        match previous {
            NONE => self.sessions[at as usize].first = slot,
            previous => self.slots[previous as usize].next = slot,
        }
        if next == NONE {
            self.sessions[at as usize].last = slot;
        }
    }

    #[inline(always)]
    fn fill(&mut self, now: Instant, request: Request<P>, next: u32) -> u32 {
        self.charge(&request);
        let slot =
            Slot { request: Some(request), next, admitted: now, forwarded: false, struck: false };
        if self.free == NONE {
            self.slots.push(slot);
            return self.slots.len() as u32 - 1;
        }
        let at = self.free;
        self.free = self.slots[at as usize].next;
        self.slots[at as usize] = slot;
        at
    }

    /// Puts a signed version of the same request into its slot. It keeps its place.
    pub(super) fn replace(&mut self, slot: u32, request: Request<P>) {
        self.charge(&request);
        let slot = &mut self.slots[slot as usize];
        slot.forwarded = false;
        slot.struck = false;
        let replaced = slot.request.replace(request);
        let replaced = replaced.expect("slots in a session's chain hold a request");
        self.refund(replaced.client.identity(), encoded_size(&replaced));
    }

    /// The request of session `at` with number `sequence` was executed: forgets it, and those before
    /// it. At most the first one is there as a rule.
    #[inline]
    pub(super) fn forget_executed(&mut self, at: u32, sequence: Sequence) {
        let first = self.session(at).first;
        let Some(slot) = self.slots.get(first as usize) else {
            return;
        };
        if slot.request().sequence != sequence {
            return self.forget(at, false, |pending| pending.sequence <= sequence);
        }
        let next = slot.next;
        let session = &mut self.sessions[at as usize];
        session.first = next;
        if next == NONE {
            session.last = NONE;
        }
        self.release(first);
    }

    /// Forgets the pending requests of session `at` for which `gone` holds. The chain is walked only
    /// as far as `gone` can hold: `all` says whether that is its end or the first that stays.
    pub(super) fn forget(&mut self, at: u32, all: bool, gone: impl Fn(&Request<P>) -> bool) {
        let mut previous = NONE;
        let mut slot = self.session(at).first;
        while slot != NONE {
            let next = self.slot(slot).next;
            if gone(self.slot(slot).request()) {
                match previous {
                    NONE => self.sessions[at as usize].first = next,
                    previous => self.slots[previous as usize].next = next,
                }
                if next == NONE {
                    self.sessions[at as usize].last = previous;
                }
                self.release(slot);
            } else if all {
                previous = slot;
            } else {
                return;
            }
            slot = next;
        }
    }

    #[inline]
    fn release(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        let (identity, size) = (slot.request().client.identity(), encoded_size(slot.request()));
        slot.request = None;
        slot.next = core::mem::replace(&mut self.free, at);
        self.refund(identity, size);
    }

    #[inline]
    fn charge(&mut self, request: &Request<P>) {
        let size = encoded_size(request);
        let place = self.place(request.client.identity());
        self.clients[place].load.add(size);
        self.load.add(size);
    }

    #[inline]
    fn refund(&mut self, identity: u32, size: usize) {
        let place = self.place(identity);
        self.clients[place].load.take(size);
        self.load.take(size);
    }
}
