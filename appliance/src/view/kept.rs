//! What a replica's data directory remembers of views.
//!
//! Owns the file. Always true: it says in which view the log of the directory begins, and it is there before the
//! log's first record; it is replaced as a whole. Must not: be believed before the log, which knows better in
//! which view the replica is: the newest membership here is for one whose log is gone, or that keeps none.
//!
//! | size | little endian |
//! |---|---|
//! | 16 | what it is: `tetrarch views 1` |
//! | 32 | BLAKE3 of what follows |
//! | 4 | bytes of the first membership |
//! | | [membership](tetrarch_consensus::membership) in which the log begins |
//! | | the newest one that the replica was in |

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use tetrarch_client::cluster::{CLUSTER_FILE, Cluster, ClusterError};
use tetrarch_consensus::ReplicaId;
use tetrarch_consensus::limits::REPLICAS_MAX;
use tetrarch_consensus::membership::{MEMBERSHIP_SIZE_MAX, Membership};
use tetrarch_dataplane::crypto::hash::body_digest;

use super::replace_file;

/// Name of the file in a data directory.
const FILE: &str = "views";
const MAGIC: &[u8; 16] = b"tetrarch views 1";
const HEAD_SIZE: usize = MAGIC.len() + 32 + 4;

const _: () = assert!(REPLICAS_MAX < 1 << 16 && MEMBERSHIP_SIZE_MAX < 1 << 24, "a small file");

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// In which the log begins.
    pub start: Membership,
    /// The newest one that the replica is known to have been in.
    pub newest: Membership,
}

impl Kept {
    /// What `data_dir` says; `None`: nothing.
    ///
    /// # Errors
    /// The file cannot be read or does not hold, or is of another cluster than `cluster`.
    pub fn load(data_dir: &Path, cluster: u64) -> Result<Option<Self>, ClusterError> {
        let file = data_dir.join(FILE);
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let problem = format!("cannot read: {error}");
                let remedy = "make it readable for the user that runs the replica";
                return Err(ClusterError::new(&file, "", "", problem, remedy));
            }
        };
        let Some(kept) = Self::decode(&bytes) else {
            let remedy = "restore it from a backup; or move the whole data directory away: then the replica \
                          has to be removed and added again with new keys";
            return Err(ClusterError::new(&file, "", "", "it is damaged", remedy));
        };
        let theirs = kept.start.cluster();
        if theirs != cluster || kept.newest.cluster() != cluster {
            let problem = format!("it is of another cluster than {cluster:016x}");
            let remedy = "correct data_dir";
            return Err(ClusterError::new(&file, "", format!("{theirs:016x}"), problem, remedy));
        }
        Ok(Some(kept))
    }

    /// Puts it into `data_dir`, in the place of what was there.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn store(&self, data_dir: &Path) -> Result<(), ClusterError> {
        let written = fs::create_dir_all(data_dir)
            .and_then(|()| replace_file(data_dir, FILE, &self.encode()));
        written.map_err(|error| {
            let (file, problem) = (data_dir.join(FILE), format!("cannot write: {error}"));
            ClusterError::new(&file, "", "", problem, "make the data directory writable")
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEAD_SIZE];
        self.start.encode(&mut bytes);
        // At most MEMBERSHIP_SIZE_MAX.
        let size = (bytes.len() - HEAD_SIZE) as u32;
        self.newest.encode(&mut bytes);
        bytes[HEAD_SIZE - 4..HEAD_SIZE].copy_from_slice(&size.to_le_bytes());
        let digest = body_digest(&bytes[MAGIC.len() + 32..]);
        bytes[..MAGIC.len()].copy_from_slice(MAGIC);
        bytes[MAGIC.len()..MAGIC.len() + 32].copy_from_slice(&digest);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (digest, rest) = rest.split_at_checked(32)?;
        if digest != body_digest(rest) {
            return None;
        }
        let (size, rest) = rest.split_at_checked(4)?;
        let size = u32::from_le_bytes(size.try_into().ok()?);
        let (start, newest) = rest.split_at_checked(usize::try_from(size).ok()?)?;
        Some(Self {
            start: Membership::decode(start).ok()?,
            newest: Membership::decode(newest).ok()?,
        })
    }
}

/// The newest membership that is known here: of `cluster.toml`, or the newest one that the replica was in.
///
/// # Errors
/// The newest one cannot be used: `data_dir` is damaged.
pub fn newest_known(cluster: Cluster, data_dir: &Path) -> Result<Cluster, ClusterError> {
    let kept = Kept::load(data_dir, cluster.id)?.filter(|_| cluster.view_manager.is_some());
    match kept.filter(|kept| kept.newest.id() > cluster.view_id) {
        Some(kept) => cluster.with_membership(&kept.newest, &data_dir.join(FILE)),
        None => Ok(cluster),
    }
}

/// The view in which the log of replica `id` in `data_dir` begins, as a cluster; the first one if nothing is said.
///
/// # Errors
/// The file in `data_dir` does not hold, or says something else than `cluster`.
pub fn beginning(
    cluster: &Cluster,
    id: ReplicaId,
    data_dir: &Path,
) -> Result<Cluster, ClusterError> {
    let first = cluster.first_membership();
    let start = Kept::load(data_dir, cluster.id)?.map_or_else(|| first.clone(), |kept| kept.start);
    check_start(id, &first, &start)?;
    cluster.with_membership(&start, &data_dir.join(FILE))
}

/// Can replica `id` start in `start`, where `first` is the first view?
///
/// # Errors
/// It does not name it, or comes before the first view.
pub fn check_start(
    id: ReplicaId,
    first: &Membership,
    start: &Membership,
) -> Result<(), ClusterError> {
    let problem = if start.member(id).is_none() {
        format!("its log begins in view {}, which does not name it", start.id())
    } else if start.id() < first.id() {
        format!("its log begins in view {}, and the first one is view {}", start.id(), first.id())
    } else if start.id() == first.id() && start != first {
        "its log begins with other members than the first view has".to_owned()
    } else {
        return Ok(());
    };
    let remedy = "bring the cluster.toml of this cluster here, as `tetrarch view` wrote it";
    Err(ClusterError::new(CLUSTER_FILE.as_ref(), "replica", id, problem, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestCluster;
    use tetrarch_consensus::ViewId;

    #[test]
    fn what_is_kept_is_found_again_and_damage_is_noticed() {
        let name = format!("tetrarch-views-kept-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&directory);
        let cluster = TestCluster::new(5, 1, 1).cluster;
        assert_eq!(Kept::load(&directory, cluster.id), Ok(None));
        let mut later = cluster.clone();
        later.members.pop();
        (later.view_id, later.first) = (ViewId(3), Some(cluster.membership()));
        let kept = Kept { start: cluster.membership(), newest: later.membership() };
        kept.store(&directory).unwrap();
        kept.store(&directory).unwrap();
        assert_eq!(Kept::load(&directory, cluster.id), Ok(Some(kept)));
        let other = Kept::load(&directory, 1).unwrap_err().to_string();
        assert!(other.contains("another cluster") && other.contains("data_dir"), "{other}");

        // Nobody is a View Manager: what is there is of no account.
        let known = newest_known(cluster.clone(), &directory).unwrap();
        assert_eq!(known.view_id, ViewId(0));
        let view_manager = TestCluster::managed(5, 1, 1).cluster.view_manager;
        let managed = Cluster { view_manager, ..cluster.clone() };
        let known = newest_known(managed.clone(), &directory).unwrap();
        assert_eq!((known.view_id, known.members.len()), (ViewId(3), 4));
        assert_eq!(known.first_membership().id(), ViewId(0));
        let begun = beginning(&known, ReplicaId(4), &directory).unwrap();
        assert_eq!((begun.view_id, begun.members.len()), (ViewId(0), 5));
        let mut moved = known.clone();
        moved.first = Some(known.membership());
        for (cluster, id, expected) in [
            (&known, 7, "replica = 7: its log begins in view 0, which does not name it"),
            (&moved, 1, "its log begins in view 0, and the first one is view 3"),
        ] {
            let error = beginning(cluster, ReplicaId(id), &directory).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }

        let file = directory.join(FILE);
        let bytes = fs::read(&file).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Kept::decode(&damaged), None, "byte {at}");
            assert_eq!(Kept::decode(&bytes[..at]), None, "cut at {at}");
        }
        fs::write(&file, &bytes[1..]).unwrap();
        let error = Kept::load(&directory, cluster.id).unwrap_err().to_string();
        assert!(error.contains("it is damaged") && error.contains("views: "), "{error}");
        fs::remove_dir_all(&directory).unwrap();
    }
}
