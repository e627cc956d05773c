//! Replicated services: a key-value store that speaks Redis, BFTMapList.
