//! The view in which a replica starts.
//!
//! Owns the choice. Always true: a log is replayed from the view in which it begins; a replica without one starts in
//! the newest view that it knows of, as one that joins if that is not the first (rule VIEW.8); what it starts in is
//! written down before its first record. Must not: let a replica start in a view that does not name it.

use tetrarch_client::cluster::{CLUSTER_FILE, ClusterError};

use super::kept::{Kept, check_start};
use crate::config::Plan;
use crate::recovery::{Memory, has_log};

/// Prepares `plan` for a start with `memory`. `fresh`: what the replica knew is forgotten on purpose, because the
/// whole cluster begins anew. Returns what the data directory remembers from now on; `None`: no view ever follows.
///
/// # Errors
/// The data directory cannot be read or written, or remembers something else than the files say.
pub fn begin(plan: &mut Plan, memory: &Memory, fresh: bool) -> Result<Option<Kept>, ClusterError> {
    if plan.cluster.view_manager.is_none() {
        return Ok(None);
    }
    let first = plan.cluster.first_membership();
    if fresh && plan.cluster.first.is_some() {
        let problem = "a cluster whose members have changed cannot begin anew as it is: its first view was another";
        let remedy = "remove first_view from every cluster.toml: then the view that it describes is the first one \
                      of the new life";
        return Err(ClusterError::new(
            CLUSTER_FILE.as_ref(),
            "cluster.first_view",
            "",
            problem,
            remedy,
        ));
    }
    let newest = plan.cluster.membership();
    let logged = matches!(memory, Memory::Durable { log, .. } if has_log(&log.path)?);
    let start = match Kept::load(&plan.data_dir, plan.cluster.id)? {
        Some(kept) if logged => kept.start,
        None if logged => first.clone(),
        _ => newest.clone(),
    };
    check_start(plan.id, &first, &start)?;
    plan.start_in(&start)?;
    let kept = Kept { start, newest };
    kept.store(&plan.data_dir)?;
    Ok(Some(kept))
}
