//! Which device, port and address the transport uses.
//!
//! Owns the choice, as a function of what the configuration names and the machine has. Always true: what is
//! named is found or refused with the list of what there is; what is not named is chosen for RoCE v2, which
//! routers forward and every switch carries. Must not: open anything.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::verbs::{Device, Gid, PortState};
use crate::types::OpenError;

/// What the configuration names; `None`: choose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceChoice {
    /// Name of the device: `mlx5_0`.
    pub device: Option<String>,
    /// Number of the port, from 1.
    pub port: Option<u8>,
    /// Place in the port's table of addresses, as `ibv_devinfo -v` numbers it.
    pub gid_index: Option<u32>,
}

/// A device as the choice sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// Its ports.
    pub ports: Vec<PortState>,
    /// Their addresses.
    pub gids: Vec<Gid>,
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for port in &self.ports {
            let state = if port.active { "active" } else { "not active" };
            write!(f, ", port {} ({state}, MTU {})", port.port, port.mtu)?;
            for gid in self.gids.iter().filter(|gid| gid.port == port.port) {
                let kind = if gid.is_roce_v2 { "RoCE v2" } else { "not RoCE v2" };
                write!(f, ", gid {} {} ({kind})", gid.index, gid.address)?;
            }
        }
        Ok(())
    }
}

/// What was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Place of the device in the list.
    pub device: usize,
    /// The port.
    pub port: PortState,
    /// Its address: connections come from it.
    pub gid: Gid,
}

/// All devices of this machine.
///
/// # Errors
/// The kernel cannot be asked.
pub fn devices() -> Result<Vec<(Device, DeviceInfo)>, OpenError> {
    let all = Device::all().map_err(|source| OpenError::System {
        action: "list RDMA devices".into(),
        source,
        remedy: "load ib_uverbs and rdma_ucm, allow this user to open /dev/infiniband/*, or use \
                 transport = \"tcp\""
            .into(),
    })?;
    let info = |device: Device| {
        // A device that does not say its addresses has none that could be chosen.
        let gids = device.gids().unwrap_or_default();
        (device, DeviceInfo { name: device.name(), ports: device.ports(), gids })
    };
    Ok(all.into_iter().map(info).collect())
}

/// Chooses among `devices` what `choice` names and, where it names nothing, the first that fits: a port that
/// is active, and of its addresses the one that `listen` is, else RoCE v2 with an address of IPv4, else RoCE
/// v2, else any.
///
/// # Errors
/// Nothing fits; the text lists what there is.
pub fn choose(
    devices: &[DeviceInfo],
    choice: &DeviceChoice,
    listen: Option<SocketAddr>,
) -> Result<Chosen, OpenError> {
    if devices.is_empty() {
        return Err(OpenError::Unsupported {
            what: "RDMA".into(),
            remedy: "this machine has no RDMA device (`rdma link` lists them); use transport = \
                     \"tcp\", or \"auto\""
                .into(),
        });
    }
    let listen =
        listen.map(|address| address.ip().to_canonical()).filter(|it| !it.is_unspecified());
    let mut best: Option<(u8, Chosen)> = None;
    for (at, info) in devices.iter().enumerate() {
        for (port, gid) in candidates(info, choice) {
            let rank = rank(gid, choice, listen);
            if rank > 0 && best.is_none_or(|(known, _)| rank > known) {
                best = Some((rank, Chosen { device: at, port, gid }));
            }
        }
    }
    best.map(|(_, chosen)| chosen).ok_or_else(|| nothing_fits(devices, choice, listen))
}

/// Active ports of a device and their addresses, as far as they are what is named.
fn candidates<'a>(
    info: &'a DeviceInfo,
    choice: &'a DeviceChoice,
) -> impl Iterator<Item = (PortState, Gid)> + 'a {
    let named = choice.device.as_ref().is_none_or(|name| *name == info.name);
    let ports = info.ports.iter().filter(move |port| {
        named && port.active && choice.port.is_none_or(|number| number == port.port)
    });
    ports.flat_map(|port| {
        let gids = info.gids.iter().filter(|gid| gid.port == port.port);
        gids.map(|gid| (*port, *gid))
    })
}

/// How well an address fits; 0: not at all.
fn rank(gid: Gid, choice: &DeviceChoice, listen: Option<IpAddr>) -> u8 {
    if choice.gid_index.is_some_and(|index| index != gid.index) {
        return 0;
    }
    if listen.is_some_and(|address| address != gid.address) {
        return 0;
    }
    match gid.address {
        IpAddr::V4(_) if gid.is_roce_v2 => 4,
        // One of a link alone reaches no other network, and needs the name of the interface.
        IpAddr::V6(address) if gid.is_roce_v2 && !address.is_unicast_link_local() => 3,
        IpAddr::V6(_) if gid.is_roce_v2 => 2,
        _ => 1,
    }
}

fn nothing_fits(
    devices: &[DeviceInfo],
    choice: &DeviceChoice,
    listen: Option<IpAddr>,
) -> OpenError {
    let mut wanted = Vec::new();
    wanted.extend(choice.device.as_ref().map(|name| format!("device {name:?}")));
    wanted.extend(choice.port.map(|port| format!("port {port}")));
    wanted.extend(choice.gid_index.map(|index| format!("gid_index {index}")));
    wanted.extend(listen.map(|address| format!("address {address}")));
    let wanted = if wanted.is_empty() { "any".to_string() } else { wanted.join(", ") };
    let known: Vec<_> = devices.iter().map(DeviceInfo::to_string).collect();
    OpenError::BadValue {
        field: "rdma".into(),
        value: wanted,
        problem: "no active port of a device has it".into(),
        remedy: format!("there is {}; take one of these, or leave it out", known.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gid(index: u32, is_roce_v2: bool, address: &str) -> Gid {
        Gid { port: 1, index, is_roce_v2, address: address.parse().unwrap() }
    }

    fn device(name: &str, active: bool, gids: Vec<Gid>) -> DeviceInfo {
        DeviceInfo {
            name: name.into(),
            ports: vec![PortState { port: 1, active, mtu: 4096 }],
            gids,
        }
    }

    /// As a card of two ports looks: each its own device, with each address in two versions.
    fn machine() -> Vec<DeviceInfo> {
        let gids = |last: u8| {
            vec![
                gid(0, false, "fe80::1"),
                gid(1, true, "fe80::1"),
                gid(2, false, &format!("10.0.0.{last}")),
                gid(3, true, &format!("10.0.0.{last}")),
                gid(4, true, &format!("fd00::{last}")),
            ]
        };
        vec![
            device("mlx5_0", false, gids(1)),
            device("mlx5_1", true, gids(2)),
            device("mlx5_2", true, gids(3)),
        ]
    }

    fn chosen(choice: DeviceChoice, listen: Option<&str>) -> (String, u32) {
        let machine = machine();
        let listen = listen.map(|address| address.parse().unwrap());
        let chosen = choose(&machine, &choice, listen).unwrap();
        (machine[chosen.device].name.clone(), chosen.gid.index)
    }

    #[test]
    fn unnamed_it_is_roce_v2_of_ipv4_at_an_active_port() {
        assert_eq!(chosen(DeviceChoice::default(), None), ("mlx5_1".into(), 3));
        assert_eq!(chosen(DeviceChoice::default(), Some("0.0.0.0:7000")), ("mlx5_1".into(), 3));
    }

    #[test]
    fn the_address_to_listen_at_names_the_device() {
        assert_eq!(chosen(DeviceChoice::default(), Some("10.0.0.3:0")), ("mlx5_2".into(), 3));
        assert_eq!(chosen(DeviceChoice::default(), Some("[fd00::3]:0")), ("mlx5_2".into(), 4));
        let mapped = Some("[::ffff:10.0.0.3]:0");
        assert_eq!(chosen(DeviceChoice::default(), mapped), ("mlx5_2".into(), 3));
    }

    #[test]
    fn what_is_named_is_taken() {
        let named = |device: &str, gid_index| DeviceChoice {
            device: Some(device.into()),
            port: Some(1),
            gid_index,
        };
        assert_eq!(chosen(named("mlx5_2", None), None), ("mlx5_2".into(), 3));
        assert_eq!(chosen(named("mlx5_2", Some(0)), None), ("mlx5_2".into(), 0));
    }

    #[test]
    fn what_does_not_exist_is_refused_with_what_does() {
        let machine = machine();
        let refused = |choice: DeviceChoice, listen: Option<&str>| {
            let listen = listen.map(|address| address.parse().unwrap());
            choose(&machine, &choice, listen).unwrap_err().to_string()
        };
        let choice = DeviceChoice { device: Some("mlx5_9".into()), ..DeviceChoice::default() };
        let text = refused(choice, Some("10.0.0.3:1"));
        assert!(
            text.starts_with("rdma = device \"mlx5_9\", address 10.0.0.3: no active"),
            "{text}"
        );
        assert!(text.contains("mlx5_0, port 1 (not active, MTU 4096)"), "{text}");
        assert!(text.contains("mlx5_2") && text.contains("gid 3 10.0.0.3 (RoCE v2)"), "{text}");
        // Not active.
        let choice = DeviceChoice { device: Some("mlx5_0".into()), ..DeviceChoice::default() };
        assert!(refused(choice, None).contains("no active port"));
        let choice = DeviceChoice { port: Some(2), ..DeviceChoice::default() };
        assert!(refused(choice, None).contains("port 2"));
        let choice = DeviceChoice { gid_index: Some(17), ..DeviceChoice::default() };
        assert!(refused(choice, None).contains("gid_index 17"));
        let none = choose(&[], &DeviceChoice::default(), None).unwrap_err().to_string();
        assert!(
            none.starts_with("RDMA is not available: this machine has no RDMA device"),
            "{none}"
        );
    }

    /// Where there are devices they are listed with their addresses; elsewhere the list is empty, without an
    /// error: that is how a build with RDMA runs on a machine without.
    #[test]
    fn the_devices_of_this_machine_are_found() {
        let found = devices().unwrap();
        if found.is_empty() {
            let required = std::env::var_os("TETRARCH_RDMA").is_some();
            assert!(!required, "TETRARCH_RDMA says that there are devices, and there is none");
            return;
        }
        let infos: Vec<_> = found.into_iter().map(|(_, info)| info).collect();
        let chosen = choose(&infos, &DeviceChoice::default(), None).unwrap();
        assert!(chosen.port.active && chosen.port.mtu >= 256, "{chosen:?}");
    }
}
