//! Citations of numbered rules: `spec!("SMR.4")` names the line of `docs/PROTOCOL.md` that the code
//! beside it implements. `ci/tidy` wants every rule cited by code and by a test, and every citation
//! to be a rule.

/// Cites one or more rules of `docs/PROTOCOL.md`. Compiles to nothing.
#[macro_export]
macro_rules! spec {
    ($($rule:literal),+ $(,)?) => {
        const _: &[&str] = &[$($rule),+];
    };
}
