//! Mod-SMaRt: state machine replication over VP-Consensus (thesis chapter 3).
//!
//! Owns order: which instance runs, who leads, what a batch may hold, how a member catches up.
//! Always true: a decided batch never changes. Must not: execute anything.

mod assembly;
mod base;
pub mod bodies;
pub mod client;
pub mod complaints;
mod decision_log;
mod durability;
mod helping;
pub mod ignored;
mod invariants;
mod lag;
mod normal;
mod out_of_context;
mod progress;
mod proposing;
pub mod replica;
pub mod requests;
mod standstill;
mod synchronization;
mod timers;
mod transfer;
mod validity;
mod views;

pub use durability::RestoreError;
pub use replica::Replica;
pub use transfer::{EqualShares, PreferMembers, SpareLeader, StateManager, StateSource};
