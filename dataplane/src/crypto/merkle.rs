//! A digest of many chunks that each chunk can be checked against.
//!
//! Owns the shape of the tree. Always true: leaves, inner nodes and roots are hashed with different prefixes, and
//! a root names the number of bytes and the size of a chunk, so no bytes have two roots and no root is
//! of two sequences of bytes. Must not: keep chunks.
//!
//! BLAKE3 everywhere. A leaf is the [`body_digest`] of its bytes, so that who received a chunk as the body of a message
//! knows it already; a node is the hash of 1 and its two children; one without a sibling goes up as it is. The root is
//! the hash of 2, the bytes in all (8), the bytes of a chunk (8) and the topmost node, 32 zeros if there are no bytes.
//! A leaf has no prefix and does not say where it belongs: the root names the sizes, from which the shape of the tree
//! follows, and so which node is a leaf, of which chunk, and of how many bytes.

use crate::crypto::hash::body_digest;
use crate::types::Digest;

const NODE: u8 = 1;
const ROOT: u8 = 2;

/// The most siblings a path has: chunks are counted in 64 bits.
pub const LONGEST_PATH: usize = 64;

/// The digest of a chunk.
pub fn leaf(chunk: &[u8]) -> Digest {
    body_digest(chunk)
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
    root_over(size, chunk_size, leaves.first())
}

/// Every node of the tree, for who makes many paths: 64 bytes for each chunk.
#[derive(Debug)]
pub struct Tree {
    /// The levels one after the other, leaves first, each half as long as the one below it.
    nodes: Vec<Digest>,
    leaves: usize,
}

impl Tree {
    /// The tree over these leaves, in the order of their chunks.
    pub fn new(leaves: &[Digest]) -> Tree {
        let mut nodes = Vec::with_capacity(2 * leaves.len() + usize::BITS as usize);
        nodes.extend_from_slice(leaves);
        let (mut start, mut count) = (0, leaves.len());
        while count > 1 {
            for at in (start..start + count).step_by(2) {
                let pair = at + 1 < start + count;
                nodes.push(if pair { node(&nodes[at], &nodes[at + 1]) } else { nodes[at] });
            }
            (start, count) = (start + count, count.div_ceil(2));
        }
        Tree { nodes, leaves: leaves.len() }
    }

    /// The digest that [`root`] makes of the same leaves.
    pub fn root(&self, size: u64, chunk_size: u64) -> Digest {
        root_over(size, chunk_size, self.nodes.last())
    }

    /// Leaf `index`, if there is one.
    pub fn leaf(&self, index: u64) -> Option<Digest> {
        let index = usize::try_from(index).ok()?;
        self.nodes[..self.leaves].get(index).copied()
    }

    /// The siblings on the way from leaf `index` to the root, lowest first, at most [`LONGEST_PATH`]; nothing where
    /// a node goes up as it is, and nothing at all for a leaf that there is not.
    pub fn path(&self, index: u64) -> impl Iterator<Item = Digest> + '_ {
        let (mut start, mut count) = (0, self.leaves);
        let mut at = usize::try_from(index).unwrap_or(usize::MAX);
        if at >= count {
            count = 0;
        }
        std::iter::from_fn(move || {
            while count > 1 {
                let sibling = at ^ 1;
                let found = (sibling < count).then(|| self.nodes[start + sibling]);
                (start, count, at) = (start + count, count.div_ceil(2), at / 2);
                if found.is_some() {
                    return found;
                }
            }
            None
        })
    }
}

/// The root that `size` bytes in chunks of `chunk_size` have if chunk `index` has `leaf` and so many bytes, and `path` are
/// its siblings, lowest first ([`Tree::path`]). None if there is no such chunk, or it or its path has another length.
/// Hashes as often as the path is long.
pub fn implied_root(
    (leaf, bytes): (&Digest, usize),
    index: u64,
    size: u64,
    chunk_size: u64,
    path: &[Digest],
) -> Option<Digest> {
    let mut count = if chunk_size == 0 { 0 } else { size.div_ceil(chunk_size) };
    if index >= count || path.len() > LONGEST_PATH {
        return None;
    }
    // A digest covers zeros up to the next multiple of 64, too: it does not say how many bytes there are.
    if bytes as u64 != chunk_size.min(size - index * chunk_size) {
        return None;
    }
    let (mut top, mut at, mut path) = (*leaf, index, path.iter());
    while count > 1 {
        if at ^ 1 < count {
            let sibling = path.next()?;
            top = if at % 2 == 0 { node(&top, sibling) } else { node(sibling, &top) };
        }
        (count, at) = (count.div_ceil(2), at / 2);
    }
    path.next().is_none().then(|| root_over(size, chunk_size, Some(&top)))
}

fn root_over(size: u64, chunk_size: u64, top: Option<&Digest>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[ROOT]).update(&size.to_le_bytes()).update(&chunk_size.to_le_bytes());
    *hasher.update(top.unwrap_or(&[0; 32])).finalize().as_bytes()
}

fn node(left: &Digest, right: &Digest) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[NODE]).update(left).update(right);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn root_of(bytes: &[u8], chunk_size: usize) -> Digest {
        let mut leaves: Vec<Digest> = bytes.chunks(chunk_size).map(leaf).collect();
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
            let leaves: Vec<Digest> = (0..count).map(|at| leaf(&[at as u8])).collect();
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

    fn leaves(count: usize) -> Vec<Digest> {
        (0..count).map(|at| leaf(&[at as u8; 3])).collect()
    }

    #[test]
    fn every_path_implies_the_root() {
        for count in 1..70usize {
            let leaves = leaves(count);
            let tree = Tree::new(&leaves);
            let size = 10 * count as u64 - 7;
            let whole = root(size, 10, &mut leaves.clone());
            assert_eq!(tree.root(size, 10), whole, "{count} leaves");
            for (at, one) in leaves.iter().enumerate() {
                let path: Vec<Digest> = tree.path(at as u64).collect();
                let bytes = if at + 1 == count { 3 } else { 10 };
                let implied = |bytes| implied_root((one, bytes), at as u64, size, 10, &path);
                assert_eq!(implied(bytes), Some(whole), "{at} of {count}");
                assert_eq!((implied(bytes - 1), implied(bytes + 1)), (None, None), "it is as long");
            }
            assert_eq!(tree.path(count as u64).count(), 0);
            assert_eq!(tree.path(u64::MAX).count(), 0);
            assert_eq!((tree.leaf(count as u64), tree.leaf(u64::MAX)), (None, None));
        }
        assert_eq!(Tree::new(&[]).root(0, 10), root(0, 10, &mut []));
        assert_eq!(Tree::new(&[]).path(0).count(), 0);
    }

    #[test]
    fn sizes_that_make_no_sense_imply_nothing() {
        let (one, path) = ([1; 32], [[2; 32]; LONGEST_PATH + 1]);
        assert_eq!(implied_root((&one, 0), 0, 0, 10, &[]), None, "no bytes");
        assert_eq!(implied_root((&one, 0), 0, 10, 0, &[]), None, "no chunks");
        assert_eq!(implied_root((&one, 0), 1, 10, 10, &[]), None, "behind the last");
        assert_eq!(implied_root((&one, 1), u64::MAX, u64::MAX, 1, &path[..64]), None);
        assert!(implied_root((&one, 1), 0, u64::MAX, 1, &path[..64]).is_some(), "the longest path");
        assert_eq!(implied_root((&one, 1), 0, u64::MAX, 1, &path), None, "longer than any");
    }

    proptest! {
        /// A chunk that is not the one of its place implies another root, whatever comes with it.
        #[test]
        fn whatever_differs_implies_another_root(
            count in 1usize..300, pick in any::<prop::sample::Index>(), bit in 0usize..8, place in any::<prop::sample::Index>(),
            other_index in 0u64..400, size_change in 1u64..5_000,
        ) {
            let bytes: Vec<u8> = (0..count * 16 - 5).flat_map(|at| (at as u16 * 7).to_le_bytes()).take(count * 16 - 5).collect();
            let size = bytes.len() as u64;
            let chunks: Vec<&[u8]> = bytes.chunks(16).collect();
            let leaves: Vec<Digest> = chunks.iter().map(|chunk| leaf(chunk)).collect();
            let whole = root_of(&bytes, 16);
            let at = pick.index(count);
            let path: Vec<Digest> = Tree::new(&leaves).path(at as u64).collect();
            let implied = |chunk: &[u8], at: u64, size: u64, chunk_size: u64, path: &[Digest]| {
                implied_root((&leaf(chunk), chunk.len()), at, size, chunk_size, path)
            };
            prop_assert_eq!(implied(chunks[at], at as u64, size, 16, &path), Some(whole));

            let mut changed = chunks[at].to_vec();
            let byte = place.index(changed.len());
            changed[byte] ^= 1 << bit;
            prop_assert_ne!(implied(&changed, at as u64, size, 16, &path), Some(whole));
            prop_assert_ne!(implied(&chunks[at][..byte], at as u64, size, 16, &path), Some(whole));
            if other_index != at as u64 {
                prop_assert_ne!(implied(chunks[at], other_index, size, 16, &path), Some(whole));
            }
            for size in [size + size_change, size.saturating_sub(size_change)] {
                prop_assert_ne!(implied(chunks[at], at as u64, size, 16, &path), Some(whole));
            }
            prop_assert_ne!(implied(chunks[at], at as u64, size, 32, &path), Some(whole));
            for sibling in 0..path.len() {
                let mut wrong = path.clone();
                wrong[sibling][byte] ^= 1 << bit;
                prop_assert_ne!(implied(chunks[at], at as u64, size, 16, &wrong), Some(whole));
                prop_assert_eq!(implied(chunks[at], at as u64, size, 16, &path[..sibling]), None);
            }
            let longer = [path.as_slice(), &[[0; 32]]].concat();
            prop_assert_eq!(implied(chunks[at], at as u64, size, 16, &longer), None);
        }
    }
}
