//! RDMA: one [`RdmaEndpoint`](endpoint::RdmaEndpoint), with one completion queue, per core.
//!
//! Owns the configuration, the device and the listening identifier. Always true: no memory is registered for
//! remote access, so peers can write nowhere and read nothing; what they send lands in chunks that we posted
//! for them, and is copied from there before anybody checks it; all memory is a function of [`RdmaConfig`].
//! Must not: block, or trust a byte beyond what framing needs.
//!
//! A connection is a queue pair of the kind *reliable connection*. On it travels the byte stream of
//! [`tcp`](super::tcp), cut into sends of up to a chunk: small messages lie side by side in one, large bodies
//! are gathered from where they are. docs/adr/0040 gives the reasons.

mod chunks;
mod connect;
mod credits;
pub mod device;
pub mod endpoint;
mod flights;
mod hello;
mod socket;
mod transmit;
mod verbs;
mod work;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::arena::{Arena, ArenaSpec, FramePool};
use crate::endpoint::{Caps, Endpoint, Transport};
use crate::limits::{BURST_MAX, FRAME_SIZE_MAX};
use crate::transport::stream::TcpConfig;
use crate::types::OpenError;
use device::{DeviceChoice, DeviceInfo, choose, devices};
use hello::{CHUNK_SIZE_MAX, CHUNK_SIZE_MIN};
use socket::WINDOW_FIRST;
use verbs::{Device, Domain, EventChannel, Id, Region};

/// Addresses, device and limits of the RDMA transport. The limits are per endpoint, that is, per core.
///
/// Memory of an endpoint: `(receive_chunks + send_chunks) * chunk_size`, registered with the device and so
/// locked, and what [`TcpConfig`] says of places; the receive buffers there do not exist here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdmaConfig {
    /// What it has in common with the transports over TCP.
    pub tcp: TcpConfig,
    /// Which device, if it matters.
    pub device: DeviceChoice,
    /// Bytes of one send at most.
    pub chunk_size: usize,
    /// Chunks to receive into, of all connections. One that connects takes six.
    pub receive_chunks: usize,
    /// Chunks to transmit from, of all connections.
    pub send_chunks: usize,
    /// Sends that an authenticated peer may have on the way, as long as there are chunks.
    pub window: usize,
    /// Copy bodies rather than let the device gather them from the arena.
    pub copy_bodies: bool,
    /// How long a packet waits for its answer: 4.096 us times 2 to the power of this; 14 is 67 ms. After six
    /// repetitions the connection is given up, and dialled anew.
    pub ack_timeout: u8,
    /// The traffic class of packets, for the switches.
    pub traffic_class: Option<u8>,
}

impl Default for RdmaConfig {
    fn default() -> Self {
        Self {
            tcp: TcpConfig::default(),
            device: DeviceChoice::default(),
            chunk_size: 16 * 1024,
            receive_chunks: 2048,
            send_chunks: 512,
            window: 32,
            copy_bodies: false,
            ack_timeout: 14,
            traffic_class: None,
        }
    }
}

impl RdmaConfig {
    fn check(&self) -> Result<(), OpenError> {
        self.tcp.check()?;
        let first = WINDOW_FIRST as usize + credits::RESERVE as usize;
        let bounds = [
            // A chunk of ours holds what the smallest one of a peer may be sent.
            ("chunk_size", self.chunk_size, CHUNK_SIZE_MIN as usize, CHUNK_SIZE_MAX as usize),
            ("receive_chunks", self.receive_chunks, first, chunks::COUNT_MAX),
            ("send_chunks", self.send_chunks, 1, chunks::COUNT_MAX),
            ("window", self.window, WINDOW_FIRST as usize, 1024),
            // 31 would be two hours.
            ("ack_timeout", usize::from(self.ack_timeout), 8, 24),
        ];
        for (name, value, min, max) in bounds {
            if value < min || value > max {
                return Err(OpenError::BadValue {
                    field: format!("rdma.{name}"),
                    value: value.to_string(),
                    problem: "out of range".into(),
                    remedy: format!("use {min} to {max}"),
                });
            }
        }
        Ok(())
    }
}

/// Says whether this machine has a device that can be used.
///
/// # Errors
/// Why not, and what to do about it.
pub fn probe() -> Result<(), OpenError> {
    find(&DeviceChoice::default(), None).map(|_| ())
}

fn find(
    choice: &DeviceChoice,
    listen: Option<SocketAddr>,
) -> Result<(Device, device::Chosen), OpenError> {
    let found = devices()?;
    let infos: Vec<DeviceInfo> = found.iter().map(|(_, info)| info.clone()).collect();
    let chosen = choose(&infos, choice, listen)?;
    Ok((found[chosen.device].0, chosen))
}

/// Memory of messages that the device may read.
struct Registered {
    /// Before the memory, so that it goes first.
    region: Region,
    _pool: FramePool,
}

/// Who listens, shared by all cores.
struct Listener {
    channel: Arc<EventChannel>,
    /// Only kept: nobody uses it once it listens.
    _id: Mutex<Id>,
    address: SocketAddr,
}

/// The RDMA transport: listens from the moment it is made, moves bytes once endpoints are opened.
///
/// ```
/// use tetrarch_dataplane::arena::{ArenaSpec, SlotClass};
/// use tetrarch_dataplane::endpoint::Transport;
/// use tetrarch_dataplane::transport::rdma::{self, RdmaConfig, RdmaTransport};
///
/// # fn main() -> Result<(), tetrarch_dataplane::types::OpenError> {
/// if let Err(why) = rdma::probe() {
///     println!("{why}");
///     return Ok(());
/// }
/// let mut transport = RdmaTransport::new(RdmaConfig::default())?;
/// let arena =
///     transport.arena(&ArenaSpec { classes: vec![SlotClass { slot_size: 2048, count: 256 }] })?;
/// let endpoint = transport.open(0, arena.pool())?;
/// # drop(endpoint);
/// # Ok(())
/// # }
/// ```
pub struct RdmaTransport {
    config: RdmaConfig,
    listener: Option<Arc<Listener>>,
    /// Before the domain they belong to.
    registered: Vec<Arc<Registered>>,
    domain: Arc<Domain>,
    /// The address that connections come from.
    source: SocketAddr,
    opened: usize,
}

impl RdmaTransport {
    /// Check the configuration, choose a device and listen.
    ///
    /// # Errors
    /// A limit that makes no sense, no device that fits, or an address that is taken or not permitted.
    pub fn new(config: RdmaConfig) -> Result<Self, OpenError> {
        config.check()?;
        let (device, chosen) = find(&config.device, config.tcp.listen)?;
        let domain = Domain::new(device).map_err(|source| OpenError::System {
            action: format!("use the RDMA device {}", device.name()),
            source,
            remedy: "allow this user to open /dev/infiniband/uverbs*".into(),
        })?;
        let source = SocketAddr::new(chosen.gid.address, 0);
        let backlog = i32::try_from(config.tcp.unauthenticated_max).unwrap_or(i32::MAX);
        let listen = |wanted: SocketAddr| {
            let address = SocketAddr::new(source.ip(), wanted.port());
            listen(address, backlog).map_err(|source| OpenError::System {
                action: format!("listen at {address} over RDMA"),
                source,
                remedy: "stop the process that has the port, choose another port, or load rdma_ucm"
                    .into(),
            })
        };
        let listener = config.tcp.listen.map(listen).transpose()?.map(Arc::new);
        Ok(Self { config, listener, registered: Vec::new(), domain, source, opened: 0 })
    }

    /// Where connections are accepted.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().map(|listener| listener.address)
    }

    /// As [`Transport::open`], with the concrete type.
    ///
    /// # Errors
    /// The device refuses a queue or memory.
    pub fn open_endpoint(&mut self, rx: FramePool) -> Result<endpoint::RdmaEndpoint, OpenError> {
        let mut config = self.config.clone();
        if self.opened > 0 {
            config.tcp.dial.clear();
        }
        self.register(&rx)?;
        self.opened += 1;
        endpoint::RdmaEndpoint::new(endpoint::Opening {
            config,
            domain: Arc::clone(&self.domain),
            listener: self.listener.clone(),
            registered: self.registered.clone(),
            source: self.source,
            pool: rx,
        })
    }

    /// Lets the device read the memory behind `pool`, once.
    fn register(&mut self, pool: &FramePool) -> Result<(), OpenError> {
        if self.config.copy_bodies {
            return Ok(());
        }
        for (start, size) in pool.regions() {
            let is_known = |known: &Arc<Registered>| known.region.starts_at(start);
            if self.registered.iter().any(is_known) {
                continue;
            }
            // SAFETY: the pool beside it holds the memory, and is dropped after it.
            let region = unsafe { Region::new(&self.domain, start, size) };
            let region = region.map_err(|source| registration_failed(size, source))?;
            self.registered.push(Arc::new(Registered { region, _pool: pool.clone() }));
        }
        Ok(())
    }
}

fn listen(address: SocketAddr, backlog: i32) -> io::Result<Listener> {
    let channel = EventChannel::new()?;
    let id = Id::new(&channel)?;
    id.listen(address, backlog)?;
    let address = SocketAddr::new(address.ip(), id.local_port());
    Ok(Listener { channel, _id: Mutex::new(id), address })
}

fn registration_failed(size: usize, source: io::Error) -> OpenError {
    OpenError::System {
        action: format!("register {size} bytes with the RDMA device"),
        source,
        remedy:
            "raise the limit of locked memory (ulimit -l, or LimitMEMLOCK= of the service), or \
                 lower rdma.receive_chunks and rdma.send_chunks"
                .into(),
    }
}

impl Transport for RdmaTransport {
    fn name(&self) -> &'static str {
        "rdma"
    }

    fn caps(&self) -> Caps {
        Caps {
            message_size_max: FRAME_SIZE_MAX as u32,
            burst_max: BURST_MAX as u16,
            reliable: true,
        }
    }

    fn arena(&mut self, spec: &ArenaSpec) -> Result<Arena, OpenError> {
        let arena = Arena::heap(spec)?;
        self.register(&arena.pool())?;
        Ok(arena)
    }

    fn open(&mut self, _core: usize, rx: FramePool) -> Result<Box<dyn Endpoint>, OpenError> {
        Ok(Box::new(self.open_endpoint(rx)?))
    }
}

#[cfg(test)]
mod tests;
