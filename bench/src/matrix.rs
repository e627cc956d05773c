//! The table of README: payloads times sessions times fault model and depth, each on fresh local
//! processes.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tetrarch_dataplane::transport::choice::TransportKind;

use crate::latency::humane_us;
use crate::load::arrivals::Rate;
use crate::load::{LoadOptions, LoadResult, OpenOptions, Progress, run_rates};
use crate::local::{LocalCluster, Shape, over};
use crate::machine::Machine;
use crate::scrape::Numbers;
use crate::stages::stages;

/// What to vary.
#[derive(Clone, Debug)]
pub struct MatrixOptions {
    /// The `tetrarch` binary.
    pub tetrarch: PathBuf,
    /// Clusters.
    pub shapes: Vec<Shape>,
    /// Instances of consensus that may run at the same time.
    pub depths: Vec<u8>,
    /// Bytes of request and reply.
    pub payloads: Vec<(usize, u32)>,
    /// Sessions.
    pub sessions: Vec<u32>,
    /// Requests in flight per session.
    pub outstanding: u32,
    /// Are all requests signed?
    pub signed: bool,
    /// What moves the bytes, at the replicas and here.
    pub transport: TransportKind,
    /// Seconds of each cell.
    pub duration: Duration,
    /// Seconds before each cell.
    pub warm_up: Duration,
    /// Rates of the open loop; none for the closed loop.
    pub rates: Vec<Rate>,
    /// The open loop, but for its rate.
    pub open_loop: OpenOptions,
    /// How long a saturation is measured, where a rate is a percentage.
    pub saturation: Duration,
}

/// One cell.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// Which cluster, with its depth if that is not 1.
    pub cluster: String,
    /// The figures.
    #[serde(flatten)]
    pub result: LoadResult,
}

/// Runs all cells; `tell` hears of each as it ends.
///
/// # Errors
/// The first cell that could not be measured, or what `tell` says.
pub fn run_matrix(
    options: &MatrixOptions,
    tell: &mut dyn FnMut(&Cell) -> Result<()>,
) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    let shapes = options.shapes.iter();
    let shapes = shapes.flat_map(|shape| options.depths.iter().map(move |depth| (*shape, *depth)));
    for (shape, depth) in shapes {
        let init: Vec<String> = over(options.transport)
            .into_iter()
            .chain(["--depth".into(), depth.to_string()])
            .collect();
        for payload in &options.payloads {
            // One cluster for a row: sessions only grow.
            let cluster = LocalCluster::start_with(&options.tetrarch, shape, &init)?;
            for sessions in &options.sessions {
                let load = cell_options(options, &cluster, *payload, *sessions);
                // In a cluster without faults, the first replica leads.
                let leader = cluster.metrics()[0];
                let mut before = Numbers::read(leader)?;
                let mut tell = |mut result: LoadResult| {
                    let after = Numbers::read(leader)?;
                    result.stages = stages(&before, &after, &result);
                    before = after;
                    let cell = Cell { cluster: cluster_name(shape, depth), result };
                    tell(&cell)?;
                    cells.push(cell);
                    Ok(())
                };
                let watch = &mut |_: Progress| {};
                run_rates(&load, &options.rates, options.saturation, watch, &mut tell)?;
            }
        }
    }
    Ok(cells)
}

fn cluster_name(shape: Shape, depth: u8) -> String {
    match depth {
        1 => shape.name(),
        _ => format!("{}, depth {depth}", shape.name()),
    }
}

fn cell_options(
    options: &MatrixOptions,
    cluster: &LocalCluster,
    (request_size, reply_size): (usize, u32),
    sessions: u32,
) -> LoadOptions {
    LoadOptions {
        sessions,
        outstanding: options.outstanding,
        request_size,
        reply_size,
        duration: options.duration,
        warm_up: options.warm_up,
        open_loop: (!options.rates.is_empty()).then_some(options.open_loop),
        signed: options.signed,
        transport: Some(options.transport),
        pids: cluster.pids(),
        ..LoadOptions::new(cluster.path())
    }
}

/// The table in Markdown: throughput, then median and 99th percentile.
pub fn markdown(machine: &Machine, cells: &[Cell], sessions: &[u32]) -> String {
    let mut text = format!("Machine: {}\n\n| cluster | request/reply |", machine.line());
    for count in sessions {
        let _ = write!(text, " {count} session{} |", if *count == 1 { "" } else { "s" });
    }
    text.push_str("\n|---|---|");
    text.push_str(&"---|".repeat(sessions.len()));
    for row in cells.chunks(sessions.len()) {
        let Some(first) = row.first() else { continue };
        let (request, reply) = (first.result.request_size, first.result.reply_size);
        let _ = write!(text, "\n| {} | {request}/{reply} |", first.cluster);
        for cell in row {
            let (result, latency) = (&cell.result, &cell.result.latency);
            let (median, tail) = (humane_us(latency.p50_us), humane_us(latency.p99_us));
            let _ = write!(text, " {} /s, {median}, {tail} |", grouped(result.throughput));
        }
    }
    text.push('\n');
    text
}

/// `123,456`.
pub fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_depth_is_named_unless_it_is_one() {
        let shape = Shape { replicas: 4, crash_only: false };
        assert_eq!(cluster_name(shape, 1), "byzantine n=4");
        assert_eq!(cluster_name(shape, 8), "byzantine n=4, depth 8");
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(grouped(7.2), "7");
        assert_eq!(grouped(1234.0), "1,234");
        assert_eq!(grouped(1_234_567.0), "1,234,567");
    }
}
