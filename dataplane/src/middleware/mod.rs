//! Wrappers around any endpoint.
