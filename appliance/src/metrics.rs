//! What a node counts, and how others read it while it runs.
//!
//! Owns a fixed set of numbers. Always true: each number has one writer, a stage that stores it once
//! a turn; readers on other threads see values that are at most a turn old; nothing here allocates
//! after start. Must not: be read by the protocol.

use std::sync::atomic::{AtomicU64, Ordering};

use tetrarch_consensus::smr::ignored::{Ignored, IgnoredCounts};
use tetrarch_dataplane::reject::{Reject, RejectCounts};

use crate::trace::{Sums, Trace};

/// Buckets of the batch size histogram: 1, 2, 3-4, 5-8, .. 513-1024 requests.
pub const BATCH_BUCKETS: usize = 11;

/// Members of a view at most.
const MEMBERS: usize = tetrarch_consensus::limits::REPLICAS_MAX;

/// One number, written by one thread.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Replaces the value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds to the value. Only the one writer calls this, so nothing is lost.
    pub fn add(&self, value: u64) {
        self.set(self.get().wrapping_add(value));
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one ingress worker counts. Its writer is the worker; the network stage adds it to the node's.
#[derive(Debug)]
pub struct IngressCounts {
    requests: Number,
    queries: Number,
    signatures: Number,
    rejects: [Number; Reject::COUNT],
}

impl IngressCounts {
    /// All zero.
    pub fn new() -> Self {
        Self {
            requests: Number::default(),
            queries: Number::default(),
            signatures: Number::default(),
            rejects: std::array::from_fn(|_| Number::default()),
        }
    }

    /// Replaces all values.
    pub fn set(&self, requests: u64, queries: u64, signatures: u64, rejects: &RejectCounts) {
        self.requests.set(requests);
        self.queries.set(queries);
        self.signatures.set(signatures);
        for (reason, count) in rejects.iter() {
            self.rejects[reason as usize].set(count);
        }
    }

    /// Requests accepted, queries accepted, signatures checked.
    pub fn get(&self) -> (u64, u64, u64) {
        (self.requests.get(), self.queries.get(), self.signatures.get())
    }

    /// Adds what was dropped to `to`.
    pub fn add_rejects(&self, to: &mut RejectCounts) {
        for (reason, number) in Reject::ALL.iter().zip(&self.rejects) {
            to.add_many(*reason, number.get());
        }
    }
}

impl Default for IngressCounts {
    fn default() -> Self {
        Self::new()
    }
}

macro_rules! numbers {
    ($($(#[doc = $doc:literal])* $field:ident: $kind:literal,)*) => {
        /// Everything a node tells about itself.
        #[derive(Debug)]
        pub struct Metrics {
            $($(#[doc = $doc])* pub $field: Number,)*
            /// When the last message of each member came, ns since the UNIX epoch; by member index.
            pub peer_heard_ns: [Number; MEMBERS],
            /// Batches executed by size; see [`BATCH_BUCKETS`].
            pub batches: [Number; BATCH_BUCKETS],
            /// Messages dropped, by reason.
            pub rejects: [Number; Reject::COUNT],
            /// Messages of members that had no effect on the core, by reason.
            pub ignored: [Number; Ignored::ALL.len()],
            /// The request that is being timed.
            pub trace: Trace,
        }

        impl Metrics {
            /// All zero.
            pub fn new() -> Self {
                Self {
                    $($field: Number::default(),)*
                    peer_heard_ns: std::array::from_fn(|_| Number::default()),
                    batches: std::array::from_fn(|_| Number::default()),
                    rejects: std::array::from_fn(|_| Number::default()),
                    ignored: std::array::from_fn(|_| Number::default()),
                    trace: Trace::default(),
                }
            }

            /// Name, kind (`counter` or `gauge`), help text and value of every plain number.
            pub fn plain(&self) -> impl Iterator<Item = (&'static str, &'static str, String, u64)> {
                [$((stringify!($field), $kind, concat!($($doc),*).trim().to_owned(),
                    self.$field.get()),)*].into_iter()
            }
        }
    };
}

numbers! {
    /// Messages received and authenticated, those in bundles each.
    rx_messages: "counter",
    /// Bundles received: messages that shared a link header.
    rx_bundles: "counter",
    /// Bundles handed to the device.
    tx_bundles: "counter",
    /// Requests accepted from clients, ordered ones.
    requests: "counter",
    /// Read-only requests accepted from clients.
    queries: "counter",
    /// Messages handed to the links, broadcasts counted once a peer.
    tx_messages: "counter",
    /// Messages that a link did not take: no session, or its queue is full.
    tx_dropped: "counter",
    /// Bytes received in whole messages.
    rx_bytes: "counter",
    /// Bytes of messages handed to the device.
    tx_bytes: "counter",
    /// Connections accepted.
    connections_accepted: "counter",
    /// Connections closed as soon as they were accepted, because a limit was reached.
    connections_refused: "counter",
    /// Connections that did not prove who they are, closed to make place for newer ones.
    connections_evicted: "counter",
    /// Connections closed because their bytes were no message, or one above the limit.
    connections_malformed: "counter",
    /// Attempts to dial a member that failed.
    dials_failed: "counter",
    /// Times a connection waited because no frame was free.
    frames_exhausted: "counter",
    /// Client signatures verified.
    signatures: "counter",
    /// Instances decided: the last one's number.
    decided: "gauge",
    /// Instances executed: the last one's number.
    executed: "gauge",
    /// Requests executed.
    requests_executed: "counter",
    /// Replies sent again from the cache.
    replies_resent: "counter",
    /// Requests that there was no room for.
    requests_shed: "counter",
    /// Times that a client was to be told that there is no room.
    requests_busy: "counter",
    /// Answers not given: no frame was free, or this replica may not answer reads yet.
    replies_withheld: "counter",
    /// Notices not sent: no frame was free, or replies had taken all room.
    notices_withheld: "counter",
    /// Bytes reserved by the reply cache.
    reply_cache_size: "gauge",
    /// Installed regency.
    regency: "gauge",
    /// Regency asked for; equal to the installed one when content.
    wanted: "gauge",
    /// Leader of the installed regency.
    leader: "gauge",
    /// 1 while a regency is installed and not synchronised.
    stopped: "gauge",
    /// 1 when the others cannot send what this replica misses.
    behind: "gauge",
    /// 1 while a replica that restarted learns and does not vote.
    mute: "gauge",
    /// The view that this replica is in.
    view: "gauge",
    /// Members of that view.
    members: "gauge",
    /// Faults that it tolerates.
    faults_tolerated: "gauge",
    /// 1 while a replica waits for the view that it joins in.
    joining: "gauge",
    /// 1 while a replica has decided all of its view and is not in the next one.
    between_views: "gauge",
    /// 1 when a replica is in no later view, and nobody needs it any more.
    retired: "gauge",
    /// Requests admitted and not decided.
    pending: "gauge",
    /// Proofs of misbehaviour seen.
    evidence: "counter",
    /// Records appended to the log: the last one's number.
    log_appended: "gauge",
    /// Records on stable storage: the last one's number.
    log_durable: "gauge",
    /// Groups of records written and synced.
    log_groups: "counter",
    /// Their bytes, with padding.
    log_bytes: "counter",
    /// Time that these writes and syncs took, ns.
    log_busy_ns: "counter",
    /// Time that the slowest of them took, ns.
    log_slowest_ns: "gauge",
    /// Segment files that hold records, or are about to.
    log_segments: "gauge",
    /// The oldest decision that is kept for others.
    decisions_from: "gauge",
    /// Checkpoints made durable.
    checkpoints: "counter",
    /// Checkpoints not taken because the one before was still being written.
    checkpoints_skipped: "counter",
    /// Checkpoints that could not be written.
    checkpoints_failed: "counter",
    /// The last durable checkpoint: its instance.
    checkpoint_instance: "gauge",
    /// Bytes of its image.
    checkpoint_size: "gauge",
    /// Time that writing it took, ns.
    checkpoint_write_ns: "gauge",
    /// The longest time that a piece of taking the last one stopped execution for, ns.
    checkpoint_pause_ns: "gauge",
    /// Time that the slowest one did, ns.
    checkpoint_pause_max_ns: "gauge",
    /// Checkpoints that were found damaged when others wanted them.
    checkpoints_damaged: "counter",
    /// The checkpoint that is being fetched: its instance; 0: none is.
    transfer_instance: "gauge",
    /// Chunks of it that are here.
    transfer_chunks: "gauge",
    /// All chunks of it.
    transfer_chunks_all: "gauge",
    /// Chunks that came since this transfer was begun, or gone on with.
    transfer_fetched: "gauge",
    /// Bytes of them in a second.
    transfer_rate: "gauge",
    /// Checkpoints that were fetched and installed.
    transfers: "counter",
    /// Times that a checkpoint could not be fetched or kept.
    transfers_failed: "counter",
    /// Time that restoring the last one took, ns.
    transfer_install_ns: "gauge",
    /// Chunks of checkpoints handed to links.
    chunks_sent: "counter",
    /// Bytes of them.
    chunk_bytes_sent: "counter",
    /// Chunks that were wanted and are not here, or too many at once.
    chunks_not_sent: "counter",
    /// Bytes of frames that are free now.
    frames_free_size: "gauge",
    /// Bytes of all frames.
    frames_size: "gauge",
    /// Bytes of frames in huge pages that the system had reserved.
    frames_huge_size: "gauge",
    /// Bit i: the link to the member with index i is up.
    peers_up: "gauge",
    /// Clients with a link.
    clients_up: "gauge",
    /// Events that operators were not told because too many came.
    events_lost: "counter",
    /// Requests whose way was timed.
    trace_samples: "counter",
    /// Of these, the time from ordering to the proposal, ns.
    trace_waiting_ns: "counter",
    /// Of these, the time from the proposal until executed, ns.
    trace_agreement_ns: "counter",
    /// Of these, the time from there until the reply was handed to the device, ns.
    trace_reply_ns: "counter",
    /// Time of the last turn, ns since the UNIX epoch.
    now_ns: "gauge",
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Where the network stage adds up samples.
    pub fn trace_sums(&self) -> Sums<'_> {
        Sums {
            samples: &self.trace_samples,
            waiting: &self.trace_waiting_ns,
            agreement: &self.trace_agreement_ns,
            reply: &self.trace_reply_ns,
        }
    }

    /// Counts a batch of `requests` executed requests.
    pub fn add_batch(&self, requests: usize) {
        self.batches[bucket(requests)].add(1);
    }

    /// Publishes the sum of several owners' rejects.
    pub fn set_rejects(&self, owners: &[&RejectCounts]) {
        for reason in Reject::ALL {
            let sum =
                owners.iter().fold(0u64, |sum, counts| sum.saturating_add(counts.get(*reason)));
            self.rejects[*reason as usize].set(sum);
        }
    }

    /// Publishes what the core ignored.
    pub fn set_ignored(&self, counts: &IgnoredCounts) {
        for (number, reason) in self.ignored.iter().zip(Ignored::ALL) {
            number.set(counts.get(reason));
        }
    }

    /// How often `reason` occurred.
    pub fn reject(&self, reason: Reject) -> u64 {
        self.rejects[reason as usize].get()
    }

    /// All numbers in Prometheus' text format, labelled with the replica's id.
    pub fn prometheus(&self, replica: u16) -> String {
        use std::fmt::Write;
        let mut text = String::with_capacity(8192);
        for (name, kind, help, value) in self.plain() {
            let suffix = if kind == "counter" { "_total" } else { "" };
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "# HELP tetrarch_{name}{suffix} {help}\n# TYPE tetrarch_{name}{suffix} {kind}\n\
                 tetrarch_{name}{suffix}{{replica=\"{replica}\"}} {value}"
            );
        }
        text.push_str("# HELP tetrarch_rejects_total Messages dropped, by reason.\n");
        text.push_str("# TYPE tetrarch_rejects_total counter\n");
        for reason in Reject::ALL {
            let _ = writeln!(
                text,
                "tetrarch_rejects_total{{replica=\"{replica}\",reason=\"{}\"}} {}",
                reason.name(),
                self.reject(*reason)
            );
        }
        text.push_str(
            "# HELP tetrarch_ignored_total Messages of members without effect, by reason.\n",
        );
        text.push_str("# TYPE tetrarch_ignored_total counter\n");
        for (reason, number) in Ignored::ALL.iter().zip(&self.ignored) {
            let reason = ignored_name(*reason);
            let value = number.get();
            let _ = writeln!(
                text,
                "tetrarch_ignored_total{{replica=\"{replica}\",reason=\"{reason}\"}} {value}"
            );
        }
        text.push_str("# HELP tetrarch_batch_requests Requests executed per batch.\n");
        text.push_str("# TYPE tetrarch_batch_requests histogram\n");
        let mut sum = 0;
        for (at, number) in self.batches.iter().enumerate() {
            sum += number.get();
            let _ = writeln!(
                text,
                "tetrarch_batch_requests_bucket{{replica=\"{replica}\",le=\"{}\"}} {sum}",
                1u64 << at
            );
        }
        let _ = writeln!(
            text,
            "tetrarch_batch_requests_bucket{{replica=\"{replica}\",le=\"+Inf\"}} {sum}\n\
             tetrarch_batch_requests_sum{{replica=\"{replica}\"}} {}\n\
             tetrarch_batch_requests_count{{replica=\"{replica}\"}} {sum}",
            self.requests_executed.get()
        );
        text
    }
}

/// In snake case, for labels. Never changes once released.
fn ignored_name(reason: Ignored) -> &'static str {
    match reason {
        Ignored::NotMember => "not_member",
        Ignored::OtherView => "other_view",
        Ignored::Stale => "stale",
        Ignored::NotLeader => "not_leader",
        Ignored::Contradiction => "contradiction",
        Ignored::Invalid => "invalid",
        Ignored::NotNeeded => "not_needed",
    }
}

/// The smallest power of two that holds `requests`, as its exponent.
fn bucket(requests: usize) -> usize {
    let exponent = requests.max(1).next_power_of_two().trailing_zeros() as usize;
    exponent.min(BATCH_BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_counted_in_the_bucket_that_holds_it() {
        let places: Vec<_> = [0, 1, 2, 3, 4, 5, 512, 513, 1024, 4096].map(bucket).into();
        assert_eq!(places, [0, 0, 1, 2, 2, 3, 9, 10, 10, 10]);
    }

    #[test]
    fn the_text_is_prometheus() {
        let metrics = Metrics::new();
        metrics.requests.add(3);
        metrics.requests.add(4);
        metrics.add_batch(3);
        metrics.requests_executed.set(3);
        let mut rejects = RejectCounts::new();
        rejects.add(Reject::BadTag);
        metrics.set_rejects(&[&rejects, &rejects]);
        let text = metrics.prometheus(2);
        for line in [
            "tetrarch_requests_total{replica=\"2\"} 7",
            "# TYPE tetrarch_regency gauge",
            "tetrarch_rejects_total{replica=\"2\",reason=\"bad_tag\"} 2",
            "tetrarch_batch_requests_bucket{replica=\"2\",le=\"2\"} 0",
            "tetrarch_batch_requests_bucket{replica=\"2\",le=\"4\"} 1",
            "tetrarch_batch_requests_bucket{replica=\"2\",le=\"+Inf\"} 1",
            "tetrarch_batch_requests_sum{replica=\"2\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').expect("name value");
            assert!(name.starts_with("tetrarch_") && value.parse::<u64>().is_ok(), "{line}");
        }
    }
}
