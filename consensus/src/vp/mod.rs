//! VP-Consensus: Validated and Provable Consensus (thesis 3.4, appendix B).

pub mod safe_value;
pub mod votes;
