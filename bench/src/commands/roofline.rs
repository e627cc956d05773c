//! `tetrarch-bench roofline` and `tetrarch-bench hash`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tetrarch_bench::floors::Floors;
use tetrarch_bench::floors::crypto::{HashFloor, SetFloor, hashes, hashes_of_older_sets};
use tetrarch_bench::floors::disk::{DiskFloor, DiskFloors};
use tetrarch_bench::latency::humane_us;
use tetrarch_bench::load::{self, LoadOptions};
use tetrarch_bench::local::{LocalCluster, Shape, over, tetrarch_binary};
use tetrarch_bench::machine::Machine;
use tetrarch_bench::matrix::grouped;
use tetrarch_bench::roofline::{Figure, Run, figure};
use tetrarch_bench::scrape::Numbers;
use tetrarch_bench::wire::Wire;
use tetrarch_dataplane::transport::choice::TransportKind;

use super::{print_json, seconds};

/// Options of `roofline`.
#[derive(Args, Debug)]
pub struct RooflineArgs {
    /// The `tetrarch` binary [default: the one beside this program]
    #[arg(long)]
    tetrarch: Option<PathBuf>,
    /// Sessions of the saturated runs
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..=65536))]
    sessions: u32,
    /// Seconds of each protocol run
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    duration: f64,
    /// Round trips of each link
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u64).range(10..))]
    round_trips: u64,
    /// Only the floors, without a cluster
    #[arg(long)]
    floors_only: bool,
    /// One JSON line instead of tables
    #[arg(long)]
    json: bool,
}

/// Options of `hash`.
#[derive(Args, Debug)]
pub struct HashArgs {
    /// One JSON line instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Roofline {
    floors: Floors,
    figures: Vec<Figure>,
}

#[derive(Serialize)]
struct Hashes {
    hashes: Vec<HashFloor>,
    older: Vec<SetFloor>,
}

/// Runs `hash`.
///
/// # Errors
/// What keeps it from printing.
pub fn run_hash(args: &HashArgs) -> Result<()> {
    let machine = Machine::read();
    let (hashes, older) = (hashes(), hashes_of_older_sets());
    if args.json {
        return print_json("hash", &machine, &Hashes { hashes, older });
    }
    println!("{}", machine.line());
    print_hashes("", &hashes);
    for set in &older {
        print_hashes(&format!(" with {} only", set.instructions), &set.hashes);
    }
    Ok(())
}

/// Runs `roofline`.
///
/// # Errors
/// What keeps it from measuring.
pub fn run(args: &RooflineArgs) -> Result<()> {
    let machine = Machine::read();
    let floors = Floors::measure(args.round_trips, &mut |what| eprintln!("measuring {what}"))?;
    let figures = if args.floors_only { Vec::new() } else { figures(args, &machine, &floors)? };
    if args.json {
        return print_json("roofline", &machine, &Roofline { floors, figures });
    }
    println!("{}", machine.line());
    print_floors(&floors);
    for figure in &figures {
        print_figure(figure);
    }
    Ok(())
}

/// What is special about a run.
#[derive(Clone, Copy)]
struct Kind {
    /// Each request is signed.
    signed: bool,
    /// Replicas keep logs.
    durable: bool,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let durable = if self.durable { " durable" } else { "" };
        let signed = if self.signed { ", signed" } else { "" };
        write!(f, "{durable}{signed}")
    }
}

fn figures(args: &RooflineArgs, machine: &Machine, floors: &Floors) -> Result<Vec<Figure>> {
    let tetrarch = tetrarch_binary(args.tetrarch.as_deref())?;
    let shape = Shape { replicas: 4, crash_only: false };
    let plain = Kind { signed: false, durable: false };
    let durable = Kind { durable: true, ..plain };
    // What is durable comes directly after the same without a log.
    let runs = [
        (1, 0, plain),
        (args.sessions, 0, plain),
        (args.sessions, 0, durable),
        (args.sessions, 1024, plain),
        (args.sessions, 1024, durable),
        (args.sessions, 0, Kind { signed: true, ..plain }),
    ];
    // What `transport = "auto"` takes, by name: the floors are compared with it.
    let (wire, transport) = match floors.link(Wire::IoUring) {
        Some(_) => (Wire::IoUring, TransportKind::IoUring),
        None => (Wire::Tcp, TransportKind::Tcp),
    };
    let mut figures: Vec<Figure> = Vec::new();
    for (sessions, size, kind) in runs {
        let name = format!("{} {size}/{size}{kind}, {sessions} in flight", shape.name());
        eprintln!("measuring {name}");
        let mut init = over(transport).to_vec();
        init.extend(kind.durable.then(|| "--durable".to_owned()));
        let cluster = LocalCluster::start_with(&tetrarch, shape, &init)?;
        let options = LoadOptions {
            sessions,
            request_size: size as usize,
            reply_size: size,
            duration: Duration::from_secs_f64(args.duration),
            signed: kind.signed,
            transport: Some(transport),
            pids: cluster.pids(),
            ..LoadOptions::new(cluster.path())
        };
        let result = load::run(&options, &mut |_| {})?;
        let numbers: Vec<_> =
            cluster.metrics().into_iter().map(Numbers::read).collect::<Result<_>>()?;
        let run = Run {
            name: &name,
            wire,
            replicas: shape.replicas,
            cores: machine.cores,
            result: &result,
            numbers: &numbers,
            volatile_per_s: figures.last().filter(|_| kind.durable).map(|figure| figure.throughput),
        };
        figures.push(figure(&run, floors));
    }
    Ok(figures)
}

fn row(name: &str, value: String) {
    println!("  {name:<44} {value:>16}");
}

fn print_floors(floors: &Floors) {
    println!("\nFloors");
    for link in &floors.links {
        let name = link.wire.name();
        row(&format!("{name} link, one way, sleeping"), humane_us(link.one_way_us));
        row(&format!("{name} link, one way, spinning"), humane_us(link.one_way_spinning_us));
        row(&format!("{name} link, a message of a burst of 64"), ns(link.message_ns));
        row(&format!("{name} link, each byte of it"), format!("{:.3} ns", link.byte_ns));
    }
    let system = &floors.system;
    row("loopback TCP", bytes(system.loopback_bytes_per_s));
    row("ring, from core to core", ns(system.ring_hop_ns));
    row("ring, on one core", ns(system.ring_pass_ns));
    row("copy, memory", bytes(system.copy_bytes_per_s));
    row("copy, cache", bytes(system.copy_cached_bytes_per_s));
    row("clock", ns(system.clock_ns));
    let auth = &floors.auth;
    row("link MAC of a header", ns(auth.link_tag_ns));
    row("client MAC for one replica", ns(auth.client_tag_ns));
    row("Ed25519 signature made", ns(auth.sign_ns));
    row("Ed25519 signature checked", ns(auth.verify_ns));
    row("Ed25519 signature checked in a batch of 64", ns(auth.verify_batch_ns));
    row("digest of a long body, each byte", format!("{:.3} ns", floors.long_hash_ns_per_byte));
    print_hashes("", &floors.hashes);
    print_disk(&floors.disk);
}

fn print_disk(disk: &DiskFloors) {
    println!("\nDurable writes in {} ({})", disk.place, disk.access);
    for DiskFloor { writers, size, writes_per_s, bytes_per_s, p50_us, p99_us } in &disk.rows {
        println!(
            "  {writers} at a time, {:>4} KiB each {:>8} /s {:>10}   median {}, 99 % {}",
            size / 1024,
            grouped(*writes_per_s),
            bytes(*bytes_per_s),
            humane_us(*p50_us),
            humane_us(*p99_us),
        );
    }
}

fn print_hashes(with: &str, hashes: &[HashFloor]) {
    println!(
        "\nDigests{with}, one by one and in a burst of 64 (ratio of interleaved rounds: median, middle half)"
    );
    for hash in hashes {
        let wanted = hash.wanted.map_or(String::new(), |wanted| {
            let met = if hash.ratio.median >= wanted { "met" } else { "NOT MET" };
            format!("; wanted {wanted}: {met}")
        });
        println!(
            "  {:>5} B  {:>9} alone {:>9} of a burst   {:.1} times ({:.1} to {:.1}){wanted}",
            hash.size,
            ns(hash.single_ns),
            ns(hash.burst_ns),
            hash.ratio.median,
            hash.ratio.low,
            hash.ratio.high,
        );
    }
}

fn print_figure(figure: &Figure) {
    println!("\n{}", figure.name);
    if figure.unloaded {
        println!(
            "  median {}; five hops {}: {:.2} times the floor",
            humane_us(figure.p50_us),
            humane_us(figure.hops_us),
            figure.times_floor()
        );
    } else {
        println!(
            "  {} /s; the floors allow {} /s: {:.2} times the floor; {:.0} requests a batch",
            grouped(figure.throughput),
            grouped(figure.allowed_per_s),
            figure.times_floor(),
            figure.per_request.batch,
        );
    }
    if let Some(log) = &figure.log {
        println!(
            "  {:.0} % of the same without a log ({} /s); the disk allows {} /s: {:.0} KiB a group, {:.0} B a request",
            100.0 * figure.throughput / log.volatile_per_s.max(1e-9),
            grouped(log.volatile_per_s),
            grouped(log.allowed_per_s),
            log.group / 1024.0,
            log.bytes,
        );
    }
    println!("  binds: {}", figure.binds);
    println!("  processor time per request, all processes together:");
    let all = (figure.used_ns + figure.others_ns + figure.idle_ns).max(1e-9);
    let share = |ns: f64| 100.0 * ns / all;
    let line = |name: &str, cost: f64, how: &str| {
        println!("    {name:<20} {:>10} {:>4.0} %  {how}", ns(cost), share(cost));
    };
    for term in &figure.terms {
        line(term.name, term.ns, &term.how);
    }
    let how = "used and in no floor: protocol, the client's core, scheduling";
    line("remainder", figure.remainder_ns(), how);
    line("used", figure.used_ns, &format!("of it {} in the kernel", ns(figure.system_ns)));
    line("others", figure.others_ns, "processes that have no part in it");
    line("idle", figure.idle_ns, "");
}

/// Nanoseconds with the unit that fits.
fn ns(ns: f64) -> String {
    if ns.abs() >= 10_000.0 { humane_us(ns / 1000.0) } else { format!("{ns:.1} ns") }
}

fn bytes(per_second: f64) -> String {
    format!("{:.2} GB/s", per_second / 1e9)
}
