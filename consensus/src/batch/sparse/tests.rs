use super::*;
use crate::batch::tests::request;
use crate::batch::{BATCH_HEADER_SIZE, IDENTITY_SIZE, body_digest};
use crate::payload::{HeapPool, SharedBytes};
use alloc::vec::Vec;

fn requests() -> [Request<SharedBytes>; 4] {
    [request(1, 1, b"put x"), request(2, 9, b""), request(3, 4, b"get"), request(2, 10, b"longer")]
}

fn batch() -> Batch<SharedBytes> {
    Batch::build(&mut HeapPool, 77, &requests()).expect("heap")
}

fn without(places: &[usize]) -> SparseBatch<SharedBytes> {
    let mut omitted = Selection::NONE;
    places.iter().for_each(|place| omitted.insert(*place));
    SparseBatch::of(&batch(), &omitted, &mut HeapPool).expect("heap")
}

fn parse(bytes: &[u8]) -> Result<SparseBatch<SharedBytes>, Malformed> {
    SparseBatch::parse(SharedBytes::from(bytes), None)
}

// rule: BODY.1
#[test]
fn body_1_what_is_left_out_changes_neither_digest_nor_identities() {
    for places in [&[0][..], &[1, 3], &[0, 1, 2, 3]] {
        let sparse = without(places);
        let again = parse(sparse.payload().bytes()).expect("well formed");
        assert_eq!((again.timestamp_ns, again.len(), again.digest), (77, 4, batch().digest));
        assert_eq!(again.omitted().collect::<Vec<_>>(), places);
        for (place, request) in requests().iter().enumerate() {
            let Identity { client, sequence, digest } = again.identity(place);
            assert_eq!(
                (client, sequence, digest),
                (request.client, request.sequence, request.digest)
            );
        }
        for (place, view) in again.requests() {
            assert!(!places.contains(&place));
            let original = requests()[place].payload.clone();
            assert_eq!([view.body, view.proof].concat(), original.bytes());
        }
        assert_eq!(again.requests().count(), 4 - places.len());
    }
}

// rule: BODY.2
#[test]
fn body_2_with_the_bodies_it_is_the_whole_batch_again() {
    for places in [&[0][..], &[3], &[1, 2], &[0, 1, 2, 3]] {
        let (sparse, parts) = (without(places), requests());
        let mut found = Selection::NONE;
        found.insert(places[0]);
        let received = parse(sparse.payload().bytes()).expect("well formed");
        let size = places.iter().map(|place| parts[*place].payload.size()).sum();
        let whole = received.complete(&mut HeapPool, (&found, size), |at| &parts[at]);
        let whole = whole.expect("heap");
        assert_eq!(whole.payload().bytes(), batch().payload().bytes());
        let parsed = Batch::parse(whole.payload().clone()).expect("well formed");
        assert_eq!((parsed.digest, parsed.len()), (whole.digest, whole.len()));
        for at in 0..4 {
            assert_eq!(whole.authentic.contains(at), at == places[0], "only what was found");
        }
    }
}

#[test]
fn neither_form_is_taken_for_the_other() {
    let sparse = without(&[1]);
    let as_whole = Batch::parse(sparse.payload().clone());
    assert_eq!(as_whole.err(), Some(Malformed::Reserved));
    let as_sparse = parse(batch().payload().bytes());
    assert_eq!(as_sparse.err(), Some(Malformed::Inconsistent), "nothing is left out");
    let as_whole = Batch::parse(without(&[0, 1, 2, 3]).payload().clone());
    assert_eq!(as_whole.err(), Some(Malformed::Truncated));
}

// rule: BODY.1
#[test]
fn body_1_without_any_body_its_bytes_are_what_the_digest_covers() {
    let bare = without(&[0, 1, 2, 3]);
    assert!(bare.is_bare() && !without(&[0, 1, 2]).is_bare());
    let bytes = bare.payload().bytes();
    assert_eq!(bytes.len(), BATCH_HEADER_SIZE + 4 * IDENTITY_SIZE);
    assert!(batch().payload().bytes().starts_with(bytes));
    assert_eq!(body_digest(bytes), batch().digest);
    let known = SparseBatch::parse(bare.payload().clone(), Some(batch().digest));
    assert_eq!(known.expect("well formed").digest, batch().digest);
    // The same in the form for a part of them: there is one encoding only.
    let long = [bytes, [OMITTED_LAYOUT; 4].as_flattened()].concat();
    assert_eq!(parse(&long).err(), Some(Malformed::Inconsistent));
}

#[test]
fn a_digest_that_somebody_knows_is_taken_only_for_the_bytes_that_it_is_of() {
    // Of a part of the bodies, it is the digest of more than the identities.
    let sparse = without(&[1]);
    let known = Some(body_digest(sparse.payload().bytes()));
    let parsed = SparseBatch::parse(sparse.payload().clone(), known);
    assert_eq!(parsed.expect("well formed").digest, batch().digest);
}

#[test]
fn no_prefix_and_no_changed_byte_is_accepted_or_panics() {
    for places in [&[1, 2][..], &[0, 1, 2, 3]] {
        let sparse = without(places);
        let bytes = sparse.payload().bytes();
        for end in 0..bytes.len() {
            // Its identities alone are the bare one; the tag of a link covers the size.
            let is_bare = parse(&bytes[..end]).is_ok_and(|prefix| prefix.is_bare());
            assert_eq!(is_bare, end == identities_end(4), "prefix of {end}");
            assert!(is_bare || parse(&bytes[..end]).is_err(), "prefix of {end}");
        }
        for at in 0..bytes.len() {
            for flip in [1, 0x40, 0xff] {
                let mut changed = bytes.to_vec();
                changed[at] ^= flip;
                if let Ok(parsed) = parse(&changed) {
                    assert_eq!(parsed.requests().count() + parsed.omitted().count(), parsed.len());
                }
            }
        }
        // Behind identities there are layouts.
        let reason = if sparse.is_bare() { Malformed::Truncated } else { Malformed::Trailing };
        assert_eq!(parse(&[bytes, &[0]].concat()).err(), Some(reason));
    }
}

#[test]
fn what_is_left_out_says_nothing_of_its_size_or_proof() {
    let sparse = without(&[0]);
    let layout = BATCH_HEADER_SIZE + 4 * IDENTITY_SIZE;
    for at in 0..LAYOUT_SIZE - 1 {
        let mut changed = sparse.payload().bytes().to_vec();
        changed[layout + at] = 1;
        assert_eq!(parse(&changed).err(), Some(Malformed::Reserved), "byte {at}");
    }
    let mut changed = sparse.payload().bytes().to_vec();
    changed[layout + LAYOUT_SIZE - 1] = 2;
    assert_eq!(parse(&changed).err(), Some(Malformed::Reserved), "another flag");
}

#[test]
fn a_selection_survives_its_bytes() {
    let mut selection = Selection::NONE;
    [0, 7, 8, 64, 1023].iter().for_each(|at| selection.insert(*at));
    let bytes = selection.to_bytes();
    assert_eq!((bytes[0], bytes[1], bytes[8], bytes[127]), (0x81, 1, 1, 0x80));
    assert_eq!(Selection::from_bytes(&bytes), selection);
    assert_eq!(Selection::from_bytes(&Selection::ALL.to_bytes()), Selection::ALL);
}
