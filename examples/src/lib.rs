//! One file each.
