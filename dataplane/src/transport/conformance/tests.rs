//! Every transport under the suite.
//!
//! Owns how pairs are made. Always true: what a machine does not have is said, and not checked. Must not: know the
//! checks.

use super::*;
use crate::endpoint::Transport;
use crate::transport::memory::{Port, Switch, SwitchConfig};
use crate::transport::tcp::{TcpConfig, TcpTransport};

#[test]
fn memory() {
    run(&mut |a, b| {
        let switch = Switch::new(SwitchConfig::default());
        switch.dial(Port(1), Port(0), PeerId::replica(0));
        let endpoint = |port, pool| -> Box<dyn Endpoint> {
            Box::new(switch.attach(port, pool).expect("each port once"))
        };
        let (dialler, acceptor) = (endpoint(Port(1), a), endpoint(Port(0), b));
        Pair { dialler, acceptor, address: Port(0).address(), knocks_at_once: true }
    });
}

fn tcp_pair(config: &TcpConfig, a: FramePool, b: FramePool) -> Pair {
    let listen = Some(([127, 0, 0, 1], 0).into());
    let mut acceptor = TcpTransport::new(TcpConfig { listen, ..config.clone() }).unwrap();
    let address = acceptor.local_address().unwrap();
    let dial = vec![(PeerId::replica(0), address)];
    let mut dialler = TcpTransport::new(TcpConfig { dial, ..config.clone() }).unwrap();
    of(&mut dialler, a, &mut acceptor, b, Some(address))
}

fn of(
    dialler: &mut dyn Transport,
    a: FramePool,
    acceptor: &mut dyn Transport,
    b: FramePool,
    address: Option<SocketAddr>,
) -> Pair {
    let (dialler, acceptor) = (dialler.open(0, a).unwrap(), acceptor.open(0, b).unwrap());
    Pair { dialler, acceptor, address: address.unwrap(), knocks_at_once: true }
}

#[test]
fn tcp() {
    run(&mut |a, b| tcp_pair(&TcpConfig::default(), a, b));
}

/// Small buffers and turns: every message is cut somewhere.
#[test]
fn tcp_with_small_buffers() {
    let config = TcpConfig {
        receive_buffer_size: 4096,
        receive_buffers: 1,
        turn_bytes_max: 5000,
        tx_messages_max: 7,
        ..TcpConfig::default()
    };
    run(&mut |a, b| tcp_pair(&config, a, b));
}

#[cfg(target_os = "linux")]
mod uring {
    use super::*;
    use crate::transport::uring::{self, UringConfig, UringTransport};

    fn listening(tcp: &TcpConfig) -> TcpConfig {
        TcpConfig { listen: Some(([127, 0, 0, 1], 0).into()), ..tcp.clone() }
    }

    fn dialling(tcp: &TcpConfig, address: Option<std::net::SocketAddr>) -> TcpConfig {
        TcpConfig { dial: vec![(PeerId::replica(0), address.unwrap())], ..tcp.clone() }
    }

    fn open(config: &UringConfig, tcp: TcpConfig) -> UringTransport {
        UringTransport::new(UringConfig { tcp, ..config.clone() }).unwrap()
    }

    /// Without io_uring there is nothing to check; `choice` checks what happens then.
    fn missing() -> bool {
        uring::probe().inspect_err(|why| eprintln!("{why}")).is_err()
    }

    fn pair(config: &UringConfig, a: FramePool, b: FramePool) -> Pair {
        let mut acceptor = open(config, listening(&config.tcp));
        let address = acceptor.local_address();
        let mut dialler = open(config, dialling(&config.tcp, address));
        of(&mut dialler, a, &mut acceptor, b, address)
    }

    #[test]
    fn uring() {
        if missing() {
            return;
        }
        run(&mut |a, b| pair(&UringConfig::default(), a, b));
    }

    /// Small buffers and turns, of which the kernel runs out: every message is cut somewhere.
    #[test]
    fn uring_with_small_buffers() {
        if missing() {
            return;
        }
        for receive_buffers in [1, 3] {
            let tcp = TcpConfig {
                receive_buffer_size: 4096,
                receive_buffers,
                turn_bytes_max: 5000,
                tx_messages_max: 7,
                ..TcpConfig::default()
            };
            run(&mut |a, b| pair(&UringConfig { tcp: tcp.clone(), ..Default::default() }, a, b));
        }
    }

    #[test]
    fn uring_without_copies() {
        if missing() {
            return;
        }
        let config = UringConfig { zero_copy_from: Some(4097), ..UringConfig::default() };
        run(&mut |a, b| pair(&config, a, b));
    }

    #[test]
    fn uring_of_an_older_kernel() {
        if missing() {
            return;
        }
        let config = UringConfig::default();
        run(&mut |a, b| {
            let mut acceptor = open(&config, listening(&config.tcp)).cooperative();
            let tcp = dialling(&config.tcp, acceptor.local_address());
            let mut dialler = open(&config, tcp).cooperative();
            let address = acceptor.local_address();
            of(&mut dialler, a, &mut acceptor, b, address)
        });
    }

    /// The bytes are the same whatever moves them.
    #[test]
    fn uring_with_tcp() {
        if missing() {
            return;
        }
        let config = UringConfig::default();
        run(&mut |a, b| {
            let mut acceptor = TcpTransport::new(listening(&config.tcp)).unwrap();
            let mut dialler = open(&config, dialling(&config.tcp, acceptor.local_address()));
            let address = acceptor.local_address();
            of(&mut dialler, a, &mut acceptor, b, address)
        });
        run(&mut |a, b| {
            let mut acceptor = open(&config, listening(&config.tcp));
            let tcp = dialling(&config.tcp, acceptor.local_address());
            let mut dialler = TcpTransport::new(tcp).unwrap();
            let address = acceptor.local_address();
            of(&mut dialler, a, &mut acceptor, b, address)
        });
    }
}

#[cfg(feature = "rdma")]
mod rdma {
    use super::*;
    use crate::transport::rdma::device::{DeviceChoice, devices};
    use crate::transport::rdma::{RdmaConfig, RdmaTransport};

    /// The devices of dialler and acceptor: different ones if there are, so that packets leave one and come
    /// in at the other. Without a device there is nothing to check, but `ci/rxe/run` says that there is one.
    fn two_devices() -> Option<[DeviceChoice; 2]> {
        let all = devices().unwrap();
        let required = std::env::var_os("TETRARCH_RDMA").is_some();
        assert!(!required || all.len() > 1, "TETRARCH_RDMA says that there are devices");
        let name = |at: usize| Some(all.get(at)?.1.name.clone());
        let of = |device| DeviceChoice { device, ..DeviceChoice::default() };
        let first = name(0)?;
        Some([of(Some(name(1).unwrap_or(first.clone()))), of(Some(first))])
    }

    fn check(config: &RdmaConfig) {
        let Some([dialling, listening]) = two_devices() else {
            eprintln!("no RDMA device: ci/rxe/run makes some");
            return;
        };
        run(&mut |a, b| {
            let listen = Some(([0, 0, 0, 0], 0).into());
            let (tcp, device) = (TcpConfig { listen, ..config.tcp.clone() }, listening.clone());
            let accepting = RdmaConfig { tcp, device, ..config.clone() };
            let mut acceptor = RdmaTransport::new(accepting).unwrap();
            let address = acceptor.local_address();
            let dial = vec![(PeerId::replica(0), address.unwrap())];
            let (tcp, device) = (TcpConfig { dial, ..config.tcp.clone() }, dialling.clone());
            let dialling = RdmaConfig { tcp, device, ..config.clone() };
            let mut dialler = RdmaTransport::new(dialling).unwrap();
            let pair = of(&mut dialler, a, &mut acceptor, b, address);
            Pair { knocks_at_once: false, ..pair }
        });
    }

    #[test]
    fn rdma() {
        check(&RdmaConfig::default());
    }

    /// Small chunks and turns, and hardly any chunks: every message is cut somewhere, all wait for all.
    #[test]
    fn rdma_with_few_small_chunks() {
        let tcp = TcpConfig { turn_bytes_max: 5000, tx_messages_max: 7, ..TcpConfig::default() };
        for copy_bodies in [true, false] {
            check(&RdmaConfig {
                tcp: tcp.clone(),
                chunk_size: 5000,
                receive_chunks: 16,
                send_chunks: 2,
                window: 3,
                copy_bodies,
                ..RdmaConfig::default()
            });
        }
    }
}
