//! Why a message was dropped, and how often.
//!
//! Owns the reasons and their counters. Always true: a reason is one byte and counting it
//! allocates nothing, so hostile input costs its own bytes and no more. Must not: hold anything
//! that the peer sent, or log.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a message from the network was dropped. An everyday event, not an error.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Reject {
            $($(#[$doc])* $variant,)*
        }

        impl Reject {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Reject] = &[$(Reject::$variant,)*];

            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The reason in snake case, for metrics. Never changes once released.
            pub fn name(self) -> &'static str {
                match self {
                    $(Reject::$variant => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// The first four bytes are not ours.
    BadMagic = "bad_magic",
    /// Another version of the wire format.
    BadVersion = "bad_version",
    /// The size is below the minimum, above a limit, or not that of the bytes received.
    BadSize = "bad_size",
    /// A reserved field is not zero.
    ReservedNotZero = "reserved_not_zero",
    /// No message of this kind exists.
    UnknownKind = "unknown_kind",
    /// For another cluster.
    WrongCluster = "wrong_cluster",
    /// The key or index of the sender is not in the directory.
    UnknownPeer = "unknown_peer",
    /// The link tag does not match.
    BadTag = "bad_tag",
    /// The body does not match the digest in the header.
    BadDigest = "bad_digest",
    /// The sequence number was seen before or is too old.
    Replay = "replay",
    /// This sender may not send this kind.
    NotAllowed = "not_allowed",
    /// The body cannot be decoded.
    Malformed = "malformed",
    /// No session with this peer or client.
    NoSession = "no_session",
    /// The handshake did not authenticate.
    HandshakeFailed = "handshake_failed",
    /// The handshake took too long.
    HandshakeTimeout = "handshake_timeout",
    /// The limit of connections is reached.
    TooManyConnections = "too_many_connections",
    /// No slot is free.
    PoolExhausted = "pool_exhausted",
    /// The queue ahead is full.
    QueueFull = "queue_full",
    /// The transferable proof (authenticator, signature) does not hold.
    BadProof = "bad_proof",
    /// The sender is not a member of the view.
    NotMember = "not_member",
    /// Sent in a view that is over.
    OldView = "old_view",
    /// Sent in a view that this replica is not in yet.
    LaterView = "later_view",
    /// Admission is closed: more load than the configured limits.
    Overload = "overload",
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for Reject {}

/// How often each reason occurred. Plain numbers: one owner, merged when read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RejectCounts {
    counts: [u64; Reject::COUNT],
}

impl RejectCounts {
    /// Nothing rejected yet.
    pub const fn new() -> Self {
        Self { counts: [0; Reject::COUNT] }
    }

    /// Count one more.
    pub fn add(&mut self, reason: Reject) {
        self.add_many(reason, 1);
    }

    /// Count `count` more. Saturates.
    pub fn add_many(&mut self, reason: Reject, count: u64) {
        let slot = &mut self.counts[reason as usize];
        *slot = slot.saturating_add(count);
    }

    /// How often `reason` occurred.
    pub fn get(&self, reason: Reject) -> u64 {
        self.counts[reason as usize]
    }

    /// All rejected messages.
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Each reason with its count, zero counts included.
    pub fn iter(&self) -> impl Iterator<Item = (Reject, u64)> + '_ {
        Reject::ALL.iter().map(|reason| (*reason, self.get(*reason)))
    }

    /// Add the counts of another owner.
    pub fn merge(&mut self, other: &RejectCounts) {
        for (reason, count) in other.iter() {
            self.add_many(reason, count);
        }
    }
}

impl Default for RejectCounts {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_snake_case_and_numbers_are_dense() {
        let names: HashSet<_> = Reject::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reject::COUNT);
        for (i, reason) in Reject::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            assert!(reason.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        }
    }

    #[test]
    fn counts_add_and_merge() {
        let mut a = RejectCounts::new();
        let mut b = RejectCounts::default();
        a.add(Reject::BadTag);
        b.add_many(Reject::BadTag, 2);
        b.add_many(Reject::Overload, u64::MAX);
        a.merge(&b);
        assert_eq!(a.get(Reject::BadTag), 3);
        assert_eq!(a.get(Reject::BadMagic), 0);
        assert_eq!(a.total(), u64::MAX);
        assert_eq!(a.iter().filter(|(_, count)| *count > 0).count(), 2);
    }
}
