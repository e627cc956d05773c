//! Identities, time and start-up errors that every module of the crate shares.
//!
//! Owns plain values only. Always true: a `PeerId` names an identity, never a connection; an
//! `Instant` is a number, so a simulator can make one. Must not: do IO or read a clock.

use std::fmt;
use std::io;
use std::ops::Add;
use std::time::Duration;

/// A BLAKE3 digest.
pub type Digest = [u8; 32];

/// The bit that tells a client identity from a replica index.
const CLIENT_BIT: u32 = 0x8000_0000;

/// Who is at the other end of an authenticated link: a replica by its index, or a client by its
/// index in the cluster's client list. It outlives connections.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

impl PeerId {
    /// The replica with index `i`.
    pub fn replica(i: u16) -> Self {
        Self(u32::from(i))
    }

    /// The client with identity `c`; the top bit of `c` is ignored, so that no client identity can
    /// name a replica.
    pub fn client(c: u32) -> Self {
        Self(CLIENT_BIT | c)
    }

    /// Is this a client rather than a replica?
    pub fn is_client(self) -> bool {
        self.0 & CLIENT_BIT != 0
    }

    /// The index of the replica, or of the client identity.
    pub fn index(self) -> u32 {
        self.0 & !CLIENT_BIT
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_client() { "client" } else { "replica" };
        write!(f, "{kind} {}", self.index())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A point in time: nanoseconds since the UNIX epoch, never going back within one process. The
/// same meaning as the protocol core's own `Instant`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// Time passed since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    /// Saturates: a deadline that far away never comes.
    fn add(self, duration: Duration) -> Instant {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanos))
    }
}

/// Why something could not be opened at start: an arena, a socket, a device. Says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A value given by configuration is not usable.
    #[error("{field} = {value}: {problem}; {remedy}")]
    BadValue {
        /// Which setting.
        field: String,
        /// What it was set to.
        value: String,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// The machine has less memory than the sum of the limits.
    #[error(
        "cannot reserve {size} bytes for {what}; lower the counts or sizes of its slot classes"
    )]
    OutOfMemory {
        /// What the memory was for.
        what: String,
        /// How many bytes were asked for.
        size: usize,
    },
    /// The operating system refused.
    #[error("cannot {action}: {source}; {remedy}")]
    System {
        /// What was tried, with names and addresses.
        action: String,
        /// What the system said.
        source: io::Error,
        /// What to do about it.
        remedy: String,
    },
    /// This build or machine does not have what was asked for.
    #[error("{what} is not available: {remedy}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// What to do about it.
        remedy: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replica_and_client_identities_never_meet() {
        let replica = PeerId::replica(7);
        let client = PeerId::client(7);
        assert_ne!(replica, client);
        assert_eq!(replica.index(), client.index());
        assert!(client.is_client() && !replica.is_client());
        assert_eq!(format!("{replica} {client:?}"), "replica 7 client 7");
        assert!(PeerId::client(u32::MAX).is_client());
    }

    #[test]
    fn time_saturates_instead_of_wrapping() {
        assert_eq!(Instant(u64::MAX) + Duration::from_secs(1), Instant(u64::MAX));
        assert_eq!(Instant(5).since(Instant(9)), Duration::ZERO);
        assert_eq!((Instant(5) + Duration::from_nanos(7)).since(Instant(2)).as_nanos(), 10);
    }

    #[test]
    fn errors_name_field_value_and_remedy() {
        let error = OpenError::BadValue {
            field: "arena.classes[0].slot_size".into(),
            value: "0".into(),
            problem: "a slot cannot be empty".into(),
            remedy: "use at least 64".into(),
        };
        assert_eq!(
            error.to_string(),
            "arena.classes[0].slot_size = 0: a slot cannot be empty; use at least 64"
        );
    }
}
