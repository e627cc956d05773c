//! Files that lose, when their process is killed, what a disk loses without power.
//!
//! Owns what is not synced. The system keeps whatever a process that is killed had written; a machine that
//! loses power does not. Here a group is written sector by sector in random order, with pauses in between and
//! the sync at the end, and the names of files change when the directory is synced. So SIGKILL leaves some
//! sectors of the last group, and some changes of names. Always true: what was reported durable is on the disk, unless
//! the disk is a [`Promise::Broken`] one. Must not: be reached by any configuration file; tests of real
//! processes choose it in their own code.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::disk::{Directory, LogFile, PlainDirectory, create_zeroed};
use super::fault::SECTOR_SIZE;

/// Does a disk keep what it reported durable?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promise {
    /// It does.
    Kept,
    /// It keeps the last groups to itself for a while. Finds out whether tests would see that.
    Broken,
}

/// Groups that a disk which breaks its promise keeps to itself.
const KEPT_BACK: usize = 64;
/// The longest pause within a group; there are one or two.
const PAUSE_MAX_US: u64 = 1500;
/// Names of files that have no name yet.
const UNNAMED: &str = "unnamed-";

/// A generator that is good enough to choose sectors.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % end.max(1)
    }

    fn shuffle(&mut self, places: &mut [usize]) {
        for at in (1..places.len()).rev() {
            places.swap(at, self.below(at as u64 + 1) as usize);
        }
    }
}

/// A write that was reported durable and is not done.
struct KeptBack {
    file: Arc<File>,
    offset: u64,
    blocks: Vec<u8>,
}

/// What all files of a directory share.
struct Shared {
    dice: Dice,
    promise: Promise,
    kept_back: VecDeque<KeptBack>,
}

impl Shared {
    /// Writes `blocks` in sectors, in any order, then syncs.
    fn write(&mut self, file: &File, offset: u64, blocks: &[u8]) -> io::Result<()> {
        let mut places: Vec<usize> = (0..blocks.len()).step_by(SECTOR_SIZE).collect();
        self.dice.shuffle(&mut places);
        let mut pauses = || self.dice.below(places.len() as u64) as usize;
        let pauses = [pauses(), pauses()];
        for (number, at) in places.into_iter().enumerate() {
            if pauses.contains(&number) {
                std::thread::sleep(Duration::from_micros(self.dice.below(PAUSE_MAX_US)));
            }
            let end = blocks.len().min(at + SECTOR_SIZE);
            file.write_all_at(&blocks[at..end], offset + at as u64)?;
        }
        file.sync_data()
    }

    fn write_durably(&mut self, file: &Arc<File>, offset: u64, blocks: &[u8]) -> io::Result<()> {
        // Headers of files are kept always: without them a log is damaged, and no request is lost.
        if self.promise == Promise::Kept || offset == 0 {
            return self.write(file, offset, blocks);
        }
        let (file, blocks) = (Arc::clone(file), blocks.to_vec());
        self.kept_back.push_back(KeptBack { file, offset, blocks });
        if self.kept_back.len() <= KEPT_BACK {
            return Ok(());
        }
        let oldest = self.kept_back.pop_front();
        oldest.map_or(Ok(()), |oldest| self.write(&oldest.file, oldest.offset, &oldest.blocks))
    }
}

enum Change {
    Rename(String, String),
    Remove(String),
}

/// A directory of such files.
pub struct TornDirectory {
    plain: PlainDirectory,
    shared: Arc<Mutex<Shared>>,
    /// What was not synced.
    pending: Vec<Change>,
    made: u64,
}

impl TornDirectory {
    /// Files of `plain`. `seed`: which sectors and pauses.
    ///
    /// # Errors
    /// What a killed process left without a name cannot be removed.
    pub fn over(mut plain: PlainDirectory, promise: Promise, seed: u64) -> io::Result<Self> {
        for name in plain.list()?.iter().filter(|name| name.starts_with(UNNAMED)) {
            plain.remove(name)?;
        }
        let shared = Shared { dice: Dice(seed), promise, kept_back: VecDeque::new() };
        let shared = Arc::new(Mutex::new(shared));
        Ok(Self { plain, shared, pending: Vec::new(), made: 0 })
    }

    /// The name on the disk of what the process knows as `name`.
    fn resolve(&self, name: &str) -> io::Result<String> {
        let mut name = name;
        for change in self.pending.iter().rev() {
            match change {
                Change::Rename(from, to) if to == name => name = from,
                Change::Rename(gone, _) | Change::Remove(gone) if gone == name => {
                    return Err(io::ErrorKind::NotFound.into());
                }
                _ => {}
            }
        }
        Ok(name.to_owned())
    }

    fn apply(&mut self, change: &Change) -> io::Result<()> {
        match change {
            Change::Rename(from, to) => self.plain.rename(from, to),
            Change::Remove(name) => self.plain.remove(name),
        }
    }

    fn file(&self, file: File) -> Box<dyn LogFile> {
        Box::new(TornFile { file: Arc::new(file), shared: Arc::clone(&self.shared) })
    }
}

impl Directory for TornDirectory {
    fn path(&self) -> &Path {
        self.plain.path()
    }

    fn list(&mut self) -> io::Result<Vec<String>> {
        let mut names = self.plain.list()?;
        for change in &self.pending {
            let (Change::Rename(gone, _) | Change::Remove(gone)) = change;
            names.retain(|name| name != gone);
            if let Change::Rename(_, to) = change {
                names.retain(|name| name != to);
                names.push(to.clone());
            }
        }
        names.retain(|name| !name.starts_with(UNNAMED));
        Ok(names)
    }

    fn create(&mut self, name: &str, size: u64) -> io::Result<Box<dyn LogFile>> {
        self.made += 1;
        let unnamed = format!("{UNNAMED}{:08}", self.made);
        let file = create_zeroed(&self.plain.join(&unnamed), size)?;
        self.pending.push(Change::Rename(unnamed, name.to_owned()));
        Ok(self.file(file))
    }

    fn open(&mut self, name: &str) -> io::Result<Box<dyn LogFile>> {
        let path = self.plain.join(&self.resolve(name)?);
        Ok(self.file(File::options().read(true).write(true).open(path)?))
    }

    fn shrink(&mut self, name: &str, size: u64) -> io::Result<()> {
        let name = self.resolve(name)?;
        self.plain.shrink(&name, size)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let found = fs::exists(self.plain.join(&self.resolve(from)?))?;
        if !found {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.pending.push(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.resolve(name)?;
        self.pending.push(Change::Remove(name.to_owned()));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let pause = self.shared.lock().unwrap_or_else(PoisonError::into_inner).dice.below(3);
        for change in std::mem::take(&mut self.pending) {
            self.apply(&change)?;
            std::thread::sleep(Duration::from_micros(pause * 100));
        }
        self.plain.sync()
    }
}

/// A file of such a directory.
struct TornFile {
    file: Arc<File>,
    shared: Arc<Mutex<Shared>>,
}

impl LogFile for TornFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    fn write_durably(&mut self, offset: u64, blocks: &[u8]) -> io::Result<()> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.write_durably(&self.file, offset, blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::format::BLOCK_SIZE;

    fn directory(name: &str, promise: Promise) -> (std::path::PathBuf, TornDirectory) {
        let path =
            std::env::temp_dir().join(format!("tetrarch-torn-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        let plain = PlainDirectory::open(&path).expect("a writable directory");
        (path, TornDirectory::over(plain, promise, 7).expect("empty"))
    }

    fn on_disk(path: &Path) -> Vec<String> {
        let names = fs::read_dir(path).expect("it is there").flatten();
        let mut names: Vec<String> =
            names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name != "lock");
        names.sort();
        names
    }

    #[test]
    fn names_change_on_the_disk_when_they_are_synced() {
        let (path, mut torn) = directory("names", Promise::Kept);
        torn.create("a.new", 4096).expect("room");
        torn.rename("a.new", "a").expect("it is there");
        assert_eq!(torn.list().expect("listed"), ["a"]);
        assert!(torn.open("a").is_ok() && torn.open("a.new").is_err());
        assert!(on_disk(&path).iter().all(|name| name.starts_with(UNNAMED)));
        torn.sync().expect("synced");
        assert_eq!(on_disk(&path), ["a"]);
        torn.rename("a", "b").expect("it is there");
        torn.create("a", 4096).expect("room");
        torn.remove("b").expect("it is there");
        assert!(torn.remove("b").is_err() && torn.rename("c", "d").is_err());
        assert_eq!(torn.list().expect("listed"), ["a"]);
        torn.sync().expect("synced");
        assert_eq!(on_disk(&path), ["a"]);
        torn.create("left", 4096).expect("room");
        drop(torn);
        let plain = PlainDirectory::open(&path).expect("a writable directory");
        let mut torn = TornDirectory::over(plain, Promise::Kept, 7).expect("cleaned up");
        assert_eq!(torn.list().expect("listed"), ["a"], "what had no name is gone");
        drop(torn);
        fs::remove_dir_all(&path).expect("ours");
    }

    #[test]
    fn what_is_reported_durable_is_written_unless_the_promise_is_broken() {
        for (promise, written) in [(Promise::Kept, true), (Promise::Broken, false)] {
            let (path, mut torn) = directory("writes", promise);
            let mut file = torn.create("a", 3 * BLOCK_SIZE as u64).expect("room");
            torn.sync().expect("synced");
            let blocks: Vec<u8> = (0..2 * BLOCK_SIZE).map(|at| (at / 7 + 1) as u8).collect();
            file.write_durably(BLOCK_SIZE as u64, &blocks).expect("written");
            let bytes = fs::read(path.join("a")).expect("it is there");
            assert_eq!(bytes[BLOCK_SIZE..] == blocks[..], written);
            drop((torn, file));
            fs::remove_dir_all(&path).expect("ours");
        }
    }
}
