//! The control plane of a running replica: metrics and status over HTTP.
//!
//! Owns one listener and one thread. Always true: it only reads published numbers, so whatever is
//! done to it, ordering goes on; one connection is served at a time, with a time limit. Must not:
//! change anything, or show a secret.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tetrarch_dataplane::reject::Reject;

use crate::metrics::Metrics;
use crate::stage::bulletin::Bulletin;

/// A request that is not here after this long is not worth waiting for.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
/// A request line and a few headers.
const REQUEST_SIZE_MAX: usize = 4096;
/// How often the thread looks for the order to stop.
const POLL: Duration = Duration::from_millis(50);

/// What a replica says of one other member.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct PeerStatus {
    /// Who.
    pub id: u16,
    /// Is there a session?
    pub up: bool,
    /// Since its last message, ms; `None` when there was none.
    pub heard_ms: Option<u64>,
}

/// A checkpoint on its way to a replica.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct TransferStatus {
    /// The checkpoint's instance.
    pub instance: u64,
    /// Chunks of it that are here.
    pub chunks: u64,
    /// All of them.
    pub chunks_all: u64,
    /// Bytes that came in a second.
    pub rate: u64,
}

/// What a replica says of itself, `GET /status`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Status {
    /// Which replica.
    #[serde(rename = "replica")]
    pub id: u16,
    /// The cluster, 16 hexadecimal digits.
    pub cluster: String,
    /// The view that it is in, or joins in.
    pub view: u32,
    /// Members of that view.
    pub members: Vec<u16>,
    /// Faults that it tolerates.
    pub f: usize,
    /// It learns what was before the view that it joins in.
    pub joining: bool,
    /// Its view has ended, and this one follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_view: Option<u32>,
    /// Installed regency.
    pub regency: u64,
    /// Regency asked for.
    pub wanted: u64,
    /// Leader of the installed regency.
    pub leader: u64,
    /// Is it waiting for a synchronisation?
    pub stopped: bool,
    /// Last instance decided.
    pub decided: u64,
    /// Last instance executed.
    pub executed: u64,
    /// Requests executed.
    pub requests_executed: u64,
    /// Requests admitted and not decided.
    pub pending: u64,
    /// Requests that there was no room for.
    pub requests_shed: u64,
    /// Times that a client was told so.
    pub requests_busy: u64,
    /// The others do not keep what it misses any more: only a checkpoint helps.
    pub behind: bool,
    /// The checkpoint that it fetches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<TransferStatus>,
    /// It ran before and lost its memory.
    pub restarted: bool,
    /// It learns from the others and does not vote yet.
    pub mute: bool,
    /// Members with a session.
    pub peers_up: u32,
    /// Clients with a session.
    pub clients_up: u64,
    /// Proofs of misbehaviour seen.
    pub evidence: u64,
    /// All other members.
    pub peers: Vec<PeerStatus>,
    /// Messages dropped and connections closed, by reason; what did not occur is left out.
    pub rejects: std::collections::BTreeMap<String, u64>,
}

/// What the endpoint tells about.
#[derive(Clone)]
pub struct Subject {
    /// Which replica.
    pub id: u16,
    /// The cluster's id.
    pub cluster: u64,
    /// Who its peers are, in whatever view.
    pub views: Arc<Bulletin>,
    /// It ran before and lost its memory.
    pub restarted: bool,
    /// The numbers.
    pub metrics: Arc<Metrics>,
}

impl Subject {
    /// Does it vote like the others?
    pub fn caught_up(&self) -> bool {
        self.metrics.mute.get() == 0 && self.metrics.decided.get() > 0
    }

    /// The status now.
    pub fn status(&self) -> Status {
        let metrics = &self.metrics;
        let (up, now) = (metrics.peers_up.get(), metrics.now_ns.get());
        let notice = self.views.notice();
        let view = notice.current.view();
        let others = view.members().iter().enumerate().filter(|(_, id)| id.0 != self.id);
        let peers = others.map(|(index, id)| {
            let heard = metrics.peer_heard_ns[index].get();
            let heard_ms = (heard > 0).then(|| now.saturating_sub(heard) / 1_000_000);
            PeerStatus { id: id.0, up: up & (1 << index) != 0, heard_ms }
        });
        let messages = Reject::ALL.iter().map(|reason| (reason.name(), metrics.reject(*reason)));
        let connections = [
            ("connections_refused", metrics.connections_refused.get()),
            ("connections_evicted", metrics.connections_evicted.get()),
            ("connections_malformed", metrics.connections_malformed.get()),
        ];
        Status {
            id: self.id,
            cluster: format!("{:016x}", self.cluster),
            view: view.id().0,
            members: view.members().iter().map(|id| id.0).collect(),
            f: view.quorums().f(),
            joining: metrics.joining.get() != 0,
            next_view: notice.next.as_ref().map(|next| next.id().0),
            regency: metrics.regency.get(),
            wanted: metrics.wanted.get(),
            leader: metrics.leader.get(),
            stopped: metrics.stopped.get() != 0,
            decided: metrics.decided.get(),
            executed: metrics.executed.get(),
            requests_executed: metrics.requests_executed.get(),
            pending: metrics.pending.get(),
            requests_shed: metrics.requests_shed.get(),
            requests_busy: metrics.requests_busy.get(),
            behind: metrics.behind.get() != 0,
            transfer: transfer(metrics),
            restarted: self.restarted,
            mute: metrics.mute.get() != 0,
            peers_up: up.count_ones(),
            clients_up: metrics.clients_up.get(),
            evidence: metrics.evidence.get(),
            peers: peers.collect(),
            rejects: messages
                .chain(connections)
                .filter(|(_, count)| *count > 0)
                .map(|(reason, count)| (reason.to_owned(), count))
                .collect(),
        }
    }
}

fn transfer(metrics: &Metrics) -> Option<TransferStatus> {
    let instance = metrics.transfer_instance.get();
    (instance > 0).then(|| TransferStatus {
        instance,
        chunks: metrics.transfer_chunks.get(),
        chunks_all: metrics.transfer_chunks_all.get(),
        rate: metrics.transfer_rate.get(),
    })
}

/// Serves `GET /metrics` and `GET /status` until `stop` is set.
///
/// # Errors
/// The address is not to be had.
pub fn serve(
    address: SocketAddr,
    subject: Subject,
    stop: Arc<AtomicBool>,
) -> io::Result<JoinHandle<()>> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    std::thread::Builder::new().name("admin".into()).spawn(move || {
        while !stop.load(Ordering::Acquire) {
            match listener.accept() {
                // A client that goes away is its own affair.
                Ok((stream, _)) => drop(answer(stream, &subject)),
                Err(_) => std::thread::sleep(POLL),
            }
        }
    })
}

fn answer(mut stream: TcpStream, subject: &Subject) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    stream.set_write_timeout(Some(REQUEST_TIMEOUT))?;
    let request = read_request(&mut stream)?;
    let path = request.strip_prefix("GET ").and_then(|rest| rest.split(' ').next());
    let (code, kind, body) = match path {
        Some("/metrics") => {
            ("200 OK", "text/plain; version=0.0.4", subject.metrics.prometheus(subject.id))
        }
        Some("/status") => {
            let body = serde_json::to_string(&subject.status()).map_err(io::Error::other)?;
            ("200 OK", "application/json", body)
        }
        _ => ("404 Not Found", "text/plain", "try /metrics or /status\n".to_owned()),
    };
    write!(
        stream,
        "HTTP/1.1 {code}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()
}

/// Everything up to the empty line, within the limits of size and time.
fn read_request(stream: &mut TcpStream) -> io::Result<String> {
    let end = Instant::now() + REQUEST_TIMEOUT;
    let mut request = Vec::with_capacity(512);
    let mut part = [0; 512];
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        if request.len() > REQUEST_SIZE_MAX || Instant::now() > end {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match stream.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            size => request.extend_from_slice(&part[..size]),
        }
    }
    Ok(String::from_utf8_lossy(&request).into_owned())
}

/// Asks a replica at `address` for its status.
///
/// # Errors
/// It does not answer within `limit`, or not with a status.
pub fn fetch_status(address: &str, limit: Duration) -> io::Result<Status> {
    use std::net::ToSocketAddrs;
    let not_found = || io::Error::new(io::ErrorKind::NotFound, "the host name does not resolve");
    let address = address.to_socket_addrs()?.next().ok_or_else(not_found)?;
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream.write_all(b"GET /status HTTP/1.1\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(1 << 20).read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::Keyring;
    use crate::stage::bulletin::Herald;
    use crate::testing::TestCluster;
    use tetrarch_consensus::ReplicaId;

    fn subject() -> Subject {
        let test = TestCluster::new(4, 1, 1);
        let ring = Keyring::new(&test.cluster, ReplicaId(2), &test.replica_keys[2], None);
        let herald = Herald::new(ring.expect("good keys"), test.cluster.membership());
        let views = Arc::clone(herald.expect("good keys").bulletin());
        Subject { id: 2, cluster: 0xabc, views, restarted: false, metrics: Arc::default() }
    }

    #[test]
    fn status_and_metrics_are_served_and_garbage_is_survived() {
        let subject = subject();
        subject.metrics.peers_up.set(0b1001);
        subject.metrics.regency.set(7);
        subject.metrics.now_ns.set(5_000_000_000);
        subject.metrics.peer_heard_ns[3].set(4_990_000_000);
        let mut rejects = tetrarch_dataplane::reject::RejectCounts::new();
        rejects.add(Reject::BadTag);
        subject.metrics.set_rejects(&[&rejects]);
        let probe = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = probe.local_addr().expect("bound");
        drop(probe);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = serve(address, subject, stop.clone()).expect("the port was free");

        let mut garbage = TcpStream::connect(address).expect("served");
        garbage.write_all(&[0xff; 64]).expect("sent");
        drop(garbage);

        let status = fetch_status(&address.to_string(), Duration::from_secs(5)).expect("answer");
        assert_eq!((status.id, status.regency, status.peers_up), (2, 7, 2));
        assert_eq!((status.view, status.f, &status.members[..]), (0, 1, &[0, 1, 2, 3][..]));
        assert_eq!(status.peers[2], PeerStatus { id: 3, up: true, heard_ms: Some(10) });
        assert_eq!(status.peers[1], PeerStatus { id: 1, up: false, heard_ms: None });
        assert_eq!(status.rejects.get("bad_tag"), Some(&1));
        assert_eq!(status.rejects.len(), 1);

        let mut stream = TcpStream::connect(address).expect("served");
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("answer");
        assert!(text.contains("tetrarch_regency{replica=\"2\"} 7"), "{text}");
        stop.store(true, Ordering::Release);
        thread.join().expect("no panic");
    }
}
