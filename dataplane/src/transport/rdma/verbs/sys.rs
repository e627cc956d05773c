//! The C interface, as bindgen reads it from `native/verbs.h`.
//!
//! Owns nothing. Always true: generated, never edited. Must not: be used outside this folder.

#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    dead_code,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    reason = "written by a machine after a C header"
)]

include!(concat!(env!("OUT_DIR"), "/verbs.rs"));
