//! Waits shorter than epoll can count.
//!
//! epoll counts in milliseconds and mio rounds up, so whoever has something to do every few
//! microseconds (an open-loop load, a burst to be paced) would do it in clumps of a millisecond.
//! `ppoll` on epoll's own descriptor counts in nanoseconds and ends for the same reasons.

use std::os::fd::RawFd;
use std::time::Duration;

/// From here on a millisecond more does not matter, and one system call is enough.
const COARSE: Duration = Duration::from_millis(3);

/// Sleeps until `epoll` has something to tell, at most `limit`, if that is too short for epoll.
/// Returns how long may still be waited in epoll itself.
pub(super) fn fine_wait(epoll: RawFd, limit: Duration) -> Duration {
    if limit.is_zero() || limit >= COARSE {
        return limit;
    }
    let mut entry = libc::pollfd { fd: epoll, events: libc::POLLIN, revents: 0 };
    let time = libc::timespec { tv_sec: 0, tv_nsec: libc::c_long::from(limit.subsec_nanos()) };
    // SAFETY: `entry` and `time` live until the call returns, and the count of entries is one. A
    // signal mask of null is allowed. The result is of no interest: readable, late and interrupted
    // all mean to look what is there.
    unsafe { libc::ppoll(&raw mut entry, 1, &raw const time, std::ptr::null()) };
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::time::Instant;

    #[test]
    fn only_short_waits_are_fine_and_what_is_ready_ends_them() {
        let mut poll = mio::Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), mio::Token(7)).unwrap();
        let (epoll, short) = (poll.as_raw_fd(), Duration::from_millis(1));
        for coarse in [Duration::ZERO, COARSE, Duration::from_secs(9)] {
            assert_eq!(fine_wait(epoll, coarse), coarse, "left to epoll");
        }
        let begin = Instant::now();
        assert_eq!(fine_wait(epoll, short), Duration::ZERO);
        assert!(begin.elapsed() >= short, "nothing was ready");
        waker.wake().unwrap();
        fine_wait(epoll, short);
        let mut events = mio::Events::with_capacity(4);
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.iter().any(|event| event.token() == mio::Token(7)), "not consumed");
    }
}
