//! What replicas say to each other about checkpoints: who has which, and their chunks (rules ST.1, ST.2).
//!
//! Owns these messages as values. Always true: the path and the bytes of a chunk are where its message has them;
//! nothing here is larger than a frame. Must not: hash anything, or believe what a chunk says of itself.

use crate::limits::{CHUNK_PATH_MAX, CHUNK_SIZE_MAX, OFFERS_MAX};
use crate::message::Malformed;
use crate::payload::Payload;
use crate::types::{ConsensusId, Digest, ViewId};

/// "Which checkpoints do you have above this instance?"
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchState {
    /// Membership.
    pub view: ViewId,
    /// The last instance that the sender decided.
    pub above: ConsensusId,
}

/// A checkpoint that a member can send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// The last instance that was executed.
    pub cid: ConsensusId,
    /// Bytes of its image, at least 1.
    pub size: u64,
    /// Merkle root over the chunks of the image.
    pub root: Digest,
}

/// All that a member can send: takes the place of what it offered before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateOffer {
    /// Membership.
    pub view: ViewId,
    offers: [Offer; OFFERS_MAX],
    count: u8,
}

impl StateOffer {
    const NONE: Offer = Offer { cid: ConsensusId(0), size: 0, root: Digest::ZERO };

    /// Nothing.
    pub fn new(view: ViewId) -> Self {
        Self { view, offers: [Self::NONE; OFFERS_MAX], count: 0 }
    }

    /// Adds one. False: there are [`OFFERS_MAX`] already.
    pub fn push(&mut self, offer: Offer) -> bool {
        let free = self.offers.get_mut(usize::from(self.count));
        let fits = free.is_some();
        if let Some(free) = free {
            *free = offer;
            self.count += 1;
        }
        fits
    }

    /// What is offered.
    pub fn offers(&self) -> &[Offer] {
        &self.offers[..usize::from(self.count)]
    }
}

/// "Send me these chunks of this checkpoint."
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchChunks {
    /// Membership.
    pub view: ViewId,
    /// Which checkpoint.
    pub cid: ConsensusId,
    /// Its root.
    pub root: Digest,
    /// The first chunk.
    pub first: u32,
    /// How many, at least 1.
    pub count: u32,
}

/// One chunk of a checkpoint.
#[derive(Clone, Debug)]
pub struct Chunk<P> {
    /// Membership.
    pub view: ViewId,
    /// Which checkpoint.
    pub cid: ConsensusId,
    /// Which chunk.
    pub index: u32,
    /// Bytes of the whole image.
    pub size: u64,
    /// The digest of its bytes, that of the message's body, as known where it came in; does not travel.
    /// [`Digest::ZERO`] until then.
    pub leaf: Digest,
    /// The root that all the rest implies, as computed there; does not travel. [`Digest::ZERO`] until then.
    pub root: Digest,
    nodes: usize,
    /// The bytes, then the path.
    payload: P,
}

impl<P: Payload> Chunk<P> {
    /// A chunk whose path is the last `nodes` digests of `payload` and whose bytes are the rest.
    ///
    /// # Errors
    /// [`Malformed`] says what is too long or missing.
    pub fn new(
        view: ViewId,
        (cid, index, size): (ConsensusId, u32, u64),
        nodes: usize,
        payload: P,
    ) -> Result<Self, Malformed> {
        if nodes > CHUNK_PATH_MAX {
            return Err(Malformed::TooMany);
        }
        let path = nodes * size_of::<Digest>();
        let bytes = payload.bytes().len().checked_sub(path).ok_or(Malformed::Truncated)?;
        match bytes {
            0 => Err(Malformed::Truncated),
            1..=CHUNK_SIZE_MAX => {
                let (leaf, root) = (Digest::ZERO, Digest::ZERO);
                Ok(Self { view, cid, index, size, leaf, root, nodes, payload })
            }
            _ => Err(Malformed::TooLong),
        }
    }

    /// The siblings of the chunk's leaf on the way to the root, lowest first.
    pub fn path(&self) -> &[[u8; 32]] {
        self.payload.bytes()[self.size_alone()..].as_chunks().0
    }

    /// What is in the image at its place.
    pub fn bytes(&self) -> &[u8] {
        &self.payload.bytes()[..self.size_alone()]
    }

    /// The same, sharing the memory of the message.
    pub fn into_bytes(self) -> P {
        let size = self.size_alone();
        self.payload.into_slice(0, size).expect("the constructor has compared the sizes")
    }

    /// Bytes without the path.
    fn size_alone(&self) -> usize {
        self.payload.bytes().len() - self.nodes * size_of::<Digest>()
    }
}
