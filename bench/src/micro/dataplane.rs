//! Hot functions of the dataplane.

use std::hint::black_box;

use tetrarch_dataplane::crypto::authenticator::{PairKey, write_vector};
use tetrarch_dataplane::crypto::hash::{body_digest, digest_burst};
use tetrarch_dataplane::crypto::keys::StaticSecret;
use tetrarch_dataplane::crypto::mac::{LinkKey, MacItem, Tag, verify_burst};
use tetrarch_dataplane::header::{Header, covered};

use super::Case;

/// Its cases.
pub const CASES: &[Case] = &[
    Case { name: "header_parse", what: "parse one link header", run: header_parse },
    Case { name: "link_tag", what: "GMAC over a header", run: link_tag },
    Case { name: "link_tag_64_proof", what: "GMAC over a header and a proof", run: link_tag_proof },
    Case { name: "link_verify_64", what: "verify 64 tags of headers", run: link_verify },
    Case { name: "client_vector_4", what: "a request's MACs for 4 replicas", run: client_vector },
    Case { name: "client_entry", what: "check a request's MAC", run: client_entry },
    Case {
        name: "digest_burst_64x64",
        what: "64 bodies of 64 B in lanes",
        run: digests_of::<64, 64>,
    },
    Case {
        name: "digest_burst_16x1056",
        what: "16 requests of 1 KiB",
        run: digests_of::<1056, 16>,
    },
    Case { name: "digest_single_64", what: "one body of 64 B", run: digest_single },
];

fn header() -> Header {
    Header {
        kind: 5,
        auth: 0,
        size: 160,
        sender: 1,
        proof_size: 0,
        cluster: 42,
        session: 0,
        sequence: 7,
        body_digest: [9; 32],
        tag: [0; 16],
    }
}

fn header_parse(turns: u64) {
    let bytes = header().to_bytes();
    for _ in 0..turns {
        black_box(Header::parse(black_box(&bytes)).ok());
    }
}

fn link_tag(turns: u64) {
    let key = LinkKey::new(&[3; 32]);
    let bytes = header().to_bytes();
    for sequence in 0..turns {
        black_box(key.tag(sequence, covered(black_box(&bytes)), &[]));
    }
}

fn link_tag_proof(turns: u64) {
    let key = LinkKey::new(&[3; 32]);
    let bytes = header().to_bytes();
    for sequence in 0..turns {
        black_box(key.tag(sequence, covered(black_box(&bytes)), black_box(&[7; 64])));
    }
}

fn link_verify(turns: u64) {
    let key = LinkKey::new(&[3; 32]);
    let bytes = header().to_bytes();
    let tags: Vec<Tag> = (0..64).map(|i| key.tag(i, covered(&bytes), &[])).collect();
    let item =
        |(i, tag)| MacItem { key: &key, sequence: i, header: covered(&bytes), proof: &[], tag };
    let items: Vec<MacItem<'_>> = (0..).zip(&tags).map(item).collect();
    for _ in 0..turns {
        assert_eq!(verify_burst(black_box(&items)), u64::MAX);
    }
}

fn pair_keys() -> Vec<PairKey> {
    let client = StaticSecret::from_bytes(&[1; 32]);
    let replica = |seed| StaticSecret::from_bytes(&[seed; 32]).public();
    (2..6).filter_map(|seed| PairKey::for_client(&client, &replica(seed), 1).ok()).collect()
}

fn client_vector(turns: u64) {
    let keys = pair_keys();
    let mut vector = [0; 64];
    for _ in 0..turns {
        write_vector(&keys, black_box(&[9; 32]), &mut vector);
        black_box(&vector);
    }
}

fn client_entry(turns: u64) {
    let keys = pair_keys();
    let mut vector = [0; 64];
    write_vector(&keys, &[9; 32], &mut vector);
    for _ in 0..turns {
        assert!(keys[2].verify_entry(black_box(&[9; 32]), black_box(&vector), 2));
    }
}

/// Digests of `COUNT` bodies of `SIZE` bytes.
fn digests_of<const SIZE: usize, const COUNT: usize>(turns: u64) {
    let bodies = [[5u8; SIZE]; COUNT];
    let views: Vec<&[u8]> = bodies.iter().map(|body| &body[..]).collect();
    let mut digests = vec![[0u8; 32]; COUNT];
    for _ in 0..turns {
        digest_burst(black_box(&views), &mut digests);
        black_box(&digests);
    }
}

fn digest_single(turns: u64) {
    let body = [5u8; 64];
    for _ in 0..turns {
        black_box(body_digest(black_box(&body)));
    }
}
