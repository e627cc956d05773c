//! The client core against scripted members, rule by rule.

use alloc::vec::Vec;

use super::*;
use crate::batch::{REQUEST_HEADER_SIZE, Replier, RequestHeader};
use crate::config::FaultModel;
use crate::message::reply::{DIGEST_REPLY_SIZE, ReplyHeader, write_digest_reply};
use crate::payload::{HeapPool, SharedBytes};
use crate::types::Digest;
use harness::*;

mod digests;
mod following;
mod harness;
mod overload;
mod properties;

#[test]
fn requests_go_to_all_members_and_are_numbered_without_gaps() {
    // rule: CLI.1, CLI.4
    let mut harness = Harness::plain();
    for operation in [b"a", b"b", b"c"] {
        harness.ordered(operation);
    }
    harness.invoke(1, Mode::Ordered, b"d").expect("room");
    let sent = harness.take_sent();
    assert!(sent.iter().all(|sent| sent.to == To::All && !sent.sign && !sent.header.read_only));
    let numbers: Vec<_> = sent.iter().map(|it| (it.header.client, it.header.sequence)).collect();
    let expected = [(0, 1), (0, 2), (0, 3), (1, 1)];
    let expected = expected
        .map(|(session, counter)| (ClientId::new(IDENTITY, session), Sequence::new(5, counter)));
    assert_eq!(numbers, expected);
}

#[test]
fn a_request_names_the_oldest_one_that_may_be_sent_again() {
    // rule: CLI.10
    let mut harness = Harness::new(config(3), Matching::Equal);
    for operation in [b"a", b"b", b"c"] {
        harness.ordered(operation);
    }
    harness.invoke(0, Mode::ReadOnly, b"read").expect("room");
    let sent = harness.take_sent();
    let unanswered: Vec<_> = sent.iter().map(|sent| sent.header.unanswered).collect();
    assert_eq!(unanswered, [0, 1, 2, 0], "the last is a read");
    // The second has a result, and the first one still none.
    harness.all_reply(&sent[1].header, b"x");
    assert_eq!(harness.invoke(0, Mode::Ordered, b"d").err(), Some(Busy::Window));
    harness.all_reply(&sent[0].header, b"x");
    harness.ordered(b"d");
    let fourth = harness.take_sent()[0].header;
    assert_eq!((fourth.sequence, fourth.unanswered), (Sequence::new(5, 4), 1), "the third");
    harness.pass(PAUSE);
    let mut again = harness.take_sent();
    again.sort_by_key(|sent| sent.header.sequence.counter());
    let again: Vec<_> =
        again.iter().map(|it| (it.header.sequence.counter(), it.header.unanswered)).collect();
    assert_eq!(again, [(3, 2), (4, 1), (5, 2)], "as they were, and the read is ordered");
}

#[test]
fn a_client_that_signs_signs_all_ordered_requests_and_no_reads() {
    // rule: CLI.4
    let config = ClientConfig { authentication: Authentication::Signature, ..config(4) };
    let mut harness = Harness::new(config, Matching::Equal);
    harness.ordered(b"a");
    harness.invoke(0, Mode::ReadOnly, b"b").expect("room");
    let signed: Vec<_> = harness.take_sent().iter().map(|sent| sent.sign).collect();
    assert_eq!(signed, [true, false]);
    harness.core.step(harness.now, ClientInput::Connected(ReplicaId(12)), &mut harness.actions);
    harness.pass(Duration::ZERO);
    let signed: Vec<_> = harness.take_sent().iter().map(|sent| sent.sign).collect();
    assert_eq!(signed, [true, false], "the first transmission for that member");
    assert_eq!(harness.core.resent_count(), 0);
    harness.pass(PAUSE);
    let sent = harness.take_sent();
    assert_eq!(sent.len(), 2, "the read is ordered, the other one sent again");
    assert!(sent.iter().all(|sent| sent.sign && !sent.header.read_only));
    assert_eq!(harness.core.resent_count(), 1);
}

#[test]
fn a_certificate_of_equal_replies_completes_an_operation_once() {
    // rule: CLI.2
    let mut harness = Harness::plain();
    let ticket = harness.ordered(b"a");
    let request = harness.take_sent()[0].header;
    harness.reply(0, &request, Status::Ok, b"x");
    harness.reply(1, &request, Status::Ok, b"lie");
    harness.reply(2, &request, Status::Ok, b"x");
    harness.reply(2, &request, Status::Ok, b"x");
    assert!(harness.completed.is_empty(), "two members are not three");
    assert_eq!(harness.core.heard(ticket), Some(Heard { members: 3, of: 4, needed: 3 }));
    harness.reply(3, &request, Status::Ok, b"x");
    assert_eq!(harness.completed, [(ticket, Ok(b"x".to_vec()))]);
    // Late ones are ignored.
    harness.reply(1, &request, Status::Ok, b"x");
    assert_eq!(harness.completed.len(), 1);
    assert_eq!((harness.core.in_flight_count(), harness.core.heard(ticket)), (0, None));
}

#[test]
fn the_newest_reply_of_a_member_counts() {
    // rule: CLI.2
    let mut harness = Harness::plain();
    harness.ordered(b"a");
    let request = harness.take_sent()[0].header;
    for (member, result) in [(0, b"x"), (1, b"x"), (0, b"y"), (2, b"x")] {
        harness.reply(member, &request, Status::Ok, result);
    }
    assert!(harness.completed.is_empty(), "member 0 changed its mind");
    harness.reply(0, &request, Status::Ok, b"x");
    assert_eq!(harness.completed.len(), 1);
}

#[test]
fn a_member_that_forgot_a_result_does_not_take_it_back() {
    // rule: CLI.2
    let mut harness = Harness::plain();
    let ticket = harness.ordered(b"a");
    let request = harness.take_sent()[0].header;
    harness.reply(0, &request, Status::Ok, b"x");
    harness.reply(0, &request, Status::TooOld, b"");
    harness.reply(1, &request, Status::Ok, b"x");
    assert!(harness.completed.is_empty());
    harness.reply(2, &request, Status::Ok, b"x");
    assert_eq!(harness.completed, [(ticket, Ok(b"x".to_vec()))]);
}

#[test]
fn replies_that_are_not_for_a_request_in_flight_are_ignored() {
    // rule: CLI.6
    let mut harness = Harness::plain();
    let ticket = harness.ordered(b"a");
    let request = harness.take_sent()[0].header;
    let others = [
        RequestHeader { client: ClientId::new(IDENTITY + 1, 0), ..request },
        RequestHeader { client: ClientId::new(IDENTITY, 7), ..request },
        RequestHeader { sequence: Sequence::new(5, 2), ..request },
        RequestHeader { sequence: Sequence::new(4, 1), ..request },
        RequestHeader { sequence: Sequence::NONE, ..request },
        RequestHeader { read_only: true, ..request },
    ];
    for other in others {
        harness.all_reply(&other, b"x");
    }
    (0..4).for_each(|_| harness.reply(9, &request, Status::Ok, b"x"));
    assert_eq!(harness.core.heard(ticket).expect("in flight").members, 0);
    assert!(harness.completed.is_empty());
}

#[test]
fn another_view_counts_for_nothing_but_is_reported_when_a_correct_member_is_in_it() {
    // rule: CLI.6
    let mut harness = Harness::plain();
    harness.ordered(b"a");
    let request = harness.take_sent()[0].header;
    harness.reply_in(ViewId(9), 0, &request, Status::Ok, b"x");
    assert!(harness.outdated.is_empty(), "one member may lie");
    harness.reply_in(ViewId(2), 1, &request, Status::Ok, b"x");
    harness.reply_in(ViewId(2), 2, &request, Status::Ok, b"x");
    harness.reply_in(ViewId(2), 3, &request, Status::Ok, b"x");
    assert_eq!(harness.outdated, [ViewId(2)]);
    assert!(harness.completed.is_empty());
}

#[test]
fn ordered_operations_of_a_session_complete_in_order() {
    let mut harness = Harness::plain();
    let tickets = [harness.ordered(b"a"), harness.ordered(b"b"), harness.ordered(b"c")];
    let other = harness.invoke(1, Mode::Ordered, b"d").expect("room");
    let sent = harness.take_sent();
    for at in [2, 1, 3] {
        harness.all_reply(&sent[at].header, &sent[at].operation);
    }
    assert_eq!(harness.completed, [(other, Ok(b"d".to_vec()))], "sessions do not wait");
    harness.all_reply(&sent[0].header, b"a");
    let order: Vec<_> = harness.completed[1..].iter().map(|(ticket, _)| *ticket).collect();
    assert_eq!(order, tickets);
}

#[test]
fn large_results_do_not_pile_up_behind_one_that_is_missing() {
    let mut harness = Harness::plain();
    let tickets: Vec<_> = (0..8).map(|_| harness.ordered(b"get")).collect();
    let sent = harness.take_sent();
    let large = alloc::vec![7; HELD_RESULT_SIZE + 1];
    for later in &sent[1..] {
        harness.all_reply(&later.header, &large);
    }
    assert_eq!(harness.core.held_large, HELD_LARGE_MAX);
    harness.all_reply(&sent[0].header, &large);
    assert_eq!(harness.completed.len(), 1 + HELD_LARGE_MAX);
    assert_eq!(harness.core.held_large, 0);
    // What was not kept is asked for again.
    harness.pass(PAUSE);
    let again = harness.take_sent();
    assert_eq!(again.len(), 3);
    again.iter().for_each(|sent| harness.all_reply(&sent.header, &large));
    let order: Vec<_> = harness.completed.iter().map(|(ticket, _)| *ticket).collect();
    assert_eq!(order, tickets);
}

#[test]
fn a_window_bounds_what_is_in_flight() {
    // rule: CLI.5
    let mut harness = Harness::new(config(1000), Matching::Equal);
    for _ in 0..SESSION_WINDOW {
        harness.ordered(b"a");
    }
    assert_eq!(harness.invoke(0, Mode::Ordered, b"a"), Err(Busy::Window));
    assert!(harness.invoke(0, Mode::ReadOnly, b"a").is_ok(), "numbers of their own");
    assert!(harness.invoke(1, Mode::Ordered, b"a").is_ok());
    let first = harness.take_sent()[0].header;
    harness.all_reply(&first, b"");
    assert!(harness.invoke(0, Mode::Ordered, b"a").is_ok());
    assert_eq!(harness.invoke(8, Mode::Ordered, b"a"), Err(Busy::Session));
    let large = alloc::vec![0; OPERATION_SIZE_MAX + 1];
    assert_eq!(harness.invoke(1, Mode::Ordered, &large), Err(Busy::OperationSize));
}

#[test]
fn only_the_oldest_are_sent_again_signed_with_growing_pauses() {
    // rule: CLI.4, TIME.6
    let mut harness = Harness::plain();
    for _ in 0..20 {
        harness.ordered(b"a");
    }
    harness.take_sent();
    let mut pauses = Vec::new();
    let mut quiet = 0;
    while pauses.len() < 8 {
        harness.pass(PAUSE);
        quiet += 1;
        let sent = harness.take_sent();
        if !sent.is_empty() {
            assert!(sent.iter().all(|sent| sent.sign && sent.to == To::All));
            let counters: Vec<_> = sent.iter().map(|it| it.header.sequence.counter()).collect();
            assert_eq!(counters, [1, 2, 3, 4, 5, 6, 7, 8]);
            pauses.push(core::mem::take(&mut quiet));
        }
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 32, 32]);
}

#[test]
fn progress_starts_the_pauses_anew() {
    // rule: CLI.4
    let mut harness = Harness::plain();
    harness.ordered(b"a");
    harness.ordered(b"b");
    let first = harness.take_sent()[0].header;
    harness.pass(PAUSE * 10);
    harness.take_sent();
    harness.all_reply(&first, b"");
    harness.pass(PAUSE - Duration::from_millis(1));
    assert!(harness.take_sent().is_empty(), "the second one has just become the oldest");
    harness.pass(Duration::from_millis(1));
    assert_eq!(harness.take_sent().len(), 1);
}

#[test]
fn replies_in_time_leave_nothing_to_send_again() {
    let mut harness = Harness::plain();
    for _ in 0..50 {
        harness.ordered(b"a");
        harness.pass(PAUSE / 2);
        let request = harness.take_sent().pop().expect("sent").header;
        assert_eq!(harness.sent.len(), 0);
        harness.all_reply(&request, b"");
    }
    harness.pass(PAUSE * 100);
    assert!(harness.take_sent().is_empty());
    assert_eq!(harness.core.next_deadline(), None);
}

#[test]
fn a_read_is_answered_without_order() {
    // rule: CLI.3, SMR.3
    let mut harness = Harness::plain();
    let ticket = harness.invoke(0, Mode::ReadOnly, b"get").expect("room");
    let sent = harness.take_sent();
    assert!(sent[0].header.read_only);
    assert_eq!(sent[0].header.sequence, Sequence::new(5, 1));
    harness.ordered(b"put");
    let put = harness.take_sent()[0].header;
    assert_eq!(put.sequence, Sequence::new(5, 1), "reads use up no numbers of ordered ones");
    harness.all_reply(&sent[0].header, b"x");
    assert_eq!(harness.completed, [(ticket, Ok(b"x".to_vec()))]);
}

#[test]
fn a_read_without_agreement_is_ordered() {
    // rule: CLI.3
    let mut harness = Harness::plain();
    let ticket = harness.invoke(0, Mode::ReadOnly, b"get").expect("room");
    let read = harness.take_sent()[0].header;
    for (member, result) in [(0, b"x"), (1, b"y"), (2, b"x")] {
        harness.reply(member, &read, Status::Ok, result);
    }
    assert!(harness.take_sent().is_empty(), "the fourth could still say x");
    harness.reply(3, &read, Status::Ok, b"y");
    let sent = harness.take_sent();
    assert_eq!((sent.len(), sent[0].header.read_only, sent[0].sign), (1, false, false));
    assert_eq!(sent[0].operation, b"get");
    harness.all_reply(&read, b"x");
    assert!(harness.completed.is_empty(), "replies to the read are late now");
    harness.all_reply(&sent[0].header, b"z");
    assert_eq!(harness.completed, [(ticket, Ok(b"z".to_vec()))]);
}

#[test]
fn a_read_without_answers_is_ordered_after_a_timeout() {
    // rule: CLI.3
    let mut harness = Harness::plain();
    let ticket = harness.invoke(0, Mode::ReadOnly, b"get").expect("room");
    harness.pass(PAUSE - Duration::from_nanos(1));
    assert_eq!(harness.take_sent().len(), 1);
    harness.pass(Duration::from_nanos(1));
    let sent = harness.take_sent();
    assert!(!sent[0].header.read_only);
    harness.all_reply(&sent[0].header, b"z");
    assert_eq!(harness.completed, [(ticket, Ok(b"z".to_vec()))]);
}

#[test]
fn a_read_that_has_to_be_ordered_waits_for_a_number_and_keeps_its_turn() {
    // rule: CLI.3, CLI.5
    let mut harness = Harness::new(config(2), Matching::Equal);
    harness.ordered(b"a");
    harness.ordered(b"b");
    let ticket = harness.invoke(0, Mode::ReadOnly, b"get").expect("room");
    let first = harness.take_sent()[0].header;
    harness.pass(PAUSE);
    assert!(harness.take_sent().iter().all(|sent| sent.operation != b"get"));
    harness.all_reply(&first, b"");
    let sent = harness.take_sent();
    assert_eq!((sent[0].operation.as_slice(), sent[0].header.sequence.counter()), (&b"get"[..], 3));
    assert_eq!(harness.invoke(0, Mode::Ordered, b"c"), Err(Busy::Window));
    harness.all_reply(&sent[0].header, b"z");
    harness.all_reply(&RequestHeader { sequence: Sequence::new(5, 2), ..first }, b"");
    assert_eq!(harness.completed.last(), Some(&(ticket, Ok(b"z".to_vec()))));
}

#[test]
fn a_refused_operation_takes_along_those_that_cannot_follow_it() {
    let mut harness = Harness::plain();
    let tickets = [harness.ordered(b"a"), harness.ordered(b"bad"), harness.ordered(b"c")];
    let sent = harness.take_sent();
    (0..3).for_each(|member| harness.reply(member, &sent[1].header, Status::Refused, b""));
    assert!(harness.completed.is_empty());
    harness.all_reply(&sent[0].header, b"x");
    let refused = || Err(Status::Refused);
    let expected =
        [(tickets[0], Ok(b"x".to_vec())), (tickets[1], refused()), (tickets[2], refused())];
    assert_eq!(harness.completed, expected);
    // The session goes on, where replicas will follow.
    harness.ordered(b"d");
    assert_eq!(harness.take_sent()[0].header.sequence, Sequence::new(6, 1));
    assert!(Sequence::new(6, 1).follows(sent[0].header.sequence));
}

#[test]
fn busy_is_no_answer_and_forgotten_results_are_said_to_be() {
    let mut harness = Harness::plain();
    let ticket = harness.ordered(b"a");
    let request = harness.take_sent()[0].header;
    (0..4).for_each(|member| harness.reply(member, &request, Status::Busy, b""));
    assert!(harness.completed.is_empty());
    harness.pass(PAUSE);
    assert!(harness.take_sent().last().expect("sent again").sign);
    (0..3).for_each(|member| harness.reply(member, &request, Status::TooOld, b""));
    assert_eq!(harness.completed, [(ticket, Err(Status::TooOld))]);
    // Executed: unlike a refused one, it leaves no gap for those behind it.
    // (In another session: this one holds back.)
    let [ticket, next] = [b"b", b"c"].map(|it| harness.invoke(1, Mode::Ordered, it).expect("room"));
    let sent = harness.take_sent();
    (0..3).for_each(|member| harness.reply(member, &sent[0].header, Status::TooLarge, b""));
    harness.all_reply(&sent[1].header, b"x");
    let expected = [(ticket, Err(Status::TooOld)), (next, Ok(b"x".to_vec()))];
    assert_eq!(harness.completed[1..], expected);
}

#[test]
fn a_new_link_gets_what_its_member_has_not_answered_but_not_at_any_price() {
    let mut harness = Harness::plain();
    for session in 0..8 {
        for _ in 0..SESSION_WINDOW {
            harness.invoke(session, Mode::Ordered, b"a").expect("room");
        }
    }
    let first = harness.take_sent()[0].header;
    harness.reply(2, &first, Status::Ok, b"x");
    let link = ReplicaId(12);
    harness.core.step(harness.now, ClientInput::Connected(link), &mut harness.actions);
    harness.pass(Duration::ZERO);
    let sent = harness.take_sent();
    assert!(sent.iter().all(|sent| sent.to == To::One(link) && !sent.sign));
    assert_eq!(sent.len(), 8 * SESSION_WINDOW - 1, "all but the one it answered");
    // Hanging up again and again gains nothing.
    harness.core.step(harness.now, ClientInput::Connected(link), &mut harness.actions);
    harness.core.step(harness.now, ClientInput::Connected(ReplicaId(99)), &mut harness.actions);
    harness.pass(Duration::ZERO);
    assert!(harness.take_sent().is_empty());
    harness.pass(PAUSE);
    harness.take_sent();
    harness.core.step(harness.now, ClientInput::Connected(link), &mut harness.actions);
    harness.pass(Duration::ZERO);
    assert_eq!(harness.take_sent().len(), 8 * SESSION_WINDOW - 1);
}

/// Answers that differ in letter case are the same; the result is the list of who gave them.
struct AnyCase;

impl Comparator for AnyCase {
    fn equal(&self, a: &[u8], b: &[u8]) -> bool {
        a.eq_ignore_ascii_case(b)
    }
}

impl Extractor<Bytes> for AnyCase {
    fn extract(
        &mut self,
        replies: &[(ReplicaId, &[u8])],
        newest: usize,
        pool: &mut dyn PayloadPool<Bytes>,
    ) -> Option<Bytes> {
        assert_eq!(replies[newest].1, b"VALUE");
        pool.build(replies.len(), &mut |out| {
            for (byte, (member, _)) in out.iter_mut().zip(replies) {
                *byte = member.0 as u8;
            }
        })
    }
}

#[test]
fn the_service_can_say_what_equal_means_and_what_the_result_is() {
    // rule: CLI.2
    let matching = Matching::Custom { comparator: Box::new(AnyCase), extractor: Box::new(AnyCase) };
    let mut harness = Harness::new(config(4), matching);
    let ticket = harness.ordered(b"a");
    let request = harness.take_sent()[0].header;
    harness.reply(0, &request, Status::Ok, b"Value");
    harness.reply(1, &request, Status::Ok, b"other");
    harness.reply(2, &request, Status::Ok, b"value");
    assert!(harness.completed.is_empty());
    harness.reply(3, &request, Status::Ok, b"VALUE");
    assert_eq!(harness.completed, [(ticket, Ok(alloc::vec![10, 12, 13]))]);
    // What was not executed has no result to extract.
    let ticket = harness.ordered(b"b");
    let request = harness.take_sent()[0].header;
    (0..3).for_each(|member| harness.reply(member, &request, Status::Refused, b""));
    assert_eq!(harness.completed[1], (ticket, Err(Status::Refused)));
}

/// Memory that can run out.
struct Tight(alloc::sync::Arc<core::sync::atomic::AtomicBool>);

impl PayloadPool<Bytes> for Tight {
    fn build(&mut self, size: usize, fill: &mut dyn FnMut(&mut [u8])) -> Option<Bytes> {
        let empty = self.0.load(core::sync::atomic::Ordering::Relaxed);
        if empty { None } else { HeapPool.build(size, fill) }
    }
}

#[test]
fn without_memory_nothing_is_numbered_and_a_fallback_tries_again() {
    // rule: CLI.1, CLI.3
    let empty = alloc::sync::Arc::new(core::sync::atomic::AtomicBool::new(true));
    let set = |value| empty.store(value, core::sync::atomic::Ordering::Relaxed);
    let mut harness = Harness::plain();
    harness.core.pool = Box::new(Tight(empty.clone()));
    assert_eq!(harness.invoke(0, Mode::Ordered, b"a"), Err(Busy::Memory));
    set(false);
    let read = harness.invoke(0, Mode::ReadOnly, b"get").expect("memory");
    harness.take_sent();
    set(true);
    harness.pass(PAUSE * 3);
    assert!(harness.take_sent().is_empty());
    set(false);
    harness.pass(PAUSE);
    let sent = harness.take_sent();
    assert_eq!(sent[0].header.sequence, Sequence::new(5, 1), "nothing was skipped");
    harness.all_reply(&sent[0].header, b"z");
    assert_eq!(harness.completed, [(read, Ok(b"z".to_vec()))]);
}
