//! Which curves are drawn from which results.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Line;
use super::svg::{Axis, Bars, COLOURS, Curve, Plot, Scale, Unit};

const LATENCY: Axis = Axis { label: "latency", scale: Scale::Log, unit: Unit::Time };
const THROUGHPUT: Axis =
    Axis { label: "requests per second", scale: Scale::Linear, unit: Unit::Count };
const SECONDS: Axis =
    Axis { label: "seconds since measuring began", scale: Scale::Linear, unit: Unit::Count };

/// Seconds that a run needs for its course to be drawn.
const SERIES_MIN: usize = 8;

/// Lines of one group, in the order in which groups appear.
fn grouped<'a>(lines: &[&'a Line], key: impl Fn(&Line) -> String) -> Vec<(String, Vec<&'a Line>)> {
    let mut places = BTreeMap::new();
    let mut groups: Vec<(String, Vec<&Line>)> = Vec::new();
    for line in lines {
        let name = key(line);
        let place = *places.entry(name.clone()).or_insert_with(|| {
            groups.push((name, Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(line);
    }
    groups
}

/// One plot for each payload.
pub fn latency_by_throughput(loads: &[&Line]) -> String {
    let plots = grouped(loads, |line| line.payload()).into_iter().map(|(payload, lines)| {
        let key = |line: &Line| {
            format!("{}{}", line.subject(), if line.is_open() { ", open loop" } else { "" })
        };
        let mut curves = Vec::new();
        for (at, (name, mut lines)) in grouped(&lines, key).into_iter().enumerate() {
            lines.sort_by(|a, b| load_order(a).total_cmp(&load_order(b)));
            for (path, what, dashed) in
                [("latency.p50_us", "median", false), ("latency.p99_us", "p99", true)]
            {
                let point = |line: &&Line| Some((line.number("throughput")?, line.number(path)?));
                let points: Vec<_> = lines.iter().filter_map(point).collect();
                let name = format!("{name}: {what}");
                curves.push(Curve { name, points, colour: at, dashed, dots: true });
            }
        }
        let title = format!("{payload} B: latency against throughput");
        Plot { title, x: THROUGHPUT, y: LATENCY, curves, marks: Vec::new() }
    });
    plots.filter(|plot| !plot.curves.is_empty()).map(|plot| plot.html()).collect()
}

/// More of it, further along the line.
fn load_order(line: &Line) -> f64 {
    let in_flight =
        line.number("sessions").unwrap_or(0.0) * line.number("outstanding").unwrap_or(1.0);
    line.number("open_loop.rate").unwrap_or(in_flight)
}

/// One plot for each subject and payload, of the runs with the most to say about the tail.
pub fn percentiles(loads: &[&Line]) -> String {
    let key = |line: &Line| format!("{}, {} B", line.subject(), line.payload());
    let mut html = String::new();
    for (name, lines) in grouped(loads, key) {
        let mut told = lines.clone();
        told.retain(|line| !line.list("latency_curve").is_empty());
        // Stable: only those of the open loop come first, for they tell of waiting as well.
        told.sort_by_key(|line| !line.is_open());
        let curves: Vec<_> = told
            .iter()
            .take(COLOURS)
            .enumerate()
            .map(|(at, line)| Curve {
                name: line.load(),
                points: tail_points(line),
                colour: at,
                dashed: !line.is_open() && lines.iter().any(|line| line.is_open()),
                dots: false,
            })
            .collect();
        if !curves.is_empty() {
            let x =
                Axis { label: "percentile of requests", scale: Scale::Linear, unit: Unit::Tail };
            html.push_str(&Plot { title: name, x, y: LATENCY, curves, marks: Vec::new() }.html());
        }
    }
    html
}

/// Percentile and latency, the percentile as the number of nines.
fn tail_points(line: &Line) -> Vec<(f64, f64)> {
    let point = |pair: &Value| {
        let (percent, us) = (pair.get(0)?.as_f64()?, pair.get(1)?.as_f64()?);
        Some((-(1.0 - percent.min(100.0) / 100.0).log10(), us))
    };
    line.list("latency_curve")
        .iter()
        .filter_map(point)
        .filter(|point| point.0.is_finite())
        .collect()
}

/// Bars: time of a request by stage, processor time of a request by what it is used for.
pub fn breakdowns(lines: &[Line]) -> String {
    let mut html = String::new();
    let mut stages = Parts::default();
    for line in lines.iter().filter(|line| !line.list("stages").is_empty()) {
        let name = format!("{}, {} B, {}", line.subject(), line.payload(), line.load());
        stages.add(name, line.list("stages"), "mean_us", 1.0);
    }
    html.push_str(
        &stages.html("Time of a request by stage", "share of the mean time of a request"),
    );
    let mut terms = Parts::default();
    for line in lines.iter().filter(|line| line.kind() == "roofline") {
        for figure in line.list("figures") {
            let mut parts =
                figure.get("terms").and_then(Value::as_array).cloned().unwrap_or_default();
            parts.push(remainder(figure));
            let name = figure.get("name").and_then(Value::as_str).unwrap_or_default();
            terms.add(name.to_string(), &parts, "ns", 1e-3);
        }
    }
    html.push_str(&terms.html(
        "Processor time of a request by use",
        "share of the processor time of a request, clients and replicas together",
    ));
    html
}

fn remainder(figure: &Value) -> Value {
    let number = |name: &str| figure.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    let ns = (number("used_ns") - number("floor_ns")).max(0.0);
    serde_json::json!({ "name": "remainder: in no floor", "ns": ns })
}

/// Rows whose parts have names; the same name is the same part in all rows.
#[derive(Default)]
struct Parts {
    names: Vec<String>,
    rows: Vec<(String, Vec<f64>)>,
}

impl Parts {
    fn add(&mut self, row: String, parts: &[Value], field: &str, times: f64) {
        let mut sizes = vec![0.0; self.names.len()];
        for part in parts {
            let Some(name) = part.get("name").and_then(Value::as_str) else { continue };
            let size = part.get(field).and_then(Value::as_f64).unwrap_or(0.0) * times;
            let place = self.names.iter().position(|known| known == name).unwrap_or_else(|| {
                self.names.push(name.to_string());
                self.names.len() - 1
            });
            sizes.resize(self.names.len(), 0.0);
            sizes[place] += size.max(0.0);
        }
        self.rows.push((row, sizes));
    }

    fn html(self, title: &str, label: &'static str) -> String {
        if self.names.is_empty() {
            return String::new();
        }
        let title = title.to_string();
        Bars { title, label, unit: Unit::Time, parts: self.names, rows: self.rows }.html()
    }
}

/// Three plots for each subject and payload that ran long enough.
pub fn over_time(loads: &[&Line]) -> String {
    let long: Vec<&Line> =
        loads.iter().copied().filter(|line| line.list("series").len() >= SERIES_MIN).collect();
    let key = |line: &Line| format!("{}, {} B", line.subject(), line.payload());
    let mut html = String::new();
    for (name, lines) in grouped(&long, key) {
        let plot = |what: &str, y: Axis, fields: &[(&str, &str, bool)]| {
            let curves = lines.iter().take(COLOURS).enumerate().flat_map(|(at, line)| {
                fields.iter().map(move |(field, word, dashed)| Curve {
                    name: format!("{}: {word}", line.load()),
                    points: seconds(line, field),
                    colour: at,
                    dashed: *dashed,
                    dots: false,
                })
            });
            let title = format!("{name}: {what}");
            Plot { title, x: SECONDS, y, curves: curves.collect(), marks: Vec::new() }.html()
        };
        let memory = Axis { label: "MiB, all replicas", scale: Scale::Linear, unit: Unit::Count };
        let rates = [("offered", "offered", true), ("answered", "answered", false)];
        html.push_str(&plot("throughput", THROUGHPUT, &rates));
        let latencies = [("p50_us", "median", false), ("p99_us", "p99", true)];
        html.push_str(&plot("latency", LATENCY, &latencies));
        html.push_str(&plot("resident memory", memory, &[("replica_rss_mib", "resident", false)]));
    }
    html
}

fn seconds(line: &Line, field: &str) -> Vec<(f64, f64)> {
    let point = |second: &Value| Some((second.get("at")?.as_f64()?, second.get(field)?.as_f64()?));
    line.list("series").iter().filter_map(point).collect()
}
