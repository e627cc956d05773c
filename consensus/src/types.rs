//! Numbers with names. None converts into another by accident.

use core::fmt;
use core::ops::Add;
use core::time::Duration;

pub use tetrarch_tee::{Digest, ReplicaId};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number! {
    /// Which consensus instance (the paper's *cid* or *i*). The first is 1; 0 is "none decided yet".
    ConsensusId(u64)
}
number! {
    /// Which leader is in charge: the paper's *creg*. The leader of regency g is the member at index
    /// `g mod n` of the view's sorted member list.
    Regency(u32)
}
number! {
    /// Timestamp of an epoch inside one instance (the paper's *ets*). Equal to the regency in which
    /// the epoch runs, so that all replicas agree on it (rule VP.2).
    Epoch(u32)
}
number! {
    /// Which membership. Never leadership.
    ViewId(u32)
}
number! {
    /// Log sequence number: everything up to it has been persisted. 0 needs no persistence.
    Lsn(u64)
}

impl ConsensusId {
    /// The instance after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Regency {
    /// The regency after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The epoch that every instance runs in while this regency is installed.
    pub fn epoch(self) -> Epoch {
        Epoch(self.0)
    }
}

/// A client session: the client's index in the cluster's client list in the high 32 bits, the
/// session of that client in the low 32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientId(pub u64);

impl ClientId {
    /// Session `session` of the client at `identity` in the cluster's client list.
    pub fn new(identity: u32, session: u32) -> Self {
        Self(u64::from(identity) << 32 | u64::from(session))
    }

    /// Index in the cluster's client list: whose keys authenticate this session.
    pub fn identity(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Session of that client.
    pub fn session(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.identity(), self.session())
    }
}

/// Number of a request within its session: the client's incarnation in the high 32 bits (it grows
/// at each restart of the client), a counter from 1 in the low 32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Sequence(pub u64);

impl Sequence {
    /// Before the first request of a session.
    pub const NONE: Sequence = Sequence(0);

    /// Request `counter` (from 1) of incarnation `incarnation` (from 1).
    pub fn new(incarnation: u32, counter: u32) -> Self {
        Self(u64::from(incarnation) << 32 | u64::from(counter))
    }

    /// Grows at each restart of the client.
    pub fn incarnation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Position in the incarnation, from 1.
    pub fn counter(self) -> u32 {
        self.0 as u32
    }

    /// Is this the request that must come directly after `last`: the next of the same incarnation,
    /// or the first of a later one? (Rule SMR.4)
    #[inline]
    pub fn follows(self, last: Sequence) -> bool {
        // The next of the same incarnation, as nearly always; a counter that overflows is 0.
        if self.0 == last.0.wrapping_add(1) && self.counter() != 0 {
            return true;
        }
        self.follows_otherwise(last)
    }

    #[cold]
    fn follows_otherwise(self, last: Sequence) -> bool {
        if self.incarnation() == last.incarnation() {
            last.counter().checked_add(1) == Some(self.counter())
        } else {
            self.incarnation() > last.incarnation() && self.counter() == 1
        }
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation(), self.counter())
    }
}

/// Nanoseconds since the UNIX epoch by the node's own monotonic clock. Differs between nodes by
/// their clock skew; only the validity of proposed timestamps depends on it being close.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// Time from `earlier` to here; zero when `earlier` is later.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, duration: Duration) -> Instant {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanos))
    }
}

/// A set of members, by their *index* in the view's sorted member list. At most 64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ReplicaSet(u64);

impl ReplicaSet {
    /// Nobody.
    pub const EMPTY: ReplicaSet = ReplicaSet(0);

    /// Adds the member at `index` and says whether it was absent.
    pub fn insert(&mut self, index: usize) -> bool {
        assert!(index < 64, "a view has at most 64 members");
        let bit = 1u64 << index;
        let absent = self.0 & bit == 0;
        self.0 |= bit;
        absent
    }

    /// Removes the member at `index`.
    pub fn remove(&mut self, index: usize) {
        assert!(index < 64, "a view has at most 64 members");
        self.0 &= !(1u64 << index);
    }

    /// Is the member at `index` in the set?
    pub fn contains(self, index: usize) -> bool {
        index < 64 && self.0 & (1u64 << index) != 0
    }

    /// Members of either set.
    pub fn union(self, other: ReplicaSet) -> ReplicaSet {
        ReplicaSet(self.0 | other.0)
    }

    /// How many members.
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Indices, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..64).filter(move |&index| self.contains(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_follows_its_predecessor_or_starts_a_later_incarnation() {
        assert!(Sequence::new(3, 5).follows(Sequence::new(3, 4)));
        assert!(!Sequence::new(3, 6).follows(Sequence::new(3, 4)));
        assert!(!Sequence::new(3, 4).follows(Sequence::new(3, 4)));
        assert!(Sequence::new(4, 1).follows(Sequence::new(3, 9)));
        assert!(!Sequence::new(4, 2).follows(Sequence::new(3, 9)));
        assert!(!Sequence::new(2, 1).follows(Sequence::new(3, 9)));
        assert!(Sequence::new(1, 1).follows(Sequence::NONE));
        assert!(!Sequence::new(3, 0).follows(Sequence::new(3, u32::MAX)));
    }

    #[test]
    fn a_replica_set_counts_each_member_once() {
        let mut set = ReplicaSet::EMPTY;
        assert!(set.insert(3));
        assert!(!set.insert(3));
        assert!(set.insert(63));
        assert_eq!(set.count(), 2);
        assert_eq!(set.iter().collect::<alloc::vec::Vec<_>>(), [3, 63]);
        set.remove(3);
        assert!(!set.contains(3) && set.contains(63));
    }

    #[test]
    fn a_client_id_keeps_identity_and_session_apart() {
        let id = ClientId::new(7, 42);
        assert_eq!((id.identity(), id.session()), (7, 42));
    }
}
