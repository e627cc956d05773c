//! Files of checkpoints: whole ones, damaged ones, and what a failed write leaves.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use tetrarch_consensus::{ConsensusId, Lsn};
use tetrarch_dataplane::storage::Owner;

use super::chunks::Chunks;
use super::file::{CheckpointFile, FileError};
use super::shelf::Shelf;
use super::store::Store;
use super::{CHUNK_SIZE, Position};

pub(super) const OWNER: Owner = Owner { cluster: 0x7e57, replica: 2 };

/// A directory that is gone when the test ends.
pub(super) struct Directory(pub(super) PathBuf);

impl Directory {
    pub(super) fn new(name: &str) -> Self {
        let name = format!("tetrarch-checkpoints-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) fn position(cid: u64) -> Position {
    Position { cid: ConsensusId(cid), base: Lsn(10 * cid) }
}

pub(super) fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 31 / 7) as u8).collect()
}

/// The same, as it comes from a service: in pieces.
pub(super) fn image(size: usize) -> Chunks {
    let mut image = Chunks::default();
    image.push(&bytes(2 * CHUNK_SIZE));
    image.clear();
    bytes(size).chunks(4999).for_each(|piece| image.push(piece));
    assert_eq!(image.size(), size);
    image
}

fn whole(path: &Path) -> Result<CheckpointFile, FileError> {
    CheckpointFile::open(path, OWNER).and_then(|file| file.verify().map(|()| file))
}

// rule: CKP.3
#[test]
fn the_last_two_stay_and_hold_what_was_written() {
    let directory = Directory::new("two");
    let store = Store::new(directory.0.join("checkpoints"));
    assert!(store.list().expect("none yet").is_empty());
    let sizes = [0, 1, CHUNK_SIZE, 3 * CHUNK_SIZE + 5];
    for (cid, size) in (1..).zip(sizes) {
        let made = store.add(OWNER, position(cid), &image(size)).expect("a writable directory");
        let paths = store.list().expect("a directory");
        assert_eq!(paths.len(), 2.min(cid as usize));
        let file = whole(&paths[0]).expect("it was written");
        let header = file.header;
        assert_eq!((header.position, header), (position(cid), made.header));
        let mut read = Vec::new();
        file.image().expect("open").read_to_end(&mut read).expect("its bytes");
        assert!(read == bytes(size));
    }
    let paths = store.list().expect("a directory");
    let cids = paths.iter().map(|path| whole(path).expect("whole").header.position.cid.0);
    assert_eq!(cids.collect::<Vec<_>>(), [4, 3], "the newest first");
    let other = Owner { replica: 1, ..OWNER };
    assert!(matches!(CheckpointFile::open(&paths[0], other), Err(FileError::Foreign { .. })));
    // The same state has the same root, wherever and whenever it was taken.
    let mine = store.add(OWNER, position(5), &image(9)).expect("writable");
    let theirs = store.add(other, position(6), &image(9)).expect("writable");
    assert_eq!(mine.header.root, theirs.header.root);
}

/// Two were there at a start: others may have both, and records are given up as if it had not happened.
// rule: CKP.3
#[test]
fn both_checkpoints_count_after_a_start() {
    let directory = Directory::new("start");
    let store = Store::new(directory.0.clone());
    let add = |cid| store.add(OWNER, position(cid), &image(10)).expect("a writable directory");
    (1..=2).for_each(|cid| drop(add(cid)));
    let newest = whole(&store.list().expect("a directory")[0]).expect("whole");
    let before = |cid| store.before(OWNER, ConsensusId(cid)).expect("a directory");
    assert!(before(1).is_none());
    let older = before(2).expect("the first one");
    let shelf = Shelf::default();
    shelf.begin_with(older);
    shelf.begin_with(newest);
    let cids = || shelf.files().iter().map(|it| it.header.position.cid.0).collect::<Vec<_>>();
    assert_eq!((cids(), shelf.needed_from().load(Ordering::Acquire)), (vec![2, 1], 0));
    shelf.add(add(3));
    assert_eq!(shelf.needed_from().load(Ordering::Acquire), position(1).base.0);
    assert_eq!(cids(), [3, 2]);
    // One whose header does not hold is passed over.
    fs::write(&store.list().expect("a directory")[1], "nonsense").expect("ours");
    assert!(before(3).is_none());
}

// rule: CKP.4
#[test]
fn no_damage_goes_unseen() {
    let directory = Directory::new("damage");
    let store = Store::new(directory.0.clone());
    store.add(OWNER, position(7), &image(CHUNK_SIZE + 100)).expect("a writable directory");
    let path = store.list().expect("a directory").remove(0);
    let good = fs::read(&path).expect("just written");
    let header: Vec<usize> = (0..120).collect();
    let image_and_leaves = (4096..good.len()).step_by(4099).chain([good.len() - 1]);
    for at in header.into_iter().chain(image_and_leaves) {
        let mut bad = good.clone();
        bad[at] ^= 4;
        fs::write(&path, &bad).expect("ours");
        assert!(matches!(whole(&path), Err(FileError::Damaged { .. })), "byte {at}");
    }
    for size in [0, 50, 4095, 4096, 4096 + CHUNK_SIZE, good.len() - 1] {
        fs::write(&path, &good[..size]).expect("ours");
        assert!(matches!(whole(&path), Err(FileError::Damaged { .. })), "{size} bytes are left");
    }
    fs::write(&path, [&good[..], &[0]].concat()).expect("ours");
    assert!(whole(&path).is_err(), "a byte more");
    store.set_aside(&path).expect("ours");
    assert!(store.list().expect("a directory").is_empty(), "its name is gone");
    assert_eq!(fs::read_dir(&directory.0).expect("ours").count(), 1, "its bytes are not");
}

#[test]
fn files_of_a_volatile_replica_have_no_names_and_hold_what_was_written() {
    let directory = Directory::new("unnamed");
    let store = Store::unnamed(directory.0.join("checkpoints"));
    let made: Vec<CheckpointFile> = (1..4)
        .map(|cid| store.add(OWNER, position(cid), &image(CHUNK_SIZE + cid as usize)))
        .map(|made| made.expect("a writable directory"))
        .collect();
    assert_eq!(fs::read_dir(store.path()).expect("made").count(), 0, "they have no names");
    for (file, cid) in made.iter().zip(1..) {
        file.verify().expect("it was written");
        assert_eq!(file.header.position, position(cid));
        let mut read = Vec::new();
        file.image().expect("open").read_to_end(&mut read).expect("its bytes");
        assert!(read == bytes(CHUNK_SIZE + cid as usize));
    }
}

#[test]
fn what_cannot_be_written_leaves_nothing_and_the_others() {
    let directory = Directory::new("full");
    let store = Store::new(directory.0.clone());
    store.add(OWNER, position(1), &image(10)).expect("a writable directory");
    // In the way of the new file's name.
    fs::create_dir_all(directory.0.join(format!("{:016}.checkpoint", 2))).expect("ours");
    let error = store.add(OWNER, position(2), &image(10)).expect_err("the name is taken");
    assert!(error.to_string().contains("cannot write"), "{error}");
    assert!(!directory.0.join("checkpoint.new").exists());
    let paths = store.list().expect("a directory");
    assert!(whole(paths.last().expect("the first one")).is_ok());
}
