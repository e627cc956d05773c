//! One member sends the result, the others its digest.

use super::*;

/// Ordered request `operation`, whose replier is `member`.
fn asking(harness: &mut Harness, member: u16, operation: &[u8]) -> (Ticket, RequestHeader) {
    for _ in 0..8 {
        let ticket = harness.ordered(operation);
        let request = harness.take_sent()[0].header;
        if request.replier == Replier::member(member.into()) {
            return (ticket, request);
        }
        harness.all_reply(&request, b"");
        harness.completed.clear();
    }
    panic!("members take turns");
}

fn connected() -> Harness {
    let mut harness = Harness::plain();
    harness.connect();
    harness
}

#[test]
fn the_result_is_the_whole_reply_that_the_digests_agree_with() {
    // rule: CLI.7
    // Whichever comes last: the result, or the digest that completes the certificate.
    for order in [[2, 0, 1], [0, 2, 1], [0, 1, 2]] {
        let mut harness = connected();
        let (ticket, request) = asking(&mut harness, 2, b"a");
        for (said, member) in order.into_iter().enumerate() {
            assert!(harness.completed.is_empty(), "{said} of {order:?} are no certificate");
            match member {
                2 => harness.reply(2, &request, Status::Ok, b"x"),
                _ => harness.reply_digest(member, &request, b"x"),
            }
        }
        assert_eq!(harness.completed, [(ticket, Ok(b"x".to_vec()))], "{order:?}");
        assert_eq!((harness.core.in_flight_count(), harness.core.kept_size), (0, 0));
    }
}

#[test]
fn a_result_that_comes_after_the_certificate_is_not_asked_for_again() {
    // rule: CLI.7, CLI.8
    let mut harness = connected();
    let (ticket, request) = asking(&mut harness, 3, b"a");
    (0..3).for_each(|member| harness.reply_digest(member, &request, b"x"));
    assert!(harness.completed.is_empty(), "nobody has sent the result");
    harness.pass(TIMEOUT / 100);
    harness.reply(3, &request, Status::Ok, b"x");
    assert_eq!(harness.completed, [(ticket, Ok(b"x".to_vec()))]);
    harness.pass(10 * TIMEOUT);
    assert!(harness.take_sent().is_empty());
}

#[test]
fn everybody_is_asked_again_when_the_replier_is_silent() {
    // rule: CLI.8
    let mut harness = connected();
    let (ticket, request) = asking(&mut harness, 1, b"a");
    [0, 2, 3].iter().for_each(|&member| harness.reply_digest(member, &request, b"x"));
    harness.pass(TIMEOUT / 8);
    let again = harness.take_sent();
    assert_eq!(again.len(), 1, "once");
    assert_eq!((again[0].to, again[0].sign, again[0].header), (To::All, true, request));
    harness.reply(2, &request, Status::Ok, b"x");
    assert_eq!(harness.completed, [(ticket, Ok(b"x".to_vec()))], "one whole reply is enough");
    // It is not named for a while.
    let named = |harness: &mut Harness| {
        let named = (0..40).filter(|_| {
            let replier = {
                harness.ordered(b"b");
                harness.take_sent()[0].header
            };
            harness.all_reply(&replier, b"");
            replier.replier == Replier::member(1)
        });
        named.count()
    };
    assert_eq!(named(&mut harness), 0);
    harness.pass(PAUSE);
    assert!(named(&mut harness) >= 9);
}

#[test]
fn a_replier_that_says_something_else_is_found_out_at_once() {
    // rule: CLI.7, CLI.8
    type Lie = fn(&mut Harness, &RequestHeader);
    let lies: [Lie; 3] = [
        |harness, request| harness.reply(1, request, Status::Ok, b"a lie"),
        |harness, request| harness.reply_digest(1, request, b"a lie"),
        // The truth, but not what it was asked for.
        |harness, request| harness.reply_digest(1, request, b"x"),
    ];
    for (kind, lie) in lies.into_iter().enumerate() {
        for lies_first in [true, false] {
            let mut harness = connected();
            let (ticket, request) = asking(&mut harness, 1, b"a");
            if lies_first {
                lie(&mut harness, &request);
            }
            [0, 2, 3].iter().for_each(|&member| harness.reply_digest(member, &request, b"x"));
            if !lies_first {
                lie(&mut harness, &request);
            }
            if harness.sent.is_empty() {
                // A digest of something else might be followed by the result.
                assert!(!lies_first && kind > 0, "{kind}");
                harness.pass(TIMEOUT / 8);
            }
            assert_eq!(harness.take_sent().len(), 1, "asked again: {kind}, {lies_first}");
            assert!(harness.completed.is_empty(), "{kind}");
            lie(&mut harness, &request);
            harness.reply(0, &request, Status::Ok, b"x");
            assert_eq!(harness.completed, [(ticket, Ok(b"x".to_vec()))], "{kind}, {lies_first}");
            assert_eq!(harness.core.kept_size, 0);
        }
    }
}

#[test]
fn a_whole_reply_of_somebody_else_is_as_good() {
    // rule: CLI.7
    let mut harness = connected();
    let (ticket, request) = asking(&mut harness, 1, b"a");
    harness.reply_digest(0, &request, b"x");
    harness.reply_digest(2, &request, b"x");
    harness.reply(3, &request, Status::Ok, b"x");
    assert_eq!(harness.completed, [(ticket, Ok(b"x".to_vec()))]);
}

#[test]
fn a_read_whose_replier_is_silent_is_ordered_and_asks_everybody() {
    // rule: CLI.3, CLI.8
    let mut harness = connected();
    let ticket = harness.invoke(0, Mode::ReadOnly, b"a").expect("room");
    let request = harness.take_sent()[0].header;
    let replier = request.replier.index().expect("links are up") as u16;
    (0..4).filter(|&at| at != replier).for_each(|at| harness.reply_digest(at, &request, b"x"));
    harness.pass(TIMEOUT / 8);
    let ordered = harness.take_sent();
    assert_eq!(ordered.len(), 1);
    assert!(!ordered[0].header.read_only);
    assert_eq!(ordered[0].header.replier, Replier::EVERYONE);
    harness.all_reply(&ordered[0].header, b"x");
    assert_eq!(harness.completed, [(ticket, Ok(b"x".to_vec()))]);
}

#[test]
fn everybody_is_asked_when_results_are_compared_or_the_client_wants_it() {
    // rule: CLI.7
    struct Equal;
    impl Comparator for Equal {
        fn equal(&self, a: &[u8], b: &[u8]) -> bool {
            a == b
        }
    }
    impl Extractor<Bytes> for Equal {
        fn extract(
            &mut self,
            replies: &[(ReplicaId, &[u8])],
            newest: usize,
            pool: &mut dyn PayloadPool<Bytes>,
        ) -> Option<Bytes> {
            let result = replies[newest].1;
            pool.build(result.len(), &mut |out| out.copy_from_slice(result))
        }
    }
    let custom = Matching::Custom { comparator: Box::new(Equal), extractor: Box::new(Equal) };
    let full = ClientConfig { reply: ReplyForm::Full, ..config(4) };
    for mut harness in [Harness::new(config(4), custom), Harness::new(full, Matching::Equal)] {
        harness.connect();
        let ticket = harness.ordered(b"a");
        let request = harness.take_sent()[0].header;
        assert_eq!(request.replier, Replier::EVERYONE);
        // One who answers with a digest all the same spoils nothing.
        harness.reply_digest(0, &request, b"x");
        (1..4).for_each(|member| harness.reply(member, &request, Status::Ok, b"x"));
        assert_eq!(harness.completed, [(ticket, Ok(b"x".to_vec()))]);
    }
}

#[test]
fn what_is_kept_without_a_certificate_is_bounded() {
    // rule: CLI.7
    let mut harness =
        Harness::new(ClientConfig { kept_size_max: 5000, ..config(64) }, Matching::Equal);
    harness.connect();
    let tickets: Vec<_> = (0..40).map(|_| harness.ordered(b"a")).collect();
    let sent = harness.take_sent();
    let result = [7; 1000];
    let replier = |sent: &Sent| sent.header.replier.index().expect("links are up") as u16;
    for sent in &sent {
        harness.reply(replier(sent), &sent.header, Status::Ok, &result);
        assert!(harness.core.kept_size <= 5000);
    }
    assert!(harness.core.kept_size > 4000, "some are");
    for sent in &sent {
        let others = (0..4).filter(|&member| member != replier(sent));
        others.for_each(|member| harness.reply_digest(member, &sent.header, &result));
    }
    assert_eq!((harness.core.kept_size, harness.completed.len()), (0, 4));
    // What was not kept is asked for again, and its repliers are not to blame.
    assert_eq!(harness.take_sent().len(), 36);
    sent.iter().for_each(|sent| harness.all_reply(&sent.header, &result));
    assert_eq!(harness.completed.len(), tickets.len());
    harness.ordered(b"b");
    assert_ne!(harness.take_sent()[0].header.replier, Replier::EVERYONE);
}

#[test]
fn a_member_whose_link_is_gone_is_not_named() {
    // rule: CLI.7
    let mut harness = connected();
    let gone = ClientInput::Disconnected(ReplicaId(12));
    harness.core.step(harness.now, gone, &mut harness.actions);
    for _ in 0..40 {
        harness.ordered(b"a");
        let request = harness.take_sent()[0].header;
        assert_ne!(request.replier, Replier::member(2));
        harness.all_reply(&request, b"");
    }
}
