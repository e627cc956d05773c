//! `tetrarch view add|remove|replace|set-f|rotate-keys|show`: the View Manager asks the cluster for its
//! next membership.
//!
//! Owns the conversation with the cluster and the files of the View Manager's directory. Always true:
//! what is signed was shown before; cluster.toml is replaced as a whole, after the members said that the
//! change is decided, and the one before it is kept. Must not: believe that a change happened because it
//! was asked for.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tetrarch_client::cluster::{CLUSTER_FILE, Cluster, ClusterError, PrivateKeys};
use tetrarch_client::{
    Authentication, ClientConfig, ClientDriver, Clock, Completion, Mode, Outcome, SystemClock,
};
use tetrarch_consensus::ConsensusId;
use tetrarch_consensus::membership::{RefusedView, VIEW_MANAGER, ViewAnswer, ViewRequest};
use tetrarch_dataplane::crypto::signature::SigningKey;

use super::change::{Change, difference, meaning, next};
use super::replace_file;
use crate::init::VIEW_MANAGER_KEY;
use crate::status::Report;

/// How long one sleep lasts at most.
const PARK_MAX: Duration = Duration::from_millis(20);

/// Prints the membership that the directory knows, and says if the replicas that can be asked are in a later one.
///
/// # Errors
/// The directory is none of a cluster.
pub fn show(directory: &Path) -> Result<()> {
    let cluster = Cluster::load(directory)?;
    print!("{}", meaning(&cluster));
    if cluster.view_manager.is_none() {
        println!("no View Manager: it stays as it is");
    }
    let report = Report::collect(directory)?;
    if report.view > report.listed_view {
        println!("{}", report.staleness());
    }
    Ok(())
}

/// Shows what `change` means, and asks the cluster for it unless it is a `dry_run`. What `cluster.toml` says
/// may be old: then the change is made to the view that rules.
///
/// # Errors
/// The change cannot be, or the cluster did not say that it is decided.
pub fn run(directory: &Path, change: &Change, dry_run: bool) -> Result<()> {
    let listed = Cluster::load(directory)?;
    let keys = manager_keys(directory, &listed)?;
    let (mut current, mut next) = (listed.clone(), shown(&listed, change)?);
    if dry_run {
        println!("nothing was asked for: leave --dry-run out to do it");
        return Ok(());
    }
    let key = keys.signing_key.clone();
    let mut asker = Asker::connect(&listed, keys)?;
    let mut answer = asker.ask(&request(&next, &key))?;
    if let Some(newest) = asker.newest(&current, answer) {
        println!(
            "view {} rules, and {CLUSTER_FILE} here describes view {}; so it is made of that:",
            newest.view_id, current.view_id
        );
        (next, current) = (shown(&newest, change)?, newest);
        answer = asker.ask(&request(&next, &key))?;
    }
    let last = decided(&current, &next, answer)?;
    let kept = replace(directory, &listed, &next)?;
    println!("decided: view {} rules behind instance {last}.\n", next.view_id);
    print!("{}", meaning(&next));
    println!(
        "\n{CLUSTER_FILE} describes it now; the one before is {}. Replicas that come need the new one to \
         start; all others find out by themselves.",
        kept.display()
    );
    Ok(())
}

/// The next cluster, shown before anything is signed.
fn shown(current: &Cluster, change: &Change) -> Result<Cluster, ClusterError> {
    let next = next(current, change)?;
    print!("{}", difference(current, &next));
    Ok(next)
}

/// The View Manager as a client.
struct Asker {
    driver: ClientDriver,
    clock: SystemClock,
    timeout: Duration,
}

impl Asker {
    fn connect(cluster: &Cluster, keys: PrivateKeys) -> Result<Self> {
        let config = ClientConfig {
            // Members judge what is asked by a proof that all of them see alike.
            authentication: Authentication::Signature,
            ..ClientConfig::new(cluster.clone(), VIEW_MANAGER, keys)
        };
        let (clock, mut driver) = (SystemClock::new(), ClientDriver::open(&config)?);
        driver.connect(&clock, config.connect_timeout)?;
        Ok(Self { driver, clock, timeout: config.operation_timeout })
    }

    /// Orders the request, and waits for what the members say.
    fn ask(&mut self, operation: &[u8]) -> Result<ViewAnswer> {
        let began = self.clock.now();
        self.driver.submit(began, 0, Mode::Ordered, operation).map_err(|busy| anyhow!("{busy}"))?;
        let mut ended = Vec::new();
        loop {
            let now = self.clock.now();
            let worked = self.driver.poll(now, &mut ended);
            if let Some(Completion { outcome, .. }) = ended.pop() {
                return said(outcome);
            }
            if now.since(began) >= self.timeout {
                bail!(
                    "no answer after {:?}: whether it is decided is not known; look with `tetrarch status` \
                     before you ask again",
                    self.timeout
                );
            }
            if !worked {
                self.driver.park(now, PARK_MAX);
            }
        }
    }

    /// The cluster as it is, if the members say that it is not as `current` says.
    fn newest(&self, current: &Cluster, answer: ViewAnswer) -> Option<Cluster> {
        let known = self.driver.cluster();
        let rules = ViewAnswer::Refused(RefusedView::NotNext(known.view_id));
        (answer == rules && known.view_id != current.view_id).then(|| known.clone())
    }
}

fn said<P: AsRef<[u8]>>(outcome: Outcome<P>) -> Result<ViewAnswer> {
    match outcome {
        Outcome::Done(result) => ViewAnswer::decode(result.as_ref()).map_err(|error| {
            anyhow!("the answer cannot be read ({error:?}): use the members' release")
        }),
        Outcome::Refused => bail!(
            "the members refused the request for its form or its signature; nothing was changed: is \
             {VIEW_MANAGER_KEY} the one that this cluster was made with?"
        ),
        Outcome::Forgotten => bail!("it was answered, and the answer is not kept any more"),
    }
}

/// The View Manager's own keys.
fn manager_keys(directory: &Path, cluster: &Cluster) -> Result<PrivateKeys, ClusterError> {
    let public = directory.join(CLUSTER_FILE);
    let Some(manager) = &cluster.view_manager else {
        let problem = "this cluster was made without a View Manager: its membership stays as it is";
        let remedy = "make a new cluster with `tetrarch init`";
        return Err(ClusterError::new(&public, "view_manager", "", problem, remedy));
    };
    let file = directory.join(VIEW_MANAGER_KEY);
    let keys = PrivateKeys::load(&file)?;
    keys.check_fits(&file, "the view manager", &manager.static_key, &manager.signing_key)?;
    Ok(keys)
}

/// The operation that asks for `next`.
pub fn request(next: &Cluster, key: &SigningKey) -> Vec<u8> {
    let next = next.membership();
    let signature = key.sign(&ViewRequest::signed_bytes(&next));
    let mut operation = Vec::new();
    ViewRequest { next, signature }.encode(&mut operation);
    operation
}

/// What the members say: the last instance of the present view.
fn decided(cluster: &Cluster, next: &Cluster, answer: ViewAnswer) -> Result<ConsensusId> {
    match answer {
        ViewAnswer::Accepted { view, last } if view == next.view_id => Ok(last),
        ViewAnswer::Accepted { view, .. } => bail!("the members speak of view {view}"),
        ViewAnswer::Refused(RefusedView::NotNext(view)) if view != cluster.view_id => bail!(
            "view {view} rules, and {CLUSTER_FILE} here describes view {}: bring the newest one here, from \
             where the last change was made, and ask again",
            cluster.view_id
        ),
        ViewAnswer::Refused(refused) => bail!("refused: {refused}; nothing was changed"),
    }
}

/// Puts the file of `next` in the place of that of `cluster`, which is kept under another name.
fn replace(directory: &Path, cluster: &Cluster, next: &Cluster) -> Result<PathBuf> {
    let file = directory.join(CLUSTER_FILE);
    let kept = directory.join(format!("cluster.view-{}.toml", cluster.view_id));
    let text = next.to_toml();
    let copied = fs::copy(&file, &kept);
    let replaced = copied.and_then(|_| replace_file(directory, CLUSTER_FILE, text.as_bytes()));
    replaced.with_context(|| {
        format!(
            "the change is decided, but {} cannot be replaced; write this into it:\n\n{text}\n",
            file.display()
        )
    })?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestCluster;
    use tetrarch_consensus::ViewId;

    fn pair() -> (Cluster, Cluster) {
        let cluster = TestCluster::new(5, 1, 1).cluster;
        let mut next = cluster.clone();
        next.view_id = ViewId(1);
        next.members.pop();
        (cluster, next)
    }

    #[test]
    fn answers_are_told_apart() {
        let (cluster, next) = pair();
        let last = ConsensusId(9);
        let say = |answer| decided(&cluster, &next, answer).map_err(|error| error.to_string());
        assert_eq!(say(ViewAnswer::Accepted { view: ViewId(1), last }), Ok(last));
        let later = say(ViewAnswer::Refused(RefusedView::NotNext(ViewId(4)))).unwrap_err();
        assert!(later.contains("view 4 rules") && later.contains("describes view 0"), "{later}");
        let busy = say(ViewAnswer::Refused(RefusedView::UnderWay(ViewId(1)))).unwrap_err();
        assert!(busy.contains("under way") && busy.contains("nothing was changed"), "{busy}");
        assert!(say(ViewAnswer::Accepted { view: ViewId(3), last }).is_err());
    }

    #[test]
    fn the_file_is_replaced_as_a_whole_and_the_one_before_kept() {
        let (cluster, next) = pair();
        let name = format!("tetrarch-view-replace-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(CLUSTER_FILE), cluster.to_toml()).unwrap();
        let kept = replace(&directory, &cluster, &next).unwrap();
        assert_eq!(fs::read_to_string(kept).unwrap(), cluster.to_toml());
        assert_eq!(Cluster::load(&directory).unwrap().to_toml(), next.to_toml());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
        let operation = request(&next, &TestCluster::new(1, 0, 1).replica_keys[0].signing_key);
        assert_eq!(ViewRequest::decode(&operation).unwrap().next, next.membership());
        fs::remove_dir_all(&directory).unwrap();
        let error = replace(&directory, &cluster, &next).unwrap_err().to_string();
        assert!(error.contains("is decided, but") && error.contains("view = 1"), "{error}");
    }
}
