//! One HTML page from JSON lines: plots as inline SVG, tables, nothing to load and no script.
//!
//! Always true: whatever a line holds is shown as text or left out, never taken for markup.

mod plots;
pub(crate) mod svg;
mod tables;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use svg::escape;

/// One result, as it was printed.
#[derive(Clone, Debug)]
pub struct Line {
    /// The file's name, without folder and ending: what tells runs of one report apart.
    pub source: String,
    value: Value,
}

impl Line {
    /// The number at `path`, such as `latency.p50_us`.
    fn number(&self, path: &str) -> Option<f64> {
        at(&self.value, path)?.as_f64()
    }

    fn text(&self, path: &str) -> &str {
        at(&self.value, path).and_then(Value::as_str).unwrap_or_default()
    }

    fn list(&self, path: &str) -> &[Value] {
        at(&self.value, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn flag(&self, path: &str) -> bool {
        at(&self.value, path).and_then(Value::as_bool).unwrap_or(false)
    }

    fn kind(&self) -> &str {
        self.text("kind")
    }

    fn is_open(&self) -> bool {
        at(&self.value, "open_loop").is_some_and(Value::is_object)
    }

    /// `1024/1024`.
    fn payload(&self) -> String {
        let size = |name| self.number(name).unwrap_or(0.0);
        format!("{:.0}/{:.0}", size("request_size"), size("reply_size"))
    }

    /// What was loaded: everything that is the same along a curve.
    fn subject(&self) -> String {
        let mut parts = vec![self.text("cluster"), self.text("variant")];
        parts.retain(|part| !part.is_empty());
        if parts.is_empty() {
            parts.push(&self.source);
        }
        let mut text = parts.join(", ");
        if self.flag("signed") {
            text.push_str(", signed");
        }
        if self.text("mode") == "read-only" {
            text.push_str(", read-only");
        }
        text
    }

    /// How it was loaded.
    fn load(&self) -> String {
        let sessions = self.number("sessions").unwrap_or(0.0);
        let outstanding = self.number("outstanding").unwrap_or(1.0);
        match (self.number("open_loop.percent"), self.number("open_loop.rate")) {
            (Some(percent), _) => format!("{percent:.0} % of saturation"),
            (None, Some(rate)) => {
                format!("{} /s offered", svg::value_label(svg::Unit::Count, rate))
            }
            (None, None) => format!("{:.0} in flight", sessions * outstanding),
        }
    }
}

fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, name| value.get(name))
}

/// Reads the lines of all files.
///
/// # Errors
/// A file that cannot be read, or a line that is no result: with its number.
pub fn read(files: &[PathBuf]) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("{}: cannot be read", file.display()))?;
        lines.extend(parse(file, &text)?);
    }
    if lines.is_empty() {
        bail!("no results: give files of lines that --json printed");
    }
    Ok(lines)
}

fn parse(file: &Path, text: &str) -> Result<Vec<Line>> {
    let source = file.file_stem().unwrap_or_default().to_string_lossy().to_string();
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            let place = || format!("{} line {}", file.display(), number + 1);
            let value: Value = serde_json::from_str(line)
                .with_context(|| format!("{}: not JSON; keep only what --json printed", place()))?;
            if at(&value, "kind").and_then(Value::as_str).is_none() {
                bail!("{}: no field `kind`; is this a line of tetrarch-bench --json?", place());
            }
            Ok(Line { source: source.clone(), value })
        })
        .collect()
}

/// The page.
pub fn page(lines: &[Line]) -> String {
    let mut text = String::with_capacity(64 * 1024);
    text.push_str(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>Tetrarch benchmarks</title>\n\
         <style>\n",
    );
    text.push_str(STYLE);
    text.push_str("</style>\n</head>\n<body>\n<h1>Tetrarch benchmarks</h1>\n");
    machines(&mut text, lines);
    let loads: Vec<&Line> = lines.iter().filter(|line| line.kind() == "load").collect();
    section(
        &mut text,
        "Latency against throughput",
        &plots::latency_by_throughput(&loads),
        "Each point is one run; along a line, more requests are in flight or offered. Full lines are \
         medians, broken ones 99th percentiles.",
    );
    section(
        &mut text,
        "Latency percentiles",
        &plots::percentiles(&loads),
        "From the intended start of each request. The further right, the smaller the share of \
         requests that took longer.",
    );
    section(
        &mut text,
        "Where a request's time goes",
        &plots::breakdowns(lines),
        "By stage: the means of sampled requests in the leader, and what is left of the client's mean: \
         nothing where the leader was not among the first to answer. \
         By use: the roofline's model, and what it does not explain.",
    );
    section(
        &mut text,
        "Second by second",
        &plots::over_time(&loads),
        "Offered and answered requests, latency, and resident memory of all replicas.",
    );
    section(&mut text, "Roofline", &tables::rooflines(lines), "");
    section(&mut text, "All runs", &tables::loads(&loads), "");
    text.push_str("</body>\n</html>\n");
    text
}

fn section(text: &mut String, title: &str, body: &str, note: &str) {
    if body.is_empty() {
        return;
    }
    let _ = writeln!(text, "<section>\n<h2>{}</h2>", escape(title));
    if !note.is_empty() {
        let _ = writeln!(text, "<p class=\"note\">{}</p>", escape(note));
    }
    let _ = writeln!(text, "{body}</section>");
}

/// Which machine and commits the results are from.
fn machines(text: &mut String, lines: &[Line]) {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in lines {
        let names: Vec<_> =
            line.list("machine.features").iter().filter_map(Value::as_str).collect();
        let machine = format!(
            "{} x {} ({}), {} MiB, Linux {}",
            line.number("machine.cores").unwrap_or(0.0),
            line.text("machine.cpu"),
            names.join(" "),
            line.number("machine.memory_mib").unwrap_or(0.0),
            line.text("machine.kernel"),
        );
        let build = format!(
            "{}: {} build of {}, load {} at its start",
            line.source,
            line.text("machine.profile"),
            if line.text("machine.commit").is_empty() { "?" } else { line.text("machine.commit") },
            line.text("machine.load"),
        );
        let builds = found.entry(machine).or_default();
        if !builds.contains(&build) {
            builds.push(build);
        }
    }
    for (machine, builds) in found {
        let _ = writeln!(text, "<p>{}</p>\n<ul class=\"builds\">", escape(&machine));
        for build in builds {
            let _ = writeln!(text, "<li>{}</li>", escape(&build));
        }
        text.push_str("</ul>\n");
    }
}

/// Colours of Okabe and Ito, which people with any kind of colour vision tell apart; the dark ones
/// are lightened.
const STYLE: &str = "\
:root { --back: #ffffff; --text: #1c1e21; --soft: #5c6470; --grid: #e3e6ea; --axis: #8a929c;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #a0508a; --c4: #b88a00; --c5: #3aa0d8;
  --c6: #6b5b4b; --c7: #c43c5a; }
@media (prefers-color-scheme: dark) {
  :root { --back: #16181c; --text: #e6e8eb; --soft: #a3abb5; --grid: #2b3037; --axis: #6f7883;
    --c0: #4fb0e8; --c1: #ff8a3d; --c2: #35c79a; --c3: #d98cc4; --c4: #e8bd3a; --c5: #9ad4f5;
    --c6: #b8a590; --c7: #f0738f; } }
body { background: var(--back); color: var(--text); margin: 2rem auto; max-width: 64rem;
  padding: 0 1rem; font: 16px/1.5 system-ui, \"DejaVu Sans\", sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
.note, .builds { color: var(--soft); font-size: 0.9rem; }
figure { margin: 1.5rem 0; } figcaption { font-weight: 600; margin-bottom: 0.3rem; }
figure > svg { width: 100%; height: auto; display: block; }
svg .paper { fill: var(--back); } svg text { fill: var(--soft); font-size: 12px; } svg text.label { fill: var(--text); font-size: 13px; }
.middle { text-anchor: middle; } .end { text-anchor: end; }
.grid { stroke: var(--grid); fill: none; } .axis { stroke: var(--axis); fill: none; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .dashed { stroke-dasharray: 5 4; }
.s0 { stroke: var(--c0); } .s1 { stroke: var(--c1); } .s2 { stroke: var(--c2); }
.s3 { stroke: var(--c3); } .s4 { stroke: var(--c4); } .s5 { stroke: var(--c5); }
.s6 { stroke: var(--c6); } .s7 { stroke: var(--c7); }
.f0 { fill: var(--c0); } .f1 { fill: var(--c1); } .f2 { fill: var(--c2); } .f3 { fill: var(--c3); }
.f4 { fill: var(--c4); } .f5 { fill: var(--c5); } .f6 { fill: var(--c6); } .f7 { fill: var(--c7); }
.legend { list-style: none; padding: 0; margin: 0.3rem 0 0; display: flex; flex-wrap: wrap;
  gap: 0.2rem 1.4rem; font-size: 0.9rem; }
.legend svg { margin-right: 0.45rem; vertical-align: middle; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.85rem; width: 100%; }
th, td { padding: 0.25rem 0.6rem; text-align: right; border-bottom: 1px solid var(--grid);
  white-space: nowrap; } th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child, td.text { text-align: left; } td.text { white-space: normal; }
";

#[cfg(test)]
mod tests {
    use super::*;

    fn load(cluster: &str, sessions: u32, throughput: f64, more: &str) -> String {
        let seconds: Vec<_> = (1..=12)
            .map(|at| {
                format!(
                    "{{\"at\":{at},\"offered\":{throughput},\"answered\":{throughput},\"refused\":0,\
                     \"p50_us\":900,\"p99_us\":2000,\"max_us\":9000,\"waiting\":0,\"in_flight\":5,\
                     \"replica_rss_mib\":800}}"
                )
            })
            .collect();
        format!(
            "{{\"kind\":\"load\",\"cluster\":\"{cluster}\",\"sessions\":{sessions},\"outstanding\":1,\
             \"request_size\":0,\"reply_size\":0,\"throughput\":{throughput},\"errors\":0,\
             \"latency\":{{\"p50_us\":{0},\"p99_us\":{1},\"p999_us\":{1},\"p9999_us\":{1},\
             \"max_us\":{1}}},\"latency_curve\":[[0,100],[50,{0}],[99,{1}],[99.99,{1}]],\
             \"stages\":[{{\"name\":\"agreement\",\"mean_us\":300}},{{\"name\":\"reply\",\
             \"mean_us\":50}}],\"series\":[{2}],\
             \"machine\":{{\"cpu\":\"A<b>\",\"cores\":2}}{more}}}",
            sessions * 10,
            sessions * 40,
            seconds.join(","),
        )
    }

    #[test]
    fn results_become_one_page_without_anything_to_load() {
        let text = [
            load("byzantine n=4", 10, 2000.0, ""),
            load("byzantine n=4", 100, 9000.0, ""),
            load("byzantine n=4", 100, 8000.0, ",\"open_loop\":{\"rate\":9000,\"percent\":90}"),
        ]
        .join("\n\n");
        let lines = parse(Path::new("some/run.jsonl"), &text).expect("three results");
        assert_eq!((lines.len(), lines[0].source.as_str()), (3, "run"));
        let page = page(&lines);
        for part in [
            "Latency against throughput",
            "Latency percentiles",
            "Where a request",
            "Second by second",
            "90 % of saturation",
            "99.99 %",
            "A&lt;b&gt;",
            "agreement: 300 us",
        ] {
            assert!(page.contains(part), "{part} is missing");
        }
        for part in ["<script", "http://", "https://", "NaN", "<b>"] {
            assert!(!page.contains(part), "{part}");
        }
        let count = |tag: &str| page.matches(tag).count();
        assert_eq!(count("<svg"), count("</svg>"));
        assert_eq!(count("<figure>"), count("</figure>"));
    }

    #[test]
    fn a_line_that_is_no_result_is_named() {
        let wrong =
            |text: &str| format!("{:#}", parse(Path::new("x.jsonl"), text).expect_err("no"));
        assert!(wrong("{\"kind\":\"load\"}\nthroughput 5").contains("x.jsonl line 2: not JSON"));
        assert!(wrong("\n{}").contains("line 2: no field `kind`"));
        let error = read(&["/nowhere/x".into()]).expect_err("no such file").to_string();
        assert!(error.contains("cannot be read"), "{error}");
    }

    #[test]
    fn lines_with_fields_missing_or_of_another_type_do_no_harm() {
        let text = "{\"kind\":\"load\",\"latency\":7,\"series\":[1,{}],\"latency_curve\":[[1],[\"a\",2]],\
                    \"stages\":[{}]}\n{\"kind\":\"roofline\",\"figures\":[{}],\"floors\":[]}\n\
                    {\"kind\":\"other\"}";
        let lines = parse(Path::new("x"), text).expect("three lines");
        assert!(page(&lines).contains("</html>"));
    }
}
