//! `tetrarch placement`: where each stage of a replica runs, why, and what would be better.
//!
//! Owns the explanation. Always true: the plan shown is the one that `tetrarch replica` carries out;
//! advice says what to write where. Must not: change anything.

use std::fmt::Write;

use serde::Serialize;
use tetrarch_dataplane::stage::IdlePolicy;

use crate::budget::Budget;
use crate::config::PlacementPlan;
use crate::machine::{Cpus, Machine, list};
use crate::placement::{Placement, idle_name};
use crate::stage::StageKind;

const HUGE_PAGE: usize = 2 * 1024 * 1024;

/// The plan of one replica on this machine.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Which replica.
    pub replica: u16,
    /// The machine as this process sees it.
    pub machine: Machine,
    /// What idle cores do.
    pub idle: &'static str,
    /// One line for each core.
    pub cores: Vec<Line>,
    /// What would be better, and how to get it. Empty: nothing that can be seen from here.
    pub advice: Vec<String>,
}

/// One core of the plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Line {
    /// What runs there.
    pub stages: Vec<&'static str>,
    /// The processor it is pinned to; `None`: any.
    pub cpu: Option<usize>,
    /// The memory node of that processor.
    pub node: Option<usize>,
    /// The processor that would serve it best, if it is not pinned.
    pub suggested: Option<usize>,
    /// Why these stages are together.
    pub why: String,
}

impl Report {
    /// The plan of `file` on `machine`.
    pub fn new(file: &PlacementPlan, machine: Machine) -> Self {
        let placement = &file.placement;
        let best = machine.best(placement.cores().len());
        let count = placement.cores().len();
        let pinned = placement.cores().iter().any(|core| core.cpu.is_some());
        let line = |(at, core): (usize, &crate::placement::CorePlan)| Line {
            stages: core.stages.iter().map(|kind| kind.name()).collect(),
            cpu: core.cpu.map(|cpu| cpu.0),
            node: core.cpu.and_then(|cpu| machine.node_of(cpu.0)),
            suggested: best.get(at).copied().filter(|_| !pinned && best.len() == count),
            why: why(&core.stages, count),
        };
        let cores: Vec<Line> = placement.cores().iter().enumerate().map(line).collect();
        let advice = advice(file, &machine, &cores, &best);
        let idle = idle_name(placement.idle);
        Self { replica: file.id, machine, idle, cores, advice }
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let machine = &self.machine;
        // Writing to a string does not fail.
        let _ = writeln!(text, "machine: {}", describe_processors(machine));
        let _ = writeln!(text, "memory:  {}", describe_memory(machine));
        let _ = writeln!(text, "\nreplica {}, idle cores: {}", self.replica, self.idle);
        let names: Vec<String> = self.cores.iter().map(|core| core.stages.join(" + ")).collect();
        let width = names.iter().map(String::len).max().unwrap_or(0).max(6);
        let _ = writeln!(text, "core  {:width$}  cpu      node  why", "stages");
        for (at, (core, stages)) in self.cores.iter().zip(&names).enumerate() {
            let cpu = match (core.cpu, core.suggested) {
                (Some(cpu), _) => cpu.to_string(),
                (None, Some(cpu)) => format!("any ({cpu})"),
                (None, None) => "any".into(),
            };
            let node = core.node.map_or("-".into(), |node| node.to_string());
            let why = &core.why;
            let _ = writeln!(text, "{at:>4}  {stages:width$}  {cpu:7}  {node:>4}  {why}");
        }
        if !self.advice.is_empty() {
            let _ = writeln!(text, "\nbetter:");
        }
        for advice in &self.advice {
            let _ = writeln!(text, "- {advice}");
        }
        text
    }
}

fn why(stages: &[StageKind], cores: usize) -> String {
    use StageKind::{Execution, Ingress, Network, Ordering};
    let has = |kind| stages.contains(&kind);
    if cores == 1 {
        return "a request never waits for another core: least latency".into();
    }
    let mut reasons = Vec::new();
    if has(Network) {
        reasons.push("owns the sockets, so its node should be the network device's");
    }
    match (has(Network), has(Ingress)) {
        (true, true) => reasons.push("checks what is cheap, and signatures when others are busy"),
        (true, false) => reasons.push("leaves all checks to other cores"),
        (false, true) => reasons.push("checks signatures, most of the work of a signed request"),
        (false, false) => {}
    }
    match (has(Ordering), has(Execution)) {
        (true, true) => reasons.push("orders and executes: one decision after the other"),
        (true, false) => reasons.push("orders: one decision after the other, so one core"),
        (false, true) => reasons.push("executes in the decided order, so one core"),
        (false, false) => {}
    }
    reasons.join("; ")
}

fn describe_processors(machine: &Machine) -> String {
    let mut parts = vec![match machine.online.len() {
        0 => "processors not visible".to_owned(),
        count => format!("{count} processors ({})", list(&machine.online)),
    }];
    if machine.allowed != machine.online {
        parts.push(format!("this process may use {}", list(&machine.allowed)));
    }
    if let Some(quota) = machine.quota {
        parts.push(format!("for {quota:.1} processors' time"));
    }
    parts.push(match machine.siblings.len() {
        0 => "one thread per core".into(),
        count => format!("{count} cores with several threads"),
    });
    if machine.nodes.len() > 1 {
        let node = |node: &crate::machine::Node| format!("{}: {}", node.number, list(&node.cpus));
        let nodes: Vec<String> = machine.nodes.iter().map(node).collect();
        parts.push(format!("nodes {}", nodes.join(", ")));
    } else {
        parts.push("one memory node".into());
    }
    for device in &machine.devices {
        let node = device.node.map_or(String::new(), |node| format!(" on node {node}"));
        parts.push(format!("{}{node}", device.name));
    }
    if !machine.isolated.is_empty() {
        parts.push(format!("isolated: {}", list(&machine.isolated)));
    }
    if !machine.governors.is_empty() {
        let governors: Vec<&str> = machine.governors.iter().map(String::as_str).collect();
        parts.push(format!("frequency: {}", governors.join(", ")));
    }
    parts.join("; ")
}

fn describe_memory(machine: &Machine) -> String {
    let free = machine.huge_pages_free.map_or("unknown".into(), |free| free.to_string());
    let unasked = machine.transparent_huge_pages.as_deref().unwrap_or("unknown");
    let locked = match machine.locked_memory_max {
        None => "any amount may be locked".into(),
        Some(bytes) => format!("{} KiB may be locked", bytes / 1024),
    };
    format!("free huge pages: {free}; transparent huge pages: {unasked}; {locked}")
}

fn advice(file: &PlacementPlan, machine: &Machine, cores: &[Line], best: &[usize]) -> Vec<String> {
    let mut advice = Vec::new();
    about_sharing(&file.placement, machine, &mut advice);
    about_pins(&file.placement, machine, cores, best, &mut advice);
    if machine.governors.iter().any(|governor| governor == "powersave") {
        advice.push(
            "processors save power: set the frequency governor to performance (cpupower \
             frequency-set -g performance)"
                .into(),
        );
    }
    let pages = Budget::with_workers(file.sizes, 0).arena.size().div_ceil(HUGE_PAGE) as u64;
    let reserved = machine.huge_pages_free.is_some_and(|free| free >= pages);
    if machine.transparent_huge_pages.as_deref() == Some("never") && !reserved {
        advice.push(format!(
            "the {} MiB of frames get small pages: echo madvise > \
             /sys/kernel/mm/transparent_hugepage/enabled, or reserve pages for each replica here with \
             sysctl vm.nr_hugepages={pages}",
            pages * 2
        ));
    }
    advice
}

/// Are there as many processors as cores?
fn about_sharing(placement: &Placement, machine: &Machine, advice: &mut Vec<String>) {
    let (cores, allowed) = (placement.cores().len(), machine.allowed.len());
    if allowed > 0 && cores > allowed {
        advice.push(format!(
            "{cores} cores of the plan share {allowed} processors and only take turns: use layout = \
             {}",
            if allowed == 1 { "\"fused\"".into() } else { format!("\"spread\" with {allowed} cores") }
        ));
    }
    let scarce = machine.quota.is_some_and(|quota| quota < cores as f64) || cores > allowed;
    if allowed > 0 && scarce && placement.idle == IdlePolicy::Spin {
        advice.push(
            "cores that spin need a processor each, and there is less: use idle = \"park\"".into(),
        );
    } else if let Some(quota) = machine.quota.filter(|quota| *quota < cores as f64) {
        advice.push(format!(
            "the cgroup allows {quota:.1} processors' time for {cores} cores: raise its quota, or \
             they stop in the middle of a period"
        ));
    }
    if cores == 1 && allowed > 1 && placement.idle == IdlePolicy::Park {
        advice.push(format!(
            "if clients sign their requests, layout = \"spread\" lets {allowed} processors share the \
             checks; if not, one core is as good"
        ));
    }
}

/// Are the right processors used?
fn about_pins(
    placement: &Placement,
    machine: &Machine,
    cores: &[Line],
    best: &[usize],
    advice: &mut Vec<String>,
) {
    let pins: Cpus = cores.iter().filter_map(|core| core.cpu).collect();
    if pins.is_empty() {
        let busy = placement.idle != IdlePolicy::Park || cores.len() > 1;
        if busy && best.len() == cores.len() && machine.allowed.len() > cores.len() {
            let where_ = match cores.len() {
                1 => format!("cores = [{}]", best[0]),
                _ => format!("cores = {best:?} (in a table, cpu = for each)"),
            };
            advice.push(format!(
                "pin the cores, so that the system does not move them and their frames stay near: \
                 {where_}"
            ));
        }
        return;
    }
    for cpu in &pins {
        let twins: Cpus = machine.siblings_of(*cpu).into_iter().filter(|twin| twin > cpu).collect();
        let twins: Cpus = twins.intersection(&pins).copied().collect();
        if !twins.is_empty() {
            advice.push(format!(
                "processors {cpu} and {} are threads of one core and slow each other down: use one \
                 of them",
                list(&twins)
            ));
        }
    }
    let nodes: Cpus = pins.iter().filter_map(|cpu| machine.node_of(*cpu)).collect();
    if nodes.len() > 1 {
        advice.push(format!(
            "the plan spans the memory nodes {}: cores of one node hand work over faster; {best:?} \
             would do",
            list(&nodes)
        ));
    }
    let network = cores.iter().find(|core| core.stages.contains(&StageKind::Network.name()));
    if let Some(core) = network
        && let (Some(node), Some(device)) = (core.node, machine.device_node())
        && node != device
    {
        advice.push(format!(
            "network runs on node {node} and the network device is on node {device}: pin it there"
        ));
    }
    let unused: Cpus = machine.isolated.difference(&pins).copied().collect();
    if !unused.is_empty() && !pins.is_subset(&machine.isolated) {
        advice.push(format!("isolated processors are not used: {}", list(&unused)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Sizes;
    use crate::machine::tests::two_sockets;
    use tetrarch_dataplane::affinity::CoreId;

    fn file(mut placement: Placement, cpus: &[usize]) -> PlacementPlan {
        if !cpus.is_empty() {
            placement.pin(&cpus.iter().map(|cpu| CoreId(*cpu)).collect::<Vec<_>>());
        }
        PlacementPlan { id: 3, placement, sizes: Sizes::default() }
    }

    fn machine(cpus: usize) -> Machine {
        let online: Cpus = (0..cpus).collect();
        Machine { allowed: online.clone(), online, ..Machine::default() }
    }

    fn says(report: &Report, parts: &[&str]) {
        let text = report.table();
        for part in parts {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
    }

    #[test]
    fn one_processor_has_a_plan_without_complaints_and_spreading_over_it_is_advised_against() {
        let fused = Report::new(&file(Placement::fused(IdlePolicy::Park), &[]), machine(1));
        assert!(fused.advice.is_empty(), "{:?}", fused.advice);
        says(&fused, &["replica 3, idle cores: park", "least latency", "any (0)", "1 processors"]);
        let spread = Placement::spread(IdlePolicy::Spin, 2);
        let spread = Report::new(&file(spread, &[]), machine(1));
        says(&spread, &["2 cores of the plan share 1 processors", "\"fused\"", "idle = \"park\""]);
    }

    #[test]
    fn two_processors_share_signatures() {
        let fused = Report::new(&file(Placement::fused(IdlePolicy::Park), &[]), machine(2));
        says(&fused, &["if clients sign", "layout = \"spread\" lets 2 processors"]);
        let mut limited = machine(2);
        limited.quota = Some(1.5);
        limited.transparent_huge_pages = Some("never".into());
        let spread = Placement::spread(IdlePolicy::Park, 2);
        let spread = Report::new(&file(spread, &[0, 1]), limited);
        says(&spread, &["allows 1.5 processors' time", "get small pages", "when others are busy"]);
        assert_eq!((spread.cores[1].cpu, spread.cores[1].suggested), (Some(1), None));
    }

    #[test]
    fn many_processors_are_used_where_memory_and_network_are_near() {
        let tree = two_sockets();
        let spread = || Placement::spread(IdlePolicy::Spin, 4);
        let free = Report::new(&file(spread(), &[]), tree.machine());
        says(&free, &["cores = [4, 5, 6, 7]", "governor to performance", "eth0 on node 1"]);
        let wrong = Report::new(&file(spread(), &[0, 8, 4, 5]), tree.machine());
        says(
            &wrong,
            &[
                "processors 0 and 8 are threads of one core",
                "spans the memory nodes 0-1",
                "network runs on node 0 and the network device is on node 1",
            ],
        );
        let right = Report::new(&file(spread(), &[4, 5, 6, 7]), tree.machine());
        assert_eq!(right.advice.len(), 1, "the governor only: {:?}", right.advice);
        let json = serde_json::to_value(&right).expect("plain data");
        assert_eq!(json["cores"][3]["stages"][0], "ingress");
        assert_eq!((&json["cores"][0]["cpu"], &json["cores"][0]["node"]), (&4.into(), &1.into()));
        assert_eq!(json["machine"]["nodes"][1]["number"], 1);
    }
}
