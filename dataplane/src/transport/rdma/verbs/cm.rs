//! Connections: who dials, who answers, how queue pairs come and go.
//!
//! Owns event channels and identifiers. Always true: an event is acknowledged before anybody acts on it, so
//! destroying an identifier never waits; an identifier destroys its queue pair first. Must not: block.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::Arc;

use super::device::Device;
use super::memory::Domain;
use super::queue::{CompletionQueue, ReceiveWork, SendWork, post_receives, post_sends};
use super::{check, sys};

/// Bytes of private data that an event can carry at most: those of an answer.
const PRIVATE_MAX: usize = 196;
/// Sends that the other side had no receive for are tried again so often: with credits never.
const RNR_RETRIES: u8 = 6;
/// Packets without an answer are sent again so often. Not 7: the software device takes that for "for ever".
const RETRIES: u8 = 6;

/// Where events of connections arrive.
pub(in crate::transport::rdma) struct EventChannel(NonNull<sys::rdma_event_channel>);

// SAFETY: the library reads events by one system call each, from any thread.
unsafe impl Send for EventChannel {}
// SAFETY: as above.
unsafe impl Sync for EventChannel {}

/// What happened to an identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport::rdma) enum CmKind {
    /// Its peer's address is known, and the device that leads there.
    AddressResolved,
    /// So is the way.
    RouteResolved,
    /// Somebody knocked at a listening one.
    Request,
    /// Both sides are ready.
    Established,
    /// The attempt to connect failed or was refused.
    Failed,
    /// The other side has closed, or the device is gone.
    Disconnected,
    /// Nothing of interest.
    Other,
}

/// An event, copied and acknowledged.
pub(in crate::transport::rdma) struct CmEvent {
    /// What happened.
    pub(in crate::transport::rdma) kind: CmKind,
    /// To whom: [`Id::set_name`].
    pub(in crate::transport::rdma) name: u64,
    /// One who knocked.
    pub(in crate::transport::rdma) request: Option<Id>,
    private: [u8; PRIVATE_MAX],
    private_size: usize,
}

impl CmEvent {
    /// What the other side sent along.
    pub(in crate::transport::rdma) fn private(&self) -> &[u8] {
        &self.private[..self.private_size]
    }
}

impl EventChannel {
    pub(in crate::transport::rdma) fn new() -> io::Result<Arc<Self>> {
        // SAFETY: no arguments.
        let channel = unsafe { sys::rdma_create_event_channel() };
        let channel = Self(NonNull::new(channel).ok_or_else(io::Error::last_os_error)?);
        set_nonblocking(channel.fd())?;
        Ok(Arc::new(channel))
    }

    /// Readable when there are events.
    pub(in crate::transport::rdma) fn fd(&self) -> RawFd {
        // SAFETY: the channel is open.
        unsafe { self.0.as_ref() }.fd
    }

    /// The next event.
    pub(in crate::transport::rdma) fn next(self: &Arc<Self>) -> Option<CmEvent> {
        let mut event = std::ptr::null_mut();
        // SAFETY: the channel is open and does not block; the library writes a pointer.
        if unsafe { sys::rdma_get_cm_event(self.0.as_ptr(), &raw mut event) } != 0 {
            return None;
        }
        // SAFETY: a successful call gave an event that is ours until it is acknowledged, below.
        let taken = self.copy(unsafe { &*event });
        // SAFETY: acknowledged once, and not used afterwards.
        unsafe { sys::rdma_ack_cm_event(event) };
        Some(taken)
    }

    fn copy(self: &Arc<Self>, event: &sys::rdma_cm_event) -> CmEvent {
        let kind = match event.event {
            sys::RDMA_CM_EVENT_ADDR_RESOLVED => CmKind::AddressResolved,
            sys::RDMA_CM_EVENT_ROUTE_RESOLVED => CmKind::RouteResolved,
            sys::RDMA_CM_EVENT_CONNECT_REQUEST => CmKind::Request,
            sys::RDMA_CM_EVENT_ESTABLISHED => CmKind::Established,
            sys::RDMA_CM_EVENT_ADDR_ERROR
            | sys::RDMA_CM_EVENT_ROUTE_ERROR
            | sys::RDMA_CM_EVENT_CONNECT_ERROR
            | sys::RDMA_CM_EVENT_UNREACHABLE
            | sys::RDMA_CM_EVENT_REJECTED => CmKind::Failed,
            sys::RDMA_CM_EVENT_DISCONNECTED | sys::RDMA_CM_EVENT_DEVICE_REMOVAL => {
                CmKind::Disconnected
            }
            _ => CmKind::Other,
        };
        let (mut private, mut private_size) = ([0; PRIVATE_MAX], 0);
        if matches!(kind, CmKind::Request | CmKind::Established) {
            // SAFETY: events of these kinds, of a connected service, carry this variant.
            let param = unsafe { &event.param.conn };
            if !param.private_data.is_null() {
                private_size = usize::from(param.private_data_len).min(PRIVATE_MAX);
                // SAFETY: the library says that so many bytes are there, as long as the event is.
                let bytes = unsafe {
                    std::slice::from_raw_parts(param.private_data.cast::<u8>(), private_size)
                };
                private[..private_size].copy_from_slice(bytes);
            }
        }
        let id = NonNull::new(event.id);
        // SAFETY: an event's identifier is there until the event is acknowledged.
        let name = id.map_or(0, |id| unsafe { id.as_ref() }.context as u64);
        let request = match kind {
            // A new identifier, of which nobody else knows.
            CmKind::Request => id.map(|id| Id { id, _channel: Arc::clone(self) }),
            _ => None,
        };
        CmEvent { kind, name, request, private, private_size }
    }
}

impl Drop for EventChannel {
    fn drop(&mut self) {
        // SAFETY: closed once; identifiers hold a count, so there are none.
        unsafe { sys::rdma_destroy_event_channel(self.0.as_ptr()) };
    }
}

/// How much work a queue pair takes.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport::rdma) struct QpSpec {
    /// Sends at a time.
    pub(in crate::transport::rdma) sends: u32,
    /// Receives at a time.
    pub(in crate::transport::rdma) receives: u32,
    /// Bytes of a send that may be copied when it is posted, if the device can.
    pub(in crate::transport::rdma) inline: u32,
}

/// A connection, or one that listens or is being made.
pub(in crate::transport::rdma) struct Id {
    id: NonNull<sys::rdma_cm_id>,
    _channel: Arc<EventChannel>,
}

// SAFETY: used by one thread at a time; the library does not care which.
unsafe impl Send for Id {}

impl Id {
    /// One whose events arrive at `channel`.
    pub(in crate::transport::rdma) fn new(channel: &Arc<EventChannel>) -> io::Result<Self> {
        let mut id = std::ptr::null_mut();
        let (context, service) = (std::ptr::null_mut(), sys::RDMA_PS_TCP);
        // SAFETY: the channel is open; the library writes a pointer.
        check(unsafe { sys::rdma_create_id(channel.0.as_ptr(), &raw mut id, context, service) })?;
        let id = NonNull::new(id).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { id, _channel: Arc::clone(channel) })
    }

    fn pointer(&self) -> *mut sys::rdma_cm_id {
        self.id.as_ptr()
    }

    /// What its events will call it.
    pub(in crate::transport::rdma) fn set_name(&mut self, name: u64) {
        // SAFETY: the identifier is there; its context is ours to set, and is never followed.
        unsafe { self.id.as_mut() }.context = name as *mut _;
    }

    /// The device it is bound to.
    pub(in crate::transport::rdma) fn device(&self) -> Option<Device> {
        // SAFETY: the identifier is there.
        Device::of_context(unsafe { self.id.as_ref() }.verbs)
    }

    /// Listen at `address`. Port 0 takes any.
    pub(in crate::transport::rdma) fn listen(
        &self,
        address: SocketAddr,
        backlog: i32,
    ) -> io::Result<()> {
        let mut address = RawAddress::of(address);
        // SAFETY: the library copies an address of the size that its family says.
        check(unsafe { sys::rdma_bind_addr(self.pointer(), address.pointer()) })?;
        // SAFETY: the identifier is there.
        check(unsafe { sys::rdma_listen(self.pointer(), backlog) })
    }

    /// The port that it listens at.
    pub(in crate::transport::rdma) fn local_port(&self) -> u16 {
        // SAFETY: the identifier is there.
        u16::from_be(unsafe { sys::rdma_get_src_port(self.pointer()) })
    }

    /// Begin to look for the device that leads to `to`, from `from` if that is given.
    pub(in crate::transport::rdma) fn resolve_address(
        &self,
        from: Option<SocketAddr>,
        to: SocketAddr,
        limit_ms: i32,
    ) -> io::Result<()> {
        let (mut from, mut to) = (from.map(RawAddress::of), RawAddress::of(to));
        let from = from.as_mut().map_or(std::ptr::null_mut(), RawAddress::pointer);
        // SAFETY: the library copies addresses of the sizes that their families say.
        check(unsafe { sys::rdma_resolve_addr(self.pointer(), from, to.pointer(), limit_ms) })
    }

    /// Begin to look for the way.
    pub(in crate::transport::rdma) fn resolve_route(&self, limit_ms: i32) -> io::Result<()> {
        // SAFETY: the identifier is there.
        check(unsafe { sys::rdma_resolve_route(self.pointer(), limit_ms) })
    }

    /// From now on its events arrive at `channel`.
    pub(in crate::transport::rdma) fn migrate(
        &mut self,
        channel: &Arc<EventChannel>,
    ) -> io::Result<()> {
        // SAFETY: both are there, and no event of this identifier waits for its acknowledgement.
        check(unsafe { sys::rdma_migrate_id(self.pointer(), channel.0.as_ptr()) })?;
        self._channel = Arc::clone(channel);
        Ok(())
    }

    /// How long a packet waits for its answer: 4.096 us times 2 to the power of `exponent`.
    pub(in crate::transport::rdma) fn set_ack_timeout(&self, mut exponent: u8) -> io::Result<()> {
        self.set_option(sys::RDMA_OPTION_ID_ACK_TIMEOUT, &mut exponent)
    }

    /// The traffic class of its packets.
    pub(in crate::transport::rdma) fn set_traffic_class(&self, mut class: u8) -> io::Result<()> {
        self.set_option(sys::RDMA_OPTION_ID_TOS, &mut class)
    }

    fn set_option(&self, option: u32, value: &mut u8) -> io::Result<()> {
        let level = sys::RDMA_OPTION_ID as i32;
        let value = (value as *mut u8).cast();
        // SAFETY: both options are one byte, which the library copies.
        check(unsafe { sys::rdma_set_option(self.pointer(), level, option as i32, value, 1) })
    }

    /// Make its queue pair. Returns how many bytes of a send may be copied when it is posted.
    pub(in crate::transport::rdma) fn create_queue_pair(
        &mut self,
        domain: &Arc<Domain>,
        queue: &CompletionQueue,
        spec: QpSpec,
    ) -> io::Result<u32> {
        let mut wanted = sys::ibv_qp_init_attr {
            send_cq: queue.pointer(),
            recv_cq: queue.pointer(),
            cap: sys::ibv_qp_cap {
                max_send_wr: spec.sends,
                max_recv_wr: spec.receives,
                max_send_sge: 2,
                max_recv_sge: 1,
                max_inline_data: spec.inline,
            },
            qp_type: sys::IBV_QPT_RC,
            sq_sig_all: 0,
            ..Default::default()
        };
        // SAFETY: all are there. The owner of the queue and of the domain drops connections first.
        check(unsafe { sys::rdma_create_qp(self.pointer(), domain.pointer(), &raw mut wanted) })?;
        Ok(wanted.cap.max_inline_data)
    }

    fn queue_pair(&self) -> io::Result<*mut sys::ibv_qp> {
        // SAFETY: the identifier is there.
        let pair = unsafe { self.id.as_ref() }.qp;
        if pair.is_null() { Err(io::Error::from_raw_os_error(libc::ENOTCONN)) } else { Ok(pair) }
    }

    /// Post receives, as one list.
    ///
    /// # Safety
    /// The memory is there, and is used by nobody else, until the completion or until `self` is dropped.
    pub(in crate::transport::rdma) unsafe fn post_receives(
        &self,
        receives: &[ReceiveWork],
    ) -> io::Result<()> {
        // SAFETY: the pair is there as long as we are; the memory by contract.
        unsafe { post_receives(self.queue_pair()?, receives) }
    }

    /// Post sends, as one list.
    ///
    /// # Safety
    /// The memory of what is not copied is there, and is not written, until the completion of this or a later
    /// send, or until `self` is dropped.
    pub(in crate::transport::rdma) unsafe fn post_sends(
        &self,
        sends: &[SendWork],
    ) -> io::Result<()> {
        // SAFETY: the pair is there as long as we are; the memory by contract.
        unsafe { post_sends(self.queue_pair()?, sends) }
    }

    /// Dial, sending `private` along.
    pub(in crate::transport::rdma) fn connect(&self, private: &[u8]) -> io::Result<()> {
        let mut param = parameters(private);
        // SAFETY: the library copies the parameters and what they point to.
        check(unsafe { sys::rdma_connect(self.pointer(), &raw mut param) })
    }

    /// Answer, sending `private` along.
    pub(in crate::transport::rdma) fn accept(&self, private: &[u8]) -> io::Result<()> {
        let mut param = parameters(private);
        // SAFETY: the library copies the parameters and what they point to.
        check(unsafe { sys::rdma_accept(self.pointer(), &raw mut param) })
    }

    /// Send one who knocked away.
    pub(in crate::transport::rdma) fn reject(&self) {
        // SAFETY: no private data. If it fails, the one who knocked waits in vain.
        unsafe { sys::rdma_reject(self.pointer(), std::ptr::null(), 0) };
    }

    /// Tell the other side that this is the end, if it is not known.
    pub(in crate::transport::rdma) fn disconnect(&self) {
        // SAFETY: the identifier is there. It fails if there is no connection.
        unsafe { sys::rdma_disconnect(self.pointer()) };
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        // SAFETY: destroyed once, the queue pair first; all events were acknowledged when they were taken.
        unsafe {
            if !self.id.as_ref().qp.is_null() {
                sys::rdma_destroy_qp(self.id.as_ptr());
            }
            sys::rdma_destroy_id(self.id.as_ptr());
        }
    }
}

fn parameters(private: &[u8]) -> sys::rdma_conn_param {
    sys::rdma_conn_param {
        private_data: private.as_ptr().cast(),
        private_data_len: private.len() as u8,
        // No reads and no atomics, in either direction.
        responder_resources: 0,
        initiator_depth: 0,
        flow_control: 1,
        retry_count: RETRIES,
        rnr_retry_count: RNR_RETRIES,
        srq: 0,
        qp_num: 0,
    }
}

/// An address as C wants it.
enum RawAddress {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl RawAddress {
    fn of(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => Self::V4(libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(address) => Self::V6(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            }),
        }
    }

    fn pointer(&mut self) -> *mut sys::sockaddr {
        match self {
            Self::V4(address) => (address as *mut libc::sockaddr_in).cast(),
            Self::V6(address) => (address as *mut libc::sockaddr_in6).cast(),
        }
    }
}

/// Reading from `fd` returns at once.
pub(super) fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: flags of an open descriptor are read and written.
    let result = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        if flags < 0 { flags } else { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) }
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
