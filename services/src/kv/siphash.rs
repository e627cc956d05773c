//! SipHash (Aumasson and Bernstein, 2012): the keyed hash that orders the keyspace.
//!
//! Written out here, because the order is part of the replicated state: it must never change with a
//! library. Keyed, so that clients who do not know the cluster's seed cannot aim at one shard.

/// SipHash with `C` rounds a word and `D` at the end.
pub fn siphash<const C: usize, const D: usize>(key: [u64; 2], bytes: &[u8]) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        absorb::<C>(&mut v, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    last[7] = bytes.len() as u8;
    absorb::<C>(&mut v, u64::from_le_bytes(last));
    v[2] ^= 0xff;
    for _ in 0..D {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn absorb<const C: usize>(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    for _ in 0..C {
        round(v);
    }
    v[0] ^= word;
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::{DefaultHasher, Hasher};

    #[test]
    fn the_published_vectors_hold() {
        // Reference implementation, key 00 01 .. 0f, input 00 01 .. (n-1).
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let input: Vec<u8> = (0..15).collect();
        assert_eq!(siphash::<2, 4>(key, &input[..0]), 0x726f_db47_dd0e_0e31);
        assert_eq!(siphash::<2, 4>(key, &input[..1]), 0x74f8_39c5_93dc_67fd);
        assert_eq!(siphash::<2, 4>(key, &input[..8]), 0x93f5_f579_9a93_2462);
        assert_eq!(siphash::<2, 4>(key, &input), 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn one_and_three_rounds_agree_with_the_standard_library() {
        for size in 0..40 {
            let input: Vec<u8> = (0..size).collect();
            let mut hasher = DefaultHasher::new();
            hasher.write(&input);
            assert_eq!(siphash::<1, 3>([0, 0], &input), hasher.finish());
        }
    }
}
