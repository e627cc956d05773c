//! A batch without some of its bodies: the form in which a proposal may travel.
//!
//! Owns that form. Always true: it has the digest of the whole batch, because the digest covers the
//! header and the identities, which are the same. Must not: be taken for a batch; only
//! [`SparseBatch::complete`] makes one of it.
//!
//! Encoded like a batch, but the layout entry of a request that is left out is zero except for its last
//! byte, which is [`OMITTED`], and neither body nor proof of it follows. At least one is left out, so
//! that each value has one encoding for each choice of what is left out.

use super::{
    BATCH_HEADER_SIZE, Batch, IDENTITY_SIZE, LAYOUT_SIZE, Layout, RequestView, Selection,
    Structure, check_structure, read_identity,
};
use crate::message::{Malformed, Request};
use crate::payload::{Payload, PayloadPool};
use crate::types::{ClientId, Digest, Sequence};

/// Last byte of a layout entry: body and proof of this request are left out.
pub const OMITTED: u8 = 1;

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
        let views = || batch.requests().enumerate();
        let held = |(index, view): (usize, RequestView<'_>)| match omitted.contains(index) {
            true => 0,
            false => view.body.len() + view.proof.len(),
        };
        let bodies_start = batch.bodies_start();
        let size = bodies_start + views().map(held).sum::<usize>();
        let whole = batch.payload().bytes();
        let layouts = BATCH_HEADER_SIZE + batch.len() * IDENTITY_SIZE;
        let any = (0..batch.len()).any(|index| omitted.contains(index));
        assert!(any, "a sparse batch leaves something out");
        let payload = pool.build(size, &mut |bytes| {
            bytes[..bodies_start].copy_from_slice(&whole[..bodies_start]);
            let mut at = bodies_start;
            for (index, view) in views() {
                if omitted.contains(index) {
                    let entry = layouts + index * LAYOUT_SIZE;
                    bytes[entry..entry + LAYOUT_SIZE]
                        .copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, OMITTED]);
                } else {
                    for part in [view.body, view.proof] {
                        bytes[at..at + part.len()].copy_from_slice(part);
                        at += part.len();
                    }
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

    /// Is the request at `index` left out?
    pub fn omits(&self, index: usize) -> bool {
        let entry = BATCH_HEADER_SIZE + self.count * IDENTITY_SIZE + index * LAYOUT_SIZE;
        index < self.count && self.payload.bytes()[entry + LAYOUT_SIZE - 1] == OMITTED
    }

    /// The places of the requests that are left out, ascending.
    pub fn omitted(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.count).filter(|index| self.omits(*index))
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
        let held = (0..self.count).filter(|index| !self.omits(*index));
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
    /// this replica could authenticate.
    pub fn complete<'a>(
        &self,
        pool: &mut dyn PayloadPool<P>,
        found: &Selection,
        part: impl Fn(usize) -> &'a Request<P>,
    ) -> Option<Batch<P>>
    where
        P: 'a,
    {
        let added = self.omitted().map(|index| part(index).payload.bytes().len()).sum::<usize>();
        let sparse = self.payload.bytes();
        let layouts = BATCH_HEADER_SIZE + self.count * IDENTITY_SIZE;
        let bodies_start = layouts + self.count * LAYOUT_SIZE;
        let payload = pool.build(sparse.len() + added, &mut |bytes| {
            bytes[..bodies_start].copy_from_slice(&sparse[..bodies_start]);
            let (mut from, mut to) = (bodies_start, bodies_start);
            for index in 0..self.count {
                let entry = layouts + index * LAYOUT_SIZE;
                let blob = if self.omits(index) {
                    let request = part(index);
                    let blob = request.payload.bytes();
                    let proof_size = blob.len() - request.body_size as usize;
                    Layout {
                        body_size: request.body_size as usize,
                        proof_size,
                        auth: request.auth,
                    }
                    .write(&mut bytes[entry..entry + LAYOUT_SIZE]);
                    blob
                } else {
                    let layout = Layout::read(sparse, entry).expect("parsed");
                    let size = layout.body_size + layout.proof_size;
                    from += size;
                    &sparse[from - size..from]
                };
                bytes[to..to + blob.len()].copy_from_slice(blob);
                to += blob.len();
            }
        })?;
        let mut authentic = self.authentic;
        for index in self.omitted().filter(|index| found.contains(*index)) {
            authentic.insert(index);
        }
        let (timestamp_ns, digest, count) = (self.timestamp_ns, self.digest, self.count);
        Some(Batch { timestamp_ns, digest, authentic, count, payload })
    }
}

#[cfg(test)]
mod tests;
