//! The verbs libraries as owners: what is opened is closed, in the order that C asks for.
//!
//! Owns devices, protection domains, registered memory, completion queues, event channels and connection
//! identifiers. Always true: a C object outlives all that was made from it, because that holds a count of it;
//! what a device may touch is named in the safety contract of the call that gives it away. Must not: know
//! messages, credits or peers.

mod cm;
mod device;
mod memory;
mod queue;
mod sys;

pub(super) use cm::{CmEvent, CmKind, EventChannel, Id, QpSpec};
pub use device::{Device, Gid, PortState};
pub(super) use memory::{Domain, Region};
pub(super) use queue::{Completion, CompletionQueue, Part, ReceiveWork, SendWork};

use std::io;

/// What C says with 0 or -1 and `errno`.
fn check(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
