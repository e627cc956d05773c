//! Links over TCP and io_uring; over epoll where there is no io_uring, so that nothing is skipped
//! unseen.
#![allow(clippy::unwrap_used)]

#[path = "support/stream_suite.rs"]
mod stream_suite;
mod support;

use tetrarch_dataplane::transport::choice::TransportKind;

/// What the suite runs over.
fn kind() -> TransportKind {
    support::ring_or_epoll()
}
