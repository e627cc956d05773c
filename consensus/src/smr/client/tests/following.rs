//! A client whose members change.

use super::*;
use crate::membership::{Member, Membership, ViewRequest};
use crate::verified::Verified;

/// View `id` with these members, signed by number `signature`.
fn news(id: u32, ids: &[u16], f: usize, signature: u8) -> Verified<ViewRequest> {
    let member = |id: &u16| Member {
        id: ReplicaId(*id),
        address: alloc::format!("host-{id}:1"),
        static_key: [*id as u8; 32],
        signing_key: [*id as u8; 32],
    };
    let members = ids.iter().map(member).collect();
    let next = Membership::new(1, ViewId(id), f, FaultModel::Byzantine, members);
    Verified::vouch(ViewRequest { next: next.expect("possible"), signature: [signature; 64] })
}

impl Harness {
    fn news(&mut self, member: u16, news: &Verified<ViewRequest>) {
        let input = ClientInput::News { from: ReplicaId(member), news: Box::new(news.clone()) };
        self.core.step(self.now, input, &mut self.actions);
        self.collect();
    }

    /// Members 10 to 12 say that they are in view 1, with member 14 in the place of 13.
    fn follow(&mut self) {
        let next = news(1, &[10, 11, 12, 14], 1, 1);
        [10, 11].iter().for_each(|member| self.news(*member, &next));
        assert_eq!(self.followed, [ViewId(1)]);
        self.pass(Duration::ZERO);
    }
}

#[test]
fn a_later_view_counts_when_one_correct_of_its_members_vouch_for_it() {
    // rule: CLI.12
    let mut harness = Harness::plain();
    let next = news(1, &[10, 11, 12, 14], 1, 1);
    harness.news(10, &next);
    harness.news(10, &next);
    harness.news(13, &next);
    harness.news(99, &next);
    assert!(harness.followed.is_empty(), "one of its members, twice, and two that are none");
    let other = news(1, &[10, 11, 12, 15], 1, 1);
    harness.news(12, &other);
    assert!(harness.followed.is_empty(), "they say different things");
    harness.news(11, &news(1, &[10, 11, 12, 14], 1, 2));
    assert_eq!(harness.followed, [ViewId(1)], "the signatures may differ");
    assert_eq!(harness.core.view().members(), [10, 11, 12, 14].map(ReplicaId));
    // What is over does not come back, and what was said of it is nobody's voice for the next.
    harness.news(12, &next);
    harness.news(14, &news(0, &[10, 11, 12, 13], 1, 1));
    assert_eq!(harness.followed, [ViewId(1)]);
    harness.news(14, &news(3, &[10, 11, 12, 14, 15, 16, 17], 2, 1));
    harness.news(15, &news(3, &[10, 11, 12, 14, 15, 16, 17], 2, 1));
    assert_eq!(harness.followed, [ViewId(1)], "f of that view is 2");
    harness.news(10, &news(3, &[10, 11, 12, 14, 15, 16, 17], 2, 1));
    assert_eq!(
        (harness.followed.as_slice(), harness.core.view().n()),
        (&[ViewId(1), ViewId(3)][..], 7)
    );
}

#[test]
fn whoever_tells_of_a_view_that_never_was_does_not_hide_the_true_one() {
    // rule: CLI.12
    let mut harness = Harness::plain();
    for id in [1, 2, 9] {
        harness.news(12, &news(id, &[10, 11, 12, 15], 1, 1));
        harness.news(12, &news(1, &[10, 11, 12, 16], 1, 1));
    }
    harness.follow();
}

#[test]
fn what_is_in_flight_is_sent_again_under_its_numbers_to_the_new_members() {
    // rule: CLI.12
    let mut harness = Harness::plain();
    harness.connect();
    let tickets = [harness.ordered(b"a"), harness.ordered(b"b")];
    let read = harness.invoke(1, Mode::ReadOnly, b"c").expect("room");
    let before = harness.take_sent();
    harness.all_reply(&before[1].header, b"b");
    for member in [0, 1] {
        harness.reply(member, &before[0].header, Status::Ok, b"a");
        harness.reply(member, &before[2].header, Status::Ok, b"c");
    }
    harness.follow();
    let after = harness.take_sent();
    let numbers: Vec<_> = after.iter().map(|it| (it.header.client, it.header.sequence)).collect();
    let expected = [0, 2].map(|at: usize| (before[at].header.client, before[at].header.sequence));
    assert_eq!(numbers, expected, "what has its result is not sent again");
    for sent in &after {
        assert_eq!((sent.header.view, sent.to, sent.sign), (1, To::All, false));
        let replier = sent.header.replier.index().expect("three are up");
        assert!(replier < 3, "who is new has no link yet");
    }
    assert_eq!(after[0].operation, b"a");
    // Nothing that was said before counts any more, and nothing that is said in that view.
    harness.reply(2, &before[0].header, Status::Ok, b"a");
    assert!(harness.completed.is_empty());
    for member in [0, 1, 4] {
        for sent in [&after[0], &after[1]] {
            let result = sent.operation.clone();
            harness.reply_in(ViewId(1), member, &sent.header, Status::Ok, &result);
        }
    }
    harness.completed.sort_by_key(|(ticket, _)| *ticket);
    let mut expected = alloc::vec![
        (tickets[0], Ok(b"a".to_vec())),
        (tickets[1], Ok(b"b".to_vec())),
        (read, Ok(b"c".to_vec())),
    ];
    expected.sort_by_key(|(ticket, _)| *ticket);
    assert_eq!(harness.completed, expected);
    assert_eq!((harness.core.in_flight_count(), harness.core.kept_size), (0, 0));
}

#[test]
fn a_member_that_comes_gets_what_is_in_flight_when_its_link_is_there() {
    // rule: CLI.4, CLI.12
    let mut harness = Harness::plain();
    harness.connect();
    harness.ordered(b"a");
    harness.follow();
    harness.take_sent();
    let connected = ClientInput::Connected(ReplicaId(14));
    harness.core.step(harness.now, connected, &mut harness.actions);
    harness.pass(Duration::ZERO);
    let sent = harness.take_sent();
    assert_eq!((sent.len(), sent[0].to, sent[0].header.view), (1, To::One(ReplicaId(14)), 1));
}

#[test]
fn more_than_one_step_can_send_is_sent_in_several() {
    // rule: CLI.12, CORE.2
    let mut harness = Harness::new(config(SESSION_WINDOW), Matching::Equal);
    for session in 0..8 {
        for mode in [Mode::Ordered, Mode::ReadOnly] {
            (0..SESSION_WINDOW).for_each(|_| {
                harness.invoke(session, mode, b"x").expect("room");
            });
        }
    }
    harness.take_sent();
    harness.follow();
    let sent = harness.take_sent();
    assert_eq!(sent.len(), 8 * 2 * SESSION_WINDOW);
    assert!(sent.iter().all(|sent| sent.header.view == 1));
}

#[test]
fn without_memory_for_it_a_request_is_sent_in_the_new_view_later() {
    // rule: CLI.12
    let empty = alloc::sync::Arc::new(core::sync::atomic::AtomicBool::new(false));
    let set = |value| empty.store(value, core::sync::atomic::Ordering::Relaxed);
    let mut harness = Harness::plain();
    harness.core.pool = Box::new(Tight(empty.clone()));
    harness.ordered(b"a");
    harness.take_sent();
    set(true);
    harness.follow();
    harness.pass(PAUSE * 2);
    assert!(harness.take_sent().is_empty(), "not in the view that is over");
    set(false);
    harness.pass(PAUSE * 4);
    let sent = harness.take_sent();
    assert_eq!((sent.len(), sent[0].header.view, sent[0].sign), (1, 1, true));
    assert_eq!((&sent[0].operation[..], sent[0].header.sequence), (&b"a"[..], Sequence::new(5, 1)));
}
