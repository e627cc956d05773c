//! What replicas tell this client without being asked (rule CLI.13).
//!
//! Owns the notices that too few members have sent so far, and which were told. Always true: a notice is told once, when
//! one-correct members of the view sent the same; each member keeps at most [`UNTOLD_MAX`] others waiting, so a faulty
//! one takes no place but its own. Must not: wait for a notice that did not come. They may be lost.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::{ClientAction, ClientCore};
use crate::message::reply::{NoticeNumber, Reply};
use crate::payload::Payload;
use crate::protocol::Actions;
use crate::types::{ClientId, Digest};

/// Notices of one member that others have not confirmed yet, at most; the oldest is forgotten for a new one.
pub const UNTOLD_MAX: usize = 64;

/// Notices that were told and are remembered, so that members that are late do not make them count again.
const TOLD_MAX: usize = 1024;

/// What one correct member told, at least.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// To which session.
    pub client: ClientId,
    /// Which: the same everywhere, and larger than those of what was executed before.
    pub number: NoticeNumber,
    /// What: opaque, at most [`NOTICE_SIZE_MAX`](crate::limits::NOTICE_SIZE_MAX) bytes.
    pub content: Vec<u8>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// By number and digest of the whole message.
    waiting: BTreeMap<(NoticeNumber, Digest), Waiting>,
    told: BTreeSet<NoticeNumber>,
    /// Nothing up to here is told any more.
    floor: Option<NoticeNumber>,
}

#[derive(Debug)]
struct Waiting {
    /// Bit i: the member at place i of the view sent it.
    members: u64,
    content: Vec<u8>,
}

impl Notices {
    /// The member at place `member` sent a notice. Returns it if `needed` of them have now.
    pub(super) fn hear(
        &mut self,
        member: usize,
        (client, number): (ClientId, NoticeNumber),
        (digest, content): (Digest, &[u8]),
        needed: usize,
    ) -> Option<Notice> {
        crate::spec!("CLI.13");
        if self.floor.is_some_and(|floor| number <= floor) || self.told.contains(&number) {
            return None;
        }
        let own = 1 << member;
        let key = (number, digest);
        if !self.waiting.contains_key(&key) {
            self.make_room(own);
        }
        let entry = self.waiting.entry(key);
        let waiting = entry.or_insert_with(|| Waiting { members: 0, content: content.to_vec() });
        waiting.members |= own;
        if (waiting.members.count_ones() as usize) < needed {
            return None;
        }
        let content = self.waiting.remove(&key)?.content;
        self.tell(number);
        Some(Notice { client, number, content })
    }

    /// Places are those of other members from now on.
    pub(super) fn enter_view(&mut self) {
        self.waiting.clear();
    }

    fn make_room(&mut self, own: u64) {
        let mine = || self.waiting.iter().filter(|(_, waiting)| waiting.members & own != 0);
        if mine().count() < UNTOLD_MAX {
            return;
        }
        let Some(oldest) = mine().next().map(|(key, _)| *key) else { return };
        if let Some(waiting) = self.waiting.get_mut(&oldest) {
            waiting.members &= !own;
            if waiting.members == 0 {
                self.waiting.remove(&oldest);
            }
        }
    }

    fn tell(&mut self, number: NoticeNumber) {
        // Another content under this number is a lie.
        self.waiting.retain(|(other, _), _| *other != number);
        self.told.insert(number);
        if self.told.len() > TOLD_MAX {
            self.floor = self.told.pop_first();
        }
    }
}

impl<P: Payload> ClientCore<P> {
    /// A member sent a notice.
    pub(super) fn on_notice(
        &mut self,
        member: usize,
        reply: &Reply<P>,
        actions: &mut Actions<ClientAction<P>>,
    ) {
        let about = (reply.header.client, NoticeNumber(reply.header.sequence.0));
        let said = (reply.digest, reply.result());
        let needed = self.follower.view().quorums().one_correct();
        if let Some(notice) = self.notices.hear(member, about, said, needed) {
            actions.push(ClientAction::Notice(notice));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: ClientId = ClientId(3 << 32 | 1);

    fn hear(notices: &mut Notices, member: usize, number: u64, content: &[u8]) -> Option<Notice> {
        let digest = Digest(*blake3::hash(content).as_bytes());
        notices.hear(member, (SESSION, NoticeNumber(number)), (digest, content), 2)
    }

    #[test]
    fn a_notice_is_told_once_and_only_if_two_say_the_same() {
        // rule: CLI.13
        let mut notices = Notices::default();
        assert_eq!(hear(&mut notices, 0, 7, b"lie"), None);
        assert_eq!(hear(&mut notices, 0, 7, b"lie"), None, "one member is one member");
        assert_eq!(hear(&mut notices, 1, 7, b"news"), None);
        let told = hear(&mut notices, 2, 7, b"news").expect("two say so");
        let expected = Notice { client: SESSION, number: NoticeNumber(7), content: b"news".into() };
        assert_eq!(told, expected);
        assert!(notices.waiting.is_empty(), "the lie is forgotten");
        assert_eq!(hear(&mut notices, 3, 7, b"news"), None);
        assert_eq!(hear(&mut notices, 0, 7, b"news"), None);
        // An earlier one may come later.
        assert_eq!(hear(&mut notices, 0, 6, b"old"), None);
        assert!(hear(&mut notices, 1, 6, b"old").is_some());
    }

    #[test]
    fn who_floods_takes_its_own_places_only() {
        // rule: CLI.13
        let mut notices = Notices::default();
        assert_eq!(hear(&mut notices, 1, 5, b"news"), None);
        for number in 0..10 * UNTOLD_MAX as u64 {
            assert_eq!(hear(&mut notices, 0, number, &number.to_le_bytes()), None);
        }
        assert_eq!(notices.waiting.len(), UNTOLD_MAX + 1);
        assert!(hear(&mut notices, 2, 5, b"news").is_some());
        notices.enter_view();
        assert!(notices.waiting.is_empty());
    }

    #[test]
    fn what_was_told_long_ago_is_not_told_again() {
        // rule: CLI.13
        let mut notices = Notices::default();
        let last = 2 * TOLD_MAX as u64;
        for number in 0..last {
            for member in 0..2 {
                let told = hear(&mut notices, member, number, b"news");
                assert_eq!(told.is_some(), member == 1, "{number}");
            }
        }
        for number in 0..last {
            for member in 2..4 {
                assert_eq!(hear(&mut notices, member, number, b"news"), None, "{number}");
            }
        }
        assert_eq!((notices.told.len(), notices.waiting.len()), (TOLD_MAX, 0));
    }
}
