//! A plain copy over TCP between two processes: what a transfer is measured by.
//!
//! A transfer ends in a file, which is synced if the replica keeps a log. So the copy that compares with it does the same
//! with what comes; the one that throws it away says what the sockets alone can do.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Bytes of each read and write: those of a chunk of a checkpoint.
const PIECE: usize = 256 * 1024;

/// What becomes of the bytes at the other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End<'a> {
    /// Nothing.
    Dropped,
    /// They are written to a file in this directory, which is removed then.
    Written(&'a Path),
    /// Likewise, and synced, which counts.
    Synced(&'a Path),
}

/// Copies `bytes` to another process. Returns MiB in a second, from the first byte until the other one has all.
///
/// # Errors
/// No loopback, or no second process.
pub fn rate(bytes: usize, end: End<'_>) -> Result<f64> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let from = listener.local_addr()?.to_string();
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["copy-from", &from]);
    if let End::Written(directory) | End::Synced(directory) = end {
        command.arg("--into").arg(directory.join("copy"));
    }
    if let End::Synced(_) = end {
        command.arg("--sync");
    }
    let mut receiver =
        command.stdin(Stdio::null()).spawn().context("the receiver cannot be started")?;
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

/// The receiver.
#[derive(clap::Args, Debug)]
pub struct Receiver {
    /// Who sends
    from: SocketAddr,
    /// Write it to this file, and remove that at the end
    #[arg(long)]
    into: Option<PathBuf>,
    /// Sync the file
    #[arg(long, requires = "into")]
    sync: bool,
}

/// The receiver: reads everything, and says how much it was.
///
/// # Errors
/// Nobody sends, or the file cannot be written.
pub fn receive(receiver: &Receiver) -> Result<()> {
    let mut stream = TcpStream::connect(receiver.from)?;
    let mut file = receiver.into.as_ref().map(File::create).transpose()?;
    let mut piece = vec![0; PIECE];
    let mut all = 0u64;
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            break;
        }
        all += count as u64;
        if let Some(file) = &mut file {
            file.write_all(&piece[..count])?;
        }
    }
    if let Some(file) = file.filter(|_| receiver.sync) {
        file.sync_all()?;
    }
    stream.write_all(&all.to_le_bytes())?;
    if let Some(path) = &receiver.into {
        fs::remove_file(path)?;
    }
    Ok(())
}
