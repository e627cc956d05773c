//! Mod-SMaRt: state machine replication over VP-Consensus (thesis chapter 3).
//!
//! Owns order: which instance runs, who leads, what a batch may hold, how a member catches up.
//! Always true: a decided batch never changes. Must not: execute anything.

pub mod client;
pub mod complaints;
pub mod replica;
pub mod requests;

pub use replica::Replica;
