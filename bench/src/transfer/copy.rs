//! A plain copy over TCP between two processes: what a transfer is measured by.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Bytes of each read and write: those of a chunk of a checkpoint.
const PIECE: usize = 256 * 1024;

/// Copies `bytes` to another process. Returns MiB in a second, from the first byte until the other one has all.
///
/// # Errors
/// No loopback, or no second process.
pub fn rate(bytes: usize) -> Result<f64> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let from = listener.local_addr()?.to_string();
    let mut receiver = Command::new(std::env::current_exe()?)
        .args(["copy-from", &from])
        .stdin(Stdio::null())
        .spawn()
        .context("the receiver cannot be started")?;
    let copied = send(&listener, bytes);
    let ended = receiver.wait()?;
    if !ended.success() {
        bail!("the receiver of the copy ended with {ended}");
    }
    copied
}

fn send(listener: &TcpListener, bytes: usize) -> Result<f64> {
    let (mut stream, _) = listener.accept()?;
    let piece = vec![7; PIECE];
    let start = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let now = left.min(PIECE);
        stream.write_all(&piece[..now])?;
        left -= now;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut all = [0; 8];
    stream.read_exact(&mut all).context("the receiver went away")?;
    if u64::from_le_bytes(all) != bytes as u64 {
        bail!("the receiver of the copy got another number of bytes");
    }
    Ok(bytes as f64 / f64::from(1 << 20) / start.elapsed().as_secs_f64())
}

/// The receiver: reads everything, and says how much it was.
///
/// # Errors
/// Nobody sends.
pub fn receive(from: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(from)?;
    let mut piece = vec![0; PIECE];
    let mut all = 0u64;
    loop {
        match stream.read(&mut piece)? {
            0 => break,
            count => all += count as u64,
        }
    }
    Ok(stream.write_all(&all.to_le_bytes())?)
}
