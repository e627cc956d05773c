//! A batch without some of its bodies: the form in which a proposal may travel.
//!
//! Owns that form. Always true: it has the digest of the whole batch, because the digest covers the
//! header and the identities, which are the same. Must not: be taken for a batch; only
//! [`SparseBatch::complete`] makes one of it.
//!
//! Encoded like a batch, but the layout entry of a request that is left out is zero except for its last
//! byte, which is [`OMITTED`], and neither body nor proof of it follows. At least one is left out, so
//! that each value has one encoding for each choice of what is left out.

use super::views::outlines;
use super::{
    BATCH_HEADER_SIZE, Batch, IDENTITY_SIZE, LAYOUT_SIZE, Layout, Outline, RequestView, Selection,
    Structure, check_structure, read_identity,
};
use crate::message::{Malformed, Request};
use crate::payload::{Payload, PayloadPool};
use crate::types::{ClientId, Digest, Sequence};

/// Last byte of a layout entry: body and proof of this request are left out.
pub const OMITTED: u8 = 1;

/// The layout entry of a request that is left out.
const OMITTED_LAYOUT: [u8; LAYOUT_SIZE] = [0, 0, 0, 0, 0, 0, 0, OMITTED];

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
    /// Checks the structure of `payload` and hashes the identities. Nothing is marked authentic.
    ///
    /// # Errors
    /// [`Malformed`] names the first thing that is wrong; a batch of which nothing is left out is
    /// [`Malformed::Inconsistent`].
    pub fn parse(payload: P) -> Result<Self, Malformed> {
        let Structure { timestamp_ns, digest, count, omitted } =
            check_structure::<true>(payload.bytes())?;
        if omitted == 0 {
            return Err(Malformed::Inconsistent);
        }
        let authentic = Selection::NONE;
        Ok(Self { timestamp_ns, digest, authentic, count, payload })
    }

    /// `batch` without the bodies at the places in `omitted`, in memory of `pool`; `None` when that is empty.
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
        let bodies_start = batch.bodies_start();
        let whole = batch.payload().bytes();
        // All of them, as a rule: then nobody has to look where each one lies.
        let held = || {
            let some = *omitted != Selection::first(batch.len());
            let views = some.then(|| batch.requests().enumerate()).into_iter().flatten();
            views.filter(|(index, _)| !omitted.contains(*index)).map(|(_, view)| view)
        };
        let size = held().map(|view| view.body.len() + view.proof.len()).sum::<usize>();
        let payload = pool.build(bodies_start + size, &mut |bytes| {
            bytes[..bodies_start].copy_from_slice(&whole[..bodies_start]);
            let layouts = &mut bytes[BATCH_HEADER_SIZE + batch.len() * IDENTITY_SIZE..bodies_start];
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
        })?;
        Some(Self {
            timestamp_ns: batch.timestamp_ns,
            digest: batch.digest,
            authentic: batch.authentic,
            count: batch.len(),
            payload,
        })
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
        outlines(self.payload.bytes(), self.count)
    }

    /// Is the request at `index` left out?
    pub fn omits(&self, index: usize) -> bool {
        let entry = BATCH_HEADER_SIZE + self.count * IDENTITY_SIZE + index * LAYOUT_SIZE;
        index < self.count && self.payload.bytes()[entry + LAYOUT_SIZE - 1] == OMITTED
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
        let layouts = BATCH_HEADER_SIZE + self.count * IDENTITY_SIZE;
        let mut at = layouts + self.count * LAYOUT_SIZE;
        let holds = |(index, outline): (usize, Outline<'_>)| (!outline.omitted).then_some(index);
        let held = self.outlines().enumerate().filter_map(holds);
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
        let sparse = self.payload.bytes();
        let layouts = BATCH_HEADER_SIZE + self.count * IDENTITY_SIZE;
        let bodies_start = layouts + self.count * LAYOUT_SIZE;
        let mut omitted = Selection::NONE;
        let payload = pool.build(sparse.len() + found_size, &mut |bytes| {
            let (front, mut rest) = bytes.split_at_mut(bodies_start);
            front.copy_from_slice(&sparse[..bodies_start]);
            let mut held = &sparse[bodies_start..];
            let entries = front[layouts..].as_chunks_mut::<LAYOUT_SIZE>().0;
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

#[cfg(test)]
mod tests;
