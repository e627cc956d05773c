//! Digests of message bodies, many at a time in SIMD lanes.
//!
//! Owns the rule what the digest of a body is, and the lane code. Always true: `digest_burst`
//! gives bit for bit what `body_digest` gives for each body. Must not: allocate.
//!
//! The digest is plain BLAKE3, of the body zero-padded to a multiple of 64 bytes if it has at most
//! 1024 bytes, of the body as it is otherwise. Equal padded sizes are what lets independent bodies
//! share the lanes: 64 bodies of 256 bytes cost 24 ns each instead of 320.
//!
//! **The digest does not bind the length of a short body**: a body and the same body with zeros
//! appended can have one digest. Whoever relies on it binds the length too. The link tag does: it
//! covers `size` and `proof_size`. Encodings above that (requests, batches) carry their lengths
//! inside.

use crate::limits::LANE_BODY_SIZE_MAX;
use crate::types::Digest;
use blake3::IncrementCounter;
use blake3::platform::Platform;

/// A BLAKE3 block: bodies of at most one chunk are padded to a multiple of it.
const BLOCK: usize = 64;

/// Inputs given to one call of the lane code: as many as the widest vectors hold (AVX-512).
const LANES: usize = 16;

/// Size classes of padded bodies: 64, 128 .. 1024.
const CLASSES: usize = LANE_BODY_SIZE_MAX / BLOCK;

/// Bodies sorted into classes at a time: their places fit one byte and the table fits the stack.
const CHUNK: usize = 64;

// From the BLAKE3 paper, section 2.2: the initial chaining value and the domain flags. The crate
// does not export them; `official_vectors` proves them.
const IV: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];
const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 1 << 1;
const ROOT: u8 = 1 << 3;

/// The digest of one body.
pub fn body_digest(body: &[u8]) -> Digest {
    if body.len() > LANE_BODY_SIZE_MAX || body.len().is_multiple_of(BLOCK) {
        return *blake3::hash(body).as_bytes();
    }
    let mut padded = [0u8; LANE_BODY_SIZE_MAX];
    padded[..body.len()].copy_from_slice(body);
    *blake3::hash(&padded[..body.len().next_multiple_of(BLOCK)]).as_bytes()
}

/// The digests of many bodies: `out[i]` is `body_digest(bodies[i])`. Fastest when many bodies have
/// the same padded size, and when sizes are multiples of 64 (nothing is copied then).
///
/// # Panics
/// If `out` is not as long as `bodies`.
pub fn digest_burst(bodies: &[&[u8]], out: &mut [Digest]) {
    assert_eq!(bodies.len(), out.len(), "one digest for each body");
    let platform = Platform::detect();
    for (bodies, out) in bodies.chunks(CHUNK).zip(out.chunks_mut(CHUNK)) {
        digest_chunk(platform, bodies, out);
    }
}

/// Hash each class of padded sizes. All in one class is the common case: there is nothing to sort
/// then, and the lanes write the digests where they belong.
fn digest_chunk(platform: Platform, bodies: &[&[u8]], out: &mut [Digest]) {
    let class = bodies.first().map_or(0, |body| class_of(body.len()));
    if bodies.iter().all(|body| class_of(body.len()) == class) {
        return digest_one_class(platform, class, bodies, out);
    }
    digest_mixed(platform, bodies, out);
}

/// Sort by padded size (a counting sort: stable, no comparisons), then hash each class.
fn digest_mixed(platform: Platform, bodies: &[&[u8]], out: &mut [Digest]) {
    let mut counts = [0u8; CLASSES + 1];
    for body in bodies {
        counts[class_of(body.len())] += 1;
    }
    let mut starts = [0u8; CLASSES + 1];
    for class in 1..=CLASSES {
        starts[class] = starts[class - 1] + counts[class - 1];
    }
    let mut sorted = [0u8; CHUNK];
    let mut next = starts;
    for (i, body) in bodies.iter().enumerate() {
        let place = &mut next[class_of(body.len())];
        sorted[usize::from(*place)] = i as u8;
        *place += 1;
    }
    for class in 0..=CLASSES {
        let start = usize::from(starts[class]);
        let members = &sorted[start..start + usize::from(counts[class])];
        if !members.is_empty() {
            digest_class(platform, class, bodies, members, out);
        }
    }
}

/// 0 for bodies that cannot share lanes (empty, or longer than a chunk), else the padded blocks.
fn class_of(size: usize) -> usize {
    if size > LANE_BODY_SIZE_MAX { 0 } else { size.div_ceil(BLOCK) }
}

/// All bodies have the same number of padded blocks: `class`.
fn digest_one_class(platform: Platform, class: usize, bodies: &[&[u8]], out: &mut [Digest]) {
    macro_rules! by_blocks {
        ($($blocks:literal)*) => {
            match class {
                $($blocks => in_order::<{ $blocks * BLOCK }>(platform, bodies, out),)*
                _ => {
                    for (body, out) in bodies.iter().zip(out) {
                        *out = body_digest(body);
                    }
                }
            }
        };
    }
    by_blocks!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16)
}

/// Hash bodies of one class, `LANES` at a time.
fn in_order<const N: usize>(platform: Platform, bodies: &[&[u8]], out: &mut [Digest]) {
    for (group, out) in bodies.chunks(LANES).zip(out.chunks_mut(LANES)) {
        let mut padded = None;
        let mut inputs: [&[u8; N]; LANES] = [&[0; N]; LANES];
        if group.iter().all(|body| body.len() == N) {
            for (input, body) in inputs.iter_mut().zip(group) {
                *input = body.first_chunk().expect("every body has N bytes");
            }
        } else {
            let padded = padded.insert([[0u8; N]; LANES]);
            for ((input, padded), body) in inputs.iter_mut().zip(padded).zip(group) {
                padded[..body.len()].copy_from_slice(body);
                *input = padded;
            }
        }
        hash_lanes(platform, &inputs[..group.len()], out.as_flattened_mut());
    }
}

/// All `members` have the same number of padded blocks: `class`.
fn digest_class(
    platform: Platform,
    class: usize,
    bodies: &[&[u8]],
    members: &[u8],
    out: &mut [Digest],
) {
    macro_rules! by_blocks {
        ($($blocks:literal)*) => {
            match class {
                $($blocks => lanes::<{ $blocks * BLOCK }>(platform, bodies, members, out),)*
                _ => {
                    for &i in members {
                        out[usize::from(i)] = body_digest(bodies[usize::from(i)]);
                    }
                }
            }
        };
    }
    by_blocks!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16)
}

/// Hash the members, `LANES` at a time.
fn lanes<const N: usize>(platform: Platform, bodies: &[&[u8]], members: &[u8], out: &mut [Digest]) {
    for group in members.chunks(LANES) {
        // Bodies that fill their blocks are hashed in place; only if there are others is there a
        // copy.
        if group.iter().all(|&i| bodies[usize::from(i)].len() == N) {
            hash_group::<N>(platform, group, out, |_, i| bodies[i].first_chunk());
        } else {
            let mut padded = [[0u8; N]; LANES];
            for (padded, &i) in padded.iter_mut().zip(group) {
                let body = bodies[usize::from(i)];
                padded[..body.len()].copy_from_slice(body);
            }
            hash_group::<N>(platform, group, out, |lane, _| Some(&padded[lane]));
        }
    }
}

/// One call of the lane code. `input(lane, i)` is the padded body `i`.
fn hash_group<'a, const N: usize>(
    platform: Platform,
    group: &[u8],
    out: &mut [Digest],
    input: impl Fn(usize, usize) -> Option<&'a [u8; N]>,
) {
    let mut inputs: [&[u8; N]; LANES] = [&[0; N]; LANES];
    for (lane, &i) in group.iter().enumerate() {
        inputs[lane] = input(lane, usize::from(i)).expect("every body of the class has N bytes");
    }
    let mut digests = [0u8; LANES * 32];
    hash_lanes(platform, &inputs[..group.len()], &mut digests);
    for (digest, &i) in digests.as_chunks::<32>().0.iter().zip(group) {
        out[usize::from(i)] = *digest;
    }
}

/// Each input is a whole message of one chunk.
fn hash_lanes<const N: usize>(platform: Platform, inputs: &[&[u8; N]], digests: &mut [u8]) {
    let (no, last) = (IncrementCounter::No, CHUNK_END | ROOT);
    platform.hash_many(inputs, &IV, 0, no, 0, CHUNK_START, last, digests);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the rule says, in the plainest way.
    fn model(body: &[u8]) -> Digest {
        let mut padded = body.to_vec();
        if body.len() <= 1024 {
            padded.resize(body.len().next_multiple_of(64), 0);
        }
        *blake3::hash(&padded).as_bytes()
    }

    fn burst(bodies: &[&[u8]]) -> Vec<Digest> {
        let mut out = vec![[0xee; 32]; bodies.len()];
        digest_burst(bodies, &mut out);
        out
    }

    /// Of the official BLAKE3 test vectors those that our rule leaves unpadded: input length, and
    /// the digest of that many bytes 0, 1 .. 250, 0, 1 ..
    #[test]
    fn official_vectors() {
        let vectors = include_str!("../vectors/blake3.txt");
        let mut checked = 0;
        for line in vectors.lines().filter(|line| !line.starts_with('#')) {
            let (size, digest) = line.split_once(' ').unwrap();
            let size: usize = size.parse().unwrap();
            let input: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let hex = |digest: Digest| digest.map(|b| format!("{b:02x}")).concat();
            assert_eq!(hex(body_digest(&input)), digest, "{size} bytes");
            for lanes in [1, 2, 7, 8, 16, 17, 64, 65] {
                for one in burst(&vec![&input[..]; lanes]) {
                    assert_eq!(hex(one), digest, "{size} bytes in {lanes} lanes");
                }
            }
            checked += 1;
        }
        assert_eq!(checked, 16);
    }

    #[test]
    fn every_size_up_to_two_chunks() {
        let bytes: Vec<u8> = (0..2048u32).map(|i| (i * 7 + i / 256) as u8).collect();
        let bodies: Vec<&[u8]> = (0..=2048).map(|size| &bytes[..size]).collect();
        for (body, digest) in bodies.iter().zip(burst(&bodies)) {
            assert_eq!(digest, model(body), "{} bytes", body.len());
            assert_eq!(digest, body_digest(body));
        }
    }

    #[test]
    fn lanes_do_not_leak_into_each_other() {
        // Long bodies first, so that stale padding would show.
        let long = [0xff; 120];
        let mut bodies: Vec<&[u8]> = vec![&long; 16];
        bodies.extend([&long[..65]; 16]);
        for (body, digest) in bodies.iter().zip(burst(&bodies)) {
            assert_eq!(digest, model(body));
        }
    }

    #[test]
    fn zeros_at_the_end_of_a_short_body_do_not_show() {
        // The documented limit of the rule: whoever relies on the digest binds the length.
        assert_eq!(body_digest(b"a"), body_digest(b"a\0"));
        assert_ne!(body_digest(b""), body_digest(b"\0"));
        assert_ne!(body_digest(&[0; 1024]), body_digest(&[0; 1025]));
    }

    #[test]
    #[should_panic(expected = "one digest for each body")]
    fn lengths_must_agree() {
        digest_burst(&[b"a"], &mut []);
    }

    proptest! {
        /// Bodies of one class go another way than mixed ones.
        #[test]
        fn one_class_equals_one_by_one(
            blocks in 1usize..=16,
            missing in proptest::collection::vec(prop_oneof![Just(0), 0usize..64], 1..70),
            seed: u8,
        ) {
            let bytes: Vec<u8> = (0..2048).map(|i| (i as u8).wrapping_mul(29) ^ seed).collect();
            let body = |(i, missing): (usize, &usize)| &bytes[i..i + blocks * 64 - missing];
            let bodies: Vec<&[u8]> = missing.iter().enumerate().map(body).collect();
            for (body, digest) in bodies.iter().zip(burst(&bodies)) {
                prop_assert_eq!(digest, model(body));
            }
        }

        #[test]
        fn a_burst_equals_one_by_one(
            sizes in proptest::collection::vec(
                prop_oneof![0usize..1100, Just(64), Just(256), Just(1024), 1000usize..5000],
                0..150,
            ),
            seed: u8,
        ) {
            let bytes: Vec<u8> = (0..8192).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect();
            let bodies: Vec<&[u8]> =
                sizes.iter().enumerate().map(|(i, size)| &bytes[i..i + size]).collect();
            for (body, digest) in bodies.iter().zip(burst(&bodies)) {
                prop_assert_eq!(digest, model(body));
            }
        }
    }
}
