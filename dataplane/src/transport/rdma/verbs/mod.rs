//! The verbs libraries, behind functions that cannot be misused.
//!
//! Owns what is known of devices. Always true: all calls of C stand in this folder. Must not: know messages or
//! peers.

mod device;
mod sys;

pub use device::{Device, Gid, PortState};
