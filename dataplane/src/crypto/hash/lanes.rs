//! BLAKE3 of bodies of one shape, each in a lane of its own.
//!
//! Owns the flags and counters of chunks and parents. Always true: lanes do not mix: what comes out
//! of one depends on its body alone. Must not: allocate.
//!
//! The crate's lane code hashes the same chunk of many inputs at once. The tree above the chunks is
//! built here, as the BLAKE3 paper says (section 5.1.2, incremental hashing), but with a row of
//! chaining values, one for each body, where one input has a single value.

use crate::limits::LANE_BODY_SIZE_MAX;
use crate::types::Digest;
use blake3::IncrementCounter;
use blake3::platform::Platform;

/// A BLAKE3 block. Bodies are padded to a multiple of it.
pub(super) const BLOCK: usize = 64;

/// A BLAKE3 chunk: a leaf of the tree.
pub(super) const CHUNK: usize = 1024;

/// Inputs given to one call of the lane code: as many as the widest vectors hold (AVX-512).
pub(super) const LANES: usize = 16;

/// Rows that wait for what is right of them: one for each level of the tree, and the latest.
const ROWS: usize = (LANE_BODY_SIZE_MAX / CHUNK).ilog2() as usize + 1;

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
const PARENT: u8 = 1 << 2;
const ROOT: u8 = 1 << 3;

/// A chaining value of each body. Those in lanes that no body has are of no use.
type Row = [Digest; LANES];

/// Lanes that hash `count` inputs. Of 16 lanes the crate hashes 15 inputs in passes of 8, 4, 2 and
/// 1, nearly four times as long as 16 take: empty lanes cost less than another pass.
fn lanes_of(platform: Platform, count: usize) -> usize {
    let degree = platform.simd_degree();
    match count % degree {
        0 => count,
        rest => count - rest + rest.next_power_of_two(),
    }
}

/// Digests of up to [`LANES`] bodies that are one chunk of `blocks` padded blocks each.
pub(super) fn chunks(platform: Platform, blocks: usize, bodies: &[&[u8]], out: &mut [Digest]) {
    let mut row = Row::default();
    hash_chunks(platform, blocks, bodies, 0, CHUNK_END | ROOT, &mut row);
    out.copy_from_slice(&row[..bodies.len()]);
}

/// Digests of up to [`LANES`] bodies of `count` chunks each, at least two. The last chunks may have
/// different sizes.
pub(super) fn trees(platform: Platform, count: usize, bodies: &[&[u8]], out: &mut [Digest]) {
    let (lanes, rows) = (lanes_of(platform, bodies.len()), [Row::default(); ROWS]);
    let mut tree = Tree { platform, lanes, rows, height: 0 };
    let last = count - 1;
    for at in 0..last {
        let parts = parts(bodies, |body| &body[at * CHUNK..][..CHUNK]);
        let (parts, row) = (&parts[..bodies.len()], tree.push());
        hash_padded::<CHUNK>(platform, parts, at as u64, CHUNK_END, row);
        // Two subtrees of one size are siblings: as often as the number of chunks can be halved.
        for _ in 0..(at + 1).trailing_zeros() {
            tree.merge(PARENT);
        }
    }
    let parts = parts(bodies, |body| &body[last * CHUNK..]);
    hash_last(platform, &parts[..bodies.len()], last as u64, tree.push());
    while tree.height > 2 {
        tree.merge(PARENT);
    }
    tree.merge(PARENT | ROOT);
    out.copy_from_slice(&tree.rows[0][..bodies.len()]);
}

/// The trees of several bodies, built at the same time.
struct Tree {
    platform: Platform,
    lanes: usize,
    rows: [Row; ROWS],
    /// Rows that hold subtrees, from the left to the right.
    height: usize,
}

impl Tree {
    /// A place for the next row.
    fn push(&mut self) -> &mut Row {
        self.height += 1;
        &mut self.rows[self.height - 1]
    }

    /// The parents of the last two rows take their places.
    fn merge(&mut self, flags: u8) {
        let [.., left, right] = &mut self.rows[..self.height] else {
            unreachable!("a parent has two children")
        };
        let mut pairs = [[0; BLOCK]; LANES];
        for ((pair, left), right) in pairs.iter_mut().zip(&*left).zip(right).take(self.lanes) {
            let (start, end) = pair.split_at_mut(BLOCK / 2);
            start.copy_from_slice(left);
            end.copy_from_slice(right);
        }
        let inputs: [&[u8; BLOCK]; LANES] = std::array::from_fn(|lane| &pairs[lane]);
        let (inputs, out) = (&inputs[..self.lanes], left[..self.lanes].as_flattened_mut());
        self.platform.hash_many(inputs, &IV, 0, IncrementCounter::No, flags, 0, 0, out);
        self.height -= 1;
    }
}

/// One part of each body.
fn parts<'a>(bodies: &[&'a [u8]], part: impl Fn(&'a [u8]) -> &'a [u8]) -> [&'a [u8]; LANES] {
    let mut parts: [&[u8]; LANES] = [&[]; LANES];
    for (out, body) in parts.iter_mut().zip(bodies) {
        *out = part(body);
    }
    parts
}

/// The chaining values of the last chunks, those of one number of blocks together.
fn hash_last(platform: Platform, parts: &[&[u8]], counter: u64, out: &mut Row) {
    let blocks = |part: &[u8]| part.len().div_ceil(BLOCK);
    let mut left: u32 = (1 << parts.len()) - 1;
    while left != 0 {
        let class = blocks(parts[left.trailing_zeros() as usize]);
        let mut same: [&[u8]; LANES] = [&[]; LANES];
        let mut lanes = [0; LANES];
        let mut count = 0;
        for (lane, part) in parts.iter().enumerate().filter(|(_, part)| blocks(part) == class) {
            (same[count], lanes[count]) = (part, lane);
            count += 1;
            left &= !(1 << lane);
        }
        if count == parts.len() {
            return hash_chunks(platform, class, parts, counter, CHUNK_END, out);
        }
        let mut values = Row::default();
        hash_chunks(platform, class, &same[..count], counter, CHUNK_END, &mut values);
        for (value, lane) in values.iter().zip(&lanes[..count]) {
            out[*lane] = *value;
        }
    }
}

/// A chunk of each body, all of `blocks` padded blocks.
fn hash_chunks(
    platform: Platform,
    blocks: usize,
    parts: &[&[u8]],
    counter: u64,
    flags_end: u8,
    out: &mut Row,
) {
    macro_rules! by_blocks {
        ($($blocks:literal)*) => {
            match blocks {
                $($blocks => {
                    hash_padded::<{ $blocks * BLOCK }>(platform, parts, counter, flags_end, out)
                })*
                _ => unreachable!("a chunk has 1 to 16 blocks"),
            }
        };
    }
    by_blocks!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16)
}

/// As [`hash_chunks`], for N bytes. Only if a part does not fill its blocks is there a copy.
fn hash_padded<const N: usize>(
    platform: Platform,
    parts: &[&[u8]],
    counter: u64,
    flags_end: u8,
    out: &mut Row,
) {
    let mut padded = None;
    let mut inputs: [&[u8; N]; LANES] = [&[0; N]; LANES];
    if parts.iter().all(|part| part.len() == N) {
        for (input, part) in inputs.iter_mut().zip(parts) {
            *input = part.first_chunk().expect("every part has N bytes");
        }
    } else {
        let padded = padded.insert([[0u8; N]; LANES]);
        for ((input, padded), part) in inputs.iter_mut().zip(padded).zip(parts) {
            padded[..part.len()].copy_from_slice(part);
            *input = padded;
        }
    }
    let (inputs, no) = (&inputs[..lanes_of(platform, parts.len())], IncrementCounter::No);
    let out = out.as_flattened_mut();
    platform.hash_many(inputs, &IV, counter, no, 0, CHUNK_START, flags_end, out);
}
