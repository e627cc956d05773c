//! Back ends that move messages.
