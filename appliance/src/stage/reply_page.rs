//! The frame that the replies of a batch are written into, one behind the other.
//!
//! Owns replies until they are in the ring to egress. Always true: replies leave in the order in which
//! they were written, and each is a slice of its page, so that a page costs one slot and a reply a count.
//! Must not: grow. A page is as large as what is left to answer may need, and never larger than
//! [`PAGE_SIZE`] unless one reply is: what a slow client can hold with one small reply is bounded by it.

use tetrarch_consensus::limits::BATCH_REQUESTS_MAX;
use tetrarch_consensus::{ClientId, Lsn};
use tetrarch_dataplane::frame::{FrameMut, FramePool};
use tetrarch_dataplane::ring::Producer;

use super::Answer;

/// Bytes of a page: so many small replies that a slot for each would cost more than they do, and few
/// enough that memory is back soon.
const PAGE_SIZE: usize = 4096;

/// A reply in the page.
#[derive(Clone, Copy, Debug)]
struct Entry {
    client: ClientId,
    start: u32,
    size: u32,
    whole: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct ReplyPage {
    frame: Option<FrameMut>,
    capacity: usize,
    /// Where the reply in the making begins and ends.
    start: usize,
    end: usize,
    entries: Vec<Entry>,
    /// What has to be durable before anybody hears of them.
    after: Lsn,
    is_open: bool,
}

impl ReplyPage {
    pub(super) fn new() -> Self {
        let entries = Vec::with_capacity(BATCH_REQUESTS_MAX);
        let (after, is_open) = (Lsn(0), false);
        Self { frame: None, capacity: 0, start: 0, end: 0, entries, after, is_open }
    }

    /// The replies from here on leave when `after` is durable; when it is not open, none fits.
    pub(super) fn start(&mut self, after: Lsn, is_open: bool) {
        debug_assert!(self.entries.is_empty(), "the last page was sent");
        (self.after, self.is_open) = (after, is_open);
    }

    /// Replies that are not in the ring yet.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Does a reply of `size` bytes fit behind the others?
    #[inline]
    pub(super) fn fits(&self, size: usize) -> bool {
        size <= self.capacity - self.end && self.len() < BATCH_REQUESTS_MAX
    }

    /// Begins a page for a reply of `size` bytes, with room for `left` of them if that is not too much.
    /// The one before was sent. False when there is no memory, or nobody is to hear of it.
    pub(super) fn begin(&mut self, pool: &FramePool, size: usize, left: usize) -> bool {
        debug_assert!(self.frame.is_none() && self.entries.is_empty(), "the last page was sent");
        if !self.is_open {
            return false;
        }
        let wanted = size.saturating_mul(left).min(PAGE_SIZE).max(size);
        self.frame = pool.alloc(wanted).or_else(|| pool.alloc(size));
        self.capacity = self.frame.as_ref().map_or(0, FrameMut::capacity);
        self.frame.is_some()
    }

    /// The place of the next reply, which fits.
    #[inline]
    pub(super) fn reserve(&mut self, size: usize) {
        debug_assert!(self.fits(size), "the caller asked");
        self.start = self.end;
        self.end += size;
    }

    /// The bytes of the reply in the making.
    #[inline]
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let frame = self.frame.as_mut().expect("a reply in the making lies in a page");
        &mut frame.bytes_mut()[self.start..self.end]
    }

    /// It is ready, for `client`.
    #[inline]
    pub(super) fn keep(&mut self, client: ClientId, whole: bool) {
        // Slots are below 4 GiB.
        let (start, size) = (self.start as u32, (self.end - self.start) as u32);
        self.entries.push(Entry { client, start, size, whole });
    }

    /// Puts what is ready into the ring, which has room for it.
    pub(super) fn send(&mut self, replies: &mut Producer<Answer>) {
        let Some(frame) = self.frame.take() else {
            return;
        };
        let frame = frame.freeze(self.end as u32);
        let (count, after) = (self.entries.len(), self.after);
        let answers = self.entries.drain(..).map(|Entry { client, start, size, whole }| {
            let body = frame.slice(start as usize, size as usize).expect("it was written there");
            Answer { client, body, whole, after }
        });
        let pushed = replies.extend(answers);
        debug_assert!(pushed == count, "the room was checked");
        (self.capacity, self.start, self.end) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetrarch_dataplane::arena::{Arena, ArenaSpec, SlotClass};
    use tetrarch_dataplane::ring::ring;

    #[test]
    fn replies_share_a_page_until_it_is_full_and_leave_in_order() {
        let classes =
            vec![SlotClass { slot_size: 4096, count: 1 }, SlotClass { slot_size: 8192, count: 1 }];
        let arena = Arena::heap(&ArenaSpec { classes }).expect("a small arena");
        let pool = arena.pool();
        let (mut tx, mut rx) = ring(64);
        let mut page = ReplyPage::new();
        assert!(!page.begin(&pool, 1, 1), "nobody is to hear of it");
        page.start(Lsn(7), true);
        assert!(!page.fits(1), "no page yet");
        assert!(page.begin(&pool, 1000, 100));
        let mut written = 0;
        while page.fits(1000) {
            page.reserve(1000);
            page.bytes_mut().fill(written);
            page.keep(ClientId(u64::from(written)), written % 2 == 0);
            written += 1;
        }
        assert_eq!((written, page.len(), rx.len()), (4, 4, 0));
        page.send(&mut tx);
        assert!(page.begin(&pool, 8000, 100), "one reply may be larger than a page");
        page.reserve(8000);
        page.bytes_mut().fill(written);
        page.keep(ClientId(u64::from(written)), true);
        page.send(&mut tx);
        assert!(!page.begin(&pool, 1, 1), "both slots are in use");
        page.send(&mut tx);
        assert_eq!(rx.len(), 5);
        for at in 0..=written {
            let Answer { client, body, whole, after } = rx.pop().expect("five of them");
            assert_eq!((client, whole, after), (ClientId(u64::from(at)), at % 2 == 0, Lsn(7)));
            assert_eq!(body.size(), if at < written { 1000 } else { 8000 });
            assert!(body.bytes().iter().all(|byte| *byte == at));
        }
        assert_eq!(arena.free_slots(), 2, "pages come back with their last reply");
    }

    #[test]
    fn a_page_is_no_larger_than_what_is_left_to_answer() {
        let classes = [64, 256, 4096].map(|slot_size| SlotClass { slot_size, count: 1 });
        let arena = Arena::heap(&ArenaSpec { classes: classes.into() }).expect("a small arena");
        let pool = arena.pool();
        let (mut tx, _rx) = ring(4);
        let mut page = ReplyPage::new();
        assert!(!page.begin(&pool, 1, 1), "nobody is to hear of it");
        page.start(Lsn(7), true);
        for (left, capacity) in [(1, 64), (3, 256), (1000, 4096)] {
            assert!(page.begin(&pool, 64, left));
            assert_eq!(page.capacity, capacity);
            page.send(&mut tx);
        }
        let held = (pool.alloc(4096), pool.alloc(200));
        assert!(page.begin(&pool, 64, 1000), "what is there must do");
        assert_eq!(page.capacity, 64);
        drop(held);
    }
}
