//! **All** arithmetic on n and f. No other file may add, multiply or divide them.
//!
//! When n > 3f + 1 the certificate, n - f and 2f + 1 are different numbers: each threshold has its
//! own name and its own reason.

use crate::config::{FaultModel, ViewError};

/// The thresholds of one view.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quorums {
    n: usize,
    f: usize,
    model: FaultModel,
}

impl Quorums {
    /// Thresholds for `n` members of which `f` may be faulty.
    ///
    /// # Errors
    /// [`ViewError::TooFew`] when the model needs more members.
    pub fn new(n: usize, f: usize, model: FaultModel) -> Result<Self, ViewError> {
        let needed = Self::members_needed(f, model);
        if n < needed {
            return Err(ViewError::TooFew { n, f, needed });
        }
        Ok(Self { n, f, model })
    }

    /// Members that tolerating `f` faults needs.
    pub fn members_needed(f: usize, model: FaultModel) -> usize {
        match model {
            FaultModel::Byzantine => f.saturating_mul(3).saturating_add(1),
            FaultModel::Crash => f.saturating_mul(2).saturating_add(1),
        }
    }

    /// The most faults that `n` members can tolerate.
    pub fn faults_tolerated(n: usize, model: FaultModel) -> usize {
        match model {
            FaultModel::Byzantine => n.saturating_sub(1) / 3,
            FaultModel::Crash => n.saturating_sub(1) / 2,
        }
    }

    /// Which faults are tolerated.
    pub fn model(self) -> FaultModel {
        self.model
    }

    /// Faults tolerated.
    pub fn f(self) -> usize {
        self.f
    }

    /// WRITEs or ACCEPTs that make a certificate: ceil((n + f + 1) / 2), so that two certificates
    /// share a correct member; a majority when replicas only crash.
    pub fn certificate(self) -> usize {
        match self.model {
            FaultModel::Byzantine => (self.n + self.f) / 2 + 1,
            FaultModel::Crash => self.n / 2 + 1,
        }
    }

    /// Members of which one at least is correct (and, when replicas only crash, one at all).
    pub fn one_correct(self) -> usize {
        match self.model {
            FaultModel::Byzantine => self.f + 1,
            FaultModel::Crash => 1,
        }
    }

    /// STOPs that make a replica join a regency change: more than f (Alg. 3 line 17).
    pub fn join(self) -> usize {
        self.one_correct()
    }

    /// STOPs that install the next regency: more than 2f, so that f + 1 correct replicas asked and
    /// everybody will see enough; f + 1 when replicas only crash (3.5.6).
    pub fn install(self) -> usize {
        match self.model {
            FaultModel::Byzantine => 2 * self.f + 1,
            FaultModel::Crash => self.f + 1,
        }
    }

    /// Members that have to stay when a view with the thresholds `next` follows: those of them that are
    /// correct in this view are more than may be faulty in the next, so one of them at least is correct
    /// in both among as many as vouch for the new view.
    pub fn stay(self, next: Quorums) -> usize {
        self.f + next.one_correct()
    }

    /// Members of a view that has ended who have to be in the next one, so that enough correct ones go on
    /// teaching the others what was decided in it.
    pub fn taught(self) -> usize {
        self.f + self.one_correct()
    }

    /// States that a synchronisation collects at least: n - f.
    pub fn sync(self) -> usize {
        self.n - self.f
    }

    /// Matching replies that a client waits for, ordered or read-only. Equal to the certificate, so
    /// that a read-only reply intersects every ordered write in a correct replica (L832).
    pub fn reply(self) -> usize {
        self.certificate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byzantine(n: usize, f: usize) -> Quorums {
        Quorums::new(n, f, FaultModel::Byzantine).expect("enough members")
    }

    #[test]
    fn byzantine_thresholds_match_the_table_of_the_specification() {
        // n, f, certificate, n - f, install
        for (n, f, certificate, sync, install) in
            [(4, 1, 3, 3, 3), (5, 1, 4, 4, 3), (6, 1, 4, 5, 3), (7, 2, 5, 5, 5), (10, 3, 7, 7, 7)]
        {
            let quorums = byzantine(n, f);
            assert_eq!(quorums.certificate(), certificate, "n = {n}");
            assert_eq!(quorums.sync(), sync, "n = {n}");
            assert_eq!(quorums.install(), install, "n = {n}");
            assert_eq!(quorums.join(), f + 1, "n = {n}");
        }
    }

    #[test]
    fn two_certificates_share_a_correct_member() {
        for f in 0..6 {
            for n in 3 * f + 1..3 * f + 8 {
                let quorums = byzantine(n, f);
                assert!(2 * quorums.certificate() > n + f, "n = {n}, f = {f}");
                assert!(quorums.certificate() <= quorums.sync(), "n = {n}, f = {f}: must be live");
            }
        }
    }

    #[test]
    fn crash_certificates_share_a_member() {
        for f in 0..6 {
            for n in 2 * f + 1..2 * f + 6 {
                let quorums = Quorums::new(n, f, FaultModel::Crash).expect("enough members");
                assert!(2 * quorums.certificate() > n);
                assert!(quorums.certificate() <= quorums.sync());
            }
        }
    }

    #[test]
    fn too_few_members_are_refused_with_the_number_needed() {
        let error = Quorums::new(3, 1, FaultModel::Byzantine).expect_err("3 < 4");
        assert_eq!(error, ViewError::TooFew { n: 3, f: 1, needed: 4 });
        assert!(Quorums::new(3, 1, FaultModel::Crash).is_ok());
        assert_eq!(Quorums::faults_tolerated(0, FaultModel::Byzantine), 0);
        assert_eq!(Quorums::faults_tolerated(7, FaultModel::Byzantine), 2);
    }
}
