//! What a completion belongs to.
//!
//! Owns the 64 bits that the kernel carries from an operation to its completions. Always true: what
//! we encode decodes to the same. Must not: hold pointers.

use crate::endpoint::ConnId;

/// The operation of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Nobody wants to know: cancelling and closing.
    Forgotten,
    /// Connections of the listening socket.
    Accept,
    /// Another thread wakes us.
    Wake,
    /// Bytes of a connection.
    Receive(ConnId),
    /// A connection takes bytes again.
    Writable(ConnId),
    /// A dialled connection is established, or has failed.
    Connect(ConnId),
    /// The socket of a dialled connection is a registered file.
    Install(ConnId),
    /// Part of a batch of transmissions, by its place in it.
    Send(u32),
    /// A transmission without a copy, by its place among those.
    SendZeroCopy(u32),
}

impl Key {
    pub(super) fn encode(self) -> u64 {
        let (kind, value) = match self {
            Key::Forgotten => (0, 0),
            Key::Accept => (1, 0),
            Key::Wake => (2, 0),
            Key::Receive(conn) => (3, conn.0),
            Key::Writable(conn) => (4, conn.0),
            Key::Connect(conn) => (5, conn.0),
            Key::Install(conn) => (6, conn.0),
            Key::Send(place) => (7, place),
            Key::SendZeroCopy(place) => (8, place),
        };
        kind << 32 | u64::from(value)
    }

    pub(super) fn decode(bits: u64) -> Option<Self> {
        let value = bits as u32;
        Some(match bits >> 32 {
            0 => Key::Forgotten,
            1 => Key::Accept,
            2 => Key::Wake,
            3 => Key::Receive(ConnId(value)),
            4 => Key::Writable(ConnId(value)),
            5 => Key::Connect(ConnId(value)),
            6 => Key::Install(ConnId(value)),
            7 => Key::Send(value),
            8 => Key::SendZeroCopy(value),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes() {
        let conn = ConnId::new(u16::MAX, 7);
        for key in [
            Key::Forgotten,
            Key::Accept,
            Key::Wake,
            Key::Receive(conn),
            Key::Writable(conn),
            Key::Connect(conn),
            Key::Install(conn),
            Key::Send(u32::MAX),
            Key::SendZeroCopy(3),
        ] {
            assert_eq!(Key::decode(key.encode()), Some(key));
        }
        assert_eq!(Key::decode(u64::MAX), None);
    }
}
