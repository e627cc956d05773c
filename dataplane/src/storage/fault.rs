//! A disk in memory that fails as disks do.
//!
//! Owns what is on it, what only its cache has, and which faults are due. Always true: the same calls and the
//! same seeds give the same contents. Must not: be used for anything but tests and the simulator.
//!
//! Faults of a crash: of what was not synced, each sector of 512 bytes is kept or lost by itself, and of the
//! operations on names a prefix is kept. Faults of a device: a write that is lost, torn or goes elsewhere,
//! a sync that does nothing, a read of what was there before, a full disk, an error.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Directory, LogFile};

/// What a disk writes whole.
pub const SECTOR_SIZE: usize = 512;

/// What happens to one write of a group or header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is reported durable, and is not: the next crash loses it.
    LostSync,
    /// It is reported durable, and never reaches the disk.
    LostWrite,
    /// It is reported durable, and only some of its sectors reach the disk: bit i % 64 says whether sector i does.
    Torn(u64),
    /// It goes so many bytes further than it should.
    Misdirected(u64),
    /// It fails, and part of it was written.
    Error,
    /// The disk has no room.
    Full,
}

#[derive(Clone, Default)]
struct Content {
    /// What reads see.
    now: Vec<u8>,
    /// What survives a crash. Differs from `now` in dirty sectors only.
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// What sectors had before they were synced last, if that is remembered.
    before: BTreeMap<usize, [u8; SECTOR_SIZE]>,
}

impl Content {
    /// Puts what was there before into the sectors that `seed` names, of those read from `offset` on.
    fn overlay(&self, seed: u64, offset: usize, into: &mut [u8]) {
        let end = offset + into.len();
        for (sector, before) in self.before.range(offset / SECTOR_SIZE..end.div_ceil(SECTOR_SIZE)) {
            let mixed = (seed ^ *sector as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            if !(mixed >> 32).is_multiple_of(8) {
                continue;
            }
            for (at, byte) in before.iter().enumerate() {
                let place = sector * SECTOR_SIZE + at;
                if (offset..end).contains(&place) {
                    into[place - offset] = *byte;
                }
            }
        }
    }
}

#[derive(Clone)]
enum NameChange {
    Link(String, u64),
    Rename(String, String),
    Unlink(String),
}

#[derive(Clone, Default)]
struct State {
    files: BTreeMap<u64, Content>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    pending: Vec<NameChange>,
    next_file: u64,
    faults: VecDeque<Fault>,
    /// Bytes of all files together at most.
    capacity: u64,
    stale_reads: bool,
    remembers: bool,
    /// Some reads see what was there before; which ones follows from this.
    reads_before: Option<u64>,
    writes: u64,
    /// Changes until the process is killed.
    steps_left: Option<u64>,
}

/// A disk, shared between the log on it and whoever breaks it.
#[derive(Clone)]
pub struct FaultDisk(Arc<Mutex<State>>);

impl Default for FaultDisk {
    fn default() -> Self {
        Self::new(u64::MAX)
    }
}

impl FaultDisk {
    /// An empty disk for files of so many bytes together.
    pub fn new(capacity: u64) -> Self {
        Self(Arc::new(Mutex::new(State { capacity, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The directory of a log on it.
    pub fn directory(&self) -> Box<dyn Directory> {
        Box::new(FaultDirectory { disk: self.clone(), path: PathBuf::from("simulated") })
    }

    /// The next writes fail so, one each.
    pub fn inject(&self, faults: &[Fault]) {
        self.state().faults.extend(faults);
    }

    /// From now on reads see what is durable, not what was written since.
    pub fn read_stale(&self, stale: bool) {
        self.state().stale_reads = stale;
    }

    /// Keeps what was in each sector before it was written last, for [`FaultDisk::read_before`].
    pub fn remember(&self, remember: bool) {
        self.state().remembers = remember;
    }

    /// From now on reads see in some sectors what was there before; `seed` says in which.
    pub fn read_before(&self, seed: u64) {
        self.state().reads_before = Some(seed);
    }

    /// From now on reads see what is there.
    pub fn read_all(&self) {
        self.state().reads_before = None;
    }

    /// Another disk with the same contents: what a snapshot of a machine is.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    /// The process that uses the disk is killed after so many more changes: the next one is cut short,
    /// and it and all later ones fail.
    pub fn kill_after(&self, changes: u64) {
        self.state().steps_left = Some(changes);
    }

    /// The process was started again. Returns whether it had been killed.
    pub fn revive(&self) -> bool {
        self.state().steps_left.take() == Some(0)
    }

    /// Writes so far.
    pub fn writes(&self) -> u64 {
        self.state().writes
    }

    /// Handles of the disk: this one, and one for each directory and file that is open.
    pub fn handles(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// Files that were made so far.
    pub fn made(&self) -> u64 {
        self.state().next_file
    }

    /// Names of all files.
    pub fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// The contents of a file, as reads see them.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        Some(state.files[state.names.get(name)?].now.clone())
    }

    /// Changes one byte that is on the disk.
    pub fn corrupt(&self, name: &str, offset: usize) {
        let mut state = self.state();
        let file = state.names.get(name).copied();
        if let Some(content) = file.and_then(|file| state.files.get_mut(&file)) {
            content.now[offset] ^= 0x40;
            content.durable[offset] ^= 0x40;
        }
    }

    /// The machine loses power. `chance` draws numbers: which unsynced sectors and names are kept.
    pub fn crash(&self, chance: &mut dyn FnMut() -> u64) {
        let mut state = self.state();
        let state = &mut *state;
        for content in state.files.values_mut() {
            for sector in std::mem::take(&mut content.dirty) {
                let range = sector * SECTOR_SIZE..(sector + 1) * SECTOR_SIZE;
                match chance().is_multiple_of(2) {
                    true => content.durable[range.clone()].copy_from_slice(&content.now[range]),
                    false => content.now[range.clone()].copy_from_slice(&content.durable[range]),
                }
            }
        }
        let kept = (chance() % (state.pending.len() as u64 + 1)) as usize;
        for change in std::mem::take(&mut state.pending).into_iter().take(kept) {
            apply(&mut state.durable_names, change);
        }
        state.names.clone_from(&state.durable_names);
        state.faults.clear();
        let State { files, names, .. } = state;
        files.retain(|file, _| names.values().any(|kept| kept == file));
        state.steps_left = None;
    }
}

fn apply(names: &mut BTreeMap<String, u64>, change: NameChange) {
    match change {
        NameChange::Link(name, file) => {
            names.insert(name, file);
        }
        NameChange::Rename(from, to) => {
            if let Some(file) = names.remove(&from) {
                names.insert(to, file);
            }
        }
        NameChange::Unlink(name) => {
            names.remove(&name);
        }
    }
}

impl State {
    /// One more change.
    fn step(&mut self) -> io::Result<()> {
        match &mut self.steps_left {
            Some(0) => Err(io::Error::other("the process was killed")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn change(&mut self, change: NameChange) {
        apply(&mut self.names, change.clone());
        self.pending.push(change);
    }

    fn file(&mut self, file: u64) -> io::Result<&mut Content> {
        self.files.get_mut(&file).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn put(&mut self, file: u64, offset: usize, blocks: &[u8]) -> io::Result<()> {
        let content = self.file(file)?;
        let end = (offset + blocks.len()).min(content.now.len());
        if offset >= end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        content.now[offset..end].copy_from_slice(&blocks[..end - offset]);
        content.dirty.extend(offset / SECTOR_SIZE..end.div_ceil(SECTOR_SIZE));
        Ok(())
    }

    fn sync(&mut self, file: u64) -> io::Result<()> {
        let remembers = self.remembers;
        let content = self.file(file)?;
        for sector in std::mem::take(&mut content.dirty) {
            let range = sector * SECTOR_SIZE..(sector + 1) * SECTOR_SIZE;
            if remembers {
                let mut before = [0; SECTOR_SIZE];
                before.copy_from_slice(&content.durable[range.clone()]);
                content.before.insert(sector, before);
            }
            content.durable[range.clone()].copy_from_slice(&content.now[range]);
        }
        Ok(())
    }
}

struct FaultDirectory {
    disk: FaultDisk,
    path: PathBuf,
}

impl FaultDirectory {
    fn file(&self, file: u64) -> Box<dyn LogFile> {
        Box::new(FaultFile { disk: self.disk.clone(), file })
    }
}

impl Directory for FaultDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.disk.names())
    }

    fn create(&mut self, name: &str, size: u64) -> io::Result<Box<dyn LogFile>> {
        let mut state = self.disk.state();
        state.step()?;
        let used: u64 = state.files.values().map(|content| content.now.len() as u64).sum();
        if used + size > state.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // Each from the system, which gives pages when they are written.
        let zeros = || vec![0; size as usize];
        let file = state.next_file;
        state.next_file += 1;
        let content = Content { now: zeros(), durable: zeros(), ..Content::default() };
        state.files.insert(file, content);
        state.change(NameChange::Link(name.to_owned(), file));
        drop(state);
        Ok(self.file(file))
    }

    fn open(&mut self, name: &str) -> io::Result<Box<dyn LogFile>> {
        let file = self.disk.state().names.get(name).copied();
        file.map(|file| self.file(file)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn shrink(&mut self, name: &str, size: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step()?;
        let file = state.names.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
        let content = state.file(file)?;
        let size = (size as usize).min(content.now.len());
        content.now.truncate(size);
        content.durable.truncate(size);
        content.dirty.retain(|sector| (sector + 1) * SECTOR_SIZE <= size);
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step()?;
        state.change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step()?;
        state.change(NameChange::Unlink(name.to_owned()));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step()?;
        state.pending.clear();
        state.durable_names = state.names.clone();
        Ok(())
    }
}

struct FaultFile {
    disk: FaultDisk,
    file: u64,
}

impl LogFile for FaultFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.state().file(self.file)?.now.len() as u64)
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        let (stale, before) = (state.stale_reads, state.reads_before);
        let content = state.file(self.file)?;
        let bytes = if stale { &content.durable } else { &content.now };
        let range = offset as usize..offset as usize + into.len();
        let from = bytes.get(range).ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(from);
        if let Some(seed) = before {
            content.overlay(seed, offset as usize, into);
        }
        Ok(())
    }

    fn write_durably(&mut self, offset: u64, blocks: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.writes += 1;
        let at = offset as usize;
        if let Err(killed) = state.step() {
            // The system may have taken part of it.
            state.put(self.file, at, &blocks[..blocks.len() / 2])?;
            return Err(killed);
        }
        match state.faults.pop_front() {
            None => {
                state.put(self.file, at, blocks)?;
                state.sync(self.file)
            }
            Some(Fault::LostWrite) => Ok(()),
            Some(Fault::Torn(kept)) => {
                for (number, sector) in blocks.chunks(SECTOR_SIZE).enumerate() {
                    if kept >> (number % 64) & 1 == 1 {
                        state.put(self.file, at + number * SECTOR_SIZE, sector)?;
                    }
                }
                state.sync(self.file)
            }
            Some(Fault::LostSync) => state.put(self.file, at, blocks),
            Some(Fault::Misdirected(by)) => {
                state.put(self.file, at + by as usize, blocks)?;
                state.sync(self.file)
            }
            Some(Fault::Error) => {
                state.put(self.file, at, &blocks[..blocks.len() / 2])?;
                Err(io::Error::other("injected"))
            }
            Some(Fault::Full) => Err(io::ErrorKind::StorageFull.into()),
        }
    }
}
