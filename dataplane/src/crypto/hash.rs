//! Digests of message bodies, many at a time in SIMD lanes.
//!
//! Owns the rule what the digest of a body is, and what shares lanes. Always true: `digest_burst`
//! gives bit for bit what `body_digest` gives for each body. Must not: allocate.
//!
//! The digest is BLAKE3 of the body, zero-padded to a multiple of 64 bytes: whole blocks are what
//! the lanes take, and equal numbers of them are what lets independent bodies share lanes. 64 bodies
//! of 256 bytes cost 24 ns each instead of 320.
//!
//! **The digest does not bind the length**: a body and the same body with zeros appended can have
//! one digest. Whoever relies on it binds the length too. The link tag does: it covers `size` and
//! `proof_size`. Encodings above that (requests, batches) carry their lengths inside.

mod lanes;

use crate::limits::LANE_BODY_SIZE_MAX;
use crate::types::Digest;
use blake3::platform::Platform;
use lanes::{BLOCK, CHUNK, LANES};

/// Blocks of a chunk.
const BLOCKS: usize = CHUNK / BLOCK;

/// Classes of bodies of one chunk by their blocks, then of longer ones by their chunks.
const CLASSES: usize = BLOCKS + LANE_BODY_SIZE_MAX / CHUNK - 1;

/// Bodies sorted into classes at a time: their places fit one byte and the tables fit the stack.
const GROUP: usize = 64;

/// The digest of one body.
pub fn body_digest(body: &[u8]) -> Digest {
    let size = body.len().next_multiple_of(BLOCK);
    if size == body.len() {
        return *blake3::hash(body).as_bytes();
    }
    if size <= CHUNK {
        let mut padded = [0u8; CHUNK];
        padded[..body.len()].copy_from_slice(body);
        return *blake3::hash(&padded[..size]).as_bytes();
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(body).update(&[0; BLOCK][..size - body.len()]);
    *hasher.finalize().as_bytes()
}

/// The digests of many bodies: `out[i]` is `body_digest(bodies[i])`. Fastest when many bodies have
/// the same padded size, and when sizes are multiples of 64 (nothing is copied then).
///
/// # Panics
/// If `out` is not as long as `bodies`.
pub fn digest_burst(bodies: &[&[u8]], out: &mut [Digest]) {
    digest_burst_on(Platform::detect(), bodies, out);
}

/// The vector instructions that hash bursts. [`digest_burst`] takes the best ones of the processor;
/// this is for comparing them with others.
#[derive(Clone, Copy, Debug)]
pub struct InstructionSet(Platform);

impl InstructionSet {
    /// Those that this processor has, the best first.
    pub fn available() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        let older = [Platform::avx2(), Platform::sse41(), Platform::sse2()];
        #[cfg(not(target_arch = "x86_64"))]
        let older = [None; 3];
        let all = [Some(Platform::detect()), Some(Platform::portable())];
        let mut sets: Vec<Self> = Vec::new();
        for platform in [&all[..1], &older, &all[1..]].concat().into_iter().flatten() {
            if sets.iter().all(|set| set.name() != Self(platform).name()) {
                sets.push(Self(platform));
            }
        }
        sets
    }

    /// Its name: `AVX512`, `AVX2`, `SSE41`, `SSE2`, `NEON` or `Portable`.
    pub fn name(self) -> String {
        format!("{:?}", self.0)
    }

    /// As [`digest_burst`], with these instructions; bodies that share no lanes excepted.
    ///
    /// # Panics
    /// If `out` is not as long as `bodies`.
    pub fn digest_burst(self, bodies: &[&[u8]], out: &mut [Digest]) {
        digest_burst_on(self.0, bodies, out);
    }
}

fn digest_burst_on(platform: Platform, bodies: &[&[u8]], out: &mut [Digest]) {
    assert_eq!(bodies.len(), out.len(), "one digest for each body");
    for (bodies, out) in bodies.chunks(GROUP).zip(out.chunks_mut(GROUP)) {
        digest_group(platform, bodies, out);
    }
}

/// Hash each class. All in one class is the common case: there is nothing to sort then, and the
/// lanes write the digests where they belong.
fn digest_group(platform: Platform, bodies: &[&[u8]], out: &mut [Digest]) {
    let class = bodies.first().map_or(0, |body| class_of(body.len()));
    if bodies.iter().all(|body| class_of(body.len()) == class) {
        return digest_class(platform, class, bodies, out);
    }
    digest_mixed(platform, bodies, out);
}

/// Sort by class (a counting sort: stable, no comparisons), then hash each class.
fn digest_mixed(platform: Platform, bodies: &[&[u8]], out: &mut [Digest]) {
    let mut counts = [0u8; CLASSES + 1];
    for body in bodies {
        counts[class_of(body.len())] += 1;
    }
    let mut next = [0u8; CLASSES + 1];
    for class in 1..=CLASSES {
        next[class] = next[class - 1] + counts[class - 1];
    }
    let mut places = [0u8; GROUP];
    let mut sorted: [&[u8]; GROUP] = [&[]; GROUP];
    for (place, body) in places.iter_mut().zip(bodies) {
        let next = &mut next[class_of(body.len())];
        *place = *next;
        sorted[usize::from(*next)] = body;
        *next += 1;
    }
    let mut digests = [Digest::default(); GROUP];
    let (mut sorted, mut left) = (&sorted[..], &mut digests[..]);
    for (class, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
        let (members, others) = sorted.split_at(usize::from(count));
        let (theirs, rest) = left.split_at_mut(usize::from(count));
        digest_class(platform, class, members, theirs);
        (sorted, left) = (others, rest);
    }
    for (out, place) in out.iter_mut().zip(places) {
        *out = digests[usize::from(place)];
    }
}

/// 0 for bodies that do not share lanes (empty, or very long).
fn class_of(size: usize) -> usize {
    if size <= CHUNK {
        size.div_ceil(BLOCK)
    } else if size <= LANE_BODY_SIZE_MAX {
        BLOCKS + size.div_ceil(CHUNK) - 1
    } else {
        0
    }
}

/// All bodies are of this class.
fn digest_class(platform: Platform, class: usize, bodies: &[&[u8]], out: &mut [Digest]) {
    for (bodies, out) in bodies.chunks(LANES).zip(out.chunks_mut(LANES)) {
        match class {
            1..=BLOCKS => lanes::chunks(platform, class, bodies, out),
            // A body of more chunks than there are bodies fills more lanes alone.
            _ if class > BLOCKS && bodies.len() >= (class - BLOCKS).max(2) => {
                lanes::trees(platform, class - BLOCKS + 1, bodies, out);
            }
            _ => {
                for (body, out) in bodies.iter().zip(out) {
                    *out = body_digest(body);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the rule says, in the plainest way.
    fn model(body: &[u8]) -> Digest {
        let mut padded = body.to_vec();
        padded.resize(body.len().next_multiple_of(64), 0);
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
        assert_eq!(checked, 14);
    }

    #[test]
    fn every_size_up_to_four_chunks() {
        let bytes: Vec<u8> = (0..4096u32).map(|i| (i * 7 + i / 256) as u8).collect();
        let bodies: Vec<&[u8]> = (0..=4096).map(|size| &bytes[..size]).collect();
        for (body, digest) in bodies.iter().zip(burst(&bodies)) {
            assert_eq!(digest, model(body), "{} bytes", body.len());
            assert_eq!(digest, body_digest(body));
        }
    }

    #[test]
    fn sizes_around_every_chunk_border() {
        let bytes: Vec<u8> = (0..20_000u32).map(|i| (i * 13 + i / 251) as u8).collect();
        for chunks in 1..=18 {
            for size in [1, 33, 64, 65, 960, 961, 1023, 1024].map(|last| chunks * 1024 + last) {
                let bodies: Vec<&[u8]> = (0..17).map(|at| &bytes[at..at + size]).collect();
                // As many as fill the lanes and one more; fewer than go into lanes; all between.
                for lanes in [1, 2, 3, 5, 8, 16, 17] {
                    for (body, digest) in bodies.iter().zip(burst(&bodies[..lanes])) {
                        assert_eq!(digest, model(body), "{size} bytes in {lanes} lanes");
                    }
                }
            }
        }
    }

    /// What detection would choose on older processors.
    #[test]
    fn all_instruction_sets_agree() {
        let bytes: Vec<u8> = (0..20_000u32).map(|i| (i * 17 + i / 253) as u8).collect();
        let bodies: Vec<&[u8]> = (0..64).map(|at| &bytes[at..at * (at + 200)]).collect();
        for set in InstructionSet::available() {
            let mut digests = [Digest::default(); 64];
            set.digest_burst(&bodies, &mut digests);
            for (body, digest) in bodies.iter().zip(digests) {
                assert_eq!(digest, model(body), "{set:?}, {} bytes", body.len());
            }
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
    fn zeros_at_the_end_of_a_body_do_not_show() {
        // The documented limit of the rule: whoever relies on the digest binds the length.
        assert_eq!(body_digest(b"a"), body_digest(b"a\0"));
        assert_ne!(body_digest(b""), body_digest(b"\0"));
        assert_ne!(body_digest(&[0; 1024]), body_digest(&[0; 1025]));
        assert_eq!(body_digest(&[1; 100_001]), {
            let mut longer = [1; 100_002];
            longer[100_001] = 0;
            body_digest(&longer)
        });
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
            blocks in prop_oneof![1usize..=16, 17usize..=64],
            missing in proptest::collection::vec(prop_oneof![Just(0), 0usize..64], 1..70),
            seed: u8,
        ) {
            let bytes: Vec<u8> = (0..8192).map(|i| (i as u8).wrapping_mul(29) ^ seed).collect();
            let body = |(i, missing): (usize, &usize)| &bytes[i..i + blocks * 64 - missing];
            let bodies: Vec<&[u8]> = missing.iter().enumerate().map(body).collect();
            for (body, digest) in bodies.iter().zip(burst(&bodies)) {
                prop_assert_eq!(digest, model(body));
            }
        }

        #[test]
        fn a_burst_equals_one_by_one(
            sizes in proptest::collection::vec(
                prop_oneof![
                    0usize..1100, Just(64), Just(1024), Just(1056), 1000usize..5000,
                    (1usize..18, 0usize..130).prop_map(|(chunks, more)| chunks * 1024 + more - 64),
                ],
                0..150,
            ),
            seed: u8,
        ) {
            let bytes: Vec<u8> = (0..20_000).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect();
            let bodies: Vec<&[u8]> =
                sizes.iter().enumerate().map(|(i, size)| &bytes[i..i + size]).collect();
            for (body, digest) in bodies.iter().zip(burst(&bodies)) {
                prop_assert_eq!(digest, model(body));
                prop_assert_eq!(digest, body_digest(body));
            }
        }
    }
}
