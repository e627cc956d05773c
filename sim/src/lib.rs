//! Deterministic simulator: fake network, clock and adversaries around the real core.
