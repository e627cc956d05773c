//! The next membership: what a change makes of the current one, and what that means.
//!
//! Owns the rules that concern people: ids, keys and addresses that fit. Always true: what comes out is
//! valid as a file and as a step of the protocol (rule VIEW.2). Must not: read files, or talk to anybody.

use std::fmt::{self, Write as _};
use std::path::Path;

use tetrarch_client::cluster::{CLUSTER_FILE, Cluster, ClusterError, Member, PublicKeys};
use tetrarch_consensus::{ReplicaId, ViewId};

/// What the View Manager wants to be different.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Members that go.
    pub remove: Vec<ReplicaId>,
    /// Members that come.
    pub add: Vec<PublicKeys>,
    /// Members that get other keys, and another address if it differs.
    pub rekey: Vec<PublicKeys>,
    /// Faults to tolerate; `None`: as before.
    pub f: Option<usize>,
}

/// The cluster after `change`: the view after that of `current`.
///
/// # Errors
/// What does not fit, with a remedy.
pub fn next(current: &Cluster, change: &Change) -> Result<Cluster, ClusterError> {
    let mut next = current.clone();
    for id in &change.remove {
        if next.member(*id).is_none() {
            let problem = format!("it is not a member: the members are {}", ids(current));
            return Err(wrong("replica", *id, problem, "name members to remove"));
        }
        next.members.retain(|member| member.id != *id);
    }
    for keys in &change.rekey {
        let member = of_cluster(current, keys)?;
        let Some(place) = next.members.iter().position(|it| it.id == member.id) else {
            let problem = format!("it is not a member: the members are {}", ids(current));
            return Err(wrong("replica", member.id, problem, "use `tetrarch view add`"));
        };
        let old = &next.members[place];
        if old.static_key == member.static_key || old.signing_key == member.signing_key {
            let remedy = "make new ones with `tetrarch view keys` on the replica's machine";
            return Err(wrong("replica", member.id, "it has these keys already", remedy));
        }
        next.members[place] = member.clone();
    }
    for keys in &change.add {
        let member = of_cluster(current, keys)?;
        if next.member(member.id).is_some() {
            let remedy =
                "make its keys for an id that no replica has, or replace the one that has it";
            return Err(wrong("replica", member.id, "a member has this id", remedy));
        }
        next.members.push(member.clone());
    }
    next.members.sort_by_key(|member| member.id);
    next.f = change.f.unwrap_or(next.f);
    let view = current.view_id.0.checked_add(1).ok_or_else(|| {
        wrong(
            "cluster.view",
            current.view_id,
            "the last view that there can be",
            "make a new cluster",
        )
    })?;
    next.view_id = ViewId(view);
    next.first = Some(current.first_membership());
    next.check(CLUSTER_FILE.as_ref())?;
    let (before, after) = (current.membership(), next.membership());
    before
        .check_next(&after)
        .map_err(|refused| wrong("view", view, refused.to_string(), "nothing was changed"))?;
    if same(current, &next) {
        return Err(wrong("view", view, "nothing would change", "say what shall be different"));
    }
    Ok(next)
}

fn same(a: &Cluster, b: &Cluster) -> bool {
    let key = |member: &Member| {
        (member.id, member.address.clone(), member.static_key, member.signing_key.to_bytes())
    };
    a.f == b.f && a.members.iter().map(key).eq(b.members.iter().map(key))
}

fn of_cluster<'a>(cluster: &Cluster, keys: &'a PublicKeys) -> Result<&'a Member, ClusterError> {
    if keys.cluster == cluster.id {
        return Ok(&keys.member);
    }
    let problem = format!("its keys were made for cluster {:016x}", keys.cluster);
    let remedy = format!("make them in a directory of cluster {:016x}", cluster.id);
    Err(wrong("replica", keys.member.id, problem, remedy))
}

fn wrong(
    field: &str,
    value: impl fmt::Display,
    problem: impl Into<String>,
    remedy: impl Into<String>,
) -> ClusterError {
    ClusterError::new(Path::new(CLUSTER_FILE), field, value, problem, remedy)
}

fn ids(cluster: &Cluster) -> String {
    let ids: Vec<_> = cluster.members.iter().map(|member| member.id.to_string()).collect();
    ids.join(", ")
}

/// What a membership means, for people: who the members are, and how many of them decide.
pub fn meaning(cluster: &Cluster) -> String {
    let view = cluster.view();
    let quorums = view.quorums();
    let mut out = format!(
        "view {}: {} replicas, f = {} ({}), {} decide, {} equal replies make a result\n",
        cluster.view_id,
        view.n(),
        quorums.f(),
        tetrarch_client::cluster::model_name(cluster.model),
        quorums.certificate(),
        quorums.reply(),
    );
    for member in &cluster.members {
        let key = &member.static_key.to_hex()[..16];
        let _ = writeln!(out, "  replica {:<5} {:<24} key {key}…", member.id, member.address);
    }
    out
}

/// What differs, for people: a line for each member that is concerned, then what it means.
pub fn difference(current: &Cluster, next: &Cluster) -> String {
    let mut out = format!("from view {} to view {}:\n", current.view_id, next.view_id);
    for member in &current.members {
        let id = member.id;
        match next.member(id) {
            None => {
                let _ = writeln!(out, "  - replica {id} at {} goes", member.address);
            }
            Some(now) => {
                if now.address != member.address {
                    let (from, to) = (&member.address, &now.address);
                    let _ = writeln!(out, "  ~ replica {id} moves from {from} to {to}");
                }
                if now.static_key != member.static_key {
                    let key = &now.static_key.to_hex()[..16];
                    let _ = writeln!(out, "  ~ replica {id} gets the keys {key}…");
                }
            }
        }
    }
    for member in next.members.iter().filter(|member| current.member(member.id).is_none()) {
        let (id, address) = (member.id, &member.address);
        let _ = writeln!(out, "  + replica {id} at {address} comes");
    }
    let numbers = |cluster: &Cluster| {
        let view = cluster.view();
        let quorums = view.quorums();
        format!("n = {}, f = {}, {} decide", view.n(), quorums.f(), quorums.certificate())
    };
    let _ = writeln!(out, "  {} -> {}", numbers(current), numbers(next));
    let most =
        tetrarch_consensus::quorum::Quorums::faults_tolerated(next.members.len(), next.model);
    if next.f < most {
        let _ =
            writeln!(out, "  so many replicas could tolerate f = {most}: `tetrarch view set-f`");
    }
    out
}
