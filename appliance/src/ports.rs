//! Are the ports of a replica free?
//!
//! Owns the patience with a port that is taken. Always true: a replica that is started again directly after it
//! was killed starts. Must not: share a port with a process that lives (SO_REUSEPORT would).

use std::io;
use std::net::{SocketAddr, TcpListener};
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

#[cfg(test)]
mod tests {
    use super::*;

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
