//! A file that is synced in pieces while it is being written.
//!
//! Owns a thread for one file. Always true: no more than [`PIECES_MAX`] pieces are written and not synced, however slow the
//! disk is, and a sync that failed is told, whatever came after it. Must not: be used for what somebody waits for.

use std::fs::File;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Pieces whose sync is under way or waits for the one before.
const PIECES_MAX: usize = 4;

/// See the module.
pub(super) struct Syncing {
    /// `None`: nothing more is to be synced.
    asked: Option<SyncSender<()>>,
    done: Receiver<io::Result<()>>,
    under_way: usize,
    thread: Option<JoinHandle<()>>,
}

impl Syncing {
    /// Syncs what is written to this file from now on.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(super) fn start(file: File) -> io::Result<Self> {
        let (asked, to_sync) = sync_channel(PIECES_MAX);
        let (told, done) = sync_channel(PIECES_MAX);
        let work = move || {
            // Whoever asked last, or hears no more, ends it.
            while to_sync.recv().is_ok() && told.send(file.sync_data()).is_ok() {}
        };
        let thread = std::thread::Builder::new().name("transfer-sync".into()).spawn(work)?;
        Ok(Self { asked: Some(asked), done, under_way: 0, thread: Some(thread) })
    }

    /// A piece more was written. Waits only while too many are not synced.
    ///
    /// # Errors
    /// A sync failed: nothing that was written can be relied on.
    pub(super) fn piece(&mut self) -> io::Result<()> {
        while let Ok(result) = self.done.try_recv() {
            self.under_way -= 1;
            result?;
        }
        if self.under_way == PIECES_MAX {
            self.wait()?;
        }
        let asked = self.asked.as_ref().map(|asked| asked.send(()));
        asked.transpose().map_err(io::Error::other)?;
        self.under_way += 1;
        Ok(())
    }

    /// Waits for all pieces.
    ///
    /// # Errors
    /// As for [`Syncing::piece`].
    pub(super) fn finish(mut self) -> io::Result<()> {
        while self.under_way > 0 {
            self.wait()?;
        }
        Ok(())
    }

    fn wait(&mut self) -> io::Result<()> {
        self.under_way -= 1;
        self.done.recv().map_err(io::Error::other)?
    }
}

impl Drop for Syncing {
    /// Waits for the sync that is under way, and for no other.
    fn drop(&mut self) {
        drop(self.asked.take());
        // Nobody listens any more, so the thread ends with what it does now.
        self.done = sync_channel(0).1;
        if let Some(thread) = self.thread.take() {
            // It has said why, if it panicked.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tests::Directory;

    #[test]
    fn pieces_are_synced_in_the_background_and_all_at_the_end() {
        let directory = Directory::new("syncing");
        std::fs::create_dir_all(&directory.0).expect("a directory");
        let file = File::create(directory.0.join("file")).expect("a file");
        let mut syncing = Syncing::start(file).expect("a thread");
        for _ in 0..3 * PIECES_MAX {
            syncing.piece().expect("a disk");
            assert!(syncing.under_way <= PIECES_MAX);
        }
        syncing.finish().expect("a disk");
    }

    /// A pipe cannot be synced.
    #[test]
    fn a_sync_that_failed_is_told_though_the_piece_was_not_waited_for() {
        let pipe = || File::from(std::os::fd::OwnedFd::from(std::io::pipe().expect("a pipe").1));
        let mut syncing = Syncing::start(pipe()).expect("a thread");
        syncing.piece().expect("is not waited for");
        assert!(syncing.finish().is_err());

        let mut syncing = Syncing::start(pipe()).expect("a thread");
        let failed = (0..2 * PIECES_MAX).any(|_| syncing.piece().is_err());
        assert!(failed, "at the latest when too many are under way");
    }
}
