//! The last replies of each session, for clients that ask again.
//!
//! Owns copies of reply bodies. Always true: the newest reply of a session is kept while the
//! session is among those that executed something last, older ones that the client may ask for within the session's
//! window and share of bytes; the total is bounded; a session in steady use causes no allocation. Must not: decide what was
//! executed (the core does), or hold frames: a slow client must not pin the memory of messages.
//!
//! Each session has a ring of bytes that grows to the size its replies need, up to its share, which
//! shrinks as sessions become more: sessions that are all in use must not take each other's rings in
//! turn. When the sum reaches the limit, the session that executed nothing for longest loses its ring. What is kept
//! is a function of the replies entered and of the limits, because checkpoints hold it.

use tetrarch_consensus::limits::{RESULT_SIZE_MAX, SESSION_WINDOW};
use tetrarch_consensus::membership::is_view_manager;
use tetrarch_consensus::message::reply::REPLY_HEADER_SIZE;
use tetrarch_consensus::{BadSnapshot, ClientId, Sequence, spec};

/// The smallest ring: a window of small replies without growing.
const RING_SIZE_MIN: usize = 4096;

/// No session.
const NONE: u32 = u32::MAX;

/// One kept reply: where its bytes are in the session's ring. `start + size` may wrap.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    sequence: Sequence,
    start: u32,
    size: u32,
}

/// A session's replies.
#[derive(Debug)]
struct Session {
    client: ClientId,
    /// When a reply was entered last, as a number that grows with each one.
    stamp: u64,
    /// Place of the oldest entry, and how many there are.
    oldest: usize,
    count: usize,
    /// Where the next reply starts.
    end: usize,
    /// Bytes in use, from the oldest entry's start to `end`.
    used: usize,
    ring: Box<[u8]>,
    entries: Box<[Entry; SESSION_WINDOW]>,
}

/// Replies by session.
#[derive(Debug)]
pub struct ReplyCache {
    /// By client identity and session number: the place in `sessions`, or `NONE`. Only sessions that
    /// executed something are here, so the core's limits bound it.
    places: Vec<Vec<u32>>,
    /// In no order.
    sessions: Vec<Session>,
    /// Sum of the rings, in bytes.
    size: usize,
    size_max: usize,
    session_size_max: usize,
    stamp: u64,
    evicted: u64,
    /// Reused: places in `sessions`.
    order: Vec<u32>,
}

impl ReplyCache {
    /// At most `size_max` bytes in all and `session_size_max` in one session, except that a single
    /// larger reply is kept alone.
    pub fn new(size_max: usize, session_size_max: usize) -> Self {
        Self {
            places: Vec::new(),
            sessions: Vec::new(),
            size: 0,
            size_max,
            session_size_max: session_size_max.max(RING_SIZE_MIN),
            stamp: 0,
            evicted: 0,
            order: Vec::new(),
        }
    }

    /// Keeps `body`, the reply to `sequence`, and gives up those to requests before `oldest`, which is
    /// at most `sequence`. Sequences of a session come in execution order.
    #[inline]
    pub fn insert(&mut self, client: ClientId, sequence: Sequence, oldest: Sequence, body: &[u8]) {
        let at = match self.find(client) {
            Some(at) => at,
            None => self.open(client),
        };
        self.stamp += 1;
        let session = &mut self.sessions[at];
        session.stamp = self.stamp;
        session.give_up(oldest);
        if session.fits(body.len()) {
            session.push(sequence, body);
        } else {
            self.insert_and_grow(client, at, sequence, body);
        }
    }

    /// Keeps a reply of the session at this place that does not fit its ring as it is.
    #[cold]
    fn insert_and_grow(
        &mut self,
        client: ClientId,
        mut at: usize,
        sequence: Sequence,
        body: &[u8],
    ) {
        let wanted = self.sessions[at].ring_wanted(body.len(), self.share());
        let grow = wanted - self.sessions[at].ring.len();
        if grow > 0 {
            self.make_room(grow, client);
            // What made room may have moved it.
            at = self.find(client).expect("making room keeps this session");
            self.size += grow;
            self.sessions[at].grow(wanted);
        }
        self.sessions[at].push(sequence, body);
    }

    /// The kept reply to `sequence`, in two parts when it wraps around the end of the ring.
    pub fn get(&self, client: ClientId, sequence: Sequence) -> Option<(&[u8], &[u8])> {
        // Changes nothing: what is kept follows from what was executed alone (rule CKP.1).
        let session = &self.sessions[self.find(client)?];
        let entry = session.entries().find(|entry| entry.sequence == sequence)?;
        Some(session.parts(&entry))
    }

    /// Bytes that a session may have: what all could have at once, in steps, so that rings which were
    /// grown to it still fit when a few more sessions come.
    fn share(&self) -> usize {
        let fair = self.size_max >> self.sessions.len().next_power_of_two().ilog2();
        fair.clamp(RING_SIZE_MIN, self.session_size_max)
    }

    /// Gives what is kept to `out`, piece by piece: for each session, in the order in which they executed something
    /// last, client (8 bytes, little endian), bytes reserved (8), replies (8); for each of these sequence (8) and
    /// bytes (8); then the bytes of all.
    pub fn write(&mut self, out: &mut dyn FnMut(&[u8])) {
        spec!("CKP.1");
        let Self { sessions, order, .. } = self;
        order.clear();
        order.extend(0..sessions.len() as u32);
        order.sort_unstable_by_key(|at| sessions[*at as usize].stamp);
        for session in order.iter().map(|at| &sessions[*at as usize]) {
            let numbers = [session.client.0, session.ring.len() as u64, session.count as u64];
            numbers.iter().for_each(|number| out(&number.to_le_bytes()));
            for entry in session.entries().rev() {
                out(&entry.sequence.0.to_le_bytes());
                out(&u64::from(entry.size).to_le_bytes());
            }
            for entry in session.entries().rev() {
                let (head, tail) = session.parts(&entry);
                out(head);
                out(tail);
            }
        }
    }

    /// Bytes that [`ReplyCache::write`] gives.
    pub fn written_size(&self) -> u64 {
        let entry = |entry: Entry| 16 + u64::from(entry.size);
        let session = |session: &Session| 24 + session.entries().map(entry).sum::<u64>();
        self.sessions.iter().map(session).sum()
    }

    /// Replaces what is kept by what [`ReplyCache::write`] wrote, under the same limits, when the last
    /// executed requests were those of `sessions`, clients ascending.
    ///
    /// # Errors
    /// The bytes are not that. What is kept then is not to be used.
    pub fn read(
        &mut self,
        bytes: &[u8],
        sessions: &[(ClientId, Sequence)],
    ) -> Result<(), BadSnapshot> {
        spec!("CKP.4");
        *self = Self::new(self.size_max, self.session_size_max);
        let mut from = bytes;
        while !from.is_empty() {
            let [client, ring, count] = numbers(&mut from)?;
            let client = ClientId(client);
            let executed = sessions.binary_search_by_key(&client.0, |(client, _)| client.0);
            let executed = executed.map_err(|_| BadSnapshot)?;
            // A single session may have a reply that is larger than the limit.
            let most = self.size_max.max(REPLY_HEADER_SIZE + RESULT_SIZE_MAX) as u64;
            let fits = (RING_SIZE_MIN as u64..=most).contains(&ring)
                && (self.sessions.is_empty() || self.size as u64 + ring <= self.size_max as u64);
            if !fits || count > SESSION_WINDOW as u64 || self.find(client).is_some() {
                return Err(BadSnapshot);
            }
            let mut session = Session::new(client);
            if ring as usize > RING_SIZE_MIN {
                session.grow(ring as usize);
            }
            let mut entries = Vec::with_capacity(count as usize);
            for _ in 0..count {
                entries.push(numbers::<2>(&mut from)?);
            }
            let newest = entries.last().map_or(0, |newest| newest[0]);
            if newest > sessions[executed].1.0 || !entries.is_sorted_by(|a, b| a[0] < b[0]) {
                return Err(BadSnapshot);
            }
            for [sequence, size] in entries {
                let room = (session.ring.len() - session.used) as u64;
                let body = from.get(..size.min(room + 1) as usize).ok_or(BadSnapshot)?;
                if size > room {
                    return Err(BadSnapshot);
                }
                from = &from[body.len()..];
                session.push(Sequence(sequence), body);
            }
            self.stamp += 1;
            session.stamp = self.stamp;
            self.size += session.ring.len();
            self.sessions.push(session);
            self.set_place(client, self.sessions.len() as u32 - 1);
        }
        Ok(())
    }

    /// Bytes reserved now.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Sessions that lost their replies to newer ones.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    #[inline]
    fn find(&self, client: ClientId) -> Option<usize> {
        let places = self.places.get(row(client))?;
        let at = *places.get(client.session() as usize)?;
        (at != NONE).then_some(at as usize)
    }

    #[cold]
    fn open(&mut self, client: ClientId) -> usize {
        self.make_room(RING_SIZE_MIN, client);
        self.size += RING_SIZE_MIN;
        self.sessions.push(Session::new(client));
        self.set_place(client, self.sessions.len() as u32 - 1);
        self.sessions.len() - 1
    }

    fn set_place(&mut self, client: ClientId, place: u32) {
        let (row, number) = (row(client), client.session() as usize);
        if self.places.len() <= row {
            self.places.resize_with(row + 1, Vec::new);
        }
        let places = &mut self.places[row];
        if places.len() <= number {
            places.resize(number + 1, NONE);
        }
        places[number] = place;
    }

    /// Drops the sessions not used for longest, but not `keep`, until `size` more bytes fit. Looks
    /// at every session, so it drops a sixteenth of them at once: many new sessions cost no more
    /// than a few look-ups each.
    fn make_room(&mut self, size: usize, keep: ClientId) {
        while self.size + size > self.size_max {
            let others = self.sessions.iter().filter(|session| session.client != keep);
            let mut ages: Vec<(u64, ClientId)> =
                others.map(|session| (session.stamp, session.client)).collect();
            if ages.is_empty() {
                return;
            }
            let last = ages.len() / 16;
            let (oldest, next, _) = ages.select_nth_unstable(last);
            for (_, client) in oldest.iter().chain([&*next]) {
                self.evict(*client);
            }
        }
    }

    fn evict(&mut self, client: ClientId) {
        let at = self.find(client).expect("only what is here goes");
        let gone = self.sessions.swap_remove(at);
        self.size -= gone.ring.len();
        self.evicted += 1;
        self.set_place(client, NONE);
        if let Some(moved) = self.sessions.get(at) {
            self.set_place(moved.client, at as u32);
        }
    }
}

/// The next numbers of a stream of them.
fn numbers<const N: usize>(from: &mut &[u8]) -> Result<[u64; N], BadSnapshot> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        let (bytes, rest) = from.split_first_chunk::<8>().ok_or(BadSnapshot)?;
        *number = u64::from_le_bytes(*bytes);
        *from = rest;
    }
    Ok(numbers)
}

impl Session {
    fn new(client: ClientId) -> Self {
        Self {
            client,
            stamp: 0,
            oldest: 0,
            count: 0,
            end: 0,
            used: 0,
            ring: vec![0; RING_SIZE_MIN].into_boxed_slice(),
            entries: Box::new([Entry::default(); SESSION_WINDOW]),
        }
    }

    /// Newest first.
    fn entries(&self) -> impl DoubleEndedIterator<Item = Entry> + '_ {
        let place = |back| self.entries[(self.oldest + back) % SESSION_WINDOW];
        (0..self.count).rev().map(place)
    }

    /// The bytes of an entry.
    fn parts(&self, entry: &Entry) -> (&[u8], &[u8]) {
        let (start, size) = (entry.start as usize, entry.size as usize);
        let first = size.min(self.ring.len() - start);
        (&self.ring[start..start + first], &self.ring[..size - first])
    }

    /// Is the ring large enough for a window of replies such as this one, of `size` bytes?
    #[inline]
    fn fits(&self, size: usize) -> bool {
        let now = self.ring.len();
        self.used + size <= now || self.count == SESSION_WINDOW && size <= now
    }

    /// The ring size that holds a window of replies such as this one, within the share; at least
    /// this one reply, and never smaller than now.
    fn ring_wanted(&self, size: usize, share: usize) -> usize {
        let needed = self.used + size;
        let now = self.ring.len();
        if self.fits(size) {
            return now;
        }
        let wanted = needed.checked_next_power_of_two().unwrap_or(needed).min(share);
        wanted.max(size).max(now)
    }

    /// Moves the replies into a larger ring.
    fn grow(&mut self, size: usize) {
        let mut ring = vec![0; size].into_boxed_slice();
        let mut at = 0;
        for back in 0..self.count {
            let place = (self.oldest + back) % SESSION_WINDOW;
            let (head, tail) = self.parts(&self.entries[place]);
            ring[at..at + head.len()].copy_from_slice(head);
            ring[at + head.len()..][..tail.len()].copy_from_slice(tail);
            self.entries[place].start = at as u32;
            at += self.entries[place].size as usize;
        }
        self.end = if at == size { 0 } else { at };
        self.ring = ring;
    }

    /// Drops the replies to requests before `oldest`. A ring without replies starts anew: a session
    /// with one request in flight keeps using the same bytes, which stay in the processor's cache.
    #[inline]
    fn give_up(&mut self, oldest: Sequence) {
        spec!("SMR.10");
        // The last one, so all of them: as for a session with one request in flight.
        let newest = (self.oldest + self.count).wrapping_sub(1) % SESSION_WINDOW;
        if self.count == 0 || self.entries[newest].sequence < oldest {
            (self.oldest, self.end, self.count, self.used) = (0, 0, 0, 0);
            return;
        }
        while self.entries[self.oldest].sequence < oldest {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        self.used -= self.entries[self.oldest].size as usize;
        self.oldest = (self.oldest + 1) % SESSION_WINDOW;
        self.count -= 1;
    }

    /// Appends a reply, dropping the oldest ones it needs the place of.
    #[inline(always)]
    fn push(&mut self, sequence: Sequence, body: &[u8]) {
        let size = self.ring.len();
        assert!(body.len() <= size, "the ring was grown for this reply");
        while self.count == SESSION_WINDOW || self.used + body.len() > size {
            self.drop_oldest();
        }
        let (start, end) = (self.end, self.end + body.len());
        if end <= size {
            self.ring[start..end].copy_from_slice(body);
        } else {
            let (head, tail) = body.split_at(size - start);
            self.ring[start..].copy_from_slice(head);
            self.ring[..tail.len()].copy_from_slice(tail);
        }
        self.end = if end < size { end } else { end - size };
        self.used += body.len();
        // Replies are far below 4 GiB.
        let entry = Entry { sequence, start: start as u32, size: body.len() as u32 };
        self.entries[(self.oldest + self.count) % SESSION_WINDOW] = entry;
        self.count += 1;
    }
}

/// The sessions of which client: the View Manager's, whose number is the last there can be, come first.
fn row(client: ClientId) -> usize {
    if is_view_manager(client) { 0 } else { client.identity() as usize + 1 }
}

#[cfg(test)]
mod tests;
