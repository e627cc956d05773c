//! What came of a load.

use serde::Serialize;

use super::arrivals::Arrivals;
use super::series::Second;
use crate::cpu::Usage;
use crate::latency::LatencySummary;

/// What came of a load. The open loop's fields are absent in the closed loop.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LoadResult {
    /// Sessions.
    pub sessions: u32,
    /// Requests in flight per session at most.
    pub outstanding: u32,
    /// Bytes of each operation.
    pub request_size: usize,
    /// Bytes of each result.
    pub reply_size: u32,
    /// `ordered` or `read-only`.
    pub mode: &'static str,
    /// Were all requests signed?
    pub signed: bool,
    /// Seconds measured.
    pub seconds: f64,
    /// Requests answered while measuring.
    pub requests: u64,
    /// Requests refused by the cluster, forgotten, or never answered.
    pub errors: u64,
    /// Requests sent again.
    pub retransmitted: u64,
    /// Times that a replica said that it had no room for a request.
    pub busy: u64,
    /// Times that enough replicas said so for a session to halve what it has in flight.
    pub held_back: u64,
    /// Requests answered per second.
    pub throughput: f64,
    /// From the intended start to the result.
    pub latency: LatencySummary,
    /// The same as a curve: percentile and microseconds.
    pub latency_curve: Vec<(f64, f64)>,
    /// Processor seconds of this process per second.
    pub client_cpu: Usage,
    /// Processor seconds per second of each replica named by `pids`.
    pub replica_cpu: Vec<Usage>,
    /// Processor seconds per second of everything on the machine, these included: what is more than
    /// their sum, others took.
    pub machine_cpu: f64,
    /// Memory of each replica named by `pids`.
    pub replica_memory: Vec<Resident>,
    /// Memory of this process.
    pub client_memory: Resident,
    /// Where the time of a request goes, by samples of the leader; with nothing else running there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageTime>,
    /// What the client sent and received in the whole run, with warm-up and end.
    pub client_traffic: Traffic,
    /// What each second saw.
    pub series: Vec<Second>,
    /// The open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_loop: Option<OpenLoop>,
}

/// What a client moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Traffic {
    /// Requests that ended.
    pub requests: u64,
    /// Messages sent.
    pub messages_out: u64,
    /// Messages received.
    pub messages_in: u64,
    /// Bytes sent, headers included.
    pub bytes_out: u64,
    /// Bytes received, headers included.
    pub bytes_in: u64,
}

/// A part of a request's time.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct StageTime {
    /// Which.
    pub name: &'static str,
    /// Its mean, microseconds.
    pub mean_us: f64,
}

/// Resident memory of a process, MiB.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Resident {
    /// When measuring began.
    pub before_mib: f64,
    /// When it ended.
    pub after_mib: f64,
}

/// What only the open loop has to say.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct OpenLoop {
    /// Requests per second asked for.
    pub rate: f64,
    /// The same in percent of the saturation that was measured just before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    /// Pauses between requests.
    pub arrivals: Arrivals,
    /// Requests whose time came while measuring. Each was answered, refused here, or is an error.
    pub offered: u64,
    /// Of these, those that found no free session at once and waited for one.
    pub waited: u64,
    /// Of these, those that found the generator's queue full and were never sent.
    pub refused: u64,
    /// Of these, those answered later than `late_ms` after their intended start.
    pub late: u64,
    /// See `late`.
    pub late_ms: u64,
    /// Of these, those answered only after measuring ended.
    pub after_end: u64,
}
