//! The last replies of each session, for clients that ask again.
//!
//! Owns copies of reply bodies. Always true: the newest reply of a session is kept while the
//! session is among those used last, older ones within the session's window and share of bytes; the
//! total is bounded; a session in steady use causes no allocation. Must not: decide what was
//! executed (the core does), or hold frames: a slow client must not pin the memory of messages.
//!
//! Each session has a ring of bytes that grows to the size its replies need, up to its share. When
//! the sum reaches the limit, the session not used for longest loses its ring.

use std::collections::{BTreeMap, VecDeque};

use tetrarch_consensus::limits::SESSION_WINDOW;
use tetrarch_consensus::{ClientId, Sequence};

/// The smallest ring: a window of small replies without growing.
const RING_SIZE_MIN: usize = 4096;

/// One kept reply: where its bytes are in the session's ring. `start + size` may wrap.
#[derive(Clone, Copy, Debug)]
struct Entry {
    sequence: Sequence,
    start: usize,
    size: usize,
}

/// A session's replies, oldest first.
#[derive(Debug)]
struct Session {
    entries: VecDeque<Entry>,
    ring: Box<[u8]>,
    /// Bytes in use, from the first entry's start to the last one's end.
    used: usize,
    /// When it was last used, as a number that grows with each use.
    stamp: u64,
}

/// Replies by session.
#[derive(Debug)]
pub struct ReplyCache {
    sessions: BTreeMap<ClientId, Session>,
    /// Sum of the rings, in bytes.
    size: usize,
    size_max: usize,
    session_size_max: usize,
    stamp: u64,
    evicted: u64,
}

impl ReplyCache {
    /// At most `size_max` bytes in all and `session_size_max` in one session, except that a single
    /// larger reply is kept alone.
    pub fn new(size_max: usize, session_size_max: usize) -> Self {
        Self {
            sessions: BTreeMap::new(),
            size: 0,
            size_max,
            session_size_max: session_size_max.max(RING_SIZE_MIN),
            stamp: 0,
            evicted: 0,
        }
    }

    /// Keeps `body`, the reply to `sequence`. Sequences of a session come in execution order.
    pub fn insert(&mut self, client: ClientId, sequence: Sequence, body: &[u8]) {
        self.stamp += 1;
        let stamp = self.stamp;
        if !self.sessions.contains_key(&client) {
            self.make_room(RING_SIZE_MIN, client);
            self.size += RING_SIZE_MIN;
        }
        let session = self.sessions.entry(client).or_insert_with(Session::new);
        session.stamp = stamp;
        let wanted = session.ring_wanted(body.len(), self.session_size_max);
        let grow = wanted - session.ring.len();
        if grow > 0 {
            self.make_room(grow, client);
            self.size += grow;
        }
        let session = self.sessions.entry(client).or_insert_with(Session::new);
        session.grow(wanted);
        session.push(sequence, body);
    }

    /// The kept reply to `sequence`, in two parts when it wraps around the end of the ring.
    pub fn get(&mut self, client: ClientId, sequence: Sequence) -> Option<(&[u8], &[u8])> {
        self.stamp += 1;
        let session = self.sessions.get_mut(&client)?;
        session.stamp = self.stamp;
        let entry = session.entries.iter().rev().find(|entry| entry.sequence == sequence)?;
        let first = entry.size.min(session.ring.len() - entry.start);
        let head = &session.ring[entry.start..entry.start + first];
        Some((head, &session.ring[..entry.size - first]))
    }

    /// Bytes reserved now.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Sessions that lost their replies to newer ones.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Drops the sessions not used for longest, but not `keep`, until `size` more bytes fit. Looks
    /// at every session, so it drops a sixteenth of them at once: many new sessions cost no more
    /// than a few look-ups each.
    fn make_room(&mut self, size: usize, keep: ClientId) {
        while self.size + size > self.size_max {
            let mut ages: Vec<(u64, ClientId)> = self
                .sessions
                .iter()
                .filter(|(client, _)| **client != keep)
                .map(|(client, session)| (session.stamp, *client))
                .collect();
            if ages.is_empty() {
                return;
            }
            let last = ages.len() / 16;
            let (oldest, next, _) = ages.select_nth_unstable(last);
            for (_, client) in oldest.iter().chain([&*next]) {
                if let Some(session) = self.sessions.remove(client) {
                    self.size -= session.ring.len();
                    self.evicted += 1;
                }
            }
        }
    }
}

impl Session {
    fn new() -> Self {
        Self {
            entries: VecDeque::with_capacity(SESSION_WINDOW),
            ring: vec![0; RING_SIZE_MIN].into_boxed_slice(),
            used: 0,
            stamp: 0,
        }
    }

    /// The ring size that holds a window of replies such as this one, within the share; at least
    /// this one reply, and never smaller than now.
    fn ring_wanted(&self, size: usize, share: usize) -> usize {
        let needed = self.used + size;
        let now = self.ring.len();
        if needed <= now || self.entries.len() == SESSION_WINDOW && size <= now {
            return now;
        }
        let wanted = needed.checked_next_power_of_two().unwrap_or(needed).min(share);
        wanted.max(size).max(now)
    }

    /// Moves the replies into a larger ring.
    fn grow(&mut self, size: usize) {
        if size <= self.ring.len() {
            return;
        }
        let mut ring = vec![0; size].into_boxed_slice();
        let mut at = 0;
        for entry in &mut self.entries {
            let first = entry.size.min(self.ring.len() - entry.start);
            ring[at..at + first].copy_from_slice(&self.ring[entry.start..entry.start + first]);
            ring[at + first..at + entry.size].copy_from_slice(&self.ring[..entry.size - first]);
            entry.start = at;
            at += entry.size;
        }
        self.ring = ring;
    }

    /// Appends a reply, dropping the oldest ones it needs the place of.
    fn push(&mut self, sequence: Sequence, body: &[u8]) {
        assert!(body.len() <= self.ring.len(), "the ring was grown for this reply");
        while self.entries.len() == SESSION_WINDOW || self.used + body.len() > self.ring.len() {
            let Some(oldest) = self.entries.pop_front() else {
                break;
            };
            self.used -= oldest.size;
        }
        let start = match self.entries.back() {
            Some(last) => (last.start + last.size) % self.ring.len(),
            None => 0,
        };
        let first = body.len().min(self.ring.len() - start);
        self.ring[start..start + first].copy_from_slice(&body[..first]);
        self.ring[..body.len() - first].copy_from_slice(&body[first..]);
        self.entries.push_back(Entry { sequence, start, size: body.len() });
        self.used += body.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(cache: &mut ReplyCache, client: u64, counter: u32) -> Option<Vec<u8>> {
        let (a, b) = cache.get(ClientId(client), Sequence::new(1, counter))?;
        Some([a, b].concat())
    }

    fn insert(cache: &mut ReplyCache, client: u64, counter: u32, body: &[u8]) {
        cache.insert(ClientId(client), Sequence::new(1, counter), body);
    }

    #[test]
    fn a_whole_window_of_small_replies_is_kept_and_no_more() {
        let mut cache = ReplyCache::new(1 << 20, 1 << 16);
        for counter in 1..=200u32 {
            insert(&mut cache, 1, counter, &counter.to_le_bytes());
        }
        let first = 201 - SESSION_WINDOW as u32;
        for counter in first..=200 {
            assert_eq!(get(&mut cache, 1, counter), Some(counter.to_le_bytes().to_vec()));
        }
        assert_eq!(get(&mut cache, 1, first - 1), None);
        assert_eq!(get(&mut cache, 2, 200), None);
        assert_eq!(cache.size(), RING_SIZE_MIN, "no growth for what fits");
    }

    #[test]
    fn replies_of_all_sizes_survive_growing_and_wrapping() {
        let mut cache = ReplyCache::new(1 << 20, 1 << 14);
        let body = |counter: u32| vec![counter as u8; (counter as usize * 977) % 3000];
        for counter in 1..=500 {
            insert(&mut cache, 1, counter, &body(counter));
            for back in 0..3.min(counter) {
                assert_eq!(get(&mut cache, 1, counter - back), Some(body(counter - back)));
            }
        }
        assert!(cache.size() <= 1 << 14);
    }

    #[test]
    fn one_reply_larger_than_the_share_is_kept_alone() {
        let mut cache = ReplyCache::new(1 << 20, 1 << 13);
        insert(&mut cache, 1, 1, b"small");
        insert(&mut cache, 1, 2, &[7; 100_000]);
        assert_eq!(get(&mut cache, 1, 2), Some(vec![7; 100_000]));
        assert_eq!(get(&mut cache, 1, 1), None);
        insert(&mut cache, 1, 3, b"small again");
        assert_eq!(get(&mut cache, 1, 3), Some(b"small again".to_vec()));
    }

    #[test]
    fn the_session_not_used_for_longest_goes_first_and_the_sum_is_bounded() {
        let mut cache = ReplyCache::new(4 * RING_SIZE_MIN, RING_SIZE_MIN);
        for client in 1..=4 {
            insert(&mut cache, client, 1, b"x");
        }
        assert!(get(&mut cache, 1, 1).is_some(), "used now");
        insert(&mut cache, 5, 1, b"x");
        assert_eq!(get(&mut cache, 2, 1), None);
        assert!(get(&mut cache, 1, 1).is_some() && get(&mut cache, 5, 1).is_some());
        assert_eq!((cache.size(), cache.evicted()), (4 * RING_SIZE_MIN, 1));
    }
}
