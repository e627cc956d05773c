//! Addresses and limits.
//!
//! Owns their defaults and their check. Always true: a configuration that passed leaves room for
//! every connection it allows. Must not: decide which device moves the bytes.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use crate::limits::REPLICAS_MAX;
use crate::types::{OpenError, PeerId};

/// Addresses and limits of a transport over TCP connections. The limits are per endpoint, that is, per core.
///
/// Memory of an endpoint: `receive_buffers * receive_buffer_size`, about 2 KiB per connection, and
/// 128 bytes times `tx_messages_max` per authenticated connection. Queued bodies are frames: they
/// are in the sender's arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpConfig {
    /// Where to accept connections. Port 0 takes any; the transport says which.
    pub listen: Option<SocketAddr>,
    /// Whom to dial, again and again until there is a connection. Only the first endpoint that is
    /// opened dials. Of each pair of peers exactly one dials (the replica with the higher index, the
    /// client): two connections of a pair would keep replacing each other.
    pub dial: Vec<(PeerId, SocketAddr)>,
    /// Peers to dial at a time, also when the list is changed later: so many connections have places
    /// beyond the other limits.
    pub dials_max: usize,
    /// Connections at a time, dialled ones included. Further ones are closed at once.
    pub connections_max: usize,
    /// Connections of others that have not proved who they are, at a time. When it is reached, the
    /// oldest makes place, if it had its chance for at least 250 ms.
    pub unauthenticated_max: usize,
    /// Messages queued per connection.
    pub tx_messages_max: usize,
    /// Bytes queued per connection. One message is taken whatever its size.
    pub tx_bytes_max: usize,
    /// Bytes read from a connection at a time. Larger messages go straight to their slots.
    pub receive_buffer_size: usize,
    /// Connections with bytes that were read and not yet taken, at a time.
    pub receive_buffers: usize,
    /// Bytes read from, or written to, one connection before the others have their turn.
    pub turn_bytes_max: usize,
    /// The wait before the second attempt to dial; it doubles with each failure.
    pub backoff_min: Duration,
    /// The longest wait between attempts to dial.
    pub backoff_max: Duration,
    /// An attempt to dial that takes longer has failed.
    pub connect_timeout: Duration,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            listen: None,
            dial: Vec::new(),
            dials_max: REPLICAS_MAX,
            connections_max: 1024,
            unauthenticated_max: 128,
            tx_messages_max: 1024,
            tx_bytes_max: 16 * 1024 * 1024,
            receive_buffer_size: 128 * 1024,
            receive_buffers: 16,
            turn_bytes_max: 256 * 1024,
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(3),
        }
    }
}

impl TcpConfig {
    pub(in crate::transport) fn check(&self) -> Result<(), OpenError> {
        let places = self.places();
        let bad = |field: &str, value: usize, problem: &str, remedy: &str| {
            Err(OpenError::BadValue {
                field: format!("tcp.{field}"),
                value: value.to_string(),
                problem: problem.into(),
                remedy: remedy.into(),
            })
        };
        if self.connections_max < self.dial.len().max(1) {
            let problem = "fewer than the peers to dial";
            return bad("connections_max", self.connections_max, problem, "use at least as many");
        }
        if self.unauthenticated_max == 0 && self.listen.is_some() {
            return bad("unauthenticated_max", 0, "nobody could connect", "use at least 1");
        }
        if places > usize::from(u16::MAX) {
            let remedy = "lower it or unauthenticated_max; the sum may be 65535";
            return bad("connections_max", self.connections_max, "too many", remedy);
        }
        if self.tx_messages_max == 0 || self.receive_buffers == 0 || self.turn_bytes_max == 0 {
            return bad("tx_messages_max", 0, "nothing could pass", "use at least 1 everywhere");
        }
        if self.receive_buffer_size < 4096 {
            let size = self.receive_buffer_size;
            return bad("receive_buffer_size", size, "too small", "use at least 4096");
        }
        Ok(())
    }

    /// Places in the connection table: some wait for their last event to be taken.
    pub(in crate::transport) fn places(&self) -> usize {
        self.connections_max + self.unauthenticated_max + self.dials_max.max(self.dial.len())
    }
}

/// Listens at `address`, without blocking.
///
/// # Errors
/// The address is taken, not ours, or not permitted.
pub(in crate::transport) fn bind(address: SocketAddr) -> Result<TcpListener, OpenError> {
    use std::io::ErrorKind;
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|source| {
        let remedy = match source.kind() {
            ErrorKind::AddrInUse => "stop the process that has the port, or choose another port",
            ErrorKind::AddrNotAvailable => "use an address of this machine, or 0.0.0.0",
            ErrorKind::PermissionDenied => "use a port above 1023, or grant CAP_NET_BIND_SERVICE",
            _ => "check the address",
        };
        OpenError::System { action: format!("listen at {address}"), source, remedy: remedy.into() }
    })
}
