//! A parsed batch, request by request.
//!
//! Owns the forms in which others see a request that lies in a batch: all of it, or only what its
//! identity and layout say. Always true: nothing is copied. Must not: check anything; the batch was.

use super::sparse::{Identity, OMITTED, OMITTED_LAYOUT};
use super::{BATCH_HEADER_SIZE, IDENTITY_SIZE, LAYOUT_SIZE, REQUEST_HEADER_SIZE, Replier};
use crate::types::{ClientId, Digest, Sequence};

/// One request inside a batch or a frame, borrowed. What the application and the validators see.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// Session.
    pub client: ClientId,
    /// Number within the session.
    pub sequence: Sequence,
    /// Digest of `body`, as claimed by the batch; ingress compares it.
    pub digest: Digest,
    /// The operation: opaque to the core.
    pub operation: &'a [u8],
    /// The request body: header and operation.
    pub body: &'a [u8],
    /// Kind of proof (`message::proof`).
    pub auth: u8,
    /// The client's proof.
    pub proof: &'a [u8],
}

impl RequestView<'_> {
    /// Who answers with the whole result.
    pub fn replier(&self) -> Replier {
        let code = self.body.get(22).copied().unwrap_or(0);
        Replier::from_code(code).unwrap_or_default()
    }

    /// The oldest request of the session that the client had no result of when it made this one
    /// (rule CLI.10).
    pub fn oldest_unanswered(&self) -> Sequence {
        let unanswered = self.body.get(23).copied().unwrap_or(u8::MAX);
        Sequence(self.sequence.0.saturating_sub(unanswered.into()))
    }
}

/// What a batch says of a request before its body.
#[derive(Clone, Copy, Debug)]
pub struct Outline<'a> {
    /// Session.
    pub client: ClientId,
    /// Number within the session.
    pub sequence: Sequence,
    /// Digest of the body.
    pub digest: &'a [u8; 32],
    /// Bytes of the body, 0 when it is left out.
    pub body_size: usize,
    /// Kind of proof (`message::proof`).
    pub auth: u8,
    /// Are body and proof left out? Never in a whole batch.
    pub omitted: bool,
}

/// The outlines of the `count` requests of a whole batch, whose parsed encoding begins with `bytes`.
#[inline]
pub(super) fn outlines(bytes: &[u8], count: usize) -> impl ExactSizeIterator<Item = Outline<'_>> {
    let rest = &bytes[BATCH_HEADER_SIZE..];
    let (identities, rest) = rest.split_at(count * IDENTITY_SIZE);
    let layouts = &rest[..count * LAYOUT_SIZE];
    let parts = identities.as_chunks().0.iter().zip(layouts.as_chunks().0);
    parts.map(|(identity, layout)| Outline::read(identity, layout))
}

/// The outlines of the `count` requests of a sparse batch, whose parsed encoding is `bytes`.
#[inline]
pub(super) fn sparse_outlines(
    bytes: &[u8],
    count: usize,
) -> impl ExactSizeIterator<Item = Outline<'_>> {
    let rest = &bytes[BATCH_HEADER_SIZE..];
    let (identities, rest) = rest.split_at(count * IDENTITY_SIZE);
    // None in a bare one.
    let layouts = rest.get(..count * LAYOUT_SIZE).unwrap_or_default().as_chunks().0;
    let identities = identities.as_chunks().0.iter().enumerate();
    identities.map(move |(index, identity)| {
        Outline::read(identity, layouts.get(index).unwrap_or(&OMITTED_LAYOUT))
    })
}

impl<'a> Outline<'a> {
    /// The request that it names.
    #[inline]
    pub fn identity(&self) -> Identity {
        let Self { client, sequence, digest, .. } = *self;
        Identity { client, sequence, digest: Digest(*digest) }
    }

    #[inline]
    fn read(identity: &'a [u8; IDENTITY_SIZE], layout: &[u8; LAYOUT_SIZE]) -> Self {
        let (numbers, digest) = identity.split_at(16);
        let number = |at| u64::from_le_bytes(*numbers[at..].first_chunk().expect("8 of 16 bytes"));
        let [a, b, c, d, _, _, auth, last] = *layout;
        Self {
            client: ClientId(number(0)),
            sequence: Sequence(number(8)),
            digest: digest.first_chunk().expect("32 bytes after 16 of 48"),
            body_size: u32::from_le_bytes([a, b, c, d]) as usize,
            auth,
            omitted: last == OMITTED,
        }
    }
}

/// Iterator over the requests of a parsed batch.
#[derive(Clone, Debug)]
pub struct Requests<'a> {
    pub(super) identities: core::slice::Iter<'a, [u8; IDENTITY_SIZE]>,
    pub(super) layouts: core::slice::Iter<'a, [u8; LAYOUT_SIZE]>,
    /// Bodies and proofs of those that are left.
    pub(super) rest: &'a [u8],
}

impl<'a> Iterator for Requests<'a> {
    type Item = RequestView<'a>;

    // Inlined into its loops, each of which uses a part of what is read here.
    #[inline]
    fn next(&mut self) -> Option<RequestView<'a>> {
        let identity = self.identities.next()?;
        let layout = self.layouts.next()?;
        let (client, rest) = identity.split_first_chunk()?;
        let (sequence, digest) = rest.split_first_chunk()?;
        // Parsed batches only: none of these can fail.
        let (body_size, rest) = layout.split_first_chunk()?;
        let (proof_size, rest) = rest.split_first_chunk()?;
        let body_size = u32::from_le_bytes(*body_size) as usize;
        let proof_size = usize::from(u16::from_le_bytes(*proof_size));
        let (body, bytes) = self.rest.split_at_checked(body_size)?;
        let (proof, bytes) = bytes.split_at_checked(proof_size)?;
        self.rest = bytes;
        Some(RequestView {
            client: ClientId(u64::from_le_bytes(*client)),
            sequence: Sequence(u64::from_le_bytes(*sequence)),
            digest: Digest(*digest.first_chunk()?),
            operation: body.get(REQUEST_HEADER_SIZE..)?,
            body,
            auth: rest[0],
            proof,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.identities.size_hint()
    }
}
