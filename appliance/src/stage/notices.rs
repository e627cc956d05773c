//! What the service tells sessions that did not ask, while it executes a batch.
//!
//! Owns the notices of a batch until its replies are in their ring. Always true: what is kept, and the number of each,
//! depends on what the service said only, so it is the same everywhere; replies go first, and notices take the room that is
//! left. Must not: wait, or repeat what was lost (rule CLI.13).

use tetrarch_consensus::limits::{NOTICE_SIZE_MAX, NOTICES_MAX};
use tetrarch_consensus::message::reply::{NoticeNumber, REPLY_HEADER_SIZE, ReplyHeader, Status};
use tetrarch_consensus::{ClientId, ConsensusId, Sequence, ViewId, spec};
use tetrarch_dataplane::frame::FramePool;
use tetrarch_dataplane::ring::Producer;

use super::Answer;
use super::reply_page::ReplyPage;

/// Bytes of the notices of a batch, with their headers, at most.
const BATCH_NOTICES_SIZE_MAX: usize = 1 << 20;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// Whole messages, one behind the other. Grows to what the service needs.
    bytes: Vec<u8>,
    /// To whom, and where each begins.
    entries: Vec<(ClientId, usize)>,
}

impl Notices {
    /// Room for `size` bytes to `to`, which the batch of `cid` gave rise to.
    pub(super) fn add(
        &mut self,
        (cid, view): (ConsensusId, ViewId),
        to: ClientId,
        size: usize,
    ) -> Option<&mut [u8]> {
        spec!("CLI.13");
        let (index, start) = (self.entries.len(), self.bytes.len());
        let end = start.checked_add(REPLY_HEADER_SIZE)?.checked_add(size)?;
        if size > NOTICE_SIZE_MAX || index >= NOTICES_MAX || end > BATCH_NOTICES_SIZE_MAX {
            return None;
        }
        self.entries.push((to, start));
        self.bytes.resize(end, 0);
        let (header, content) = self.bytes[start..].split_at_mut(REPLY_HEADER_SIZE);
        ReplyHeader {
            client: to,
            sequence: Sequence(NoticeNumber::new(cid, index).0),
            view,
            read_only: false,
            digest: false,
            status: Status::Notice,
            result_size: size as u32,
        }
        .write(header);
        Some(content)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Puts them into the ring behind the replies. Returns how many found no room or no memory.
    pub(super) fn send(
        &mut self,
        page: &mut ReplyPage,
        pool: &FramePool,
        replies: &mut Producer<Answer>,
    ) -> usize {
        let count = self.entries.len();
        let mut sent = 0;
        for (at, &(client, start)) in self.entries.iter().enumerate() {
            let end = self.entries.get(at + 1).map_or(self.bytes.len(), |(_, next)| *next);
            let message = &self.bytes[start..end];
            if replies.room() <= page.len() {
                break;
            }
            if !page.fits(message.len()) {
                page.send(replies);
                if !page.begin(pool, message.len(), count - at) {
                    break;
                }
            }
            page.reserve(message.len());
            page.bytes_mut().copy_from_slice(message);
            page.keep(client, true);
            sent += 1;
        }
        page.send(replies);
        self.entries.clear();
        self.bytes.clear();
        count - sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetrarch_consensus::Lsn;
    use tetrarch_dataplane::arena::{Arena, ArenaSpec, SlotClass};
    use tetrarch_dataplane::ring::ring;

    const WHEN: (ConsensusId, ViewId) = (ConsensusId(9), ViewId(2));

    fn add(notices: &mut Notices, to: u64, content: &[u8]) -> bool {
        let room = notices.add(WHEN, ClientId(to), content.len());
        room.map(|out| out.copy_from_slice(content)).is_some()
    }

    fn pool(count: u32) -> (Arena, FramePool) {
        let classes = vec![SlotClass { slot_size: 4096 + 64, count }];
        let arena = Arena::heap(&ArenaSpec { classes }).expect("a small arena");
        let pool = arena.pool();
        (arena, pool)
    }

    #[test]
    fn notices_leave_behind_the_replies_with_numbers_of_their_own() {
        // rule: CLI.13
        let (_arena, pool) = pool(4);
        let (mut tx, mut rx) = ring(64);
        let (mut notices, mut page) = (Notices::default(), ReplyPage::new());
        page.start(Lsn(7), true);
        assert!(add(&mut notices, 1, b"one") && add(&mut notices, 2, b"two"));
        assert_eq!(notices.send(&mut page, &pool, &mut tx), 0);
        for (index, (client, content)) in [(1, b"one"), (2, b"two")].into_iter().enumerate() {
            let Answer { client: to, body, whole, after } = rx.pop().expect("two of them");
            assert_eq!((to, whole, after), (ClientId(client), true, Lsn(7)));
            let header = ReplyHeader::parse(body.bytes()).expect("our own");
            assert_eq!(header.sequence.0, NoticeNumber::new(WHEN.0, index).0);
            assert_eq!((header.status, header.view), (Status::Notice, WHEN.1));
            assert_eq!(&body.bytes()[REPLY_HEADER_SIZE..], content);
        }
        assert!(notices.is_empty() && rx.pop().is_none());
    }

    #[test]
    fn without_room_or_memory_they_are_lost_and_the_limits_are_the_same_everywhere() {
        // rule: CLI.13
        let (_arena, pool) = pool(1);
        let (mut tx, rx) = ring(2);
        let (mut notices, mut page) = (Notices::default(), ReplyPage::new());
        page.start(Lsn(0), true);
        assert!(!add(&mut notices, 1, &[0; NOTICE_SIZE_MAX + 1]));
        assert!((0..3).all(|to| add(&mut notices, to, b"news")));
        assert_eq!(notices.send(&mut page, &pool, &mut tx), 1, "the ring takes two");
        let large = [0; NOTICE_SIZE_MAX];
        let taken = (0..NOTICES_MAX as u64).filter(|to| add(&mut notices, *to, &large)).count();
        assert_eq!(taken, BATCH_NOTICES_SIZE_MAX / (REPLY_HEADER_SIZE + NOTICE_SIZE_MAX));
        assert_eq!(notices.send(&mut page, &pool, &mut tx), taken, "the ring is full");
        drop(rx);
        let taken = (0..2 * NOTICES_MAX as u64).filter(|to| add(&mut notices, *to, b"")).count();
        assert_eq!(taken, NOTICES_MAX);
    }
}
