use super::*;
use tetrarch_consensus::config::FaultModel;
use tetrarch_consensus::payload::HeapPool;
use tetrarch_consensus::{Message, Request, ViewId};

use crate::client::request;
use crate::keys::Keys;

const CLOCK: (u64, u64) = (1_000_000, 1_000);

fn view() -> View {
    let ids = (0..4).map(ReplicaId).collect();
    View::new(ViewId(0), ids, 1, FaultModel::Byzantine).expect("4 members")
}

fn checker() -> Checker {
    Checker::new(view(), 0b0111, 2, false)
}

fn put(client: u32, counter: u32) -> Request<SharedBytes> {
    let keys = Keys::new(1, 4);
    let operation = Operation::Put(0, 7).encode();
    let (id, sequence) = (ClientId::new(client, 0), Sequence::new(1, counter));
    request(id, sequence, false, &operation, |digest| {
        (tetrarch_consensus::message::proof::SIGNATURE, keys.signature(client, digest))
    })
}

fn decide(
    checker: &mut Checker,
    member: usize,
    cid: u64,
    time: u64,
    requests: &[&Request<SharedBytes>],
) {
    let batch = Batch::build(&mut HeapPool, time, requests).expect("heap");
    let context = Context { cid: ConsensusId(cid), view: ViewId(0), timestamp_ns: time, seed: 0 };
    checker.decided(member, &context, (&batch, &Selection::ALL), CLOCK);
}

fn found(checker: &Checker) -> Option<Property> {
    checker.first_violation().map(|violation| violation.property)
}

fn issue(checker: &mut Checker, request: &Request<SharedBytes>) {
    checker.issued(request.client, request.sequence, request.digest);
}

#[test]
fn the_same_history_twice_is_fine() {
    let mut checker = checker();
    let (a, b) = (put(0, 1), put(0, 2));
    issue(&mut checker, &a);
    issue(&mut checker, &b);
    for member in 0..2 {
        decide(&mut checker, member, 1, 10, &[&a]);
        decide(&mut checker, member, 2, 11, &[&b]);
    }
    assert_eq!(found(&checker), None);
}

#[test]
fn two_values_for_one_instance_are_found() {
    let mut checker = checker();
    let (a, b) = (put(0, 1), put(1, 1));
    issue(&mut checker, &a);
    issue(&mut checker, &b);
    decide(&mut checker, 0, 1, 10, &[&a]);
    decide(&mut checker, 1, 1, 10, &[&b]);
    assert_eq!(found(&checker), Some(Property::Agreement));
}

#[test]
fn a_request_executed_twice_or_out_of_order_is_found() {
    for second in [1, 3] {
        let mut checker = checker();
        let (a, b) = (put(0, 1), put(0, second));
        issue(&mut checker, &a);
        issue(&mut checker, &b);
        decide(&mut checker, 0, 1, 10, &[&a]);
        decide(&mut checker, 0, 2, 11, &[&b]);
        assert_eq!(found(&checker), Some(Property::ExactlyOnce));
    }
}

#[test]
fn a_gap_and_time_that_stands_still_are_found() {
    let mut gap = checker();
    let a = put(0, 1);
    issue(&mut gap, &a);
    decide(&mut gap, 0, 2, 10, &[&a]);
    assert_eq!(found(&gap), Some(Property::Order));
    let mut still = checker();
    let b = put(0, 2);
    issue(&mut still, &a);
    issue(&mut still, &b);
    decide(&mut still, 0, 1, 10, &[&a]);
    decide(&mut still, 0, 2, 10, &[&b]);
    assert_eq!(found(&still), Some(Property::Order));
}

#[test]
fn an_invented_request_is_found_and_so_is_one_that_convinced_nobody() {
    let mut invented = checker();
    decide(&mut invented, 0, 1, 10, &[&put(0, 1)]);
    assert_eq!(found(&invented), Some(Property::Validity));
    for (mask, wrong) in [(0b1000, true), (0b1001, false)] {
        let mut half_valid = checker();
        let faulty = put(2, 1);
        half_valid.provable(faulty.digest, mask);
        decide(&mut half_valid, 0, 1, 10, &[&faulty]);
        assert_eq!(found(&half_valid).is_some(), wrong);
    }
}

#[test]
fn a_time_from_the_future_is_found() {
    let mut checker = checker();
    let a = put(0, 1);
    issue(&mut checker, &a);
    decide(&mut checker, 0, 1, CLOCK.0 + CLOCK.1 + 1, &[&a]);
    assert_eq!(found(&checker), Some(Property::Validity));
}

#[test]
fn a_regency_that_nobody_correct_wanted_is_found() {
    let mut checker = checker();
    checker.wanted(Regency(1));
    checker.installed(0, &view(), Regency(1), ReplicaId(1));
    assert_eq!(found(&checker), None);
    checker.installed(0, &view(), Regency(2), ReplicaId(2));
    assert_eq!(found(&checker), Some(Property::Regency));
}

#[test]
fn an_accused_correct_member_is_found() {
    let mut checker = checker();
    let accuse =
        |id| Evidence::InvalidSynchronization { member: ReplicaId(id), regency: Regency(1) };
    checker.accused(0, &accuse(3));
    assert_eq!(found(&checker), None);
    checker.accused(0, &accuse(2));
    assert_eq!(found(&checker), Some(Property::Evidence));
}

#[test]
fn a_message_has_a_description_and_a_fingerprint() {
    let batch = Batch::build(&mut HeapPool, 1, &[&put(0, 1)]).expect("heap");
    let message = Message::Forwarded(batch);
    assert_eq!(crate::trace::describe(&message), "FORWARDED requests=1");
    assert_ne!(crate::trace::fingerprint(&message), [0; 3]);
}
