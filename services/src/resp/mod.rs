//! RESP2 and RESP3 as a server speaks them: commands in, replies out.
//!
//! Always true: reading is total and bounded: no bytes panic, and none make it keep more than the
//! limits. Must not: know any command.

pub mod parse;
pub mod write;

pub use parse::{Limits, ParseError, Parsed, Parser, parse};
pub use write::{Protocol, RespWriter};
