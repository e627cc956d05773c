//! Devices, their ports and addresses.
//!
//! Owns the names of open devices. Always true: a device stays open until the process ends. Must not: choose
//! between devices.

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::ptr::NonNull;

use super::sys;

/// GIDs of a device that are looked at: more than any table in use holds.
const GIDS_MAX: usize = 1024;
/// Ports of a device that are looked at.
const PORTS_MAX: u8 = 16;

/// An RDMA device. It stays open until the process ends: the connection manager holds it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Device(NonNull<sys::ibv_context>);

// SAFETY: a context is shared by all that uses the device and does its own locking; it is never closed.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// What is known of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortState {
    /// Its number, from 1.
    pub port: u8,
    /// It can carry messages.
    pub active: bool,
    /// Bytes of the largest packet.
    pub mtu: u32,
}

/// An address of a device in the table of one of its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gid {
    /// The port.
    pub port: u8,
    /// Its place in the table.
    pub index: u32,
    /// Packets from it are UDP over IP (RoCE v2), rather than Ethernet frames (v1) or InfiniBand.
    pub is_roce_v2: bool,
    /// What it says as an IP address; one of IPv4 stands in the IPv6 form that maps it.
    pub address: IpAddr,
}

impl Device {
    /// All devices of this machine, none if it has none.
    ///
    /// # Errors
    /// The kernel cannot be asked, or refuses to open a device.
    pub fn all() -> io::Result<Vec<Self>> {
        let mut count = 0;
        // SAFETY: the library writes the number of entries of the list that it returns.
        let list = unsafe { sys::rdma_get_devices(&raw mut count) };
        if list.is_null() {
            return match io::Error::last_os_error() {
                // No device, or no kernel support at all: the same to us.
                error if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOSYS)) => {
                    Ok(Vec::new())
                }
                error => Err(error),
            };
        }
        let count = usize::try_from(count).unwrap_or(0);
        // SAFETY: the library says that so many pointers are there; they are copied before the list is freed.
        let contexts = unsafe { std::slice::from_raw_parts(list, count) };
        let devices = contexts.iter().filter_map(|context| NonNull::new(*context)).map(Self);
        let devices = devices.collect();
        // SAFETY: freed once; the contexts in it stay open.
        unsafe { sys::rdma_free_devices(list) };
        Ok(devices)
    }

    /// The device that an identifier was bound to.
    pub(super) fn of_context(context: *mut sys::ibv_context) -> Option<Self> {
        NonNull::new(context).map(Self)
    }

    pub(super) fn context(self) -> *mut sys::ibv_context {
        self.0.as_ptr()
    }

    /// Its name: `mlx5_0`, `rxe0`.
    pub fn name(self) -> String {
        // SAFETY: the context is open, and its device and name live as long.
        let name = unsafe { CStr::from_ptr(sys::ibv_get_device_name((*self.context()).device)) };
        name.to_string_lossy().into_owned()
    }

    /// Completions that one queue can hold.
    ///
    /// # Errors
    /// The device does not answer.
    pub(crate) fn completions_max(self) -> io::Result<usize> {
        let mut limits = sys::ibv_device_attr::default();
        // SAFETY: the context is open; the library fills a structure of its own type.
        match unsafe { sys::ibv_query_device(self.context(), &raw mut limits) } {
            0 => Ok(usize::try_from(limits.max_cqe).unwrap_or(0)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Its ports.
    pub fn ports(self) -> Vec<PortState> {
        let state = |port| {
            let mut state = sys::ibv_port_attr::default();
            // SAFETY: the context is open; the library fills a structure of its own type, or fails.
            let result = unsafe { sys::tetrarch_query_port(self.context(), port, &raw mut state) };
            (result == 0).then(|| PortState {
                port,
                active: state.state == sys::IBV_PORT_ACTIVE,
                // The enumeration counts 256, 512, 1024 and so on from 1.
                mtu: 128_u32.checked_shl(state.active_mtu).unwrap_or(0),
            })
        };
        (1..=PORTS_MAX).map_while(state).collect()
    }

    /// The addresses of its ports.
    ///
    /// # Errors
    /// The device does not say.
    pub fn gids(self) -> io::Result<Vec<Gid>> {
        let mut entries = vec![sys::ibv_gid_entry::default(); GIDS_MAX];
        // SAFETY: the context is open; the library fills at most as many entries as it is told there are.
        let count = unsafe {
            sys::tetrarch_query_gid_table(self.context(), entries.as_mut_ptr(), entries.len())
        };
        let count = usize::try_from(count)
            .map_err(|_| io::Error::from_raw_os_error(count.unsigned_abs() as i32))?;
        let gid = |entry: &sys::ibv_gid_entry| Gid {
            port: u8::try_from(entry.port_num).unwrap_or(0),
            index: entry.gid_index,
            is_roce_v2: entry.gid_type == sys::IBV_GID_TYPE_ROCE_V2,
            // SAFETY: all variants of the union are 16 plain bytes.
            address: IpAddr::V6(Ipv6Addr::from(unsafe { entry.gid.raw })).to_canonical(),
        };
        Ok(entries.iter().take(count).map(gid).collect())
    }
}
