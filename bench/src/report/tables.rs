//! Results as tables.

use std::fmt::Write;

use serde_json::Value;

use super::Line;
use super::svg::{Unit, escape, value_label};

/// A table's text, row by row.
struct Table(String);

impl Table {
    fn new(heads: &[&str]) -> Self {
        let mut text = "<div class=\"wide\"><table>\n<tr>".to_string();
        for head in heads {
            let _ = write!(text, "<th>{}</th>", escape(head));
        }
        text.push_str("</tr>\n");
        Self(text)
    }

    /// Cells that begin with a letter of text are left aligned if `text` says so.
    fn row(&mut self, cells: &[String], text: &[usize]) {
        self.0.push_str("<tr>");
        for (at, cell) in cells.iter().enumerate() {
            let class = if text.contains(&at) { " class=\"text\"" } else { "" };
            let _ = write!(self.0, "<td{class}>{}</td>", escape(cell));
        }
        self.0.push_str("</tr>\n");
    }

    fn end(self) -> String {
        self.0 + "</table></div>\n"
    }
}

/// All loads, one a row.
pub fn loads(loads: &[&Line]) -> String {
    if loads.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        "cluster",
        "bytes",
        "load",
        "per second",
        "p50",
        "p99",
        "p99.9",
        "p99.99",
        "max",
        "refused",
        "busy",
        "errors",
    ]);
    for line in loads {
        let time =
            |path: &str| line.number(path).map_or(String::new(), |us| value_label(Unit::Time, us));
        let count = |path: &str| line.number(path).map_or(String::new(), |n| format!("{n:.0}"));
        let throughput = line.number("throughput").unwrap_or(0.0);
        table.row(
            &[
                line.subject(),
                line.payload(),
                line.load(),
                thousands(throughput),
                time("latency.p50_us"),
                time("latency.p99_us"),
                time("latency.p999_us"),
                time("latency.p9999_us"),
                time("latency.max_us"),
                count("open_loop.refused"),
                count("busy"),
                count("errors"),
            ],
            &[0, 2],
        );
    }
    table.end()
}

/// Figures beside their floors, then digests.
pub fn rooflines(lines: &[Line]) -> String {
    let mut html = String::new();
    for line in lines.iter().filter(|line| line.kind() == "roofline") {
        html.push_str(&figures(line.list("figures")));
        html.push_str(&hashes(line.list("floors.hashes")));
    }
    for line in lines.iter().filter(|line| line.kind() == "hash") {
        html.push_str(&hashes(line.list("hashes")));
    }
    html
}

fn figures(figures: &[Value]) -> String {
    if figures.is_empty() {
        return String::new();
    }
    let mut table =
        Table::new(&["figure", "measured", "the floors allow", "times the floor", "bound by"]);
    for figure in figures {
        let number = |name: &str| figure.get(name).and_then(Value::as_f64).unwrap_or(0.0);
        let text = |name: &str| figure.get(name).and_then(Value::as_str).unwrap_or_default();
        let unloaded = figure.get("unloaded").and_then(Value::as_bool).unwrap_or(false);
        let (measured, floor, times) = if unloaded {
            let (measured, floor) = (number("p50_us"), number("hops_us"));
            let time = |us| value_label(Unit::Time, us);
            (time(measured), time(floor), measured / floor)
        } else {
            let (measured, floor) = (number("throughput"), number("allowed_per_s"));
            let rate = |rate| format!("{} /s", thousands(rate));
            (rate(measured), rate(floor), floor / measured)
        };
        let times = if times.is_finite() { format!("{times:.2}") } else { String::new() };
        table.row(&[text("name").into(), measured, floor, times, text("binds").into()], &[0, 4]);
    }
    table.end()
}

fn hashes(hashes: &[Value]) -> String {
    if hashes.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["digest of", "alone", "one of a burst of 64", "times", "wanted"]);
    for hash in hashes {
        let number = |name: &str| hash.get(name).and_then(Value::as_f64);
        let ns = |name: &str| number(name).map_or(String::new(), |ns| format!("{ns:.1} ns"));
        let ratio = hash.get("ratio").and_then(|ratio| ratio.get("median")).and_then(Value::as_f64);
        table.row(
            &[
                format!("{:.0} B", number("size").unwrap_or(0.0)),
                ns("single_ns"),
                ns("burst_ns"),
                ratio.map_or(String::new(), |ratio| format!("{ratio:.1}")),
                number("wanted").map_or(String::new(), |wanted| format!("{wanted:.0}")),
            ],
            &[0],
        );
    }
    table.end()
}

/// `123,456`.
fn thousands(number: f64) -> String {
    crate::matrix::grouped(number)
}
