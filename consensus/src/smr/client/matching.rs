//! When are replies the same answer, and what is the result?
//!
//! Owns the comparison. Always true: each member has one voice a request, its newest; that it
//! forgot a result takes no result back. Must not: know sessions or timers.

use alloc::boxed::Box;

use crate::limits::REPLICAS_MAX;
use crate::message::reply::{Reply, Status};
use crate::payload::{Payload, PayloadPool};
use crate::types::{Digest, ReplicaId};

/// Decides whether two results of one operation are the same answer (the thesis' Comparator). Must be
/// an equivalence relation.
pub trait Comparator: Send {
    /// Are `a` and `b` the same answer?
    fn equal(&self, a: &[u8], b: &[u8]) -> bool;
}

/// Makes the result from the replies that are the same answer (the thesis' Extractor): picks one, or
/// combines them, such as shares of a secret.
pub trait Extractor<P>: Send {
    /// `replies` has a certificate of members or more, ascending; `newest` is the index of the one
    /// that completed it. `None` when `pool` is empty: tried again at the next reply.
    fn extract(
        &mut self,
        replies: &[(ReplicaId, &[u8])],
        newest: usize,
        pool: &mut dyn PayloadPool<P>,
    ) -> Option<P>;
}

/// How replies are compared and made into a result.
pub enum Matching<P> {
    /// Equal bytes, compared by their digests; the result is those bytes. No reply is kept.
    Equal,
    /// As the service says.
    Custom {
        /// Which replies are the same answer.
        comparator: Box<dyn Comparator>,
        /// What the result is.
        extractor: Box<dyn Extractor<P>>,
    },
}

/// The newest reply of one member to one request.
pub(super) struct Voice<P> {
    digest: Digest,
    status: Status,
    /// Did the whole reply come?
    whole: bool,
    /// Kept for a custom comparison only.
    result: Option<P>,
}

impl<P> Voice<P> {
    /// Was it the whole reply with this digest?
    pub(super) fn is_whole(&self, digest: &Digest) -> bool {
        self.whole && self.digest == *digest
    }
}

/// What the voices say with a new one.
pub(super) enum Agreed<P> {
    /// Too few are the same.
    Nothing,
    /// Enough members say the same, and the new one said it by its digest.
    Digest,
    /// Enough say the same, and this is the result.
    Result(Status, P),
}

/// The replies to one request: an entry for each member.
pub(super) type Voices<P> = [Option<Voice<P>>];

impl<P: Payload> Matching<P> {
    /// Counts `reply` as the newest of member `from`. Do `needed` members now agree with it?
    pub(super) fn hear(
        &mut self,
        voices: &mut Voices<P>,
        from: usize,
        reply: Reply<P>,
        needed: usize,
        members: &[ReplicaId],
        pool: &mut dyn PayloadPool<P>,
    ) -> Agreed<P> {
        crate::spec!("CLI.2", "CLI.7");
        let (digest, status, whole) = (reply.digest, reply.header.status, !reply.header.digest);
        // What a correct member answered does not change; that it forgot the answer takes none back.
        let answered = voices[from].as_ref().is_some_and(|voice| voice.status == Status::Ok);
        if status == Status::TooOld && answered {
            return Agreed::Nothing;
        }
        let result = reply.into_result();
        let kept = matches!(self, Self::Custom { .. }).then(|| result.clone());
        voices[from] = Some(Voice { digest, status, whole, result: kept });
        let newest = voices[from].as_ref().expect("just stored");
        let agreeing = voices.iter().flatten().filter(|voice| self.same(voice, newest)).count();
        if agreeing < needed {
            return Agreed::Nothing;
        }
        if !whole {
            return Agreed::Digest;
        }
        match self.extract(voices, from, result, members, pool) {
            Some(result) => Agreed::Result(status, result),
            None => Agreed::Nothing,
        }
    }

    /// Can `needed` equal replies still come, when each member that is silent may yet speak once?
    pub(super) fn hopeful(&self, voices: &Voices<P>, needed: usize) -> bool {
        let silent = voices.iter().filter(|voice| voice.is_none()).count();
        let agreeing =
            |one: &Voice<P>| voices.iter().flatten().filter(|voice| self.same(voice, one)).count();
        silent >= needed || voices.iter().flatten().any(|one| agreeing(one) + silent >= needed)
    }

    fn same(&self, a: &Voice<P>, b: &Voice<P>) -> bool {
        if a.digest == b.digest {
            return true;
        }
        let Self::Custom { comparator, .. } = self else { return false };
        match (&a.result, &b.result) {
            (Some(left), Some(right)) if a.status == Status::Ok && b.status == Status::Ok => {
                comparator.equal(left.bytes(), right.bytes())
            }
            _ => false,
        }
    }

    fn extract(
        &mut self,
        voices: &Voices<P>,
        newest: usize,
        result: P,
        members: &[ReplicaId],
        pool: &mut dyn PayloadPool<P>,
    ) -> Option<P> {
        let Self::Custom { comparator, extractor } = self else { return Some(result) };
        let chosen = voices[newest].as_ref().expect("the newest was stored");
        if chosen.status != Status::Ok {
            return Some(result);
        }
        let mut replies: [(ReplicaId, &[u8]); REPLICAS_MAX] = [(ReplicaId(0), &[]); REPLICAS_MAX];
        let (mut count, mut newest_at) = (0, 0);
        for (index, voice) in voices.iter().enumerate() {
            let Some(Voice { digest, status: Status::Ok, result: Some(other), .. }) = voice else {
                continue;
            };
            if *digest != chosen.digest && !comparator.equal(other.bytes(), result.bytes()) {
                continue;
            }
            if index == newest {
                newest_at = count;
            }
            replies[count] = (members[index], other.bytes());
            count += 1;
        }
        extractor.extract(&replies[..count], newest_at, pool)
    }
}
