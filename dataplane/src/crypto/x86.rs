//! AES-128-GMAC and AES-128-CMAC with the processor's AES and carry-less multiplication.
//!
//! Owns expanded keys: round keys and powers of the hash key. Always true: a key exists only where
//! the processor has [`available`] instructions, and gives the tags that any GMAC or CMAC gives.
//! Must not: branch on, or index by, anything secret.
//!
//! Why not the library's: it finds out at each call what the processor can do, expands the round
//! keys for wide vectors at each call, and calls through functions that cannot be inlined into each
//! other. That is 700 instructions for the tag of a header; this is about 120.
//!
//! GMAC's hash is computed as POLYVAL (RFC 8452, appendix A: GHASH of byte-reversed blocks under the
//! hash key times x), in the field of 2^128 elements modulo x^128 + p·x^64 + 1 with
//! p = x^63 + x^62 + x^57. Let M = M1·x^64 + M0 be a block and H = H1·x^64 + H0 a power of the key.
//! As x^-64 = x^64 + p, the product with H/x^64 is a product with D = H0·x^64 + H1 + H0·p, so
//!
//! M·H/x^128 = (M1·H + M0·D)/x^64 = (R·x^64 + F)/x^64 = R + F1 + F0·x^64 + F0·p
//!
//! with R = M1·H1 + M0·D1 and F = M1·H0 + M0·D0: four multiplications a block, one more for the sum
//! of many blocks ("Efficient GHASH Implementation Using CLMUL", IACR ePrint 2025/2171).

use std::arch::x86_64::{
    __m128i, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_aeskeygenassist_si128,
    _mm_clmulepi64_si128, _mm_cvtsi128_si64, _mm_extract_epi64, _mm_set_epi64x, _mm_setr_epi8,
    _mm_setzero_si128, _mm_shuffle_epi8, _mm_shuffle_epi32, _mm_slli_si128, _mm_testz_si128,
    _mm_xor_si128,
};

use super::authenticator::cmac_last_block;
use super::mac::{Cipher, MacItem};
use crate::limits::HEADER_COVERED_SIZE;
use zeroize::Zeroize;

/// Bytes of a block of AES and of the hash.
const BLOCK: usize = 16;

/// Blocks multiplied before one reduction: a header, a client's MAC vector for four replicas or a
/// signature, and the block of lengths.
const POWERS: usize = 10;

/// Blocks of a long message that share one reduction.
const GROUP: usize = 8;
const _: () = assert!(GROUP <= POWERS);

/// p of the module's header, for the low half.
const P: i64 = 0xc200_0000_0000_0000_u64.cast_signed();

/// A power of the hash key: H and D of the module's header.
type Power = (u128, u128);

/// An expanded key of GMAC. Wiped when dropped.
pub(super) struct GmacKey {
    /// Of AES: the key itself, then one for each round.
    rounds: [u128; 11],
    /// `powers[i]` is the hash key to the power of `i + 1`.
    powers: [Power; POWERS],
}

/// Has the processor what a key needs?
pub(super) fn available() -> bool {
    is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("pclmulqdq")
        && is_x86_feature_detected!("avx")
}

impl GmacKey {
    /// `None` where the instructions are missing.
    pub(super) fn new(key: &[u8; BLOCK]) -> Option<Self> {
        // SAFETY: the instructions that the function needs were detected.
        available().then(|| unsafe { expand_gmac(key) })
    }

    /// The tag over `whole` and then `rest`, encrypted with the first block of the counter.
    ///
    /// `whole` is whole blocks, so that `rest` begins a block.
    pub(super) fn tag(&self, counter: u128, whole: &[[u8; BLOCK]], rest: &[u8]) -> u128 {
        // SAFETY: a key exists only if the instructions were detected.
        unsafe { gmac(self, counter, whole, rest) }
    }
}

/// As [`super::mac::verify_each`]; `None` where the instructions are missing. The tags of a burst do
/// not depend on each other: in one loop the processor computes several at a time.
#[inline]
pub(super) fn verify_each<'a>(
    count: usize,
    item: &impl Fn(usize) -> Option<MacItem<'a>>,
) -> Option<u64> {
    // SAFETY: the instructions that the function needs were detected.
    available().then(|| unsafe { verify_loop(count, item) })
}

impl Drop for GmacKey {
    fn drop(&mut self) {
        self.rounds.zeroize();
        for (h, d) in &mut self.powers {
            h.zeroize();
            d.zeroize();
        }
    }
}

/// An expanded key of CMAC (NIST SP 800-38B, RFC 4493). Wiped when dropped.
pub(super) struct CmacKey {
    rounds: [u128; 11],
    /// What is added to a last block that is whole: K1 of the specification.
    last: u128,
}

impl CmacKey {
    /// `None` where the instructions are missing.
    pub(super) fn new(key: &[u8; BLOCK]) -> Option<Self> {
        // SAFETY: the instructions that the function needs were detected.
        available().then(|| unsafe { expand_cmac(key) })
    }

    /// The tag over whole blocks, at least one.
    pub(super) fn tag<const N: usize>(&self, blocks: &[[u8; BLOCK]; N]) -> u128 {
        const { assert!(N > 0) };
        // SAFETY: a key exists only if the instructions were detected.
        unsafe { cmac(self, blocks) }
    }
}

impl Drop for CmacKey {
    fn drop(&mut self) {
        self.rounds.zeroize();
        self.last.zeroize();
    }
}

#[target_feature(enable = "aes,pclmulqdq,avx")]
fn expand_cmac(key: &[u8; BLOCK]) -> CmacKey {
    let rounds = expand_rounds(u128::from_le_bytes(*key));
    let last = cmac_last_block(from_vector(encrypt(&rounds, _mm_setzero_si128())));
    CmacKey { rounds, last }
}

#[target_feature(enable = "aes,pclmulqdq,avx")]
fn cmac<const N: usize>(key: &CmacKey, blocks: &[[u8; BLOCK]; N]) -> u128 {
    let mut state = _mm_setzero_si128();
    for (i, block) in blocks.iter().enumerate() {
        state = _mm_xor_si128(state, to_vector(u128::from_le_bytes(*block)));
        if i == N - 1 {
            state = _mm_xor_si128(state, to_vector(key.last));
        }
        state = encrypt(&key.rounds, state);
    }
    from_vector(state)
}

#[target_feature(enable = "aes,pclmulqdq,avx")]
fn expand_gmac(key: &[u8; BLOCK]) -> GmacKey {
    let rounds = expand_rounds(u128::from_le_bytes(*key));
    let h = from_vector(multiply_by_x(reverse(encrypt(&rounds, _mm_setzero_si128()))));
    let first = power(to_vector(h));
    let mut powers = [first; POWERS];
    for i in 1..POWERS {
        let last = to_vector(powers[i - 1].0);
        powers[i] = power(reduce(multiply(last, first, Sums::zero())));
    }
    GmacKey { rounds, powers }
}

/// FIPS 197, section 5.2.
#[target_feature(enable = "aes,pclmulqdq,avx")]
fn expand_rounds(key: u128) -> [u128; 11] {
    let mut rounds = [key; 11];
    macro_rules! round {
        ($($i:literal $constant:literal)*) => {$(
            let last = to_vector(rounds[$i - 1]);
            let word = _mm_shuffle_epi32::<0xff>(_mm_aeskeygenassist_si128::<$constant>(last));
            let mut sums = last;
            for _ in 0..3 {
                sums = _mm_xor_si128(last, _mm_slli_si128::<4>(sums));
            }
            rounds[$i] = from_vector(_mm_xor_si128(sums, word));
        )*};
    }
    round!(1 0x01 2 0x02 3 0x04 4 0x08 5 0x10 6 0x20 7 0x40 8 0x80 9 0x1b 10 0x36);
    rounds
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx")]
fn encrypt(rounds: &[u128; 11], block: __m128i) -> __m128i {
    let mut state = _mm_xor_si128(block, to_vector(rounds[0]));
    for round in &rounds[1..10] {
        state = _mm_aesenc_si128(state, to_vector(*round));
    }
    _mm_aesenclast_si128(state, to_vector(rounds[10]))
}

#[target_feature(enable = "aes,pclmulqdq,avx")]
fn gmac(key: &GmacKey, counter: u128, whole: &[[u8; BLOCK]], rest: &[u8]) -> u128 {
    let sums = match (whole, rest) {
        ([a, b, c, d, e], []) => hash_blocks(&key.powers, &[a, b, c, d, e]),
        _ => hash_long(key, whole, rest),
    };
    from_vector(finish(key, counter, whole.len() * BLOCK + rest.len(), sums))
}

#[target_feature(enable = "aes,pclmulqdq,avx")]
fn verify_loop<'a>(count: usize, item: &impl Fn(usize) -> Option<MacItem<'a>>) -> u64 {
    let mut good = 0;
    for i in 0..count {
        let Some(item) = item(i) else { continue };
        let valid = match &item.key.cipher {
            Cipher::X86(key) if item.proof.is_empty() => {
                let ([a, b, c, d, e], _) = item.header.as_chunks() else {
                    unreachable!("80 bytes are 5 blocks")
                };
                let sums = hash_blocks(&key.powers, &[a, b, c, d, e]);
                let counter = item.key.first_counter(item.sequence);
                let expected = finish(key, counter, HEADER_COVERED_SIZE, sums);
                equal(expected, to_vector(u128::from_le_bytes(*item.tag)))
            }
            _ => item.valid(),
        };
        good |= u64::from(valid) << i;
    }
    good
}

/// Takes the same time wherever they differ: one instruction looks at all bits.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx")]
fn equal(a: __m128i, b: __m128i) -> bool {
    let different = _mm_xor_si128(a, b);
    _mm_testz_si128(different, different) == 1
}

/// The tag, from the sums over `size` bytes.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx")]
fn finish(key: &GmacKey, counter: u128, size: usize, sums: Sums) -> __m128i {
    let lengths = to_vector(u128::from(size as u64 * 8) << 64);
    let hash = reduce(multiply(lengths, key.powers[0], sums));
    _mm_xor_si128(reverse(hash), encrypt(&key.rounds, to_vector(counter)))
}

/// The sums of the blocks times the powers from N + 1 down to 2: the block of lengths follows.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx")]
fn hash_blocks<const N: usize>(powers: &[Power; POWERS], blocks: &[&[u8; BLOCK]; N]) -> Sums {
    let mut sums = Sums::zero();
    for i in 0..N {
        sums = multiply(load(blocks[i]), powers[N - i], sums);
    }
    sums
}

/// As [`hash_blocks`], for any number of blocks and a part of one. A header with 64 bytes of proof is
/// common, and has its blocks at fixed places.
#[inline(never)]
#[target_feature(enable = "aes,pclmulqdq,avx")]
fn hash_long(key: &GmacKey, whole: &[[u8; BLOCK]], rest: &[u8]) -> Sums {
    match (whole, rest.as_chunks()) {
        ([a, b, c, d, e], ([f, g, h, i], [])) => {
            hash_blocks(&key.powers, &[a, b, c, d, e, f, g, h, i])
        }
        (whole, (blocks, tail)) => hash_any(key, whole, blocks, tail),
    }
}

#[target_feature(enable = "aes,pclmulqdq,avx")]
fn hash_any(key: &GmacKey, whole: &[[u8; BLOCK]], blocks: &[[u8; BLOCK]], tail: &[u8]) -> Sums {
    let mut hash = hash_groups(key, _mm_setzero_si128(), whole);
    hash = hash_groups(key, hash, blocks);
    if !tail.is_empty() {
        let mut last = [0; BLOCK];
        last[..tail.len()].copy_from_slice(tail);
        hash = hash_groups(key, hash, &[last]);
    }
    multiply(hash, key.powers[0], Sums::zero())
}

/// What the blocks make of `hash`, with one reduction for each [`GROUP`]. Fixed places and powers in
/// a group: the products do not wait for each other.
#[target_feature(enable = "aes,pclmulqdq,avx")]
fn hash_groups(key: &GmacKey, mut hash: __m128i, blocks: &[[u8; BLOCK]]) -> __m128i {
    let (groups, rest) = blocks.as_chunks::<GROUP>();
    for group in groups {
        let first = _mm_xor_si128(hash, load(&group[0]));
        let mut sums = multiply(first, key.powers[GROUP - 1], Sums::zero());
        for (i, block) in group.iter().enumerate().skip(1) {
            sums = multiply(load(block), key.powers[GROUP - 1 - i], sums);
        }
        hash = reduce(sums);
    }
    let mut sums = Sums::zero();
    for (block, power) in rest.iter().zip(key.powers[..rest.len()].iter().rev()) {
        sums = multiply(_mm_xor_si128(hash, load(block)), *power, sums);
        hash = _mm_setzero_si128();
    }
    if rest.is_empty() { hash } else { reduce(sums) }
}

/// R and F of the module's header, summed over blocks.
#[derive(Clone, Copy)]
struct Sums {
    r: __m128i,
    f: __m128i,
}

impl Sums {
    #[inline]
    #[target_feature(enable = "aes,pclmulqdq,avx")]
    fn zero() -> Self {
        Self { r: _mm_setzero_si128(), f: _mm_setzero_si128() }
    }
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx")]
fn multiply(block: __m128i, (h, d): Power, sums: Sums) -> Sums {
    let (h, d) = (to_vector(h), to_vector(d));
    let r0 = _mm_clmulepi64_si128::<0x11>(block, h);
    let r1 = _mm_clmulepi64_si128::<0x10>(block, d);
    let f0 = _mm_clmulepi64_si128::<0x01>(block, h);
    let f1 = _mm_clmulepi64_si128::<0x00>(block, d);
    Sums {
        r: _mm_xor_si128(sums.r, _mm_xor_si128(r0, r1)),
        f: _mm_xor_si128(sums.f, _mm_xor_si128(f0, f1)),
    }
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx")]
fn reduce(sums: Sums) -> __m128i {
    let f0_p = _mm_clmulepi64_si128::<0x00>(sums.f, _mm_set_epi64x(0, P));
    let halves_swapped = _mm_shuffle_epi32::<0x4e>(sums.f);
    _mm_xor_si128(_mm_xor_si128(sums.r, halves_swapped), f0_p)
}

/// H and D for a power H of the hash key.
#[target_feature(enable = "aes,pclmulqdq,avx")]
fn power(h: __m128i) -> Power {
    let h0_p = _mm_clmulepi64_si128::<0x00>(h, _mm_set_epi64x(0, P));
    let d = _mm_xor_si128(_mm_shuffle_epi32::<0x4e>(h), h0_p);
    (from_vector(h), from_vector(d))
}

/// Times x in the field of POLYVAL.
#[target_feature(enable = "aes,pclmulqdq,avx")]
fn multiply_by_x(h: __m128i) -> __m128i {
    let h = from_vector(h);
    let carry = (h >> 127).wrapping_neg();
    let modulus = u128::from(P.cast_unsigned()) << 64 | 1;
    to_vector(h << 1 ^ carry & modulus)
}

/// A block as POLYVAL reads it.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx")]
fn load(block: &[u8; BLOCK]) -> __m128i {
    reverse(to_vector(u128::from_le_bytes(*block)))
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx")]
fn reverse(block: __m128i) -> __m128i {
    let backwards = _mm_setr_epi8(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    _mm_shuffle_epi8(block, backwards)
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx")]
fn to_vector(value: u128) -> __m128i {
    _mm_set_epi64x(((value >> 64) as u64).cast_signed(), (value as u64).cast_signed())
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,avx")]
fn from_vector(value: __m128i) -> u128 {
    let low = _mm_cvtsi128_si64(value).cast_unsigned();
    let high = _mm_extract_epi64::<1>(value).cast_unsigned();
    u128::from(high) << 64 | u128::from(low)
}
