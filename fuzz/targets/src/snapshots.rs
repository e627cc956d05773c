//! States of services that somebody else wrote down.
//!
//! Owns the target that restores them.

use tetrarch_consensus::StateMachine;
use tetrarch_services::kv::{KvConfig, KvService};
use tetrarch_services::maplist::{MapListLimits, MapListService};
use tetrarch_services::null::NullService;

use crate::services::{execute, state};

/// The first byte chooses the service, the second how many bytes a read gives. A snapshot that is
/// accepted is the one that the restored service would write, and one that is not leaves the state
/// alone.
pub fn snapshot(data: &[u8]) {
    let &[service, step, ref bytes @ ..] = data else { return };
    let step = usize::from(step).max(1);
    match service % 3 {
        0 => restore(KvService::new(KvConfig::default()), step, bytes),
        1 => restore(MapListService::new(MapListLimits::default()), step, bytes),
        _ => restore(NullService::new(), step, bytes),
    }
}

fn restore(mut service: impl StateMachine, step: usize, bytes: &[u8]) {
    let before = state(&service);
    let mut rest = bytes;
    let mut read = |into: &mut [u8]| {
        let size = into.len().min(rest.len()).min(step);
        into[..size].copy_from_slice(&rest[..size]);
        rest = &rest[size..];
        size
    };
    if service.restore(&mut read).is_err() {
        assert_eq!(state(&service), before, "a refused snapshot changed the state");
        return;
    }
    assert_eq!(state(&service), bytes, "two snapshots of one state");
    // The restored service works.
    execute(&mut service, 1, &[]);
}
