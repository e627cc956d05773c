//! What digests, MACs and signatures cost.

use std::hint::black_box;

use anyhow::Result;
use serde::Serialize;
use tetrarch_dataplane::crypto::authenticator::PairKey;
use tetrarch_dataplane::crypto::hash::{InstructionSet, body_digest, digest_burst};
use tetrarch_dataplane::crypto::keys::StaticSecret;
use tetrarch_dataplane::crypto::mac::LinkKey;
use tetrarch_dataplane::crypto::signature::{SignedItem, SigningKey, verify_batch};
use tetrarch_dataplane::limits::{BURST_MAX, HEADER_COVERED_SIZE};
use tetrarch_dataplane::types::Digest;

use super::timing::{Ratio, best_ns, ratio};

/// Digests of bodies of one size, one by one and as a burst of [`BURST_MAX`].
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct HashFloor {
    /// Bytes of each body.
    pub size: usize,
    /// Nanoseconds for a body alone.
    pub single_ns: f64,
    /// Nanoseconds for a body of a burst.
    pub burst_ns: f64,
    /// How many times a body alone costs what one of a burst costs, from interleaved rounds.
    pub ratio: Ratio,
    /// What the ratio should be at least, for the sizes for which the project says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<f64>,
}

/// The same with the vector instructions of an older processor.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct SetFloor {
    /// Which.
    pub instructions: String,
    /// Of bodies of one chunk: longer ones alone are hashed with the best instructions there are.
    pub hashes: Vec<HashFloor>,
}

/// Body sizes that are measured, and how much less a body of a burst should cost. Those 32 bytes
/// above a power of two are requests and replies of so much payload.
const HASHED: [(usize, Option<f64>); 8] = [
    (64, Some(5.0)),
    (256, None),
    (512, None),
    (1024, Some(4.0)),
    (1056, None),
    (4096, None),
    (4128, None),
    (16_384, None),
];

/// Bytes of a BLAKE3 chunk.
const CHUNK: usize = 1024;

/// Digests of bodies.
pub fn hashes() -> Vec<HashFloor> {
    let alone = |body: &[u8]| black_box(body_digest(body));
    HASHED.into_iter().map(|(size, wanted)| hash(size, wanted, alone, digest_burst)).collect()
}

/// Digests of bodies of at most one chunk with each instruction set but the best of this processor.
pub fn hashes_of_older_sets() -> Vec<SetFloor> {
    let measured = |set: InstructionSet| {
        let alone = |body: &[u8]| {
            let mut digest = [Digest::default()];
            set.digest_burst(&[body], &mut digest);
            black_box(digest[0])
        };
        let burst = |bodies: &[&[u8]], digests: &mut [Digest]| set.digest_burst(bodies, digests);
        let short = HASHED.into_iter().filter(|(size, _)| *size <= CHUNK);
        SetFloor {
            instructions: set.name(),
            hashes: short.map(|(size, wanted)| hash(size, wanted, alone, burst)).collect(),
        }
    };
    InstructionSet::available().into_iter().skip(1).map(measured).collect()
}

fn hash(
    size: usize,
    wanted: Option<f64>,
    alone: impl Fn(&[u8]) -> Digest,
    together: impl Fn(&[&[u8]], &mut [Digest]),
) -> HashFloor {
    // Bodies that differ, each in a place of its own, as they come from the wire.
    let bodies: Vec<Vec<u8>> = (0..BURST_MAX).map(|at| vec![at as u8; size]).collect();
    let views: Vec<&[u8]> = bodies.iter().map(|body| &body[..]).collect();
    let one_by_one = || {
        for body in black_box(&views) {
            alone(body);
        }
    };
    let mut digests = vec![[0; 32]; BURST_MAX];
    let mut burst = || {
        together(black_box(&views), &mut digests);
        black_box(&digests);
    };
    let per_body = |ns: f64| ns / BURST_MAX as f64;
    HashFloor {
        size,
        single_ns: per_body(best_ns(one_by_one)),
        burst_ns: per_body(best_ns(&mut burst)),
        ratio: ratio(one_by_one, burst),
        wanted,
    }
}

/// Digest of a long body, nanoseconds per byte.
pub fn long_hash_ns_per_byte() -> f64 {
    const SIZE: usize = 64 * 1024;
    let body = vec![7u8; SIZE];
    best_ns(|| body_digest(black_box(&body))) / SIZE as f64
}

/// MACs and signatures, nanoseconds each.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct AuthFloor {
    /// Tag of a link header.
    pub link_tag_ns: f64,
    /// One replica's entry of a client's MAC vector.
    pub client_tag_ns: f64,
    /// An Ed25519 signature made.
    pub sign_ns: f64,
    /// One checked alone.
    pub verify_ns: f64,
    /// One checked in a batch of 64, all by one key.
    pub verify_batch_ns: f64,
}

/// Measures them.
///
/// # Errors
/// The system has no random bytes.
pub fn authentication() -> Result<AuthFloor> {
    let link = LinkKey::new(&[3; 32]);
    let header = [7u8; HEADER_COVERED_SIZE];
    let mut sequence = 0;
    let link_tag_ns = best_ns(|| {
        sequence += 1;
        black_box(link.tag(sequence, black_box(&header), &[]));
    });
    let (client, replica) = (StaticSecret::generate()?, StaticSecret::generate()?);
    let pair = PairKey::for_client(&client, &replica.public(), 1)?;
    let digest = [9u8; 32];
    let client_tag_ns = best_ns(|| pair.tag(black_box(&digest)));

    let key = SigningKey::generate()?;
    let public = key.verifying_key();
    let messages: Vec<[u8; 32]> = (0..BURST_MAX).map(|at| [at as u8; 32]).collect();
    let signatures: Vec<_> = messages.iter().map(|message| key.sign(message)).collect();
    let sign_ns = best_ns(|| key.sign(black_box(&messages[0])));
    let verify_ns = best_ns(|| public.verify(black_box(&messages[0]), &signatures[0]));
    let items: Vec<_> = messages
        .iter()
        .zip(&signatures)
        .map(|(message, signature)| SignedItem { key: &public, message, signature })
        .collect();
    let batch_ns = best_ns(|| verify_batch(black_box(&items)));
    let verify_batch_ns = batch_ns / BURST_MAX as f64;
    Ok(AuthFloor { link_tag_ns, client_tag_ns, sign_ns, verify_ns, verify_batch_ns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_costs_something() {
        let older = hashes_of_older_sets();
        let portable = older.last().expect("portable code is never the best here");
        assert_eq!(portable.instructions, "Portable");
        for floor in hashes().iter().chain(&portable.hashes) {
            assert!(floor.single_ns > 0.0 && floor.burst_ns > 0.0, "{floor:?}");
        }
        assert!(long_hash_ns_per_byte() > 0.0);
        let auth = authentication().expect("there are random bytes");
        let all = [auth.link_tag_ns, auth.client_tag_ns, auth.sign_ns, auth.verify_batch_ns];
        assert!(all.iter().all(|ns| *ns > 0.0), "{auth:?}");
    }
}
