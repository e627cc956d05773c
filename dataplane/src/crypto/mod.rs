//! Hashes, MACs, signatures and keys.
