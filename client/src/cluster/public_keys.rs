//! The public half of keys made for a replica that is no member yet, or that shall change its keys: the
//! file that travels from its machine to the View Manager.
//!
//! Owns its text form. Always true: nothing in it is secret. Must not: be believed for being there: whoever
//! carries it to the View Manager answers for where it comes from.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tetrarch_consensus::ReplicaId;

use super::form::{address, parse_id, static_key, verifying_key};
use super::{ClusterError, Member, parse_toml, read};

/// Keys of a future member, and where it will be.
#[derive(Clone, Debug)]
pub struct PublicKeys {
    /// For which cluster they were made.
    pub cluster: u64,
    /// The member.
    pub member: Member,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cluster: String,
    id: u16,
    address: String,
    static_key: String,
    signing_key: String,
}

impl PublicKeys {
    /// Loads the file.
    ///
    /// # Errors
    /// It cannot be read, or something in it is wrong.
    pub fn load(file: &Path) -> Result<Self, ClusterError> {
        let hint = "name the *.public file that `tetrarch view keys` made on the replica's machine";
        Self::parse(&read(file, hint)?, file)
    }

    /// Checks its text; `file` is its name in errors.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ClusterError> {
        let raw: File = parse_toml(text, file)?;
        let cluster = parse_id(&raw.cluster, "cluster", file)?;
        let id = ReplicaId(raw.id);
        let address = address(&raw.address, file, "address".into())?;
        let static_key = static_key(&raw.static_key, file, "static_key".into())?;
        let signing_key = verifying_key(&raw.signing_key, file, "signing_key".into())?;
        Ok(Self { cluster, member: Member { id, address, static_key, signing_key } })
    }

    /// Its text.
    pub fn text(&self) -> String {
        let Member { id, address, static_key, signing_key } = &self.member;
        let file = File {
            cluster: format!("{:016x}", self.cluster),
            id: id.0,
            address: address.clone(),
            static_key: static_key.to_hex(),
            signing_key: signing_key.to_hex(),
        };
        let body = toml::to_string(&file).expect("plain strings and numbers are always TOML");
        format!(
            "# Public keys of replica {id}, for the View Manager. Nothing here is secret.\n\n{body}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestCluster;

    #[test]
    fn public_keys_travel_as_text() {
        let test = TestCluster::new(4);
        let member = test.cluster.members[2].clone();
        let keys = PublicKeys { cluster: test.cluster.id, member };
        let file = Path::new("replica-2.public");
        let again = PublicKeys::parse(&keys.text(), file).unwrap();
        assert_eq!((again.cluster, again.text()), (test.cluster.id, keys.text()));
        for (from, to, expected) in [
            ("0000000000007e57", "7e57", "cluster = \"7e57\": not a cluster id"),
            ("127.0.0.1:7002", "127.0.0.1", "address = \"127.0.0.1\": not an address"),
            ("signing_key = \"", "signing_key = \"x", "signing_key ="),
            ("id = 2", "id = 2\nkey = 1", "unknown field"),
        ] {
            let text = keys.text().replace(from, to);
            let error = PublicKeys::parse(&text, file).unwrap_err().to_string();
            assert!(error.contains("replica-2.public") && error.contains(expected), "{error}");
        }
    }
}
