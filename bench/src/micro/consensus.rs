//! Hot functions of the protocol core.

use std::hint::black_box;

use tetrarch_consensus::batch::{REQUEST_HEADER_SIZE, Replier, RequestHeader};
use tetrarch_consensus::payload::{HeapPool, SharedBytes};
use tetrarch_consensus::vp::votes::Tally;
use tetrarch_consensus::{Batch, ClientId, Digest, Request, Sequence};
use tetrarch_dataplane::crypto::hash::body_digest;

use super::Case;

/// Its cases.
pub const CASES: &[Case] = &[
    Case { name: "vote_tally", what: "3 votes, then clear", run: vote_tally },
    Case { name: "batch_parse_64", what: "parse a batch of 64 requests", run: batch_parse },
    Case { name: "batch_build_64", what: "build a batch of 64 requests", run: batch_build },
];

fn vote_tally(turns: u64) {
    let mut tally = Tally::new(true);
    let digest = Digest([7; 32]);
    for _ in 0..turns {
        for member in 0..3 {
            black_box(tally.vote(member, black_box(digest)));
        }
        black_box(tally.reached(3));
        tally.clear();
    }
}

fn requests() -> Vec<Request<SharedBytes>> {
    (0..64).map(request).collect()
}

fn request(client: u64) -> Request<SharedBytes> {
    let header = RequestHeader {
        client: ClientId(client),
        sequence: Sequence::new(1, 1),
        view: 0,
        read_only: false,
        replier: Replier::EVERYONE,
        unanswered: 0,
        operation_size: 0,
    };
    let mut payload = vec![0; REQUEST_HEADER_SIZE];
    header.write(&mut payload);
    let digest = Digest(body_digest(&payload));
    payload.extend_from_slice(&[1; 64]);
    Request {
        client: header.client,
        sequence: header.sequence,
        digest,
        read_only: false,
        auth: 1,
        body_size: REQUEST_HEADER_SIZE as u32,
        payload: SharedBytes::from(&payload[..]),
    }
}

fn batch_parse(turns: u64) {
    let requests = requests();
    let views: Vec<_> = requests.iter().collect();
    let Some(batch) = Batch::build(&mut HeapPool, 1, &views) else { return };
    for _ in 0..turns {
        black_box(Batch::parse(black_box(batch.payload().clone())).is_ok());
    }
}

fn batch_build(turns: u64) {
    let requests = requests();
    let views: Vec<_> = requests.iter().collect();
    for turn in 0..turns {
        black_box(Batch::build(&mut HeapPool, turn, black_box(&views)).is_some());
    }
}
