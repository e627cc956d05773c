//! Are the ports of a replica free, and which are?
//!
//! Owns the patience with a port that is taken, and where clusters of one machine look for some. Always true: a replica that is started again directly after it
//! was killed starts. Must not: share a port with a process that lives (SO_REUSEPORT would).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a port may stay taken. The kernel takes a ring of io_uring apart after its process is
/// gone, and what was waiting in it, as for connections, keeps the socket until then: milliseconds, more on a
/// busy machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How often to look.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until `address` can be listened at. Calls `taken` once if it cannot at first.
///
/// # Errors
/// It is still taken after `patience`, or cannot be had for another reason.
pub fn wait(address: SocketAddr, patience: Duration, taken: &mut dyn FnMut()) -> io::Result<()> {
    let begin = Instant::now();
    let mut told = false;
    loop {
        match TcpListener::bind(address) {
            Ok(_) => return Ok(()),
            Err(error)
                if error.kind() != io::ErrorKind::AddrInUse || begin.elapsed() >= patience =>
            {
                return Err(error);
            }
            Err(_) => {}
        }
        if !std::mem::replace(&mut told, true) {
            taken();
        }
        thread::sleep(PAUSE);
    }
}

/// The first of `count` consecutive ports of 127.0.0.1 that were free a moment ago, as `init --base-port` takes them. Each call
/// of a process begins to look at another place, and so does each process, since many do this at once in tests. None is of those
/// that Linux gives to connections (32768 and more), which would take it for as long as they last.
///
/// # Errors
/// There are none.
pub fn free_range(count: u16) -> io::Result<u16> {
    const FIRST: u32 = 20_000;
    const PORTS: u32 = 12_000;
    const APART: u32 = 1000;
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let call = CALLS.fetch_add(1, Ordering::Relaxed) % (PORTS / APART);
    let begin = std::process::id() % PORTS + call * APART;
    (0..PORTS)
        .step_by(usize::from(count.max(1)))
        .map(|next| (FIRST + (begin + next) % PORTS) as u16)
        .find(|base| (*base..base + count).all(is_free))
        .ok_or_else(|| {
            io::Error::new(io::ErrorKind::AddrNotAvailable, "no free ports on 127.0.0.1")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_one_process_do_not_meet() {
        let mut bases: Vec<u16> =
            (0..3).map(|_| free_range(8).expect("a machine with ports")).collect();
        bases.sort_unstable();
        assert!(bases.windows(2).all(|pair| pair[1] - pair[0] >= 8), "{bases:?}");
        let _taken = TcpListener::bind(("127.0.0.1", bases[0])).expect("it was free");
        let base = free_range(8).expect("a machine with ports");
        assert!(!(base..base + 8).contains(&bases[0]));
    }

    #[test]
    fn a_port_that_is_given_back_late_is_waited_for_and_others_are_not() {
        let other = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = other.local_addr().expect("bound");
        let mut told = 0;
        let error = wait(address, Duration::from_millis(1), &mut || told += 1);
        assert_eq!(error.expect_err("taken").kind(), io::ErrorKind::AddrInUse);
        assert_eq!(told, 1);
        let (start, started) = std::sync::mpsc::channel();
        let keeper = thread::spawn(move || {
            started.recv().expect("the other side waits");
            drop(other);
        });
        wait(address, Duration::from_secs(60), &mut || start.send(()).expect("it listens"))
            .expect("free in the end");
        keeper.join().expect("no panic");
        wait(address, Duration::ZERO, &mut || panic!("free at once")).expect("free");
        let foreign = SocketAddr::from(([192, 0, 2, 1], address.port()));
        assert!(wait(foreign, PATIENCE, &mut || panic!("not ours")).is_err());
    }
}
