//! How bytes move and who wrote them: frames, pinned cores, transports, hashes, MACs and sessions.
//!
//! Owns memory for messages, the link header, authentication and the transports. Always true: what
//! leaves [`links::Links`] was authenticated; a pinned core does not allocate after start; every
//! queue has a limit. Must not: know any protocol. The crate is usable alone.

#![deny(unsafe_code)]

pub mod affinity;
#[expect(unsafe_code, reason = "GlobalAlloc cannot be implemented without it")]
pub mod alloc_guard;
#[expect(unsafe_code, reason = "slots are reached through counted pointers")]
pub mod arena;
pub mod burst;
pub mod clock;
pub mod crypto;
pub mod digest_memory;
pub mod endpoint;
#[expect(unsafe_code, reason = "vouches that the writer of a slot is alone")]
pub mod frame;
mod free_list;
pub mod handshake;
pub mod header;
pub mod limits;
pub mod links;
pub mod middleware;
pub mod reject;
pub mod ring;
pub mod stage;
pub mod storage;
pub mod transport;
pub mod types;
