//! What an operator should know about handshakes that fail.
//!
//! Owns a short queue of findings. Always true: one finding per peer and cause in a minute, however
//! many connections fail, and bounded memory. Must not: hold secrets, or count (that is what
//! rejects are for).

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use crate::handshake::HandshakeError;
use crate::types::{Instant, PeerId};

/// The same finding is not repeated before this has passed.
const REPEAT_AFTER: Duration = Duration::from_secs(60);
/// Findings that wait to be read; the oldest go first.
const QUEUE_MAX: usize = 32;

/// Why there is no link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The handshake itself failed.
    Handshake(HandshakeError),
    /// Somebody of another cluster called.
    WrongCluster {
        /// The cluster number it sent.
        theirs: u64,
        /// Ours.
        ours: u64,
    },
    /// A peer we dialled took the connection and did not answer in time.
    Timeout,
    /// A peer we dialled closed the connection in the middle of the handshake.
    ClosedDuringHandshake,
}

impl Cause {
    const COUNT: usize = 10;

    fn number(&self) -> usize {
        match self {
            Self::Handshake(HandshakeError::Malformed) => 0,
            Self::Handshake(HandshakeError::Undecryptable) => 1,
            Self::Handshake(HandshakeError::Version { .. }) => 2,
            Self::Handshake(HandshakeError::UnknownPeer { .. }) => 3,
            Self::Handshake(HandshakeError::UnknownKey { .. }) => 4,
            Self::Handshake(HandshakeError::WrongKey { .. }) => 5,
            Self::Handshake(HandshakeError::Ourselves | HandshakeError::Internal) => 6,
            Self::WrongCluster { .. } => 7,
            Self::Timeout => 8,
            Self::ClosedDuringHandshake => 9,
        }
    }
}

/// A finding about a link, in words by `Display`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// The peer it is about: the one we dialled, or the one that a caller claims to be (unproved).
    pub peer: Option<PeerId>,
    /// What was found.
    pub cause: Cause,
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            Some(peer) => write!(f, "no link with {peer}: ")?,
            None => write!(f, "a connection was refused: ")?,
        }
        match self.cause {
            Cause::Handshake(error) => write!(f, "{error}"),
            Cause::WrongCluster { theirs, ours } => write!(
                f,
                "it belongs to cluster {theirs:016x}, we to {ours:016x}; is an address of another \
                 cluster in its configuration?"
            ),
            Cause::Timeout => write!(
                f,
                "it accepted the connection and did not answer; is something else listening at its \
                 address?"
            ),
            Cause::ClosedDuringHandshake => write!(
                f,
                "it closed the connection during the handshake; its own log says why (our key may \
                 not be in its configuration, or it is full)"
            ),
        }
    }
}

/// Findings to be read.
pub(super) struct DiagnosisLog {
    queue: VecDeque<Diagnosis>,
    /// When each cause was last reported: per peer of the directory, then once for all others.
    last: Vec<[Option<Instant>; Cause::COUNT]>,
}

impl DiagnosisLog {
    pub(super) fn new(peer_count: usize) -> Self {
        Self {
            queue: VecDeque::with_capacity(QUEUE_MAX),
            last: vec![[None; Cause::COUNT]; peer_count + 1],
        }
    }

    /// From now on peers have numbers below this. What was reported lately about others may be again.
    pub(super) fn set_peer_count(&mut self, peer_count: usize) {
        self.last = vec![[None; Cause::COUNT]; peer_count + 1];
    }

    /// Note a finding about the peer with this directory index, or about somebody unknown.
    pub(super) fn add(
        &mut self,
        now: Instant,
        index: Option<usize>,
        peer: Option<PeerId>,
        cause: Cause,
    ) {
        let row = index.unwrap_or(self.last.len() - 1);
        let last = &mut self.last[row][cause.number()];
        if last.is_some_and(|last| now.since(last) < REPEAT_AFTER) {
            return;
        }
        *last = Some(now);
        if self.queue.len() == QUEUE_MAX {
            self.queue.pop_front();
        }
        self.queue.push_back(Diagnosis { peer, cause });
    }

    pub(super) fn take(&mut self) -> Option<Diagnosis> {
        self.queue.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_not_repeated_within_a_minute() {
        let mut log = DiagnosisLog::new(2);
        let start = Instant(1);
        for i in 0..1000 {
            let now = start + Duration::from_millis(i);
            log.add(now, Some(1), Some(PeerId(1)), Cause::Timeout);
            log.add(now, None, Some(PeerId(i as u32)), Cause::ClosedDuringHandshake);
        }
        log.add(start, Some(0), Some(PeerId(0)), Cause::Timeout);
        let peers: Vec<_> = std::iter::from_fn(|| log.take()).map(|found| found.peer).collect();
        assert_eq!(peers, [Some(PeerId(1)), Some(PeerId(0)), Some(PeerId(0))]);
        log.add(start + Duration::from_secs(61), Some(1), Some(PeerId(1)), Cause::Timeout);
        assert!(log.take().is_some());
    }

    #[test]
    fn findings_are_bounded() {
        let mut log = DiagnosisLog::new(100);
        for i in 0..100 {
            log.add(Instant(1), Some(i), Some(PeerId(i as u32)), Cause::Timeout);
        }
        assert_eq!(std::iter::from_fn(|| log.take()).count(), QUEUE_MAX);
    }
}
