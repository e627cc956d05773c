//! `tetrarch status`: what every replica of a cluster says of itself.
//!
//! Owns the table. Always true: a replica that does not answer is listed as such, with the reason.
//! Must not: need a private key.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tetrarch_client::cluster::{Cluster, ClusterError, model_name};
use tetrarch_consensus::ReplicaId;
use tetrarch_consensus::quorum::Quorums;

use crate::admin::{Status, TransferStatus, fetch_status};
use crate::config::load_replica_file;

/// How long a replica may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// One replica: its status, or why there is none.
#[derive(Clone, Serialize, Debug)]
pub struct Entry {
    /// Which replica.
    pub id: u16,
    /// Its address for members and clients.
    pub address: String,
    /// Did it answer?
    pub reachable: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it says.
    #[serde(flatten)]
    pub status: Option<Status>,
}

/// The whole cluster.
#[derive(Clone, Serialize, Debug)]
pub struct Report {
    /// The cluster's id, 16 hexadecimal digits.
    pub cluster: String,
    /// Its fault model.
    pub model: &'static str,
    /// The newest view that a replica is in.
    pub view: u32,
    /// The one that `cluster.toml` describes.
    pub listed_view: u32,
    /// Faults that the newest tolerates.
    pub f: usize,
    /// Replies that make a result.
    pub quorum: usize,
    /// Everybody in `cluster.toml`, then those members of the newest view that are not.
    pub replicas: Vec<Entry>,
}

impl Report {
    /// Asks every replica of the cluster directory, all at once.
    ///
    /// # Errors
    /// `cluster.toml` cannot be read.
    pub fn collect(directory: &Path) -> Result<Self, ClusterError> {
        let cluster = Cluster::load(directory)?;
        let listed = cluster.members.iter().map(|member| (member.id.0, member.address.clone()));
        let mut replicas = ask_all(directory, cluster.id, listed.collect());
        let statuses = replicas.iter().filter_map(|entry| entry.status.as_ref());
        let newest = statuses.max_by_key(|status| status.view);
        let later = newest.filter(|newest| newest.view > cluster.view_id.0);
        let (mut view, mut f, mut quorum) =
            (cluster.view_id.0, cluster.f, cluster.view().quorums().reply());
        let mut more = Vec::new();
        if let Some(later) = later
            && let Ok(quorums) = Quorums::new(later.members.len(), later.f, cluster.model)
        {
            (view, f, quorum) = (later.view, later.f, quorums.reply());
            let unlisted =
                later.members.iter().filter(|id| cluster.member(ReplicaId(**id)).is_none());
            more = unlisted.map(|id| (*id, String::new())).collect();
        }
        replicas.extend(ask_all(directory, cluster.id, more));
        Ok(Self {
            cluster: format!("{:016x}", cluster.id),
            model: model_name(cluster.model),
            view,
            listed_view: cluster.view_id.0,
            f,
            quorum,
            replicas,
        })
    }

    /// How many replicas answered.
    pub fn reachable(&self) -> usize {
        self.replicas.iter().filter(|entry| entry.reachable).count()
    }

    /// What to say when the replicas are in a later view than `cluster.toml` describes.
    pub fn staleness(&self) -> String {
        format!(
            "cluster.toml describes view {}, and view {} rules: bring the newest one here, from where the last \
             change was made",
            self.listed_view, self.view
        )
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "cluster {} (view {}, {} replicas, {} model, f = {}): {} of {} answer, {} are needed\n\n",
            self.cluster,
            self.view,
            self.replicas.len(),
            self.model,
            self.f,
            self.reachable(),
            self.replicas.len(),
            self.quorum,
        );
        text.push_str(
            "replica  address                view  regency  leader     decided    executed  pending  \
             clients  rejects  peers\n",
        );
        for entry in &self.replicas {
            // Writing to a string does not fail.
            let _ = match (&entry.status, &entry.error) {
                (Some(status), _) => writeln!(text, "{}", line(entry, status)),
                (None, error) => writeln!(
                    text,
                    "{:<7}  {:<21}  unreachable: {}",
                    entry.id,
                    entry.address,
                    error.as_deref().unwrap_or("no answer")
                ),
            };
        }
        if self.view > self.listed_view {
            text.push_str(&self.staleness());
            text.push('\n');
        }
        for entry in &self.replicas {
            if let Some(status) = &entry.status {
                text.push_str(&notes(status));
            }
        }
        text
    }
}

/// Asks all of these at once.
fn ask_all(directory: &Path, cluster: u64, replicas: Vec<(u16, String)>) -> Vec<Entry> {
    std::thread::scope(|scope| {
        let ask = |(id, _): &(u16, String)| {
            let id = *id;
            scope.spawn(move || ask(directory, id, cluster))
        };
        let asked: Vec<_> = replicas.iter().map(ask).collect();
        let answers = asked
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("the question failed".to_owned())));
        let entry = |((id, address), answer): ((u16, String), Result<Status, String>)| {
            let (status, error) = match answer {
                Ok(status) => (Some(status), None),
                Err(error) => (None, Some(error)),
            };
            Entry { id, address, reachable: status.is_some(), error, status }
        };
        replicas.into_iter().zip(answers).map(entry).collect()
    })
}

fn ask(directory: &Path, id: u16, cluster: u64) -> Result<Status, String> {
    let (_, file) = load_replica_file(directory, id).map_err(|error| error.to_string())?;
    let status = fetch_status(&file.metrics, ANSWER_TIMEOUT)
        .map_err(|error| format!("{error} (metrics address {})", file.metrics))?;
    if status.id != id || status.cluster != format!("{cluster:016x}") {
        return Err(format!(
            "replica {} of cluster {} answers at {}",
            status.id, status.cluster, file.metrics
        ));
    }
    Ok(status)
}

fn line(entry: &Entry, status: &Status) -> String {
    let rejects: u64 = status.rejects.values().sum();
    let wanted = if status.wanted > status.regency {
        format!("{}>{}", status.regency, status.wanted)
    } else {
        status.regency.to_string()
    };
    let peers: Vec<String> = status
        .peers
        .iter()
        .map(|peer| match (peer.up, peer.heard_ms) {
            (false, _) => format!("{} down", peer.id),
            (true, None) => format!("{} up", peer.id),
            (true, Some(ms)) => format!("{} up {ms}ms", peer.id),
        })
        .collect();
    format!(
        "{:<7}  {:<21}  {:>4}  {:>7}  {:>6}  {:>10}  {:>10}  {:>7}  {:>7}  {:>7}  {}",
        entry.id,
        entry.address,
        status.view,
        wanted,
        status.leader,
        status.decided,
        status.executed,
        status.pending,
        status.clients_up,
        rejects,
        peers.join(", "),
    )
}

/// What does not fit the table and somebody should know.
fn notes(status: &Status) -> String {
    let id = status.id;
    let mut text = String::new();
    let mut note = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    if let Some(TransferStatus { instance, chunks, chunks_all, rate }) = status.transfer {
        note(format!(
            "replica {id}: fetches checkpoint {instance}: {chunks} of {chunks_all} chunks, {} MiB/s",
            rate >> 20
        ));
    } else if status.behind {
        note(format!(
            "replica {id}: is behind what the others keep, and waits for a checkpoint of theirs"
        ));
    }
    if let Some(next) = status.next_view {
        note(format!("replica {id}: has decided all of view {}; view {next} follows", status.view));
    }
    if status.joining {
        note(format!(
            "replica {id}: learns what was before view {}, which it joins in",
            status.view
        ));
    }
    if status.mute {
        note(format!("replica {id}: was restarted without its memory, learns and does not vote"));
    } else if status.restarted {
        note(format!("replica {id}: was restarted without its memory and has caught up"));
    }
    if status.stopped {
        note(format!("replica {id}: waits for the synchronisation of regency {}", status.regency));
    }
    if status.requests_busy > 0 {
        let (shed, busy) = (status.requests_shed, status.requests_busy);
        note(format!(
            "replica {id}: had no room for {shed} requests, told clients Busy {busy} times"
        ));
    }
    if status.evidence > 0 {
        note(format!("replica {id}: saw {} proofs of misbehaviour, see its log", status.evidence));
    }
    if !status.rejects.is_empty() {
        let list: Vec<_> =
            status.rejects.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        note(format!("replica {id}: dropped: {}", list.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lists_everybody() {
        let status = Status {
            id: 0,
            cluster: "0".repeat(16),
            view: 3,
            members: vec![0, 1],
            f: 0,
            joining: true,
            next_view: Some(4),
            regency: 1,
            wanted: 2,
            leader: 1,
            stopped: false,
            decided: 10,
            executed: 9,
            requests_executed: 100,
            pending: 3,
            requests_shed: 12,
            requests_busy: 7,
            behind: true,
            transfer: None,
            restarted: true,
            mute: true,
            peers_up: 1,
            clients_up: 2,
            evidence: 0,
            peers: vec![crate::admin::PeerStatus { id: 1, up: true, heard_ms: Some(4) }],
            rejects: [("bad_tag".to_owned(), 5)].into(),
        };
        let entry = |id, status: Option<Status>| Entry {
            id,
            address: format!("10.0.0.{id}:7000"),
            reachable: status.is_some(),
            error: status.is_none().then(|| "connection refused".into()),
            status,
        };
        let mut report = Report {
            cluster: "0".repeat(16),
            model: "byzantine",
            view: 4,
            listed_view: 3,
            f: 1,
            quorum: 3,
            replicas: vec![entry(0, Some(status)), entry(1, None)],
        };
        let table = report.table();
        let busy = "had no room for 12 requests, told clients Busy 7 times";
        let stale = "cluster.toml describes view 3, and view 4 rules";
        let unreachable = "unreachable: connection refused";
        for part in [
            busy,
            stale,
            "1>2",
            "1 up 4ms",
            unreachable,
            "waits for a",
            "which it joins in",
            "view 4",
        ] {
            assert!(table.contains(part), "{part} is missing in:\n{table}");
        }
        let status = report.replicas[0].status.as_mut().expect("it answers");
        let (instance, rate) = (8192, 100 << 20);
        status.transfer = Some(TransferStatus { instance, chunks: 3, chunks_all: 40, rate });
        let table = report.table();
        let part = "fetches checkpoint 8192: 3 of 40 chunks, 100 MiB/s";
        assert!(table.contains(part), "{part} is missing in:\n{table}");
        let json = serde_json::to_value(&report).expect("plain data");
        assert_eq!(json["replicas"][0]["peers_up"], 1);
        assert_eq!(json["replicas"][0]["regency"], 1);
        assert_eq!(json["replicas"][1]["reachable"], false);
    }
}
