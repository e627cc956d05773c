//! Decisions that others may need and that do not fit into the core's memory, in a file.
//!
//! Owns the file, which has no name: nobody needs it after the process. It holds the last bytes of a stream, as many as
//! configured, each at its place in the stream modulo that number. Always true: what is read is what was written at
//! that place. Must not: know what is in it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::checkpoint::store::Store;
use crate::log::Limiter;
use crate::warning;

/// See the module.
pub struct Decisions {
    store: Store,
    file: Option<File>,
    capacity: u64,
    /// What is there of the stream.
    from: u64,
    to: u64,
    /// Up to where is to be told that it is gone.
    lost: Option<u64>,
    said: Limiter,
}

impl Decisions {
    /// Keeps up to `capacity` bytes in the directory of `store`.
    pub fn new(store: &Store, capacity: u64) -> Self {
        let (store, said) = (store.without_names(), Limiter::new(1, Duration::from_secs(60)));
        Self { store, file: None, capacity, from: 0, to: 0, lost: None, said }
    }

    /// Keeps the bytes at this place of the stream. What was to come before, and did not, is lost with all before it.
    pub fn keep(&mut self, at: u64, bytes: &[u8]) {
        let end = at + bytes.len() as u64;
        if at != self.to {
            (self.from, self.lost) = (at, Some(at));
        }
        self.to = end;
        match self.write(at, bytes) {
            Ok(()) => self.from = self.from.max(end.saturating_sub(self.capacity)),
            Err(error) => {
                (self.from, self.lost) = (end, Some(end));
                if self.said.pass(Instant::now()).is_some() {
                    warning!(
                        "{}: decisions cannot be kept for replicas that are behind: {error}; make room, or \
                         look at the disk",
                        self.store.path().display()
                    );
                }
            }
        }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() as u64 > self.capacity {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let (start, first) = self.split(at, bytes.len());
        let file = match self.file.take() {
            Some(file) => file,
            None => self.store.create(&self.store.path().join("decisions.kept"))?,
        };
        let file = self.file.insert(file);
        file.write_all_at(&bytes[..first], start)?;
        file.write_all_at(&bytes[first..], 0)
    }

    /// Fills `into` with what is at this place of the stream. `false`: it is not there.
    pub fn read(&self, at: u64, into: &mut [u8]) -> bool {
        let there = at >= self.from && at + into.len() as u64 <= self.to;
        let Some(file) = self.file.as_ref().filter(|_| there) else { return false };
        let (start, first) = self.split(at, into.len());
        let (before, behind) = into.split_at_mut(first);
        file.read_exact_at(before, start).and_then(|()| file.read_exact_at(behind, 0)).is_ok()
    }

    /// Where `size` bytes at `at` begin, and how many of them are before the end of the file.
    fn split(&self, at: u64, size: usize) -> (u64, usize) {
        let start = at % self.capacity;
        (start, (self.capacity - start).min(size as u64) as usize)
    }

    /// Everything before is lost; once.
    pub fn lost(&mut self) -> Option<u64> {
        self.lost.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tests::{Directory, bytes};

    #[test]
    fn the_last_bytes_are_there_and_nothing_else() {
        let directory = Directory::new("decisions");
        let mut kept = Decisions::new(&Store::new(directory.0.clone()), 1000);
        let all = bytes(5000);
        assert!(!kept.read(0, &mut [0; 1]));
        let mut at = 0;
        for size in [300, 300, 300, 300, 1000, 1, 700, 299] {
            kept.keep(at as u64, &all[at..at + size]);
            at += size;
            let there = at.min(1000);
            let mut read = vec![0; there];
            assert!(kept.read((at - there) as u64, &mut read), "at {at}");
            assert!(read == all[at - there..at], "at {at}");
            assert!(!kept.read(at as u64, &mut [0; 1]));
            assert!(at <= 1000 || !kept.read((at - 1001) as u64, &mut [0; 1]), "overwritten");
        }
        assert_eq!(kept.lost(), None);
        assert_eq!(std::fs::read_dir(&directory.0).expect("made").count(), 0, "it has no name");
        // Something did not come, and something does not fit.
        kept.keep(at as u64 + 10, &all[..100]);
        assert_eq!((kept.lost(), kept.lost()), (Some(at as u64 + 10), None));
        assert!(!kept.read(at as u64, &mut [0; 1]) && kept.read(at as u64 + 10, &mut [0; 100]));
        kept.keep(at as u64 + 110, &all[..1001]);
        assert_eq!(kept.lost(), Some(at as u64 + 1111));
        assert!(!kept.read(at as u64 + 10, &mut [0; 1]));
    }

    #[test]
    fn without_a_disk_everything_is_lost_and_said_to_be() {
        let directory = Directory::new("decisions-nowhere");
        std::fs::write(&directory.0, "in the way").expect("ours");
        let mut kept = Decisions::new(&Store::new(directory.0.clone()), 1000);
        kept.keep(0, &[1; 10]);
        assert_eq!(kept.lost(), Some(10));
        assert!(!kept.read(0, &mut [0; 10]));
        std::fs::remove_file(&directory.0).expect("ours");
    }
}
