//! Hot functions, each as a loop of a given number of turns: what the instruction budgets count.
//!
//! A case prepares its data, then runs. Counting two numbers of turns and taking the difference
//! leaves the preparation out, so a budget is instructions per turn and the same on every run of one
//! binary on one kind of processor.

use std::hint::black_box;

use tetrarch_consensus::batch::{REQUEST_HEADER_SIZE, RequestHeader};
use tetrarch_consensus::payload::{HeapPool, SharedBytes};
use tetrarch_consensus::vp::votes::Tally;
use tetrarch_consensus::{Batch, ClientId, Digest, Request, Sequence};
use tetrarch_dataplane::crypto::hash::{body_digest, digest_burst};
use tetrarch_dataplane::crypto::mac::LinkKey;
use tetrarch_dataplane::header::Header;

/// One hot function: a name and a loop.
pub struct Case {
    /// Name, as in `bench/budget.toml`.
    pub name: &'static str,
    /// What one turn does.
    pub what: &'static str,
    run: fn(u64),
}

impl Case {
    /// Runs `turns` turns.
    pub fn run(&self, turns: u64) {
        (self.run)(turns);
    }
}

/// All cases.
pub const CASES: &[Case] = &[
    Case { name: "header_parse", what: "parse one link header", run: header_parse },
    Case { name: "link_tag", what: "GMAC over a header", run: link_tag },
    Case { name: "digest_burst_64x64", what: "64 bodies of 64 B in lanes", run: digest_burst_64 },
    Case { name: "digest_single_64", what: "one body of 64 B", run: digest_single },
    Case { name: "vote_tally", what: "3 votes, then clear", run: vote_tally },
    Case { name: "batch_parse_64", what: "parse a batch of 64 requests", run: batch_parse },
    Case { name: "batch_build_64", what: "build a batch of 64 requests", run: batch_build },
];

/// The case called `name`.
pub fn find(name: &str) -> Option<&'static Case> {
    CASES.iter().find(|case| case.name == name)
}

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
        black_box(Header::parse(black_box(&bytes)).is_ok());
    }
}

fn link_tag(turns: u64) {
    let key = LinkKey::new(&[3; 32]);
    let bytes = header().to_bytes();
    for sequence in 0..turns {
        black_box(key.tag(sequence, &[black_box(&bytes[..80])]));
    }
}

fn digest_burst_64(turns: u64) {
    let bodies = [[5u8; 64]; 64];
    let views: Vec<&[u8]> = bodies.iter().map(|body| &body[..]).collect();
    let mut digests = vec![[0u8; 32]; 64];
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_runs_and_has_a_name_of_its_own() {
        for case in CASES {
            case.run(2);
            assert_eq!(CASES.iter().filter(|other| other.name == case.name).count(), 1);
            assert!(find(case.name).is_some());
        }
        assert!(find("no_such_case").is_none());
    }
}
