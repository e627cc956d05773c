//! VP-Consensus: Validated and Provable Consensus (thesis 3.4, appendix B).

pub(crate) mod assembly;
pub(crate) mod claims;
pub(crate) mod instance;
pub mod safe_value;
pub mod votes;
pub(crate) mod window;
