//! Floors: what the parts of the machine cost alone, measured in one run.
//!
//! Always true: a floor is the best of several rounds, or the median where waiting is what is
//! measured, so that other work on the machine can only make it look worse than it is by little.

pub mod crypto;
pub mod disk;
pub mod links;
pub mod system;
pub mod timing;

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::wire::Wire;
use crypto::{AuthFloor, HashFloor};
use disk::DiskFloors;
use links::LinkFloor;
use system::SystemFloor;

/// Bytes of each file of the disk's floor: a segment of a log.
const DISK_FILE_SIZE: u64 = 64 << 20;
/// How long each row of it takes.
const DISK_SPAN: Duration = Duration::from_millis(400);

/// All floors of a machine.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Floors {
    /// Links, by transport.
    pub links: Vec<LinkFloor>,
    /// Digests of short bodies, by size.
    pub hashes: Vec<HashFloor>,
    /// Digest of a long body, nanoseconds per byte.
    pub long_hash_ns_per_byte: f64,
    /// MACs and signatures.
    pub auth: AuthFloor,
    /// Durable writes.
    pub disk: DiskFloors,
    /// The rest.
    pub system: SystemFloor,
}

impl Floors {
    /// Measures all, in about fifteen seconds; `tell` hears what is measured next.
    ///
    /// # Errors
    /// Something that cannot be measured here.
    pub fn measure(round_trips: u64, tell: &mut dyn FnMut(&str)) -> Result<Self> {
        tell("digests");
        let hashes = crypto::hashes();
        let long_hash_ns_per_byte = crypto::long_hash_ns_per_byte();
        tell("MACs and signatures");
        let auth = crypto::authentication()?;
        tell("loopback, rings, memory");
        let system = system::system()?;
        tell("the disk");
        let disk = disk::disk(&std::env::temp_dir(), DISK_FILE_SIZE, DISK_SPAN)?;
        let mut links = Vec::new();
        for wire in Wire::all() {
            tell(&format!("links over {}", wire.name()));
            links.push(links::link(wire, round_trips)?);
        }
        Ok(Self { links, hashes, long_hash_ns_per_byte, auth, disk, system })
    }

    /// The link over this transport.
    pub fn link(&self, wire: Wire) -> Option<&LinkFloor> {
        self.links.iter().find(|link| link.wire == wire)
    }

    /// Nanoseconds for the digest of a body of `size` bytes that is one of a burst.
    pub fn digest_ns(&self, size: f64) -> f64 {
        let longest = self.hashes.iter().map(|hash| hash.size).max().unwrap_or(0);
        if size > longest as f64 {
            return size * self.long_hash_ns_per_byte;
        }
        // The smallest size that holds it: bodies are padded to whole blocks anyway.
        let holds = self.hashes.iter().filter(|hash| hash.size as f64 >= size);
        holds.map(|hash| hash.burst_ns).fold(f64::INFINITY, f64::min)
    }
}
