//! Client library: blocking and asynchronous, many requests in flight.

pub mod cluster;
