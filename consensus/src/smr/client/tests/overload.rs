//! Members without room.

use alloc::vec;

use super::*;

const WINDOW: usize = 8;

/// A session that has `WINDOW` requests in flight.
fn full() -> (Harness, Vec<RequestHeader>) {
    let mut harness = Harness::new(config(WINDOW), Matching::Equal);
    for _ in 0..WINDOW {
        harness.ordered(b"a");
    }
    let sent = harness.take_sent().iter().map(|sent| sent.header).collect();
    (harness, sent)
}

fn busy(harness: &mut Harness, members: &[u16], request: &RequestHeader) {
    members.iter().for_each(|&member| harness.reply(member, request, Status::Busy, b""));
}

fn counters(sent: &[Sent]) -> Vec<u32> {
    sent.iter().map(|sent| sent.header.sequence.counter()).collect()
}

#[test]
fn busy_of_fewer_than_one_correct_members_is_silence() {
    // rule: CLI.9
    let (mut harness, sent) = full();
    for request in &sent {
        busy(&mut harness, &[2, 2, 2], request);
    }
    harness.pass(PAUSE - Duration::from_millis(1));
    let alone = harness.take_sent();
    assert!(alone.iter().all(|sent| sent.to == To::One(ReplicaId(12)) && !sent.sign), "{alone:?}");
    assert!(counters(&alone).iter().all(|counter| *counter == 1), "the oldest, now and then");
    assert!((1..8).contains(&alone.len()), "{}", alone.len());
    harness.pass(Duration::from_millis(1));
    let again = harness.take_sent();
    assert!(!again.is_empty() && again.iter().all(|sent| sent.sign), "as without an answer");
    assert!(harness.completed.is_empty());
    assert_eq!(harness.core.busy_counts().believed, 0);
    assert_eq!(harness.invoke(0, Mode::Ordered, b"b"), Err(Busy::Window), "no less than before");
}

#[test]
fn a_lone_member_without_room_is_sent_what_it_lacks_and_nobody_else_is() {
    // rule: CLI.9
    let (mut harness, sent) = full();
    busy(&mut harness, &[2], &sent[1]);
    busy(&mut harness, &[2], &sent[4]);
    for (request, near) in sent.iter().zip([2, 0, 5, 0, 0, 0, 0, 0]) {
        harness.all_reply(request, b"x");
        let again = harness.take_sent();
        assert_eq!(counters(&again), if near == 0 { vec![] } else { vec![near] });
        assert!(again.iter().all(|sent| sent.to == To::One(ReplicaId(12)) && !sent.sign));
    }
    // It said no more.
    harness.pass(TIMEOUT / 4);
    assert!(harness.take_sent().is_empty());
    harness.ordered(b"b");
    let request = harness.take_sent()[0].header;
    harness.all_reply(&request, b"x");
    assert!(harness.take_sent().is_empty());
}

#[test]
fn a_session_told_busy_tries_its_oldest_request_again_and_skips_none() {
    // rule: CLI.9
    let (mut harness, sent) = full();
    busy(&mut harness, &[1, 3], &sent[4]);
    assert!(harness.take_sent().is_empty(), "after a pause");
    harness.pass(TIMEOUT / 16);
    let again = harness.take_sent();
    assert!(!again.is_empty() && counters(&again).iter().all(|&counter| counter == 1));
    assert!(again.iter().all(|sent| !sent.sign && sent.to == To::All), "as sent first");
    assert_eq!(harness.core.resent_count(), 0);
    for (request, near) in sent.iter().zip([0, 0, 5, 0, 0, 0, 0, 0]) {
        harness.all_reply(request, b"x");
        let again = harness.take_sent();
        assert_eq!(counters(&again), if near == 0 { vec![] } else { vec![near; 2] });
        let members: Vec<_> = again.iter().map(|sent| sent.to).collect();
        assert!(near == 0 || members == [11, 13].map(|member| To::One(ReplicaId(member))));
    }
    assert_eq!(harness.completed.len(), WINDOW);
    harness.ordered(b"b");
    assert_eq!(counters(&harness.take_sent()), [WINDOW as u32 + 1]);
}

#[test]
fn what_ends_lets_the_next_ones_go_before_the_pause_is_over() {
    // rule: CLI.9
    let (mut harness, sent) = full();
    busy(&mut harness, &[1, 3], &sent[1]);
    busy(&mut harness, &[1, 3], &sent[2]);
    harness.all_reply(&sent[0], b"x");
    assert_eq!(counters(&harness.take_sent()), [2, 2, 3, 3], "there is room for two");
    // One that is behind has room for what is the oldest only.
    busy(&mut harness, &[0], &sent[2]);
    assert!(harness.take_sent().is_empty());
    harness.all_reply(&sent[1], b"x");
    assert_eq!(counters(&harness.take_sent()), [3]);
    assert_eq!(harness.core.busy_counts(), BusyCounts { heard: 5, believed: 1 });
    for request in &sent[2..] {
        harness.all_reply(request, b"x");
    }
    assert!(harness.take_sent().is_empty());
    assert_eq!(harness.completed.len(), WINDOW);
}

#[test]
fn what_was_turned_away_before_it_was_the_oldest_is_sent_again_at_once_and_once() {
    // rule: CLI.9
    let (mut harness, sent) = full();
    busy(&mut harness, &[1, 3], &sent[0]);
    assert_eq!(counters(&harness.take_sent()), [1, 1]);
    busy(&mut harness, &[1, 3], &sent[0]);
    busy(&mut harness, &[1, 3], &sent[0]);
    assert!(harness.take_sent().is_empty(), "or both would never stop");
    harness.pass(TIMEOUT / 16);
    let again = harness.take_sent();
    assert!(!again.is_empty() && again.iter().all(|sent| sent.to == To::All));
    assert_eq!(harness.core.resent_count(), 0, "well before it would be taken for lost");
}

#[test]
fn the_caller_is_told_while_there_is_no_room_and_room_comes_back() {
    // rule: CLI.9
    let (mut harness, sent) = full();
    busy(&mut harness, &[0, 1], &sent[7]);
    for request in &sent[..3] {
        harness.all_reply(request, b"x");
    }
    assert_eq!(harness.invoke(0, Mode::Ordered, b"b"), Err(Busy::Overload), "5 of 4 in flight");
    assert!(harness.invoke(0, Mode::ReadOnly, b"b").is_ok(), "reads are not concerned");
    let read = harness.take_sent().pop().expect("the read").header;
    harness.all_reply(&read, b"x");
    assert!(harness.invoke(1, Mode::Ordered, b"b").is_ok(), "nor are other sessions");
    for request in &sent[3..] {
        harness.all_reply(request, b"x");
    }
    let in_flight = |harness: &mut Harness| {
        let most = (0..).take_while(|_| harness.invoke(0, Mode::Ordered, b"b").is_ok()).count();
        let sent = harness.take_sent();
        let mine = sent.iter().filter(|sent| sent.header.client.session() == 0);
        mine.filter(|sent| !sent.header.read_only)
            .for_each(|sent| harness.all_reply(&sent.header, b"x"));
        most
    };
    let more = |harness: &mut Harness| {
        harness.pass(TIMEOUT / 16);
        in_flight(harness)
    };
    let growing: Vec<_> = (0..40).map(|_| more(&mut harness)).collect();
    assert!(growing[0] < WINDOW && growing.is_sorted(), "{growing:?}");
    assert_eq!(growing.last(), Some(&WINDOW));
    assert_eq!(harness.invoke(0, Mode::Ordered, b"b").map(drop), Ok(()));
}

#[test]
fn pauses_grow_and_differ_between_sessions_and_one_request_is_always_tried() {
    // rule: CLI.9
    let mut harness = Harness::new(config(WINDOW), Matching::Equal);
    for session in 0..8 {
        for _ in 0..WINDOW {
            harness.invoke(session, Mode::Ordered, b"a").expect("room");
        }
    }
    let first: Vec<_> = harness.take_sent().iter().map(|sent| sent.header).collect();
    for request in &first {
        busy(&mut harness, &[0, 1, 2, 3], request);
    }
    assert_eq!(counters(&harness.take_sent()), [1; 8 * 4], "at once, to who said so");
    let start = harness.now;
    let mut tries: Vec<Vec<(Duration, usize)>> = alloc::vec![Vec::new(); 8];
    for _ in 0..2000 {
        harness.pass(Duration::from_millis(1));
        let sent: Vec<_> = harness.take_sent().into_iter().filter(|sent| !sent.sign).collect();
        for session in 0..8 {
            let mine = sent.iter().filter(|sent| sent.header.client.session() == session);
            let numbers: Vec<_> = mine.map(|sent| sent.header).collect();
            if let Some(oldest) = numbers.first() {
                assert_eq!(oldest.sequence.counter(), 1, "nothing was skipped");
                tries[session as usize].push((harness.now.since(start), numbers.len()));
                busy(&mut harness, &[0, 1, 2, 3], oldest);
            }
        }
    }
    let first_tries: alloc::collections::BTreeSet<_> =
        tries.iter().map(|tries| tries[0].0).collect();
    assert!(first_tries.len() > 3, "they do not come back together: {first_tries:?}");
    for tries in tries {
        let sizes: Vec<_> = tries.iter().map(|(_, size)| *size).collect();
        assert_eq!(sizes[..4], [1; 4]);
        assert!(tries.len() < 12, "pauses grow: {tries:?}");
    }
    assert_eq!(harness.core.in_flight_count(), 8 * WINDOW);
}

#[test]
fn what_is_told_busy_for_long_is_signed_all_the_same() {
    // rule: CLI.9, VAL.7
    let (mut harness, sent) = full();
    let mut signed = 0;
    for _ in 0..300 {
        busy(&mut harness, &[0, 1, 2, 3], &sent[0]);
        harness.pass(Duration::from_millis(10));
        signed += harness.take_sent().iter().filter(|sent| sent.sign).count();
    }
    assert!(signed >= 8, "{signed}");
}
