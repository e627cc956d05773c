//! The box: stages, placement, configuration, and the `tetrarch` command.
//!
//! Owns what is between the crates below: it turns network messages into inputs of the protocol
//! core and the core's actions into messages, executions and answers. Always true: a node is the
//! same three stages wherever it runs; all memory it uses under load is reserved when it starts.
//! Must not: contain protocol.

pub mod admin;
pub mod budget;
pub mod checkpoint;
pub mod checkpoint_command;
pub mod cli;
pub mod cluster_command;
pub mod config;
pub mod demo;
pub mod gateway;
pub mod init;
pub mod keyring;
pub mod log;
pub mod log_command;
pub mod machine;
pub mod metrics;
pub mod node;
pub mod payload;
pub mod placement;
pub mod placement_command;
pub mod ports;
pub mod proofs;
pub mod recovery;
pub mod replica_command;
pub mod reply_cache;
pub mod running;
pub mod service;
pub mod stage;
pub mod status;
pub mod testing;
pub mod trace;
pub mod view;
