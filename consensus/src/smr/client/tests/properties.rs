//! The client core against a lossy cluster with a lying member, and against anything at all.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

/// What correct members agree on: they execute what follows, wait for what does not, and remember
/// results.
#[derive(Default)]
struct Members {
    last: BTreeMap<ClientId, Sequence>,
    waiting: BTreeMap<(ClientId, Sequence), (Vec<u8>, Replier)>,
    results: BTreeMap<(ClientId, Sequence), Vec<u8>>,
}

impl Members {
    /// The replies that `request` causes, each with who sends it whole.
    fn take(&mut self, request: &Sent) -> Vec<(RequestHeader, Vec<u8>)> {
        let mut header = request.header;
        if header.read_only {
            return alloc::vec![(header, request.operation.clone())];
        }
        if let Some(result) = self.results.get(&(header.client, header.sequence)) {
            header.replier = Replier::EVERYONE;
            return alloc::vec![(header, result.clone())];
        }
        let key = (header.client, header.sequence);
        self.waiting.insert(key, (request.operation.clone(), header.replier));
        let mut replies = Vec::new();
        loop {
            let last = *self.last.get(&header.client).unwrap_or(&Sequence::NONE);
            let next =
                if last == Sequence::NONE { Sequence::new(5, 1) } else { Sequence(last.0 + 1) };
            let Some((operation, replier)) = self.waiting.remove(&(header.client, next)) else {
                return replies;
            };
            self.last.insert(header.client, next);
            self.results.insert((header.client, next), operation.clone());
            replies.push((RequestHeader { sequence: next, replier, ..header }, operation));
        }
    }
}

/// What a member says.
fn answer(harness: &mut Harness, member: u16, to: &RequestHeader, lie: u8, result: &[u8]) {
    let wrong = [result, &[0xff]].concat();
    let whole = to.replier.includes(member.into());
    match (lie, whole) {
        (0, true) => harness.reply(member, to, Status::Ok, result),
        (0, false) | (1, _) => harness.reply_digest(member, to, result),
        (2, true) => harness.reply(member, to, Status::Ok, &wrong),
        (2, false) | (3, _) => harness.reply_digest(member, to, &wrong),
        // As replier silent, else a friend.
        (_, true) => {}
        (_, false) => harness.reply(member, to, Status::Ok, result),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    /// Messages are lost, member 3 lies: everything completes, once, in order, with the truth.
    #[test]
    fn a_lossy_cluster_with_a_liar_serves_every_session(
        steps in prop::collection::vec((0u32..3, any::<bool>(), any::<u8>()), 1..120),
        losses in prop::collection::vec(any::<bool>(), 64),
        lies in prop::collection::vec(0u8..5, 16),
        connects in any::<bool>(),
    ) {
        // rule: CLI.1, CLI.2, CLI.3, CLI.4, CLI.7, CLI.8
        let mut harness = Harness::new(config(8), Matching::Equal);
        if connects {
            harness.connect();
        }
        let mut members = Members::default();
        let (mut expected, mut at) = (BTreeMap::new(), 0usize);
        let mut order: BTreeMap<u32, Vec<Ticket>> = BTreeMap::new();
        let mut results = Vec::new();
        let mut run = |harness: &mut Harness, lossy: bool| {
            while !harness.sent.is_empty() {
                for sent in harness.take_sent() {
                    at += 1;
                    if lossy && losses[at * 7 % losses.len()] {
                        continue;
                    }
                    for (header, result) in members.take(&sent) {
                        for member in 0..4 {
                            at += 1;
                            if lossy && losses[at * 7 % losses.len()] {
                                continue;
                            }
                            let lie = if member == 3 { lies[at % lies.len()] } else { 0 };
                            answer(harness, member, &header, lie, &result);
                        }
                    }
                }
            }
        };
        for (session, read, operation) in steps {
            let mode = if read { Mode::ReadOnly } else { Mode::Ordered };
            if let Ok(ticket) = harness.invoke(session, mode, &[operation]) {
                let of = (session, mode, operation);
                prop_assert_eq!(expected.insert(ticket, of), None, "one name, one operation");
                if mode == Mode::Ordered {
                    order.entry(session).or_default().push(ticket);
                }
            }
            run(&mut harness, true);
            harness.pass(Duration::from_millis(300));
            results.append(&mut harness.completed);
        }
        for _ in 0..200 {
            run(&mut harness, false);
            harness.pass(PAUSE);
        }
        results.append(&mut harness.completed);
        let mut completed_in_order: BTreeMap<u32, Vec<Ticket>> = BTreeMap::new();
        for (ticket, result) in results {
            let (session, mode, operation) = expected.remove(&ticket).expect("completed once");
            prop_assert_eq!(result, Ok(alloc::vec![operation]));
            if mode == Mode::Ordered {
                completed_in_order.entry(session).or_default().push(ticket);
            }
        }
        prop_assert!(expected.is_empty(), "never completed: {:?}", expected);
        prop_assert_eq!(completed_in_order, order);
        prop_assert_eq!((harness.core.in_flight_count(), harness.core.kept_size), (0, 0));
    }

    /// Nothing that members say makes the core panic, send without end, or complete anything twice.
    #[test]
    fn hostile_members_never_break_the_core(
        inputs in prop::collection::vec((0u32..4, 0u16..6, 0u32..6, 0u8..5, any::<u8>()), 0..200),
    ) {
        let mut harness = Harness::new(config(4), Matching::Equal);
        for (session, member, counter, status, kind) in inputs {
            let mode = if kind & 1 == 0 { Mode::Ordered } else { Mode::ReadOnly };
            let _ = harness.invoke(session, mode, &[kind]);
            let header = RequestHeader {
                client: ClientId::new(IDENTITY, session),
                sequence: Sequence::new(5 + u32::from(kind >> 7), counter),
                view: 0,
                read_only: kind & 2 != 0,
                replier: Replier::EVERYONE,
                unanswered: 0,
                operation_size: 0,
            };
            let (status, result): (_, &[u8]) = match status {
                0 => (Status::TooOld, b""),
                1 => (Status::Refused, b""),
                2 => (Status::Busy, b""),
                _ => (Status::Ok, &[kind & 4]),
            };
            if kind & 32 == 0 {
                harness.reply_in(ViewId(u32::from(kind & 8)), member, &header, status, result);
            } else {
                harness.reply_digest(member, &header, result);
            }
            if kind & 16 != 0 {
                let from = ReplicaId(10 + member);
                let up = kind & 64 == 0;
                let link =
                    if up { ClientInput::Connected(from) } else { ClientInput::Disconnected(from) };
                harness.core.step(harness.now, link, &mut harness.actions);
                harness.collect();
            }
            harness.pass(Duration::from_millis(u64::from(kind)));
            let most = 4 * 2 * 4 * 2;
            prop_assert!(harness.core.in_flight_count() <= most, "sessions times windows");
        }
    }
}
