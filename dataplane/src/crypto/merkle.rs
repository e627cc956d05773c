//! A digest of many chunks that each chunk can be checked against.
//!
//! Owns the shape of the tree. Always true: leaves, inner nodes and roots are hashed with different prefixes, and
//! a root names the number of bytes and the size of a chunk, so no bytes have two roots and no root is
//! of two sequences of bytes. Must not: keep chunks.
//!
//! BLAKE3 everywhere. A leaf is the hash of 0, its number (8 bytes, little endian) and its bytes; a node that of
//! 1 and its two children; one without a sibling goes up as it is. The root is the hash of 2, the bytes
//! in all (8), the bytes of a chunk (8) and the topmost node, 32 zeros if there are no bytes.

use crate::types::Digest;

const LEAF: u8 = 0;
const NODE: u8 = 1;
const ROOT: u8 = 2;

/// The digest of chunk `number`.
pub fn leaf(number: u64, chunk: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[LEAF]).update(&number.to_le_bytes()).update(chunk);
    *hasher.finalize().as_bytes()
}

/// The digest of `size` bytes in chunks of `chunk_size`, of which all are full but the last. Leaves `leaves`
/// with other digests.
///
/// # Panics
/// If there are not as many leaves as chunks.
pub fn root(size: u64, chunk_size: u64, leaves: &mut [Digest]) -> Digest {
    assert_eq!(leaves.len() as u64, size.div_ceil(chunk_size), "one leaf for each chunk");
    let mut count = leaves.len();
    while count > 1 {
        for at in 0..count / 2 {
            leaves[at] = node(&leaves[2 * at], &leaves[2 * at + 1]);
        }
        if count % 2 == 1 {
            leaves[count / 2] = leaves[count - 1];
        }
        count = count.div_ceil(2);
    }
    let top = leaves.first().copied().unwrap_or([0; 32]);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[ROOT]).update(&size.to_le_bytes()).update(&chunk_size.to_le_bytes());
    *hasher.update(&top).finalize().as_bytes()
}

fn node(left: &Digest, right: &Digest) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[NODE]).update(left).update(right);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_of(bytes: &[u8], chunk_size: usize) -> Digest {
        let leaves = bytes.chunks(chunk_size).enumerate();
        let mut leaves: Vec<Digest> = leaves.map(|(at, chunk)| leaf(at as u64, chunk)).collect();
        root(bytes.len() as u64, chunk_size as u64, &mut leaves)
    }

    /// The definition, written down again: halves at the largest power of two below the number.
    fn recursive(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => [0; 32],
            [only] => *only,
            _ => {
                let half = leaves.len().next_power_of_two() / 2;
                node(&recursive(&leaves[..half]), &recursive(&leaves[half..]))
            }
        }
    }

    #[test]
    fn the_tree_is_the_one_that_is_described() {
        for count in 0..40usize {
            let leaves: Vec<Digest> = (0..count).map(|at| leaf(at as u64, b"x")).collect();
            let mut hasher = blake3::Hasher::new();
            hasher.update(&[ROOT]).update(&(count as u64).to_le_bytes());
            hasher.update(&1u64.to_le_bytes()).update(&recursive(&leaves));
            let expected = *hasher.finalize().as_bytes();
            assert_eq!(root(count as u64, 1, &mut leaves.clone()), expected, "{count} leaves");
        }
    }

    #[test]
    fn every_bit_and_the_sizes_count() {
        let bytes: Vec<u8> = (0..100).collect();
        let whole = root_of(&bytes, 16);
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert_ne!(root_of(&other, 16), whole, "byte {at}");
            assert_ne!(root_of(&bytes[..at], 16), whole, "cut at {at}");
        }
        assert_ne!(root_of(&bytes, 32), whole);
        let mut swapped = bytes.clone();
        swapped[..32].rotate_left(16);
        assert_ne!(root_of(&swapped, 16), whole, "chunks are in order");
        assert_ne!(root_of(&[0], 16), root_of(&[], 16));
    }
}
