//! What the machine and its kernel can do: bytes over loopback, hops between cores, copies.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tetrarch_dataplane::clock::{Clock, SystemClock};
use tetrarch_dataplane::ring::ring;

use super::timing::best_ns;
use crate::latency::Latencies;

/// The machine, apart from the links.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct SystemFloor {
    /// Bytes per second through one TCP connection over loopback, from one thread to another.
    pub loopback_bytes_per_s: f64,
    /// Through a ring from one thread to another that spins, one way, nanoseconds. Without two idle
    /// cores this is a matter of the scheduler.
    pub ring_hop_ns: f64,
    /// Into a ring and out of it on one core, nanoseconds.
    pub ring_pass_ns: f64,
    /// Bytes per second copied between two places that no cache holds.
    pub copy_bytes_per_s: f64,
    /// The same for 1 KiB that the cache holds.
    pub copy_cached_bytes_per_s: f64,
    /// One look at the clock, nanoseconds.
    pub clock_ns: f64,
}

/// Measures all of it, in about two seconds.
///
/// # Errors
/// No loopback socket or thread is to be had.
pub fn system() -> Result<SystemFloor> {
    let clock = SystemClock::new();
    Ok(SystemFloor {
        loopback_bytes_per_s: loopback(Duration::from_millis(400))?,
        ring_hop_ns: ring_hop(20_000)?,
        ring_pass_ns: ring_pass(),
        copy_bytes_per_s: copy(32 << 20),
        copy_cached_bytes_per_s: copy(1 << 10),
        clock_ns: best_ns(|| clock.now()),
    })
}

fn loopback(span: Duration) -> Result<f64> {
    const CHUNK: usize = 256 * 1024;
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no loopback socket")?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut receiver, _) = listener.accept()?;
    let reading = thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        let mut total = 0u64;
        while let Ok(count @ 1..) = receiver.read(&mut buffer) {
            total += count as u64;
        }
        total
    });
    let (begin, chunk) = (Instant::now(), vec![1u8; CHUNK]);
    while begin.elapsed() < span {
        sender.write_all(&chunk)?;
    }
    drop(sender);
    let Ok(total) = reading.join() else { bail!("the reading side failed") };
    Ok(total as f64 / begin.elapsed().as_secs_f64())
}

/// Half a round trip over two rings.
fn ring_hop(count: u64) -> Result<f64> {
    /// Turns before the other thread is given the core, should there be only one.
    const SPINS: u32 = 2000;
    let (mut there_in, mut there) = ring::<u64>(64);
    let (mut back_in, mut back) = ring::<u64>(64);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let wait = move |spins: &mut u32| {
        *spins += 1;
        if spins.is_multiple_of(SPINS) { thread::yield_now() } else { std::hint::spin_loop() }
    };
    let echo = thread::spawn(move || {
        let mut spins = 0;
        while !stopped.load(Ordering::Relaxed) {
            match there.pop() {
                Some(item) => drop(back_in.push(item)),
                None => wait(&mut spins),
            }
        }
    });
    let mut latencies = Latencies::default();
    let mut spins = 0;
    for item in 0..count {
        let begin = Instant::now();
        if there_in.push(item).is_err() {
            break;
        }
        while back.pop().is_none() {
            wait(&mut spins);
        }
        latencies.record(begin.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    if echo.join().is_err() {
        bail!("the other side of the ring failed");
    }
    Ok(latencies.summary().p50_us * 1000.0 / 2.0)
}

fn ring_pass() -> f64 {
    let (mut producer, mut consumer) = ring::<[u64; 8]>(64);
    best_ns(|| {
        let _ = producer.push(black_box([7; 8]));
        black_box(consumer.pop());
    })
}

/// Bytes per second of copies of `size` bytes.
fn copy(size: usize) -> f64 {
    let (from, mut to) = (vec![1u8; size], vec![0u8; size]);
    let ns = best_ns(|| {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
    });
    size as f64 / ns * 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_is_measured() {
        assert!(loopback(Duration::from_millis(20)).expect("loopback") > 0.0);
        assert!(ring_hop(200).expect("threads") > 0.0);
        assert!(ring_pass() > 0.0 && copy(1 << 16) > 0.0);
    }
}
