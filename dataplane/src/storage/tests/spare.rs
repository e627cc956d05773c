//! Segments that are made ahead.

use std::fs;
use std::time::Duration;

use super::conformance::Scratch;
use crate::storage::disk::ZEROS_SIZE;
use crate::storage::spare::{Spare, UNFINISHED};

#[test]
fn one_that_is_awaited_is_whole_and_one_that_failed_is_none() {
    let scratch = Scratch::new("spare");
    fs::create_dir_all(&scratch.0).unwrap();
    // Not whole writes, so that the last one is a part.
    let size = 4 * ZEROS_SIZE as u64 + 4096;
    let begin = |name: &str| {
        let within = Duration::from_secs(1 << 30);
        Spare::begin(scratch.0.clone(), name.into(), size, within).expect("a thread")
    };
    assert_eq!(begin("spare-00000001").finish().as_deref(), Some("spare-00000001"));
    let made = fs::read(scratch.0.join("spare-00000001")).unwrap();
    assert!(made.len() as u64 == size && made.iter().all(|byte| *byte == 0));
    assert!(!scratch.0.join(UNFINISHED).exists());
    // One that cannot be made is no segment.
    fs::create_dir(scratch.0.join(UNFINISHED)).unwrap();
    assert_eq!(begin("spare-00000002").finish(), None);
    assert!(!scratch.0.join("spare-00000002").exists());
}
