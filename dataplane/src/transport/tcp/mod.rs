//! TCP over epoll: one [`TcpEndpoint`](endpoint::TcpEndpoint) per core.
//!
//! Owns the configuration and the listening socket. Always true: all memory is a function of
//! [`TcpConfig`]; a peer that is silent, slow or hostile costs its own connection only. Must not:
//! block, or trust a byte beyond what framing needs.

mod conn;
mod connect;
pub mod endpoint;
#[expect(unsafe_code, reason = "the libraries used wrap epoll, but not ppoll")]
mod fine_wait;

use std::net::{SocketAddr, TcpListener};

use crate::arena::{Arena, ArenaSpec, FramePool};
use crate::endpoint::{Caps, Endpoint, Transport};
use crate::limits::{BURST_MAX, FRAME_SIZE_MAX};
pub use crate::transport::stream::TcpConfig;
use crate::transport::stream::bind;
use crate::types::OpenError;

/// The TCP transport: listens from the moment it is made, moves bytes once endpoints are opened.
///
/// ```
/// use tetrarch_dataplane::arena::{ArenaSpec, SlotClass};
/// use tetrarch_dataplane::endpoint::Transport;
/// use tetrarch_dataplane::transport::tcp::{TcpConfig, TcpTransport};
///
/// # fn main() -> Result<(), tetrarch_dataplane::types::OpenError> {
/// let config = TcpConfig { listen: Some(([127, 0, 0, 1], 0).into()), ..TcpConfig::default() };
/// let mut transport = TcpTransport::new(config)?;
/// println!("listening at {:?}", transport.local_address());
/// let arena =
///     transport.arena(&ArenaSpec { classes: vec![SlotClass { slot_size: 2048, count: 256 }] })?;
/// let endpoint = transport.open(0, arena.pool())?;
/// # drop(endpoint);
/// # Ok(())
/// # }
/// ```
pub struct TcpTransport {
    config: TcpConfig,
    listener: Option<TcpListener>,
    opened: usize,
}

impl TcpTransport {
    /// Check the configuration and bind the listening socket.
    ///
    /// # Errors
    /// A limit that makes no sense, or an address that is taken, not ours, or not permitted.
    pub fn new(config: TcpConfig) -> Result<Self, OpenError> {
        config.check()?;
        let listener = config.listen.map(bind).transpose()?;
        Ok(Self { config, listener, opened: 0 })
    }

    /// Where connections are accepted.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// As [`Transport::open`], with the concrete type.
    ///
    /// # Errors
    /// The system refuses an epoll instance.
    pub fn open_endpoint(&mut self, rx: FramePool) -> Result<endpoint::TcpEndpoint, OpenError> {
        let listener = match &self.listener {
            Some(listener) => Some(listener.try_clone().map_err(|source| OpenError::System {
                action: "share the listening socket with one more core".into(),
                source,
                remedy: "raise the limit of open files (ulimit -n)".into(),
            })?),
            None => None,
        };
        let mut config = self.config.clone();
        if self.opened > 0 {
            config.dial.clear();
        }
        self.opened += 1;
        endpoint::TcpEndpoint::new(config, listener, rx)
    }
}

impl Transport for TcpTransport {
    fn name(&self) -> &'static str {
        "tcp"
    }

    fn caps(&self) -> Caps {
        Caps {
            message_size_max: FRAME_SIZE_MAX as u32,
            burst_max: BURST_MAX as u16,
            reliable: true,
        }
    }

    fn arena(&mut self, spec: &ArenaSpec) -> Result<Arena, OpenError> {
        Arena::heap(spec)
    }

    fn open(&mut self, _core: usize, rx: FramePool) -> Result<Box<dyn Endpoint>, OpenError> {
        Ok(Box::new(self.open_endpoint(rx)?))
    }
}
