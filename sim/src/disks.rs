//! What disks do to logs, at both levels.
//!
//! Always true: the same numbers give the same damage. Must not: know whose disk it is.

use tetrarch_dataplane::storage::fault::{Fault, FaultDisk, SECTOR_SIZE};
use tetrarch_dataplane::storage::memory::MemoryLog;

use crate::rng::Rng;

/// Something that a bad disk does to a write, and reports success.
pub fn lie(rng: &mut Rng) -> Fault {
    match rng.below(4) {
        0 => Fault::LostSync,
        1 => Fault::LostWrite,
        2 => Fault::Misdirected(SECTOR_SIZE as u64 * (1 + rng.below(40))),
        _ => Fault::Torn(rng.next()),
    }
}

/// Something that any disk may do to a write, and reports.
pub fn fail(rng: &mut Rng) -> Fault {
    rng.pick(&[Fault::Error, Fault::Full])
}

/// A byte changes somewhere. Is there anything?
pub fn corrupt(disk: &FaultDisk, rng: &mut Rng) -> bool {
    let names = disk.names();
    if names.is_empty() {
        return false;
    }
    let name = &names[rng.index(names.len())];
    let size = disk.contents(name).map_or(0, |contents| contents.len());
    // Most of a segment may be empty.
    let within = if rng.chance(500) { size } else { size.min(16 * 4096) };
    if within > 0 {
        disk.corrupt(name, rng.index(within));
    }
    within > 0
}

/// Whoever writes goes down in the middle of it: the disk's crash follows.
pub fn interrupt(log: &mut MemoryLog, disk: &FaultDisk, rng: &mut Rng) {
    match rng.below(2) {
        // All sectors are on their way, and none has to be there.
        0 => disk.inject(&[Fault::LostSync]),
        // Or it comes as far as a new segment, or half a write.
        _ => disk.kill_after(rng.below(5)),
    }
    log.complete();
}
