//! Which transport moves the bytes.
//!
//! Owns the words for it in configuration files, and the decision. Always true: what was asked for by
//! name is opened or refused with a reason; [`TransportKind::Auto`] always finds one, and says why if
//! it is not the one it prefers. Must not: depend on what peers use; the wire is the same.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use super::tcp::{TcpConfig, TcpTransport};
#[cfg(target_os = "linux")]
use super::uring::{self, UringConfig, UringTransport};
use crate::endpoint::Transport;
use crate::types::OpenError;

/// A transport over TCP connections, by its name in configuration files and on command lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransportKind {
    /// The faster one of those that this machine has.
    #[default]
    Auto,
    /// io_uring, or nothing.
    IoUring,
    /// epoll.
    Tcp,
}

impl TransportKind {
    /// All names.
    pub const NAMES: [&str; 3] = ["auto", "io_uring", "tcp"];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            TransportKind::Auto => "auto",
            TransportKind::IoUring => "io_uring",
            TransportKind::Tcp => "tcp",
        }
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TransportKind {
    type Err = OpenError;

    fn from_str(name: &str) -> Result<Self, OpenError> {
        let all = [TransportKind::Auto, TransportKind::IoUring, TransportKind::Tcp];
        all.into_iter().find(|kind| kind.name() == name).ok_or_else(|| OpenError::BadValue {
            field: "transport".into(),
            value: format!("{name:?}"),
            problem: "there is no such transport".into(),
            remedy: "use \"auto\", \"io_uring\" or \"tcp\"".into(),
        })
    }
}

/// Which transport, and what only io_uring does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportChoice {
    /// Which.
    pub kind: TransportKind,
    /// Bodies of this many bytes or more are transmitted without a copy, if the transport can.
    pub zero_copy_from: Option<usize>,
    /// How long a parked core polls the network device, if the transport can.
    pub napi_busy_poll: Option<Duration>,
}

impl From<TransportKind> for TransportChoice {
    fn from(kind: TransportKind) -> Self {
        Self { kind, ..Self::default() }
    }
}

/// A transport that listens.
pub struct Chosen {
    /// It.
    pub transport: Box<dyn Transport>,
    /// Where it accepts connections.
    pub local_address: Option<SocketAddr>,
    /// Why it is not the preferred one: a line for people.
    pub fallback: Option<String>,
}

/// Opens the transport that `choice` names, or the best that there is.
///
/// # Errors
/// A limit that makes no sense, an address that is not to be had, or no io_uring where it was asked
/// for by name.
pub fn open(choice: TransportChoice, tcp: TcpConfig) -> Result<Chosen, OpenError> {
    match choice.kind {
        TransportKind::Tcp => open_tcp(tcp, None),
        TransportKind::IoUring => open_uring(choice, tcp),
        TransportKind::Auto => match probe() {
            Ok(()) => open_uring(choice, tcp),
            Err(why) => {
                let fallback = format!("transport = \"auto\" uses TCP over epoll: {why}");
                open_tcp(tcp, Some(fallback))
            }
        },
    }
}

fn open_tcp(tcp: TcpConfig, fallback: Option<String>) -> Result<Chosen, OpenError> {
    let transport = TcpTransport::new(tcp)?;
    let local_address = transport.local_address();
    Ok(Chosen { transport: Box::new(transport), local_address, fallback })
}

#[cfg(target_os = "linux")]
fn open_uring(choice: TransportChoice, tcp: TcpConfig) -> Result<Chosen, OpenError> {
    let TransportChoice { zero_copy_from, napi_busy_poll, .. } = choice;
    let transport = UringTransport::new(UringConfig { tcp, zero_copy_from, napi_busy_poll })?;
    let local_address = transport.local_address();
    Ok(Chosen { transport: Box::new(transport), local_address, fallback: None })
}

#[cfg(target_os = "linux")]
fn probe() -> Result<(), OpenError> {
    uring::probe()
}

#[cfg(not(target_os = "linux"))]
fn open_uring(_: TransportChoice, _: TcpConfig) -> Result<Chosen, OpenError> {
    probe().and(Err(OpenError::Unsupported { what: "io_uring".into(), remedy: String::new() }))
}

#[cfg(not(target_os = "linux"))]
fn probe() -> Result<(), OpenError> {
    Err(OpenError::Unsupported {
        what: "io_uring".into(),
        remedy: "it needs Linux; use transport = \"tcp\"".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_written() {
        for name in TransportKind::NAMES {
            assert_eq!(name.parse::<TransportKind>().unwrap().to_string(), name);
        }
        let error = "quic".parse::<TransportKind>().unwrap_err().to_string();
        assert!(
            error.starts_with("transport = \"quic\": there is no such transport; use"),
            "{error}"
        );
    }

    #[test]
    fn what_is_named_is_opened() {
        for (kind, name) in [(TransportKind::Tcp, "tcp"), (TransportKind::IoUring, "io_uring")] {
            if kind == TransportKind::IoUring && probe().is_err() {
                continue;
            }
            let listen = Some(([127, 0, 0, 1], 0).into());
            let chosen = open(kind.into(), TcpConfig { listen, ..TcpConfig::default() }).unwrap();
            assert_eq!(chosen.transport.name(), name);
            assert!(chosen.local_address.is_some() && chosen.fallback.is_none());
        }
    }
}
