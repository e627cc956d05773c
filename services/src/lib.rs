//! Replicated services, and the gateway that lets Redis clients use one.
//!
//! Owns what a cluster is for: state machines (`kv`, `maplist`, `null`), their formats, and the
//! client-side Redis gateway. Always true: a state machine's answers and digest depend on the
//! ordered requests alone. Must not: order, authenticate or move requests; that is below.
#![forbid(unsafe_code)]

pub mod gateway;
pub mod kv;
pub mod maplist;
pub mod null;
pub mod resp;
pub mod stream;
pub mod wire;

#[cfg(test)]
mod testing;
