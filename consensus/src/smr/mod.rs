//! Mod-SMaRt: state machine replication over VP-Consensus (thesis chapter 3).
