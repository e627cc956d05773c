//! TCP over io_uring: one [`UringEndpoint`](endpoint::UringEndpoint), with one ring, per core.
//!
//! Owns the configuration and the listening socket. Always true: the bytes on the wire are those of
//! [`tcp`](super::tcp), and so are the limits; all memory is a function of [`UringConfig`]. Must
//! not: block, or trust a byte beyond what framing needs.
//!
//! One entry to the kernel serves all connections of a turn: what they transmit leaves as one batch
//! of submissions, what they receive is already in our memory, and an idle turn enters not at all.
//! docs/adr/0015 gives the reasons and the measurements.

mod batch;
mod buffers;
mod connect;
pub mod endpoint;
mod event;
mod key;
mod probe;
mod ring;
mod zero_copy;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicI32;
use std::time::Duration;

use io_uring::types::Napi;

use crate::arena::{Arena, ArenaSpec, FramePool};
use crate::endpoint::{Caps, Endpoint, Transport};
use crate::limits::{BURST_MAX, FRAME_SIZE_MAX};
use crate::transport::stream::tx_queue::COPY_MAX;
use crate::transport::stream::{TcpConfig, bind};
use crate::types::OpenError;

pub use probe::probe;

/// Bytes of a chunk that the kernel receives into, unless the receive buffers are smaller.
const CHUNK_SIZE: usize = 32 * 1024;
/// Files that are closed and not gone yet, beside those of all places.
const FILES_SPARE: usize = 64;

/// Addresses and limits of the io_uring transport. The limits are per endpoint, that is, per core.
///
/// Memory of an endpoint: as for [`TcpConfig`], where the receive buffers are cut into chunks that
/// all connections share, and about 550 KiB for a batch of transmissions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UringConfig {
    /// What it has in common with the epoll transport.
    pub tcp: TcpConfig,
    /// Bodies of this many bytes or more are transmitted without a copy in the kernel; `None`:
    /// none. Measured from 16 KiB to 2 MB it never won on a loopback interface, where the kernel
    /// copies all the same; a device is to be measured.
    pub zero_copy_from: Option<usize>,
    /// How long a parked core polls the network device's queue before it sleeps. `None`: not.
    pub napi_busy_poll: Option<Duration>,
}

impl UringConfig {
    fn check(&self) -> Result<(), OpenError> {
        self.tcp.check()?;
        match self.zero_copy_from {
            Some(from) if from <= COPY_MAX => Err(OpenError::BadValue {
                field: "io_uring.zero_copy_from".into(),
                value: from.to_string(),
                problem: "smaller bodies are sent side by side from one buffer".into(),
                remedy: format!("use more than {COPY_MAX}, or leave it out"),
            }),
            _ => Ok(()),
        }
    }
}

/// The io_uring transport: listens from the moment it is made, moves bytes once endpoints are opened.
///
/// ```
/// use tetrarch_dataplane::arena::{ArenaSpec, SlotClass};
/// use tetrarch_dataplane::endpoint::Transport;
/// use tetrarch_dataplane::transport::tcp::TcpConfig;
/// use tetrarch_dataplane::transport::uring::{self, UringConfig, UringTransport};
///
/// # fn main() -> Result<(), tetrarch_dataplane::types::OpenError> {
/// if let Err(why) = uring::probe() {
///     println!("{why}");
///     return Ok(());
/// }
/// let tcp = TcpConfig { listen: Some(([127, 0, 0, 1], 0).into()), ..TcpConfig::default() };
/// let mut transport = UringTransport::new(UringConfig { tcp, ..UringConfig::default() })?;
/// println!("listening at {:?}", transport.local_address());
/// let arena =
///     transport.arena(&ArenaSpec { classes: vec![SlotClass { slot_size: 2048, count: 256 }] })?;
/// let endpoint = transport.open(0, arena.pool())?;
/// # drop(endpoint);
/// # Ok(())
/// # }
/// ```
pub struct UringTransport {
    config: UringConfig,
    listener: Option<TcpListener>,
    /// Of the arenas that were asked for: the kernel may transmit from there.
    regions: Vec<zero_copy::Region>,
    opened: usize,
    /// The kind of ring, if not the best that there is.
    task_run: Option<ring::TaskRun>,
}

impl UringTransport {
    /// Check the configuration and bind the listening socket.
    ///
    /// # Errors
    /// A limit that makes no sense, an address that is taken, not ours, or not permitted, or no
    /// io_uring, with the reason that [`probe`] finds.
    pub fn new(config: UringConfig) -> Result<Self, OpenError> {
        config.check()?;
        probe()?;
        let listener = config.tcp.listen.map(bind).transpose()?;
        if let Some(listener) = &listener {
            prepare(listener).map_err(|source| OpenError::System {
                action: "prepare the listening socket for io_uring".into(),
                source,
                remedy: "raise the limit of open files (ulimit -n)".into(),
            })?;
        }
        Ok(Self { config, listener, regions: Vec::new(), opened: 0, task_run: None })
    }

    /// As on Linux 6.0.
    #[cfg(test)]
    pub(crate) fn cooperative(mut self) -> Self {
        self.task_run = Some(ring::TaskRun::Cooperative);
        self
    }

    /// Where connections are accepted.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// As [`Transport::open`], with the concrete type.
    ///
    /// # Errors
    /// The system refuses a ring, or the memory or files it is to know.
    pub fn open_endpoint(&mut self, rx: FramePool) -> Result<endpoint::UringEndpoint, OpenError> {
        let failed = |action: &str, source: io::Error| OpenError::System {
            action: action.into(),
            source,
            remedy: "raise the limits of open files (ulimit -n) and locked memory (ulimit -l), or \
                     use transport = \"tcp\""
                .into(),
        };
        let mut tcp = self.config.tcp.clone();
        if self.opened > 0 {
            tcp.dial.clear();
        }
        let listener = self.listener.as_ref().map(TcpListener::try_clone).transpose();
        let listener =
            listener.map_err(|error| failed("share the listening socket with a core", error))?;
        let ring = self.task_run.map_or_else(ring::Ring::new, ring::Ring::with);
        let ring = ring.map_err(|error| failed("open a ring", error))?;
        let mut memory = self.memory(&tcp)?;
        let submitter = ring.submitter();
        let files = files_max(tcp.places() + FILES_SPARE);
        submitter
            .register_files_sparse(files)
            .map_err(|error| failed(&format!("register a table of {files} files"), error))?;
        memory
            .buffers
            .register(&submitter)
            .map_err(|error| failed("register receive buffers", error))?;
        memory
            .zero_copy
            .register(&submitter, self.regions.clone())
            .map_err(|error| failed("register the memory of messages", error))?;
        if let Some(time) = self.config.napi_busy_poll {
            let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
            let mut napi = Napi::new().set_busy_poll_timeout(micros).set_prefer_busy_poll(true);
            submitter.register_napi(&mut napi).map_err(|source| OpenError::System {
                action: "poll network devices from the ring (io_uring.napi_busy_poll_us)".into(),
                source,
                remedy: "leave the setting out; it needs Linux 6.9 and a device with NAPI".into(),
            })?;
        }
        let event = event::Event::new().map_err(|error| failed("open an eventfd", error))?;
        self.opened += 1;
        Ok(endpoint::UringEndpoint::new(tcp, listener, rx, ring, memory, event))
    }

    fn memory(&self, tcp: &TcpConfig) -> Result<endpoint::Memory, OpenError> {
        let chunk_size = tcp.receive_buffer_size.min(CHUNK_SIZE);
        let chunks = tcp.receive_buffers.saturating_mul(tcp.receive_buffer_size) / chunk_size;
        Ok(endpoint::Memory {
            buffers: buffers::Buffers::new(chunks, chunk_size)?,
            batch: batch::Batch::new(),
            zero_copy: zero_copy::ZeroCopy::new(self.config.zero_copy_from),
            installed: Box::new(AtomicI32::new(-1)),
        })
    }
}

impl Transport for UringTransport {
    fn name(&self) -> &'static str {
        "io_uring"
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
        if self.config.zero_copy_from.is_some() {
            self.regions.extend(zero_copy::Region::of(&arena));
        }
        Ok(arena)
    }

    fn open(&mut self, _core: usize, rx: FramePool) -> Result<Box<dyn Endpoint>, OpenError> {
        Ok(Box::new(self.open_endpoint(rx)?))
    }
}

/// What connections inherit, as nobody sets it for each of them: without it small messages wait for
/// each other. And the ring wants to wait for a socket itself.
fn prepare(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(false)?;
    TcpStream::from(OwnedFd::from(listener.try_clone()?)).set_nodelay(true)
}

/// Files of a ring's table: the kernel wants no more than a process may have open.
fn files_max(wanted: usize) -> u32 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes the limits to memory of their type.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    let most = if known { usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX) } else { wanted };
    wanted.min(most).min(1 << 16) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::SlotClass;

    #[test]
    fn polling_devices_is_set_or_refused_with_words() {
        let Ok(mut transport) = UringTransport::new(UringConfig {
            napi_busy_poll: Some(Duration::from_micros(20)),
            ..UringConfig::default()
        }) else {
            return;
        };
        let classes = vec![SlotClass { slot_size: 512, count: 8 }];
        let arena = transport.arena(&ArenaSpec { classes }).unwrap();
        match transport.open(0, arena.pool()) {
            // A wait polls first, then sleeps: either way it ends.
            Ok(mut endpoint) => endpoint.park(Duration::from_millis(1)),
            Err(error) => assert!(error.to_string().contains("leave the setting out"), "{error}"),
        }
    }

    #[test]
    fn copies_of_small_bodies_are_not_avoided() {
        let config = UringConfig { zero_copy_from: Some(4096), ..UringConfig::default() };
        let error = UringTransport::new(config).err().unwrap().to_string();
        assert!(error.starts_with("io_uring.zero_copy_from = 4096: smaller bodies"), "{error}");
    }

    /// The ring admits one thread: another one is told at once, rather than never served.
    #[test]
    fn an_endpoint_stays_with_its_thread() {
        let Ok(mut transport) = UringTransport::new(UringConfig::default()) else {
            return;
        };
        let classes = vec![SlotClass { slot_size: 512, count: 8 }];
        let arena = transport.arena(&ArenaSpec { classes }).unwrap();
        let mut endpoint = transport.open(0, arena.pool()).unwrap();
        // Moved before its first use.
        let first = std::thread::spawn(move || {
            endpoint.park(Duration::ZERO);
            endpoint
        });
        let mut endpoint = first.join().unwrap();
        let second = std::thread::spawn(move || endpoint.park(Duration::ZERO));
        assert!(second.join().is_err());
    }
}
