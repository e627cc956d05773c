//! The 96-byte link header: every message starts with one.
//!
//! Owns the layout and its proof. Always true: what `parse` returns has our magic and version,
//! zero in every reserved byte, and sizes within the limits that fit each other. Must not: know
//! what a kind means, or trust a field before the tag was checked.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `TTRA` |
//! | 4 | 2 | version |
//! | 6 | 1 | kind, never reused |
//! | 7 | 1 | auth: what sort of proof follows the body |
//! | 8 | 4 | size of header, body and proof |
//! | 12 | 2 | sender: replica index, 0xffff for a client |
//! | 14 | 2 | proof size: how many bytes of `size` are proof |
//! | 16 | 8 | cluster |
//! | 24 | 8 | session |
//! | 32 | 8 | sequence |
//! | 40 | 8 | reserved, zero |
//! | 48 | 32 | digest of the body |
//! | 80 | 16 | link tag over bytes 0..80 and the proof |
//!
//! Integers are little endian.

use crate::limits::{FRAME_SIZE_MAX, HEADER_COVERED_SIZE, HEADER_SIZE, PROOF_SIZE_MAX, TAG_SIZE};
use crate::reject::Reject;
use crate::types::Digest;

/// `TTRA`, read as a little-endian number.
pub const MAGIC: u32 = u32::from_le_bytes(*b"TTRA");

/// The wire format. Only an exact match is accepted; golden vectors change only with it.
pub const VERSION: u16 = 4;

/// The sender field of a message from a client: who it is says `session`.
pub const SENDER_CLIENT: u16 = 0xffff;

/// A header as it travels.
pub type HeaderBytes = [u8; HEADER_SIZE];

/// Where each field starts. The last one is the end.
mod offset {
    pub const MAGIC: usize = 0;
    pub const VERSION: usize = 4;
    pub const KIND: usize = 6;
    pub const AUTH: usize = 7;
    pub const SIZE: usize = 8;
    pub const SENDER: usize = 12;
    pub const PROOF_SIZE: usize = 14;
    pub const CLUSTER: usize = 16;
    pub const SESSION: usize = 24;
    pub const SEQUENCE: usize = 32;
    pub const RESERVED: usize = 40;
    pub const BODY_DIGEST: usize = 48;
    pub const TAG: usize = 80;
    pub const END: usize = 96;
}

// Each field ends where the next begins: no gap, no overlap, nothing uncovered.
const _: () = {
    assert!(offset::MAGIC == 0);
    assert!(offset::MAGIC + size_of::<u32>() == offset::VERSION);
    assert!(offset::VERSION + size_of::<u16>() == offset::KIND);
    assert!(offset::KIND + size_of::<u8>() == offset::AUTH);
    assert!(offset::AUTH + size_of::<u8>() == offset::SIZE);
    assert!(offset::SIZE + size_of::<u32>() == offset::SENDER);
    assert!(offset::SENDER + size_of::<u16>() == offset::PROOF_SIZE);
    assert!(offset::PROOF_SIZE + size_of::<u16>() == offset::CLUSTER);
    assert!(offset::CLUSTER + size_of::<u64>() == offset::SESSION);
    assert!(offset::SESSION + size_of::<u64>() == offset::SEQUENCE);
    assert!(offset::SEQUENCE + size_of::<u64>() == offset::RESERVED);
    assert!(offset::RESERVED + size_of::<u64>() == offset::BODY_DIGEST);
    assert!(offset::BODY_DIGEST + size_of::<Digest>() == offset::TAG);
    assert!(offset::TAG == HEADER_COVERED_SIZE);
    assert!(offset::TAG + TAG_SIZE == offset::END);
    assert!(offset::END == HEADER_SIZE);
};

/// The fields of a link header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the body is. The dataplane knows only its own handshake kinds.
    pub kind: u8,
    /// What sort of transferable proof follows the body; 0 is none.
    pub auth: u8,
    /// Bytes of header, body and proof.
    pub size: u32,
    /// Index of the sending replica, or [`SENDER_CLIENT`].
    pub sender: u16,
    /// How many of the last bytes of the message are proof.
    pub proof_size: u16,
    /// Which cluster: staging cannot talk to production.
    pub cluster: u64,
    /// Which client session; replicas use 0.
    pub session: u64,
    /// Number of the message under its link key: nonce and replay protection.
    pub sequence: u64,
    /// `crypto::hash::body_digest` of the body, proof excluded.
    pub body_digest: Digest,
    /// Link tag over the first 80 bytes and the proof.
    pub tag: [u8; TAG_SIZE],
}

impl Header {
    /// Read and check a header. Trailing bytes (the body) are not looked at.
    ///
    /// # Errors
    /// `BadSize` (fewer than 96 bytes, or sizes out of limits or not fitting each other),
    /// `BadMagic`, `BadVersion`, `ReservedNotZero`.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Header, Reject> {
        let Some((bytes, _)) = bytes.split_first_chunk::<HEADER_SIZE>() else {
            return Err(Reject::BadSize);
        };
        let size = peek_size(bytes)?;
        if u64::from_le_bytes(field(bytes, offset::RESERVED)) != 0 {
            return Err(Reject::ReservedNotZero);
        }
        Ok(Header {
            kind: bytes[offset::KIND],
            auth: bytes[offset::AUTH],
            size,
            sender: u16::from_le_bytes(field(bytes, offset::SENDER)),
            proof_size: u16::from_le_bytes(field(bytes, offset::PROOF_SIZE)),
            cluster: u64::from_le_bytes(field(bytes, offset::CLUSTER)),
            session: u64::from_le_bytes(field(bytes, offset::SESSION)),
            sequence: u64::from_le_bytes(field(bytes, offset::SEQUENCE)),
            body_digest: field(bytes, offset::BODY_DIGEST),
            tag: field(bytes, offset::TAG),
        })
    }

    /// Write all 96 bytes.
    #[inline]
    pub fn write(&self, out: &mut HeaderBytes) {
        debug_assert!(sizes_valid(self.size, self.proof_size), "our own header within the limits");
        put(out, offset::MAGIC, &MAGIC.to_le_bytes());
        put(out, offset::VERSION, &VERSION.to_le_bytes());
        out[offset::KIND] = self.kind;
        out[offset::AUTH] = self.auth;
        put(out, offset::SIZE, &self.size.to_le_bytes());
        put(out, offset::SENDER, &self.sender.to_le_bytes());
        put(out, offset::PROOF_SIZE, &self.proof_size.to_le_bytes());
        put(out, offset::CLUSTER, &self.cluster.to_le_bytes());
        put(out, offset::SESSION, &self.session.to_le_bytes());
        put(out, offset::SEQUENCE, &self.sequence.to_le_bytes());
        put(out, offset::RESERVED, &[0; 8]);
        put(out, offset::BODY_DIGEST, &self.body_digest);
        put(out, offset::TAG, &self.tag);
    }

    /// The header as it travels.
    #[inline]
    pub fn to_bytes(&self) -> HeaderBytes {
        let mut out = [0; HEADER_SIZE];
        self.write(&mut out);
        out
    }

    /// Bytes of the body, proof excluded.
    pub fn body_size(&self) -> usize {
        (self.size as usize).saturating_sub(HEADER_SIZE + usize::from(self.proof_size))
    }

    /// Bytes after the header: body and proof.
    pub fn payload_size(&self) -> usize {
        (self.size as usize).saturating_sub(HEADER_SIZE)
    }

    /// Cut the bytes after the header into body and proof.
    ///
    /// # Errors
    /// `BadSize` if they are not as many as the header says.
    pub fn split<'a>(&self, payload: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Reject> {
        if payload.len() != self.payload_size() {
            return Err(Reject::BadSize);
        }
        payload.split_at_checked(self.body_size()).ok_or(Reject::BadSize)
    }
}

/// The size field of a header that has not been checked otherwise, for a transport that has to know
/// how many bytes belong to a message: bounded, but not authentic.
///
/// # Errors
/// As [`Header::parse`] for magic, version and sizes.
#[inline]
pub fn peek_size(bytes: &HeaderBytes) -> Result<u32, Reject> {
    if u32::from_le_bytes(field(bytes, offset::MAGIC)) != MAGIC {
        return Err(Reject::BadMagic);
    }
    if u16::from_le_bytes(field(bytes, offset::VERSION)) != VERSION {
        return Err(Reject::BadVersion);
    }
    let size = u32::from_le_bytes(field(bytes, offset::SIZE));
    let proof_size = u16::from_le_bytes(field(bytes, offset::PROOF_SIZE));
    if !sizes_valid(size, proof_size) {
        return Err(Reject::BadSize);
    }
    Ok(size)
}

/// The bytes of a written header that the link tag covers, before the proof.
pub fn covered(bytes: &HeaderBytes) -> &[u8; HEADER_COVERED_SIZE] {
    let (covered, _) = bytes.split_first_chunk().expect("80 < 96, asserted at compile time");
    covered
}

/// Put the tag into a written header.
pub fn set_tag(bytes: &mut HeaderBytes, tag: &[u8; TAG_SIZE]) {
    put(bytes, offset::TAG, tag);
}

/// Do header, proof and limits fit? 64-bit sums: nothing here can wrap.
#[inline]
fn sizes_valid(size: u32, proof_size: u16) -> bool {
    let least = HEADER_SIZE as u64 + u64::from(proof_size);
    usize::from(proof_size) <= PROOF_SIZE_MAX
        && u64::from(size) >= least
        && u64::from(size) <= FRAME_SIZE_MAX as u64
}

/// `N` bytes at a constant offset.
#[inline]
fn field<const N: usize>(bytes: &HeaderBytes, at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[inline]
fn put(out: &mut HeaderBytes, at: usize, value: &[u8]) {
    out[at..at + value.len()].copy_from_slice(value);
}

/// Compares bytes with a golden vector: hex digits, blanks, and lines of comment.
#[cfg(test)]
pub(crate) fn assert_golden(bytes: &[u8], golden: &str) {
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let lines = golden.lines().filter(|line| !line.starts_with('#'));
    let golden: String = lines.flat_map(str::split_whitespace).collect();
    assert_eq!(hex, golden);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Header {
        Header {
            kind: 3,
            auth: 1,
            size: 96 + 256 + 64,
            sender: 2,
            proof_size: 64,
            cluster: 0x0102_0304_0506_0708,
            session: 0x1112_1314_1516_1718,
            sequence: 0x2122_2324_2526_2728,
            body_digest: std::array::from_fn(|i| 0x40 + i as u8),
            tag: std::array::from_fn(|i| 0xa0 + i as u8),
        }
    }

    /// Changes only together with `VERSION`.
    const GOLDEN: &str = include_str!("vectors/header_v4.hex");

    #[test]
    fn golden_vector() {
        let bytes = sample().to_bytes();
        assert_golden(&bytes, GOLDEN);
        assert_eq!(Header::parse(&bytes), Ok(sample()));
    }

    #[test]
    fn each_broken_field_has_its_reason() {
        let good = sample().to_bytes();
        let broken = |at: usize, value: u8| {
            let mut bytes = good;
            bytes[at] = value;
            Header::parse(&bytes)
        };
        assert_eq!(broken(0, 0), Err(Reject::BadMagic));
        for other in [0, 1, 2, 3, 5] {
            assert_eq!(broken(4, other), Err(Reject::BadVersion));
        }
        assert_eq!(broken(5, 1), Err(Reject::BadVersion));
        assert_eq!(broken(11, 0xff), Err(Reject::BadSize), "above the frame limit");
        assert_eq!(broken(15, 0xff), Err(Reject::BadSize), "above the proof limit");
        for at in 40..48 {
            assert_eq!(broken(at, 1), Err(Reject::ReservedNotZero));
        }
        assert_eq!(Header::parse(&good[..95]), Err(Reject::BadSize));
        assert_eq!(Header::parse(&[]), Err(Reject::BadSize));
    }

    #[test]
    fn sizes_at_their_limits() {
        let with = |size: usize, proof_size: usize| {
            // Written by hand: `write` asserts its own sizes.
            let mut bytes = sample().to_bytes();
            put(&mut bytes, offset::SIZE, &(size as u32).to_le_bytes());
            put(&mut bytes, offset::PROOF_SIZE, &(proof_size as u16).to_le_bytes());
            Header::parse(&bytes).map(|header| header.body_size())
        };
        assert_eq!(with(HEADER_SIZE, 0), Ok(0));
        assert_eq!(with(HEADER_SIZE - 1, 0), Err(Reject::BadSize));
        assert_eq!(with(FRAME_SIZE_MAX, 0), Ok(FRAME_SIZE_MAX - HEADER_SIZE));
        assert_eq!(with(FRAME_SIZE_MAX + 1, 0), Err(Reject::BadSize));
        assert_eq!(with(HEADER_SIZE + PROOF_SIZE_MAX, PROOF_SIZE_MAX), Ok(0));
        assert_eq!(with(HEADER_SIZE + 10, 11), Err(Reject::BadSize), "proof beyond the message");
        assert_eq!(with(FRAME_SIZE_MAX, PROOF_SIZE_MAX + 1), Err(Reject::BadSize));
    }

    #[test]
    fn splits_body_and_proof() {
        let header = sample();
        let payload = [7u8; 256 + 64];
        let (body, proof) = header.split(&payload).unwrap();
        assert_eq!((body.len(), proof.len()), (256, 64));
        assert_eq!(header.split(&payload[1..]), Err(Reject::BadSize));
        assert_eq!(header.split(&[]), Err(Reject::BadSize));
    }

    #[test]
    fn covered_part_ends_before_the_tag() {
        let mut bytes = sample().to_bytes();
        let before = *covered(&bytes);
        set_tag(&mut bytes, &[0; TAG_SIZE]);
        assert_eq!(*covered(&bytes), before);
        assert_eq!(Header::parse(&bytes).unwrap().tag, [0; TAG_SIZE]);
        assert_eq!(peek_size(&bytes), Ok(sample().size));
        bytes[3] = 0;
        assert_eq!(peek_size(&bytes), Err(Reject::BadMagic));
    }

    prop_compose! {
        fn any_header()(
            kind: u8, auth: u8, sender: u16, cluster: u64, session: u64, sequence: u64,
            body_digest: [u8; 32], tag: [u8; 16],
            proof_size in 0..=PROOF_SIZE_MAX, body in 0usize..=1 << 20,
        ) -> Header {
            Header {
                kind, auth, sender, cluster, session, sequence, body_digest, tag,
                proof_size: proof_size as u16,
                size: (HEADER_SIZE + body + proof_size) as u32,
            }
        }
    }

    proptest! {
        #[test]
        fn written_headers_read_back(header in any_header()) {
            prop_assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
        }

        #[test]
        fn any_bytes_parse_or_are_rejected(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(header) = Header::parse(&bytes) {
                prop_assert_eq!(&header.to_bytes()[..], &bytes[..HEADER_SIZE]);
            }
        }

        /// What parses is exactly what was written: no bit is ignored.
        #[test]
        fn a_flipped_bit_is_rejected_or_seen(header in any_header(), bit in 0usize..HEADER_SIZE * 8) {
            let mut bytes = header.to_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(Header::parse(&bytes), Ok(header));
        }
    }
}
