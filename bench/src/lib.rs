//! Measures: load on a cluster, round trips of a transport, instructions of hot functions.
//!
//! Owns the measuring and the reports. Always true: a result says on which machine, by which build and
//! with which options it was made. Must not: assert on time.

pub mod latency;
pub mod machine;
pub mod micro;
