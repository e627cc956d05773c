//! Measures: load on a cluster, round trips of a transport, instructions of hot functions.
//!
//! Owns the measuring and the reports. Always true: a result says on which machine, by which build and
//! with which options it was made. Must not: assert on time.

pub mod compare;
pub mod cpu;
pub mod durable;
pub mod floors;
pub mod latency;
pub mod layouts;
pub mod load;
pub mod local;
pub mod machine;
pub mod matrix;
pub mod memory;
pub mod micro;
pub mod ping;
pub mod report;
pub mod roofline;
pub mod scrape;
pub mod stages;
pub mod threads;
pub mod timeline;
pub mod transfer;
pub mod wire;
