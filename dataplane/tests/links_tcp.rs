//! Links over TCP and epoll.
#![allow(clippy::unwrap_used)]

#[path = "support/stream_suite.rs"]
mod stream_suite;
mod support;

use tetrarch_dataplane::transport::choice::TransportKind;

/// What the suite runs over.
fn kind() -> TransportKind {
    TransportKind::Tcp
}
