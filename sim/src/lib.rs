//! Deterministic simulator: fake network, clock and adversaries around the real core.
//!
//! Owns the world that the protocol is tried in. Always true: a run is a function of its seed and of
//! the options named on the command line; a failure is reproduced by one command. Must not: contain
//! protocol logic: what is right is said once, in `checker`.

pub mod byzantine;
pub mod changes;
pub mod checker;
pub mod client;
pub mod coverage;
pub mod disks;
pub mod image;
pub mod ingress;
pub mod keys;
pub mod mischief;
pub mod net;
pub mod nodes;
pub mod rng;
pub mod scenario;
pub mod service;
pub mod swarm;
pub mod trace;
pub mod world;

pub use coverage::Coverage;
pub use scenario::{Load, Scenario};
pub use swarm::{Options, Strategy, Wishes};
pub use world::{Outcome, run};
