//! How far each protocol figure is from what the floors of the machine allow, and what binds it.
//!
//! The model (docs/BENCHMARKS.md has it in words): a request costs processor time for each message
//! and byte on a link, for proving who the client is, for digests inside batches, for copies and for
//! rings. How many messages and bytes there are is not modelled but read from the replicas' and the
//! client's own counters; what each costs is its floor. Processor time that was used and is not in
//! the sum is the protocol's own work and scheduling, and is printed as what it is: the remainder.

use serde::Serialize;
use tetrarch_consensus::batch::REQUEST_HEADER_SIZE;
use tetrarch_consensus::message::reply::REPLY_HEADER_SIZE;

use crate::floors::Floors;
use crate::load::LoadResult;
use crate::scrape::Numbers;
use crate::wire::Wire;

/// One-way hops of an unloaded request: request, PROPOSE, WRITE, ACCEPT, reply.
pub const HOPS: f64 = 5.0;

/// A processor that is busy for more than this is what others wait for.
const BUSY: f64 = 0.9;

/// What moved per request, over all links of the cluster.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct PerRequest {
    /// Messages, each counted where it arrives.
    pub messages: f64,
    /// Their bytes, headers included.
    pub bytes: f64,
    /// Requests per batch.
    pub batch: f64,
}

impl PerRequest {
    /// From the numbers of all replicas, fresh before the load, and what the client counted.
    pub fn of(replicas: &[Numbers], result: &LoadResult) -> Self {
        let sum = |name: &str| replicas.iter().map(|numbers| numbers.get(name)).sum::<f64>();
        let most = |name: &str| {
            replicas.iter().map(|numbers| numbers.get(name)).fold(0.0, f64::max).max(1.0)
        };
        let (requests, client) = (most("requests_executed"), &result.client_traffic);
        Self {
            messages: (sum("rx_messages") + client.messages_in as f64) / requests,
            bytes: (sum("rx_bytes") + client.bytes_in as f64) / requests,
            batch: requests / most("decided"),
        }
    }
}

/// A part of a request's cost.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Term {
    /// What it is.
    pub name: &'static str,
    /// Processor time per request, all processes together, nanoseconds.
    pub ns: f64,
    /// How it is made up.
    pub how: String,
}

/// A protocol figure beside its floor.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Figure {
    /// What was run.
    pub name: String,
    /// Requests per second that were measured.
    pub throughput: f64,
    /// Median latency that was measured, microseconds.
    pub p50_us: f64,
    /// What moved.
    pub per_request: PerRequest,
    /// The floor's parts.
    pub terms: Vec<Term>,
    /// Their sum, nanoseconds of processor time per request.
    pub floor_ns: f64,
    /// What was used, nanoseconds of processor time per request.
    pub used_ns: f64,
    /// Of that, in the kernel.
    pub system_ns: f64,
    /// What processes took that have no part in it, nanoseconds per request. They should not.
    pub others_ns: f64,
    /// What the processors had left, nanoseconds per request.
    pub idle_ns: f64,
    /// Requests per second if the processors did nothing but the floor's parts.
    pub allowed_per_s: f64,
    /// The latency of [`HOPS`] hops over an idle link, microseconds.
    pub hops_us: f64,
    /// Does the latency matter here, or the throughput?
    pub unloaded: bool,
    /// What to make faster to make the figure better.
    pub binds: String,
    /// Of replicas that keep logs.
    pub log: Option<LogUse>,
}

/// What went to the disk, beside what it takes at most.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct LogUse {
    /// Bytes of a group of records in the mean.
    pub group: f64,
    /// Bytes per request, all logs together.
    pub bytes: f64,
    /// Requests per second if the disk did nothing but write groups of this size for so many logs.
    pub allowed_per_s: f64,
    /// Throughput of the same load without logs.
    pub volatile_per_s: f64,
}

impl LogUse {
    /// From the numbers of all replicas, fresh before the load.
    fn of(run: &Run<'_>, floors: &Floors, volatile_per_s: f64) -> Self {
        let sum = |name: &str| run.numbers.iter().map(|numbers| numbers.get(name)).sum::<f64>();
        let requests = run.numbers.iter().map(|numbers| numbers.get("requests_executed"));
        let bytes = sum("log_bytes") / requests.fold(1.0, f64::max);
        let group = sum("log_bytes") / sum("log_groups").max(1.0);
        let disk = floors.disk.bytes_per_s(usize::from(run.replicas), group);
        Self { group, bytes, allowed_per_s: disk / bytes.max(1e-9), volatile_per_s }
    }
}

/// What was run, as far as the model needs it.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// For people.
    pub name: &'a str,
    /// The transport between all.
    pub wire: Wire,
    /// Replicas.
    pub replicas: u16,
    /// Processors that all share.
    pub cores: usize,
    /// The load's result.
    pub result: &'a LoadResult,
    /// The replicas' numbers after it, from fresh processes.
    pub numbers: &'a [Numbers],
    /// Of replicas that keep logs: the throughput of the same load without.
    pub volatile_per_s: Option<f64>,
}

/// Compares a run with the floors.
pub fn figure(run: &Run<'_>, floors: &Floors) -> Figure {
    let result = run.result;
    let per_request = PerRequest::of(run.numbers, result);
    let terms = terms(run, &per_request, floors);
    let floor_ns: f64 = terms.iter().map(|term| term.ns).sum();
    let cpu = result.replica_cpu.iter().chain([&result.client_cpu]);
    let (used, system) =
        cpu.fold((0.0, 0.0), |(used, system), cpu| (used + cpu.total(), system + cpu.system));
    let per = |cores: f64| cores / result.throughput.max(1e-9) * 1e9;
    let mut figure = Figure {
        name: run.name.to_string(),
        throughput: result.throughput,
        p50_us: result.latency.p50_us,
        per_request,
        terms,
        floor_ns,
        used_ns: per(used),
        system_ns: per(system),
        others_ns: per((result.machine_cpu - used).max(0.0)),
        idle_ns: per((run.cores as f64 - result.machine_cpu.max(used)).max(0.0)),
        allowed_per_s: run.cores as f64 * 1e9 / floor_ns.max(1e-9),
        hops_us: floors.link(run.wire).map_or(0.0, |link| HOPS * link.one_way_us),
        unloaded: result.sessions == 1 && result.outstanding == 1,
        binds: String::new(),
        log: run.volatile_per_s.map(|per_s| LogUse::of(run, floors, per_s)),
    };
    figure.binds = binds(&figure, run, floors);
    figure
}

fn terms(run: &Run<'_>, moved: &PerRequest, floors: &Floors) -> Vec<Term> {
    let (result, n) = (run.result, f64::from(run.replicas));
    let request = (REQUEST_HEADER_SIZE + result.request_size) as f64;
    let reply = (REPLY_HEADER_SIZE + result.reply_size as usize) as f64;
    let link = floors.link(run.wire);
    let auth = &floors.auth;
    let digest = floors.digest_ns(request);
    let pass = floors.system.ring_pass_ns;
    let copied = request + n * reply;
    let client = if result.signed {
        Term {
            name: "client signatures",
            ns: auth.sign_ns + n * auth.verify_batch_ns,
            how: format!(
                "1 made ({:.0} ns), {n} checked in batches ({:.0} ns)",
                auth.sign_ns, auth.verify_batch_ns
            ),
        }
    } else {
        Term {
            name: "client MACs",
            ns: 2.0 * n * auth.client_tag_ns,
            how: format!("{n} made, {n} checked, {:.0} ns each", auth.client_tag_ns),
        }
    };
    vec![
        Term {
            name: "moving messages",
            ns: link.map_or(0.0, |link| link.cost_ns(moved.messages, moved.bytes)),
            how: format!(
                "{:.1} messages at {:.0} ns, {:.0} B at {:.2} ns: kernel, framing, link MAC, digest",
                moved.messages,
                link.map_or(0.0, |link| link.message_ns),
                moved.bytes,
                link.map_or(0.0, |link| link.byte_ns),
            ),
        },
        client,
        Term {
            name: "digests in batches",
            ns: (n - 1.0) * digest,
            how: format!("{} followers, {request:.0} B at {digest:.0} ns", n - 1.0),
        },
        Term {
            name: "copies",
            ns: copied / floors.system.copy_cached_bytes_per_s.max(1.0) * 1e9,
            how: format!("{copied:.0} B: into the batch, into reply caches"),
        },
        Term {
            name: "rings",
            ns: 2.0 * n * pass,
            how: format!("request and reply in {n} replicas, {pass:.1} ns each"),
        },
    ]
}

impl Figure {
    /// Processor time that was used and that no floor explains, nanoseconds per request.
    pub fn remainder_ns(&self) -> f64 {
        self.used_ns - self.floor_ns
    }

    /// What was measured in times of the floor: 1 is as good as it gets.
    pub fn times_floor(&self) -> f64 {
        if self.unloaded {
            self.p50_us / self.hops_us.max(1e-9)
        } else {
            self.allowed_per_s / self.throughput.max(1e-9)
        }
    }
}

fn binds(figure: &Figure, run: &Run<'_>, floors: &Floors) -> String {
    if figure.unloaded {
        return unloaded_binds(
            figure,
            floors.link(run.wire).map_or(0.0, |l| l.one_way_spinning_us),
        );
    }
    let remainder = figure.remainder_ns().max(0.0);
    let own = Term {
        name: "the remainder: protocol, clients, scheduling",
        ns: remainder,
        how: String::new(),
    };
    let largest = figure.terms.iter().chain([&own]).max_by(|a, b| a.ns.total_cmp(&b.ns));
    let share = |ns: f64| 100.0 * ns / figure.used_ns.max(1e-9);
    let largest = largest.map_or(String::new(), |term| {
        format!("{} ({:.0} % of the time used)", term.name, share(term.ns))
    });
    let all = (figure.used_ns + figure.others_ns + figure.idle_ns).max(1e-9);
    if figure.others_ns / all > 1.0 - BUSY {
        let taken = 100.0 * figure.others_ns / all;
        return format!(
            "other processes: they took {taken:.0} % of the processors, so this figure says little"
        );
    }
    if figure.idle_ns / all <= 1.0 - BUSY {
        return format!("processors, by {largest}");
    }
    let result = run.result;
    let replicas = result.replica_cpu.iter().enumerate();
    let busiest = replicas
        .map(|(id, cpu)| (format!("replica {id}"), cpu.total()))
        .chain([("the load generator".into(), result.client_cpu.total())])
        .max_by(|a, b| a.1.total_cmp(&b.1));
    match busiest {
        Some((who, cpu)) if cpu >= BUSY => format!("the one thread of {who}, by {largest}"),
        _ => format!(
            "waiting: processors are idle for {:.0} % of the time; more requests in flight would \
             use them",
            100.0 * figure.idle_ns / all
        ),
    }
}

fn unloaded_binds(figure: &Figure, spinning_us: f64) -> String {
    let wake_ups = figure.hops_us - HOPS * spinning_us;
    let own = figure.p50_us - figure.hops_us;
    if wake_ups > figure.hops_us / 2.0 && wake_ups > own {
        format!("waking sleeping threads: {wake_ups:.0} us of {HOPS} hops go when both sides spin")
    } else if own > figure.hops_us {
        "the work of replicas and client between the hops".into()
    } else {
        "the kernel's way over loopback".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Usage;
    use crate::floors::crypto::{AuthFloor, HashFloor};
    use crate::floors::disk::{DiskFloor, DiskFloors};
    use crate::floors::links::LinkFloor;
    use crate::floors::system::SystemFloor;
    use crate::load::Traffic;
    use tetrarch_appliance::metrics::Metrics;

    fn floors() -> Floors {
        let hash = |size, burst_ns| HashFloor { size, burst_ns, ..HashFloor::default() };
        Floors {
            links: vec![LinkFloor {
                wire: Wire::Tcp,
                one_way_us: 40.0,
                one_way_spinning_us: 5.0,
                message_ns: 200.0,
                byte_ns: 0.5,
            }],
            hashes: vec![hash(64, 10.0), hash(1024, 100.0)],
            long_hash_ns_per_byte: 0.25,
            auth: AuthFloor {
                client_tag_ns: 50.0,
                sign_ns: 9000.0,
                verify_batch_ns: 10_000.0,
                ..AuthFloor::default()
            },
            disk: DiskFloors {
                rows: vec![DiskFloor {
                    writers: 4,
                    size: 65_536,
                    writes_per_s: 1000.0,
                    bytes_per_s: 65_536_000.0,
                    ..DiskFloor::default()
                }],
                ..DiskFloors::default()
            },
            system: SystemFloor {
                copy_cached_bytes_per_s: 1e10,
                ring_pass_ns: 5.0,
                ..SystemFloor::default()
            },
        }
    }

    fn numbers() -> Vec<Numbers> {
        let metrics = Metrics::new();
        metrics.requests_executed.set(1000);
        metrics.decided.set(10);
        metrics.rx_messages.set(1200);
        metrics.rx_bytes.set(200_000);
        vec![Numbers::parse(&metrics.prometheus(0)); 4]
    }

    fn result() -> LoadResult {
        let half = Usage { user: 0.3, system: 0.1 };
        LoadResult {
            sessions: 100,
            outstanding: 1,
            throughput: 100_000.0,
            client_cpu: half,
            replica_cpu: vec![half; 4],
            machine_cpu: 2.0,
            client_traffic: Traffic { messages_in: 4000, bytes_in: 600_000, ..Traffic::default() },
            ..LoadResult::default()
        }
    }

    #[test]
    fn the_terms_are_what_was_counted_times_what_it_costs() {
        let (floors, numbers, result) = (floors(), numbers(), result());
        let run = Run {
            name: "0/0",
            wire: Wire::Tcp,
            replicas: 4,
            cores: 2,
            result: &result,
            numbers: &numbers,
            volatile_per_s: None,
        };
        let figure = figure(&run, &floors);
        assert_eq!(figure.per_request, PerRequest { messages: 8.8, bytes: 1400.0, batch: 100.0 });
        let costs: Vec<_> = figure.terms.iter().map(|term| term.ns.round()).collect();
        // 8.8 * 200 + 1400 * 0.5; 8 * 50; 3 * 10; (32 + 4 * 32) / 10 per ns; 8 * 5.
        assert_eq!(costs, [2460.0, 400.0, 30.0, 16.0, 40.0]);
        assert!((figure.used_ns - 20_000.0).abs() < 1.0 && figure.idle_ns < 1.0, "{figure:?}");
        assert!((figure.remainder_ns() - (20_000.0 - 2946.0)).abs() < 1.0);
        assert!((figure.times_floor() - 2e9 / 2946.0 / 100_000.0).abs() < 1e-6);
        assert!(figure.binds.contains("remainder"), "{}", figure.binds);
    }

    #[test]
    fn a_log_is_compared_with_the_disk_and_with_no_log() {
        let (floors, result) = (floors(), result());
        let metrics = Metrics::new();
        metrics.requests_executed.set(1000);
        metrics.log_bytes.set(50 * 65_536);
        metrics.log_groups.set(50);
        let numbers = vec![Numbers::parse(&metrics.prometheus(0)); 4];
        let run = Run {
            name: "durable",
            wire: Wire::Tcp,
            replicas: 4,
            cores: 2,
            result: &result,
            numbers: &numbers,
            volatile_per_s: Some(125_000.0),
        };
        let log = figure(&run, &floors).log.expect("they keep logs");
        assert_eq!((log.group, log.volatile_per_s), (65_536.0, 125_000.0));
        // 200 groups per 1000 requests, of which the disk takes 1000 per second.
        assert!((log.allowed_per_s - 5000.0).abs() < 1e-6, "{log:?}");
    }

    #[test]
    fn what_binds_is_named() {
        let (floors, numbers) = (floors(), numbers());
        let figure_of = |result: &LoadResult| {
            let run = Run {
                name: "x",
                wire: Wire::Tcp,
                replicas: 4,
                cores: 2,
                result,
                numbers: &numbers,
                volatile_per_s: None,
            };
            figure(&run, &floors)
        };
        let signed = LoadResult { signed: true, throughput: 35_000.0, ..result() };
        let binds = figure_of(&signed).binds;
        assert!(binds.contains("client signatures"), "{binds}");
        let idle = Usage { user: 0.1, system: 0.0 };
        let waits = LoadResult {
            replica_cpu: vec![idle; 4],
            client_cpu: idle,
            machine_cpu: 0.6,
            ..result()
        };
        let disturbed = LoadResult { machine_cpu: 1.5, ..waits.clone() };
        assert!(figure_of(&disturbed).binds.contains("other processes"));
        assert!(figure_of(&waits).binds.contains("waiting"));
        let one = Usage { user: 0.97, system: 0.0 };
        let leader = LoadResult {
            replica_cpu: vec![one, idle, idle, idle],
            machine_cpu: 1.4,
            ..waits.clone()
        };
        assert!(figure_of(&leader).binds.contains("thread of replica 0"));
        let alone = LoadResult { sessions: 1, throughput: 3000.0, ..result() };
        let alone = LoadResult {
            latency: crate::latency::LatencySummary { p50_us: 300.0, ..Default::default() },
            ..alone
        };
        let figure = figure_of(&alone);
        assert!(figure.binds.contains("sleeping"), "{}", figure.binds);
        assert_eq!(figure.times_floor(), 1.5);
    }
}
