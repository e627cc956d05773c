//! Endpoints around endpoints.
//!
//! Owns nothing itself. Always true: the wrapped endpoint keeps its contract except for what the
//! wrapper says it breaks. Must not: be on a production path by default.

pub mod fault;
