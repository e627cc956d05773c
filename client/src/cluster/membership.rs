//! A cluster's file and the membership that its members agree on.
//!
//! Owns the way from the one to the other. Always true: members come out as they went in; a membership
//! whose keys are none, or an address that others cannot dial, never gets into a file. Must not: judge who
//! may say what the membership is.

use std::path::Path;

use tetrarch_consensus::membership::{self, Membership};
use tetrarch_dataplane::crypto::keys::StaticPublic;
use tetrarch_dataplane::crypto::signature::VerifyingKey;

use super::form::address;
use super::{Cluster, ClusterError, Member};

impl Cluster {
    /// Who the members are, in the form that the View Manager signs.
    ///
    /// # Panics
    /// When the cluster was put together by hand and never passed [`Cluster::check`].
    pub fn membership(&self) -> Membership {
        let member = |member: &Member| membership::Member {
            id: member.id,
            address: member.address.clone(),
            static_key: *member.static_key.as_bytes(),
            signing_key: member.signing_key.to_bytes(),
        };
        let members = self.members.iter().map(member).collect();
        Membership::new(self.id, self.view_id, self.f, self.model, members)
            .expect("a loaded cluster was checked")
    }

    /// The membership of the first view: what replicas judge everything since by.
    ///
    /// # Panics
    /// As [`Cluster::membership`].
    pub fn first_membership(&self) -> Membership {
        self.first.clone().unwrap_or_else(|| self.membership())
    }

    /// What replicas are given of it: nothing where there is no View Manager, so that no view follows.
    pub fn managed_from(&self) -> Option<Box<Membership>> {
        self.view_manager.is_some().then(|| Box::new(self.first_membership()))
    }

    /// The first view is an earlier one of this cluster.
    pub(super) fn check_first(&self, file: &Path) -> Result<(), ClusterError> {
        let Some(first) = &self.first else { return Ok(()) };
        let problem = if first.cluster() != self.id {
            "the first view of another cluster"
        } else if first.id() >= self.view_id {
            "not a view before cluster.view"
        } else if first.model() != self.model {
            "the first view has another fault model"
        } else {
            return Ok(());
        };
        let remedy = "copy the file that `tetrarch view` wrote; only it changes this line";
        Err(ClusterError::new(file, "cluster.first_view", "", problem, remedy))
    }

    /// The same cluster with these members; `file` is where it is said to be wrong.
    ///
    /// # Errors
    /// The membership is of another cluster, or has keys or addresses that cannot be used.
    pub fn with_membership(
        &self,
        membership: &Membership,
        file: &Path,
    ) -> Result<Self, ClusterError> {
        if membership.cluster() != self.id {
            let (theirs, ours) = (membership.cluster(), self.id);
            return Err(ClusterError::new(
                file,
                "cluster.id",
                format!("{theirs:016x}"),
                format!("a membership of another cluster than {ours:016x}"),
                "use the directory of the right cluster",
            ));
        }
        let mut members = Vec::with_capacity(membership.members().len());
        for member in membership.members() {
            members.push(checked(member, file)?);
        }
        let first = self.first_membership();
        let cluster = Self {
            view_id: membership.id(),
            first: (first.id() < membership.id()).then_some(first),
            f: membership.view().quorums().f(),
            model: membership.model(),
            members,
            ..self.clone()
        };
        cluster.check(file)?;
        Ok(cluster)
    }
}

fn checked(member: &membership::Member, file: &Path) -> Result<Member, ClusterError> {
    let name = |field: &str| format!("replica {} {field}", member.id);
    let signing_key = VerifyingKey::from_bytes(&member.signing_key).map_err(|error| {
        let remedy = "make the replica's keys with `tetrarch view keys`";
        ClusterError::new(file, name("signing_key"), "", error.to_string(), remedy)
    })?;
    Ok(Member {
        id: member.id,
        address: address(&member.address, file, name("address"))?,
        static_key: StaticPublic(member.static_key),
        signing_key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestCluster;
    use tetrarch_consensus::ViewId;

    #[test]
    fn a_membership_makes_the_round() {
        let file = Path::new("cluster.toml");
        let mut cluster = TestCluster::new(5).cluster;
        cluster.view_id = ViewId(7);
        let membership = cluster.membership();
        assert_eq!((membership.id(), membership.members().len()), (ViewId(7), 5));
        let older = TestCluster::new(4).cluster;
        let newer = older.with_membership(&membership, file).unwrap();
        assert_eq!(newer.membership(), membership);
        // The first one stays known, also in the file, and whichever way one goes.
        let again = Cluster::parse(&newer.to_toml(), file).unwrap();
        assert_eq!(again.first_membership(), older.membership());
        let back = again.with_membership(&older.membership(), file).unwrap();
        assert_eq!((back.first, back.view_id), (None, ViewId(0)));
        for (first, expected) in [
            (newer.membership(), "not a view before cluster.view"),
            (Cluster { id: 1, ..older.clone() }.membership(), "of another cluster"),
        ] {
            let wrong = Cluster { first: Some(first), ..newer.clone() };
            let error = Cluster::parse(&wrong.to_toml(), file).unwrap_err().to_string();
            assert!(error.contains("cluster.first_view") && error.contains(expected), "{error}");
        }
        for more in ["0", "zz", "é", "01"] {
            let text =
                newer.to_toml().replace("first_view = \"", &format!("first_view = \"{more}"));
            let error = Cluster::parse(&text, file).unwrap_err().to_string();
            assert!(error.contains("cluster.first_view: not a membership"), "{error}");
        }
        assert_eq!(newer.clients[0].index, older.clients[0].index);
        let other = Cluster { id: 1, ..older };
        let error = other.with_membership(&membership, file).unwrap_err().to_string();
        assert!(error.contains("of another cluster than 0000000000000001"), "{error}");
    }

    #[test]
    fn a_member_that_cannot_be_used_is_named() {
        let file = Path::new("view");
        let cluster = TestCluster::new(4).cluster;
        let change = |change: fn(&mut membership::Member)| {
            let mut members = cluster.membership().members().to_vec();
            change(&mut members[3]);
            let next = Membership::new(cluster.id, ViewId(1), 1, cluster.model, members).unwrap();
            cluster.with_membership(&next, file).unwrap_err().to_string()
        };
        for (error, expected) in [
            (change(|member| member.address = "nowhere".into()), "replica 3 address"),
            (change(|member| member.address = "127.0.0.1:7000".into()), "the same address"),
            (change(|member| member.signing_key = [2; 32]), "replica 3 signing_key"),
        ] {
            assert!(error.contains("view: ") && error.contains(expected), "{error}");
        }
    }
}
