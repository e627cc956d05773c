//! One test for each rule that a reader would look for.

use alloc::vec;
use core::time::Duration;

use super::*;
use crate::batch::Selection;
use crate::limits::{OPERATION_SIZE_MAX, PENDING_SIZE_PER_CLIENT_MAX, SESSION_WINDOW};

const A: ClientId = ClientId(1 << 32);
const B: ClientId = ClientId(2 << 32);
const TIMEOUT: Duration = Duration::from_nanos(100);

struct Bench {
    requests: Requests<SharedBytes>,
    complaints: Complaints,
    out: Vec<Request<SharedBytes>>,
}

impl Bench {
    fn new(config: &Config) -> Self {
        let (requests, complaints) = (Requests::new(config), Complaints::new(config));
        Self { requests, complaints, out: vec![] }
    }

    fn admit(&mut self, now: u64, request: Request<SharedBytes>) -> Admission {
        self.admit_with(now, request, Room::Leader)
    }

    fn admit_with(&mut self, now: u64, request: Request<SharedBytes>, room: Room) -> Admission {
        self.requests.admit(Instant(now), request, &self.complaints, |_| room)
    }

    fn select(&mut self) -> Vec<(ClientId, Sequence)> {
        self.requests.select(&self.complaints);
        names(self.requests.selected())
    }

    fn decide(&mut self, now: u64, list: &[Request<SharedBytes>]) -> Selection {
        self.requests.execute(Instant(now), &batch(now, list), true)
    }

    fn overdue(&mut self, now: u64) -> Vec<(ClientId, Sequence)> {
        self.requests.overdue(Instant(now), TIMEOUT, 64, &mut self.out);
        names(&self.out)
    }

    fn work(&self) -> Option<(u64, u8, bool)> {
        self.requests.oldest().map(|work| (work.since.0, work.strikes, work.signed))
    }
}

fn bench() -> Bench {
    Bench::new(&config())
}

fn name(client: ClientId, counter: u32) -> (ClientId, Sequence) {
    (client, Sequence::new(1, counter))
}

// rule: BODY.7
#[test]
fn body_7_whichever_proof_a_replica_holds_a_batch_has_one_size() {
    let mut bench = bench();
    let one = |counter, size, is_signed| request(A, Sequence::new(1, counter), is_signed, 0, size);
    let room = 2000 - BATCH_HEADER_SIZE - 2 * size_in_batch(&one(1, 0, false));
    let sized = |last: usize| {
        let two = |is_signed| batch(6, &[one(1, 300, is_signed), one(2, last, is_signed)]);
        (two(false), two(true))
    };
    let mut check = |batch: &Batch<SharedBytes>| bench.requests.check_batch(batch, 5, false).err();
    let (macs, signed) = sized(room - 300);
    assert_ne!(macs.payload().bytes().len(), signed.payload().bytes().len());
    assert_eq!((check(&macs), check(&signed)), (None, None));
    let (macs, signed) = sized(room - 299);
    let too_large = Some(Impossible::TooLarge);
    assert_eq!((check(&macs), check(&signed)), (too_large, too_large));
}

// rule: SMR.3
#[test]
fn smr_3_a_read_only_request_is_not_taken_in() {
    let read = Request { read_only: true, ..mac(A, 1) };
    assert_eq!(bench().admit(0, read), Admission::Refused(RefusedRequest::ReadOnly));
}

// rule: SMR.4
#[test]
fn smr_4_requests_wait_for_those_before_them_within_the_window() {
    let mut bench = bench();
    assert_eq!(bench.admit(0, mac(A, 2)), Admission::Accepted);
    assert!(!bench.requests.has_orderable() && bench.requests.oldest().is_none());
    let beyond = ADMISSION_WINDOW as u32 + 1;
    let refused = Admission::Refused(RefusedRequest::BeyondWindow);
    assert_eq!(bench.admit(0, mac(A, beyond)), refused);
    assert_eq!(bench.admit(0, mac(A, 1)), Admission::Accepted);
    assert_eq!(bench.select(), [name(A, 1), name(A, 2)]);
    bench.decide(1, &[mac(A, 1)]);
    assert_eq!(bench.admit(2, mac(A, beyond)), Admission::Accepted);
    assert_eq!(bench.select(), [name(A, 2)]);
}

// rule: SMR.4
#[test]
fn smr_4_a_later_incarnation_takes_the_place_of_what_its_client_forgot() {
    let mut bench = bench();
    bench.admit(0, mac(A, 1));
    bench.admit(0, mac(A, 2));
    let later = request(A, Sequence::new(2, 1), false, 0, 8);
    assert_eq!(bench.admit(0, later), Admission::Accepted);
    assert_eq!(bench.select(), [(A, Sequence::new(2, 1))]);
    assert_eq!(bench.admit(0, mac(A, 1)), Admission::Refused(RefusedRequest::Stale));
    // A leader that had the old one may still have ordered it first.
    bench.decide(1, &[mac(A, 1)]);
    assert_eq!(bench.select(), [(A, Sequence::new(2, 1))]);
}

// rule: SMR.6
#[test]
fn smr_6_sessions_take_turns_and_who_was_left_out_is_first_next_time() {
    let mut bench = bench();
    let sessions: Vec<_> = (0..4).map(|at| ClientId::new(at % 2, at / 2)).collect();
    for counter in 1..=3 {
        for &session in &sessions {
            bench.admit(0, mac(session, counter));
        }
    }
    let first: Vec<_> = bench.select();
    let expected: Vec<_> = [0, 1, 2, 3].map(|at| name(sessions[at], 1)).into();
    assert_eq!(first[..4], expected);
    assert_eq!(first[4..], [name(sessions[0], 2), name(sessions[1], 2)]);
    let taken: Vec<_> = bench.requests.selected().cloned().collect();
    bench.decide(1, &taken);
    assert_eq!(bench.select()[..2], [name(sessions[2], 2), name(sessions[3], 2)]);
}

// rule: SMR.6
#[test]
fn smr_6_a_session_with_nothing_to_propose_is_passed_over_wherever_it_waits() {
    let mut bench = Bench::new(&Config { depth: 2, ..config() });
    bench.admit(0, mac(A, 1));
    bench.decide(1, &[mac(A, 1)]);
    // It should never be there.
    let session = bench.requests.table.find(A).expect("it was decided");
    bench.requests.fresh.push_back(session);
    assert_eq!(bench.select(), []);
    bench.admit(2, mac(B, 1));
    assert_eq!(bench.select(), [name(B, 1)]);
}

// rule: SMR.6
#[test]
fn smr_6_a_large_request_is_not_overtaken_for_ever() {
    let mut bench = bench();
    bench.admit(0, mac(A, 1));
    bench.admit(0, request(B, Sequence::new(1, 1), false, 0, 1800));
    bench.admit(0, mac(A, 2));
    assert_eq!(bench.select(), [name(A, 1)], "there is no room for the second");
    bench.decide(1, &[mac(A, 1)]);
    assert_eq!(bench.select(), [name(B, 1)]);
}

// rule: SMR.9, SMR.10
#[test]
fn smr_9_a_request_is_executed_once_and_the_number_moves_at_execution() {
    let mut bench = bench();
    bench.admit(0, mac(A, 1));
    assert_eq!(bench.requests.executed(A), Sequence::NONE);
    assert_eq!(bench.admit(0, mac(A, 1)), Admission::Duplicate);
    let selection = bench.decide(1, &[mac(A, 1), mac(A, 1), mac(B, 2)]);
    assert!(selection.contains(0) && !selection.contains(1) && !selection.contains(2));
    assert_eq!(bench.admit(2, mac(A, 1)), Admission::Executed);
    assert!(bench.requests.is_empty());
    let again = batch(2, &[mac(A, 1)]);
    assert!(!bench.requests.execute(Instant(2), &again, true).contains(0));
    assert!(bench.requests.execute(Instant(2), &again, false).contains(0), "the mutant");
    assert_eq!(bench.requests.executed(A), Sequence::new(1, 1));
}

// rule: VAL.1
#[test]
fn val_1_an_impossible_batch_is_told_from_a_possible_one() {
    let mut bench = bench();
    let mut check = |timestamp, list: &[Request<SharedBytes>]| {
        bench.requests.check_batch(&batch(timestamp, list), 5, false).err()
    };
    assert_eq!(check(6, &[]), Some(Impossible::Empty));
    assert_eq!(check(5, &[mac(A, 1)]), Some(Impossible::Timestamp));
    assert_eq!(check(6, &[mac(A, 2)]), Some(Impossible::OutOfOrder(A)));
    assert_eq!(check(6, &[mac(A, 1), mac(B, 1), mac(A, 3)]), Some(Impossible::OutOfOrder(A)));
    assert_eq!(check(6, &[mac(A, 1), mac(B, 1), mac(A, 2)]), None);
    let stranger = ClientId::new(1, 3);
    assert_eq!(check(6, &[mac(stranger, 1)]), Some(Impossible::UnknownSession(stranger)));
    let seven: Vec<_> = (1..8).map(|counter| mac(A, counter)).collect();
    assert_eq!(check(6, &seven), Some(Impossible::TooLarge));
    let large = request(A, Sequence::new(1, 1), false, 0, 2000);
    assert_eq!(check(6, &[large]), Some(Impossible::TooLarge));
}

// rule: VAL.2
#[test]
fn val_2_convincing_is_what_is_authentic_or_pending_with_the_same_digest() {
    let mut bench = bench();
    bench.admit(0, mac(A, 1));
    bench.admit(0, mac(A, 2));
    let other = request(A, Sequence::new(1, 2), false, 9, 8);
    let mut doubtful = |list: &[_], authentic: &[usize]| {
        let mut proposal = batch(1, list);
        proposal.authentic = Selection::NONE;
        authentic.iter().for_each(|index| proposal.authentic.insert(*index));
        bench.requests.check_batch(&proposal, 0, false).expect("possible")
    };
    let all = [mac(A, 1), mac(B, 1), other, mac(B, 2)];
    assert_eq!(doubtful(&all, &[1, 2, 3]), None, "one is pending, the others are authentic");
    assert_eq!(doubtful(&all, &[1, 3]), Some(A), "pending with another digest");
    assert_eq!(doubtful(&all, &[2, 3]), Some(B), "not pending");
    assert_eq!(doubtful(&all, &[]), Some(B), "the first of several");
    assert_eq!(doubtful(&[mac(A, 1), mac(A, 2)], &[]), None, "pending");
}

// rule: VAL.5
#[test]
fn val_5_a_demoted_client_has_to_sign() {
    let mut bench = bench();
    bench.admit(0, mac(A, 1));
    bench.admit(0, mac(B, 1));
    bench.complaints.complain(1, A);
    assert_eq!(bench.complaints.complain(2, A), crate::smr::complaints::Complaint::Demoted);
    bench.requests.demote(Instant(1), A.identity());
    assert_eq!(bench.select(), [name(B, 1)]);
    assert_eq!(bench.admit(2, mac(A, 1)), Admission::Refused(RefusedRequest::Demoted));
    assert_eq!(bench.admit(2, signed(A, 1)), Admission::Accepted);
    assert_eq!(bench.select(), [name(B, 1), name(A, 1)]);
}

// rule: VAL.6
#[test]
fn val_6_clients_with_different_complainants_do_not_share_a_batch() {
    let mut bench = bench();
    bench.complaints.complain(1, A);
    bench.complaints.complain(2, B);
    bench.admit(0, mac(A, 1));
    bench.admit(0, mac(B, 1));
    assert_eq!(bench.select(), [name(A, 1)]);
    bench.decide(1, &[mac(A, 1)]);
    assert_eq!(bench.select(), [name(B, 1)]);
    assert_eq!(bench.admit(2, signed(A, 2)), Admission::Accepted);
    assert_eq!(bench.select(), [name(B, 1), name(A, 2)], "a signed one may always join");
}

// rule: VAL.7, TIME.1
#[test]
fn val_7_an_unsigned_request_is_struck_once_and_hides_nothing() {
    let mut bench = bench();
    bench.admit(10, mac(A, 1));
    assert_eq!(bench.work(), Some((10, 0, false)));
    bench.requests.strike(Instant(110));
    assert_eq!(bench.work(), None, "it is no work any more until it is signed");
    assert_eq!(bench.overdue(110), [name(A, 1)]);
    assert_eq!(bench.overdue(110), [], "given out once");
    bench.admit(120, mac(B, 1));
    assert_eq!(bench.work(), Some((120, 0, false)));
    bench.admit(150, signed(A, 1));
    assert_eq!(bench.work(), Some((120, 0, true)), "no strike yet: the leader may not have had it");
    bench.requests.strike(Instant(250));
    bench.requests.strike(Instant(350));
    assert_eq!(bench.work(), Some((350, 2, true)));
}

// rule: TIME.1
#[test]
fn time_1_what_gets_signed_has_waited_from_its_admission_on() {
    let mut bench = bench();
    bench.admit(10, mac(A, 1));
    bench.admit(30, mac(B, 1));
    bench.admit(60, signed(B, 1));
    assert_eq!(bench.work(), Some((30, 0, true)), "the clock goes on, from when B came");
    bench.admit(70, signed(A, 1));
    bench.decide(80, &[signed(B, 1)]);
    assert_eq!(bench.work(), Some((80, 0, true)), "a decision is progress");
    bench.requests.restart_clocks(Instant(90));
    bench.decide(95, &[signed(A, 1)]);
    bench.admit(100, mac(A, 2));
    bench.requests.restart_clocks(Instant(120));
    bench.admit(130, signed(A, 2));
    assert_eq!(bench.work(), Some((120, 0, true)), "not to before this leader began");
}

// rule: TIME.1
#[test]
fn time_1_a_decision_hands_over_and_the_clock_starts_then() {
    let mut bench = bench();
    for (now, request) in [(10, signed(A, 1)), (20, signed(B, 1)), (30, signed(A, 2))] {
        bench.admit(now, request);
    }
    assert_eq!(bench.work(), Some((10, 0, true)));
    bench.requests.strike(Instant(110));
    bench.decide(130, &[signed(A, 1)]);
    assert_eq!(bench.work(), Some((130, 0, true)));
    bench.decide(140, &[signed(A, 2)]);
    assert_eq!(bench.work(), Some((130, 0, true)), "B waits still: no progress for the oldest");
    bench.decide(150, &[signed(B, 1)]);
    assert_eq!(bench.work(), None);
    bench.admit(160, signed(B, 2));
    bench.requests.strike(Instant(260));
    bench.requests.restart_clocks(Instant(300));
    assert_eq!(bench.work(), Some((300, 0, true)), "a new leader starts afresh");
}

// rule: TIME.1
#[test]
fn time_1_a_client_that_restarts_gains_no_time_for_an_idle_leader() {
    let mut bench = bench();
    bench.admit(10, signed(A, 1));
    bench.admit(20, signed(B, 1));
    bench.requests.strike(Instant(110));
    assert_eq!(bench.overdue(130), [name(A, 1), name(B, 1)]);
    bench.admit(200, request(A, Sequence::new(2, 1), true, 0, 8));
    assert_eq!(bench.work(), Some((110, 1, true)), "B goes on: the leader was sent it, too");
    // It cannot depose a leader with a request that this one has never seen, either.
    bench.admit(205, request(B, Sequence::new(2, 1), true, 0, 8));
    assert_eq!(bench.work(), Some((205, 0, true)));
}

// rule: TIME.2
#[test]
fn time_2_what_is_overdue_fits_into_one_list() {
    let config = Config { batch_size_max: BATCH_SIZE_MAX, ..config() };
    let mut bench = Bench::new(&config);
    for counter in 1..=6 {
        bench.admit(0, request(A, Sequence::new(1, counter), true, 0, OPERATION_SIZE_MAX));
    }
    bench.admit(50, signed(B, 1));
    let overdue = bench.overdue(100);
    assert_eq!(overdue, [1, 2, 3].map(|counter| name(A, counter)), "B is not overdue yet");
    assert!(batch(1, &bench.out).payload().bytes().len() <= BATCH_SIZE_MAX);
}

// rule: CORE.2, CORE.3
#[test]
fn core_3_what_one_client_can_make_a_replica_hold_is_bounded() {
    let config =
        Config { sessions_per_client_max: 4096, batch_size_max: BATCH_SIZE_MAX, ..config() };
    let mut bench = Bench::new(&config);
    let large = |session| {
        request(ClientId::new(1, session), Sequence::new(1, 1), false, 0, OPERATION_SIZE_MAX)
    };
    let refused = (0..70).find(|&session| bench.admit(0, large(session)) != Admission::Accepted);
    assert_eq!(refused, Some(63));
    let too_many = Admission::Refused(RefusedRequest::TooManyBytes);
    assert_eq!(bench.admit(0, large(64)), too_many);
    assert!(bench.requests.pending_bytes() <= PENDING_SIZE_PER_CLIENT_MAX);
    assert_eq!(bench.admit(0, mac(B, 1)), Admission::Accepted, "others are not concerned");
    // A full round of admission and execution uses the same slots again.
    let slots = bench.requests.table.slots.len();
    for counter in 2..50 {
        bench.decide(u64::from(counter), &[mac(B, counter - 1)]);
        bench.admit(0, mac(B, counter));
    }
    assert_eq!(bench.requests.table.slots.len(), slots);
}

// rule: SMR.14
#[test]
fn smr_14_when_much_is_pending_only_the_next_two_of_a_session_have_room() {
    let overload = Admission::Refused(RefusedRequest::Overload);
    let size = encoded_size(&mac(A, 1));
    let by_count = Config { pending_max: 4, ..config() };
    let by_size = Config { pending_size_max: 4 * size + size / 2, ..config() };
    for config in [by_count, by_size] {
        let mut bench = Bench::new(&config);
        assert_eq!(bench.admit(0, mac(A, 3)), Admission::Accepted);
        assert_eq!(bench.admit(0, mac(A, 4)), Admission::Accepted);
        assert_eq!(bench.admit(0, mac(A, 5)), overload, "a client takes what it leaves to others");
        assert_eq!(bench.admit(0, mac(A, 4)), Admission::Duplicate, "it has its place");
        assert_eq!(bench.admit(0, signed(A, 4)), Admission::Accepted, "and keeps it");
        assert_eq!(bench.admit(0, mac(B, 3)), Admission::Accepted, "another one has room");
        assert_eq!(bench.admit(0, mac(B, 4)), overload);
        for next in [mac(A, 1), mac(A, 2), mac(B, 1), mac(B, 2)] {
            assert_eq!(bench.admit(0, next), Admission::Accepted, "as have the next two");
        }
        assert_eq!(bench.requests.pending_count(), 7);
        // After each execution there is room for one more, whatever else is pending.
        bench.decide(1, &[mac(B, 1), mac(B, 2)]);
        assert_eq!(bench.admit(1, mac(B, 4)), Admission::Accepted);
        assert_eq!(bench.admit(1, mac(B, 5)), overload);
        assert!(bench.select().contains(&name(B, 4)));
    }
}

// rule: SMR.14, SMR.13
#[test]
fn smr_14_what_is_in_an_open_instance_is_not_the_next_of_its_session() {
    let mut bench = Bench::new(&Config { pending_max: 1, depth: 2, ..config() });
    for counter in [1, 2] {
        assert_eq!(bench.admit(0, mac(A, counter)), Admission::Accepted);
    }
    assert_eq!(bench.admit(0, mac(A, 3)), Admission::Refused(RefusedRequest::Overload));
    let batch = batch(1, &[mac(A, 1)]);
    bench.requests.speculate(&batch);
    assert_eq!(bench.admit(0, mac(A, 3)), Admission::Accepted);
}

// rule: SMR.14, BODY.8
#[test]
fn smr_14_who_does_not_lead_has_twice_the_room_and_any_for_what_a_proposal_names() {
    let mut bench = Bench::new(&Config { pending_max: 4, ..config() });
    let mut admit = |counter, room| bench.admit_with(0, mac(A, counter), room);
    let overload = Admission::Refused(RefusedRequest::Overload);
    assert_eq!([2, 3].map(|counter| admit(counter, Room::Follower)), [Admission::Accepted; 2]);
    assert_eq!(admit(4, Room::Leader), overload);
    assert_eq!([4, 5].map(|counter| admit(counter, Room::Follower)), [Admission::Spare; 2]);
    assert_eq!(admit(6, Room::Follower), overload);
    assert_eq!([6, 7].map(|counter| admit(counter, Room::Awaited)), [Admission::Accepted; 2]);
    assert_eq!(admit(1, Room::Leader), Admission::Accepted, "the next one, from whomever");
}

// rule: SMR.14
#[test]
fn smr_14_no_room_is_beyond_what_a_client_may_have_in_bytes() {
    let config =
        Config { sessions_per_client_max: 4096, batch_size_max: BATCH_SIZE_MAX, ..config() };
    let mut bench = Bench::new(&config);
    let too_many = Admission::Refused(RefusedRequest::TooManyBytes);
    for counter in 1..64 {
        let large = request(A, Sequence::new(1, counter), false, 0, OPERATION_SIZE_MAX);
        assert_eq!(bench.admit_with(0, large, Room::Awaited), Admission::Accepted);
    }
    let large = request(A, Sequence::new(1, 64), false, 0, OPERATION_SIZE_MAX);
    assert_eq!(bench.admit_with(0, large, Room::Awaited), too_many);
}

// rule: SMR.14
#[test]
fn smr_14_a_client_leaves_half_of_its_share_to_the_next_of_its_sessions() {
    let config = Config { batch_size_max: BATCH_SIZE_MAX, ..config() };
    let mut bench = Bench::new(&config);
    let large = |session, counter| {
        let client = ClientId::new(1, session);
        request(client, Sequence::new(1, counter), false, 0, OPERATION_SIZE_MAX)
    };
    let refused = (1..60).find(|&counter| bench.admit(0, large(0, counter)) != Admission::Accepted);
    assert_eq!(refused, Some(32));
    assert_eq!(bench.admit(0, large(1, 1)), Admission::Accepted);
    assert_eq!(bench.admit(0, large(1, 2)), Admission::Accepted, "and the one after it");
    let too_many = Admission::Refused(RefusedRequest::TooManyBytes);
    assert_eq!(bench.admit(0, large(1, 3)), too_many);
}

// rule: SMR.14
#[test]
fn smr_14_a_session_is_told_of_no_more_than_it_may_have_in_flight_in_a_pause() {
    let mut bench = bench();
    assert!(!bench.requests.may_tell_busy(Instant(0), A, TIMEOUT), "no such session yet");
    bench.admit(0, mac(A, 1));
    bench.admit(0, mac(B, 1));
    let mut told = |now, client| {
        let may = |_: &usize| bench.requests.may_tell_busy(Instant(now), client, TIMEOUT);
        (0..2 * SESSION_WINDOW).filter(may).count()
    };
    let all = [(100, A), (199, A), (199, B), (200, A), (250, A), (299, B)];
    let all = all.map(|(now, client)| told(now, client) / SESSION_WINDOW);
    assert_eq!(all, [1, 0, 1, 1, 0, 1]);
}

// rule: VAL.8, SYNC.4
#[test]
fn val_8_the_signed_version_takes_the_place_of_the_mac_vector() {
    let mut bench = bench();
    bench.admit(0, mac(A, 1));
    bench.admit(0, mac(B, 1));
    assert_eq!(bench.admit(1, signed(A, 1)), Admission::Accepted);
    assert_eq!(bench.admit(1, signed(A, 1)), Admission::Duplicate);
    assert_eq!(bench.admit(1, mac(A, 1)), Admission::Duplicate);
    assert_eq!(bench.select(), [name(A, 1), name(B, 1)], "it keeps its turn");
    assert!(bench.requests.selected().next().is_some_and(is_signed));
    assert_eq!(bench.requests.pending_count(), 2);
}
