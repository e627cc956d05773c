//! Proof by type that a value was authenticated before it reached the core.

/// A value whose sender was proved. The core accepts nothing else from the network.
///
/// [`Verified::vouch`] is the only way in. `ci/tidy` allows the name in ingress stages, where clients hear of
/// members, and in the simulator only, so a value cannot slip in unverified without a reviewer seeing the word.
#[derive(Clone, Debug)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// The caller has checked the link MAC, the body digest and every signature that `value`
    /// carries, and marked the requests inside it that it could authenticate.
    pub fn vouch(value: T) -> Self {
        Self(value)
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.0
    }

    /// The value, borrowed.
    pub fn get(&self) -> &T {
        &self.0
    }
}
