//! A batch without some of its bodies: the form in which a proposal may travel.
//!
//! Owns that form. Always true: it has the digest of the whole batch, because the digest covers the
//! header and the identities, which are the same. Must not: be taken for a batch; only
//! [`SparseBatch::complete`] makes one of it.
//!
//! When all bodies are left out it ends with the identities: it is *bare*, and the digest of all its bytes
//! is that of the batch. Else it is encoded like a batch, but the layout entry of a request that is left
//! out is zero except for its last byte, which is [`OMITTED`], and neither body nor proof of it follows.
//! At least one is left out, so that each value has one encoding for each choice of what is left out.

use super::views::sparse_outlines;
use super::{
    Batch, LAYOUT_SIZE, Layout, Outline, RequestView, Selection, Structure, check_structure,
    identities_end, is_bare, read_identity,
};
use crate::message::{Malformed, Request};
use crate::payload::{Payload, PayloadPool};
use crate::types::{ClientId, Digest, Sequence};

/// Last byte of a layout entry: body and proof of this request are left out.
pub const OMITTED: u8 = 1;

/// The layout entry of a request that is left out.
pub(super) const OMITTED_LAYOUT: [u8; LAYOUT_SIZE] = [0, 0, 0, 0, 0, 0, 0, OMITTED];

/// What a batch says of a request besides its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Session.
    pub client: ClientId,
    /// Number within the session.
    pub sequence: Sequence,
    /// Digest of the request's body.
    pub digest: Digest,
}

/// A batch without some of its bodies. A clone shares the bytes.
#[derive(Clone, Debug)]
pub struct SparseBatch<P> {
    /// Proposed time, ns since the UNIX epoch.
    pub timestamp_ns: u64,
    /// Digest of the whole batch.
    pub digest: Digest,
    /// Which of the requests that it holds this replica could authenticate itself. Set by ingress,
    /// never sent.
    pub authentic: Selection,
    count: usize,
    payload: P,
}

/// Is the body of the request with this layout entry left out?
pub(super) fn is_omitted(bytes: &[u8], entry: usize) -> Result<bool, Malformed> {
    let entry = bytes.get(entry..entry + LAYOUT_SIZE).ok_or(Malformed::Truncated)?;
    let omitted = entry[LAYOUT_SIZE - 1] == OMITTED;
    if omitted && entry[..LAYOUT_SIZE - 1] != [0; LAYOUT_SIZE - 1] {
        return Err(Malformed::Reserved);
    }
    Ok(omitted)
}

impl<P: Payload> SparseBatch<P> {
    /// Checks the structure of `payload` and hashes the identities; if it is bare and somebody has
    /// computed the digest of its bytes already, `known` is taken for it. Nothing is marked authentic.
    ///
    /// # Errors
    /// [`Malformed`] names the first thing that is wrong; a batch of which nothing is left out, or all
    /// of it in the form for a part, is [`Malformed::Inconsistent`].
    pub fn parse(payload: P, known: Option<Digest>) -> Result<Self, Malformed> {
        let Structure { timestamp_ns, digest, count, omitted } =
            check_structure::<true>(payload.bytes(), known)?;
        if omitted == 0 || omitted == count && !is_bare(payload.bytes(), count) {
            return Err(Malformed::Inconsistent);
        }
        let authentic = Selection::NONE;
        Ok(Self { timestamp_ns, digest, authentic, count, payload })
    }

    /// `batch` without the bodies at the places in `omitted`, in memory of `pool`; `None` when that is
    /// empty. Without any body it shares the batch's bytes.
    ///
    /// # Panics
    /// When nothing in the batch is to be left out.
    pub fn of(
        batch: &Batch<P>,
        omitted: &Selection,
        pool: &mut dyn PayloadPool<P>,
    ) -> Option<Self> {
        let any = (0..batch.len()).any(|index| omitted.contains(index));
        assert!(any, "a sparse batch leaves something out");
        let payload = if omitted.contains_first(batch.len()) {
            batch.payload().slice(0, identities_end(batch.len()))
        } else {
            encode_part(batch, omitted, pool)
        }?;
        let Batch { timestamp_ns, digest, authentic, count, .. } = *batch;
        Some(Self { timestamp_ns, digest, authentic, count, payload })
    }

    /// How many requests, those left out included.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Is there no request? Never, because one is left out.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The encoded bytes.
    pub fn payload(&self) -> &P {
        &self.payload
    }

    /// What is said of each request before its body, in order.
    #[inline]
    pub fn outlines(&self) -> impl ExactSizeIterator<Item = Outline<'_>> {
        sparse_outlines(self.payload.bytes(), self.count)
    }

    /// Is the request at `index` left out?
    pub fn omits(&self, index: usize) -> bool {
        let entry = identities_end(self.count) + index * LAYOUT_SIZE;
        index < self.count
            && (self.is_bare() || self.payload.bytes()[entry + LAYOUT_SIZE - 1] == OMITTED)
    }

    /// Are all bodies left out? Then `digest` is the [`body_digest`](super::body_digest) of the encoded
    /// bytes.
    pub fn is_bare(&self) -> bool {
        is_bare(self.payload.bytes(), self.count)
    }

    /// The places of the requests that are left out, ascending.
    pub fn omitted(&self) -> impl Iterator<Item = usize> + '_ {
        let omits = |(index, outline): (usize, Outline<'_>)| outline.omitted.then_some(index);
        self.outlines().enumerate().filter_map(omits)
    }

    /// What is said of the request at `index`.
    ///
    /// # Panics
    /// When there is no such request.
    pub fn identity(&self, index: usize) -> Identity {
        assert!(index < self.count, "one identity for each request");
        read_identity(self.payload.bytes(), index).expect("a parsed batch holds its identities")
    }

    /// The requests that are not left out, with their places.
    pub fn requests(&self) -> impl Iterator<Item = (usize, RequestView<'_>)> {
        let bytes = self.payload.bytes();
        let layouts = identities_end(self.count);
        let mut at = layouts + self.count * LAYOUT_SIZE;
        let holds = |(index, outline): (usize, Outline<'_>)| (!outline.omitted).then_some(index);
        // Nobody looks for what a bare one does not have.
        let places = (!self.is_bare()).then(|| self.outlines().enumerate());
        let held = places.into_iter().flatten().filter_map(holds);
        // Parsed batches only: none of these can fail.
        held.map_while(move |index| {
            let layout = Layout::read(bytes, layouts + index * LAYOUT_SIZE).ok()?;
            let view = layout.view(bytes, index, at)?;
            at += layout.body_size + layout.proof_size;
            Some((index, view))
        })
    }

    /// The whole batch, in memory of `pool`; `None` when that is empty. `part` gives the requests that
    /// are left out, in order; the caller has compared their identities. `found` says which of them
    /// this replica could authenticate, `found_size` how many bytes they are, with proofs.
    ///
    /// # Panics
    /// When they are not so many bytes.
    pub fn complete<'a>(
        &self,
        pool: &mut dyn PayloadPool<P>,
        (found, found_size): (&Selection, usize),
        part: impl Fn(usize) -> &'a Request<P>,
    ) -> Option<Batch<P>>
    where
        P: 'a,
    {
        let (identities, rest) = self.payload.bytes().split_at(identities_end(self.count));
        let layouts_size = self.count * LAYOUT_SIZE;
        // Nothing is left of a bare one.
        let (layouts, bodies) = rest.split_at_checked(layouts_size).unwrap_or_default();
        let size = identities.len() + layouts_size + bodies.len() + found_size;
        let mut omitted = Selection::NONE;
        let payload = pool.build(size, &mut |bytes| {
            let (front, rest) = bytes.split_at_mut(identities.len());
            front.copy_from_slice(identities);
            let (entries, mut rest) = rest.split_at_mut(layouts_size);
            let (entries, mut held) = (entries.as_chunks_mut::<LAYOUT_SIZE>().0, bodies);
            if layouts.is_empty() {
                entries.fill(OMITTED_LAYOUT);
            } else {
                entries.as_flattened_mut().copy_from_slice(layouts);
            }
            for (index, entry) in entries.iter_mut().enumerate() {
                let blob = if *entry == OMITTED_LAYOUT {
                    omitted.insert(index);
                    let Request { body_size, auth, payload, .. } = part(index);
                    let (body_size, blob) = (*body_size as usize, payload.bytes());
                    Layout { body_size, proof_size: blob.len() - body_size, auth: *auth }
                        .write(entry);
                    blob
                } else {
                    let layout = Layout::read(entry, 0).expect("parsed");
                    let (blob, others) = held.split_at(layout.body_size + layout.proof_size);
                    held = others;
                    blob
                };
                let (to, others) = rest.split_at_mut(blob.len());
                to.copy_from_slice(blob);
                rest = others;
            }
            assert!(rest.is_empty() && held.is_empty(), "as many bytes as the caller counted");
        })?;
        let authentic = self.authentic.union(&found.intersection(&omitted));
        let (timestamp_ns, digest, count) = (self.timestamp_ns, self.digest, self.count);
        Some(Batch { timestamp_ns, digest, authentic, count, payload })
    }
}

/// The encoding of `batch` without the bodies at the places in `omitted`, which are not all of them.
fn encode_part<P: Payload>(
    batch: &Batch<P>,
    omitted: &Selection,
    pool: &mut dyn PayloadPool<P>,
) -> Option<P> {
    let bodies_start = batch.bodies_start();
    let whole = batch.payload().bytes();
    let views = || batch.requests().enumerate();
    let held = || views().filter(|(index, _)| !omitted.contains(*index)).map(|(_, view)| view);
    let size = held().map(|view| view.body.len() + view.proof.len()).sum::<usize>();
    pool.build(bodies_start + size, &mut |bytes| {
        bytes[..bodies_start].copy_from_slice(&whole[..bodies_start]);
        let layouts = &mut bytes[identities_end(batch.len())..bodies_start];
        for (index, layout) in layouts.as_chunks_mut().0.iter_mut().enumerate() {
            if omitted.contains(index) {
                *layout = OMITTED_LAYOUT;
            }
        }
        let mut at = bodies_start;
        for view in held() {
            for part in [view.body, view.proof] {
                bytes[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
        }
    })
}

#[cfg(test)]
mod tests;
