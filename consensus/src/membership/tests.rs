//! Memberships, requests for them and answers: as bytes, and which step is allowed.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use proptest::prelude::*;

use super::*;
use crate::types::ConsensusId;

fn member(id: u16) -> Member {
    let address = alloc::format!("replica-{id}.example:7{id:03}");
    Member {
        id: ReplicaId(id),
        address,
        static_key: [id as u8; 32],
        signing_key: [!(id as u8); 32],
    }
}

fn membership(view: u32, f: usize, ids: &[u16]) -> Membership {
    let members = ids.iter().copied().map(member).collect();
    Membership::new(7, ViewId(view), f, FaultModel::Byzantine, members).expect("possible")
}

fn bytes(membership: &Membership) -> Vec<u8> {
    let mut bytes = Vec::new();
    membership.encode(&mut bytes);
    bytes
}

// rule: VIEW.1
#[test]
fn a_membership_comes_back_as_it_was_and_nothing_else_is_one() {
    for ids in [&[3, 0, 9, 1][..], &[0, 1, 2, 3, 4, 5, 60]] {
        let membership = membership(5, 1, ids);
        let mut bytes = bytes(&membership);
        assert_eq!(bytes.len(), membership.encoded_size());
        assert_eq!(Membership::decode(&bytes).as_ref(), Ok(&membership));
        for end in 0..bytes.len() {
            assert!(Membership::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        bytes.push(0);
        assert_eq!(Membership::decode(&bytes), Err(Malformed::Trailing));
    }
}

// rule: VIEW.1
#[test]
fn an_impossible_membership_is_none() {
    let make = |f, members: Vec<Member>| {
        Membership::new(7, ViewId(1), f, FaultModel::Byzantine, members).map(|_| ())
    };
    let four = || (0..4).map(member).collect::<Vec<_>>();
    assert_eq!(make(1, four()), Ok(()));
    assert_eq!(make(2, four()), Err(Malformed::Inconsistent));
    assert_eq!(make(0, Vec::new()), Err(Malformed::Inconsistent));
    let mut twice = four();
    twice[2].id = ReplicaId(1);
    assert_eq!(make(1, twice), Err(Malformed::Inconsistent));
    for (address, error) in [
        (String::new(), Malformed::TooLong),
        ("x".repeat(ADDRESS_SIZE_MAX + 1), Malformed::TooLong),
        ("a\nb:1".to_string(), Malformed::Reserved),
    ] {
        let mut bad = four();
        bad[3].address = address;
        assert_eq!(make(1, bad), Err(error));
    }
    let many = (0..=REPLICAS_MAX as u16).map(member).collect();
    assert_eq!(make(1, many), Err(Malformed::TooMany));
    // Members out of order would be a second encoding of the same membership.
    let mut swapped = bytes(&membership(1, 1, &[0, 1, 2, 3]));
    swapped[16] = 9;
    assert_eq!(Membership::decode(&swapped), Err(Malformed::Inconsistent));
}

// rule: VIEW.1
#[test]
fn a_request_is_signed_as_a_whole() {
    let next = membership(2, 1, &[0, 1, 2, 3]);
    let signed = ViewRequest::signed_bytes(&next);
    assert_eq!(signed[..32], VIEW_PREFIX);
    assert_eq!(signed[32..], bytes(&next));
    let request = ViewRequest { next, signature: [9; 64] };
    let mut bytes = Vec::new();
    request.encode(&mut bytes);
    assert_eq!(ViewRequest::decode(&bytes).as_ref(), Ok(&request));
    for end in 0..bytes.len() {
        assert!(ViewRequest::decode(&bytes[..end]).is_err(), "cut at {end}");
    }
    let prefixes = [crate::message::codec::STATE_PREFIX, crate::message::codec::REQUEST_PREFIX];
    assert!(!prefixes.contains(&VIEW_PREFIX));
}

#[test]
fn the_largest_request_is_as_large_as_the_limit_says() {
    let mut members: Vec<_> = (0..REPLICAS_MAX as u16).map(member).collect();
    members.iter_mut().for_each(|member| member.address = "x".repeat(ADDRESS_SIZE_MAX));
    let next = Membership::new(7, ViewId(1), 21, FaultModel::Byzantine, members).expect("possible");
    let mut bytes = Vec::new();
    ViewRequest { next, signature: [0; 64] }.encode(&mut bytes);
    assert_eq!(bytes.len(), VIEW_REQUEST_SIZE_MAX);
    assert!(bytes.len() <= crate::limits::OPERATION_SIZE_MAX);
}

// rule: VIEW.2
#[test]
fn a_step_leaves_enough_members_that_know_the_view_before() {
    let four = membership(3, 1, &[0, 1, 2, 3]);
    let step = |f, ids: &[u16]| four.check_next(&membership(4, f, ids));
    let too_few = |needed| Err(RefusedView::TooFewStay { needed });
    assert_eq!(step(1, &[0, 1, 2, 3, 4]), Ok(()));
    assert_eq!(step(1, &[0, 1, 2, 9]), Ok(()));
    assert_eq!(step(1, &[0, 1, 8, 9]), too_few(3));
    assert_eq!(step(2, &[0, 1, 2, 3, 4, 5, 6]), Ok(()));
    assert_eq!(step(2, &[0, 1, 2, 4, 5, 6, 7]), too_few(4));
    assert_eq!(step(3, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), too_few(5));
    assert_eq!(step(0, &[0, 1]), Ok(()));
    let seven = membership(3, 2, &[0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(seven.check_next(&membership(4, 1, &[0, 2, 4, 6])), Ok(()));

    let mut members: Vec<_> = (0..4).map(member).collect();
    members[2].static_key = [99; 32];
    let rotated = |cluster, model| Membership::new(cluster, ViewId(4), 1, model, members.clone());
    let next = rotated(7, FaultModel::Byzantine).expect("possible");
    assert_eq!(four.check_next(&next), Ok(()));
    let other = rotated(8, FaultModel::Byzantine).expect("possible");
    assert_eq!(four.check_next(&other), Err(RefusedView::OtherCluster));
    let other = rotated(7, FaultModel::Crash).expect("possible");
    assert_eq!(four.check_next(&other), Err(RefusedView::OtherModel));
}

// rule: VIEW.2
#[test]
fn only_the_next_view_follows() {
    let here = membership(3, 1, &[0, 1, 2, 3]);
    for view in [0, 2, 3, 5, u32::MAX] {
        let other = membership(view, 1, &[0, 1, 2, 3]);
        assert_eq!(here.check_next(&other), Err(RefusedView::NotNext(ViewId(3))));
    }
    let last = membership(u32::MAX, 1, &[0, 1, 2, 3]);
    let wrapped = last.check_next(&membership(0, 1, &[0, 1, 2, 3]));
    assert_eq!(wrapped, Err(RefusedView::NotNext(ViewId(u32::MAX))));
}

#[test]
fn an_answer_comes_back_as_it_was() {
    let refused = [
        RefusedView::NotNext(ViewId(7)),
        RefusedView::UnderWay(ViewId(8)),
        RefusedView::OtherCluster,
        RefusedView::OtherModel,
        RefusedView::TooFewStay { needed: 5 },
        RefusedView::Malformed,
    ];
    let accepted = ViewAnswer::Accepted { view: ViewId(4), last: ConsensusId(99) };
    for answer in refused.into_iter().map(ViewAnswer::Refused).chain([accepted]) {
        let mut bytes = answer.to_bytes();
        assert_eq!(ViewAnswer::decode(&bytes), Ok(answer));
        assert!(ViewAnswer::decode(&bytes[1..]).is_err());
        bytes[1] = 1;
        assert!(ViewAnswer::decode(&bytes).is_err());
    }
    assert_eq!(ViewAnswer::decode(&[77; ViewAnswer::SIZE]), Err(Malformed::Reserved));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(
        changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..8),
        cut in any::<u16>(),
    ) {
        let next = membership(2, 1, &[0, 1, 2, 3]);
        let mut bytes = Vec::new();
        ViewRequest { next, signature: [9; 64] }.encode(&mut bytes);
        for (place, value) in changes {
            let place = usize::from(place) % bytes.len();
            bytes[place] = value;
        }
        if cut & 1 == 1 {
            bytes.truncate(usize::from(cut) % bytes.len());
        }
        if let Ok(read) = ViewRequest::decode(&bytes) {
            let mut again = Vec::new();
            read.encode(&mut again);
            prop_assert_eq!(again, bytes);
        }
    }
}
