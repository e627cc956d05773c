//! Every maximum of the dataplane, with its reason.
//!
//! Owns constants only. Always true: no size that a peer controls is used before it was compared
//! with one of these. Must not: depend on configuration; what an operator may set lives with its
//! module and is bounded by a constant here.

/// Bytes of the link header.
pub const HEADER_SIZE: usize = 96;

/// Bytes of the header that the link tag covers: all of it but the tag.
pub const HEADER_COVERED_SIZE: usize = 80;

/// Bytes of a link tag: a full AES-GMAC tag, never truncated.
pub const TAG_SIZE: usize = 16;

/// Bytes of one message: header, the largest body (a batch of 2 MiB) and 64 KiB for what carries
/// it (states of all members around one batch, the transferable proof).
pub const FRAME_SIZE_MAX: usize = HEADER_SIZE + 2 * 1024 * 1024 + 64 * 1024;

/// Bytes of body and proof together: what a receive slot must hold.
pub const BODY_SIZE_MAX: usize = FRAME_SIZE_MAX - HEADER_SIZE;

/// Members of a view: one bit each in a `u64`.
pub const REPLICAS_MAX: usize = 64;

/// Bytes of the transferable proof after a body: an authenticator entry of 16 bytes for each member.
/// A signature is shorter.
pub const PROOF_SIZE_MAX: usize = 16 * REPLICAS_MAX;

/// Bodies up to this size are hashed side by side in SIMD lanes. Longer bodies fill the lanes alone:
/// this many bytes are as many BLAKE3 chunks as the widest vectors have lanes.
pub const LANE_BODY_SIZE_MAX: usize = 16 * 1024;

/// Messages that one poll of a stage handles at most: enough to fill the lanes of the widest hash
/// several times, few enough to keep latency bounded. Also the bits of a verification mask.
pub const BURST_MAX: usize = 64;

/// Bytes that follow the header of a bundle at most: with its slot's book-keeping a few dozen small
/// messages share one tag, and what one message that is kept holds back stays small.
pub const BUNDLE_SIZE_MAX: usize = 4096;

/// Messages in one bundle at most: whole groups of the widest lanes, and half a burst.
pub const BUNDLE_MESSAGES_MAX: usize = 32;

/// Bytes of body and proof of a message that may travel in a bundle. In a bundle every byte goes
/// through the link tag and is copied once more by the sender: above this, that costs more than a
/// header of its own.
pub const BUNDLED_SIZE_MAX: usize = 512;

/// Numbers that one link key may be used with. Far below the bound of AES-GMAC for a forgery
/// probability of 2^-64 per key, and never reached in practice: at 10 million messages a second it
/// lasts for 325 days, and a reconnection makes a new key.
pub const SEQUENCE_MAX: u64 = 1 << 48;

/// Bytes of one slot of an arena at most: offsets inside a slot are 32-bit numbers.
pub const SLOT_SIZE_MAX: u32 = 1 << 30;

/// Slots of one size class at most.
pub const SLOT_COUNT_MAX: u32 = 1 << 20;

/// Size classes of one arena at most: an allocation looks at each in turn.
pub const SLOT_CLASSES_MAX: usize = 16;

const _: () = assert!(HEADER_COVERED_SIZE + TAG_SIZE == HEADER_SIZE);
const _: () = assert!(PROOF_SIZE_MAX <= u16::MAX as usize);
const _: () = assert!(FRAME_SIZE_MAX <= SLOT_SIZE_MAX as usize);
const _: () = assert!(LANE_BODY_SIZE_MAX.is_multiple_of(1024), "whole BLAKE3 chunks");
const _: () = assert!(2 * BUNDLED_SIZE_MAX <= BUNDLE_SIZE_MAX, "a bundle holds several");
const _: () = assert!(BUNDLE_MESSAGES_MAX <= BURST_MAX);
const _: () = assert!(BURST_MAX <= 64, "a verification mask is a u64");
