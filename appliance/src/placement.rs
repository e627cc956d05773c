//! Which stage runs on which core.
//!
//! Owns the table. Always true: every stage runs on exactly one core, and ordering on one core only.
//! Must not: start threads.

use std::fmt;

use tetrarch_dataplane::affinity::CoreId;
use tetrarch_dataplane::stage::{Core, IdlePolicy, Stage};

/// How the stages share cores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// All stages on one core: least latency for the work, no hop between cores.
    Fused,
    /// Network, ordering and execution on a core each.
    Spread,
}

/// The table, and what idle cores do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// How stages share cores.
    pub layout: Layout,
    /// What a core does when there is nothing to do.
    pub idle: IdlePolicy,
    /// The processors to pin to, one for each core of the layout; empty: the system decides.
    pub cores: Vec<CoreId>,
}

impl Layout {
    /// Names of the stages of each core, in the order in which they run.
    pub fn cores(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Fused => &[&["network", "ordering", "execution"]],
            Self::Spread => &[&["network"], &["ordering"], &["execution"]],
        }
    }

    /// The name in configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fused => "fused",
            Self::Spread => "spread",
        }
    }
}

/// The name of an idle policy in configuration.
pub fn idle_name(policy: IdlePolicy) -> &'static str {
    match policy {
        IdlePolicy::Spin => "spin",
        IdlePolicy::Adaptive => "adaptive",
        IdlePolicy::Park => "park",
    }
}

impl Placement {
    /// Puts a node's stages on cores, in the order of [`Layout::cores`], each with the processor it
    /// is pinned to.
    pub fn place(&self, stages: [Box<dyn Stage>; 3]) -> Vec<(Core, Option<CoreId>)> {
        let pin = |at: usize| self.cores.get(at).copied();
        match self.layout {
            Layout::Fused => {
                let stages: Vec<Box<dyn Stage>> = stages.into_iter().collect();
                vec![(Core::new("node", stages, self.idle), pin(0))]
            }
            Layout::Spread => stages
                .into_iter()
                .enumerate()
                .map(|(at, stage)| {
                    let name = stage.name();
                    (Core::new(name, vec![stage], self.idle), pin(at))
                })
                .collect(),
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, stages) in self.layout.cores().iter().enumerate() {
            let separator = if at == 0 { "" } else { " | " };
            write!(f, "{separator}{}", stages.join(" + "))?;
            match self.cores.get(at) {
                Some(core) => write!(f, " on cpu {}", core.0)?,
                None => write!(f, " on any cpu")?,
            }
        }
        write!(f, ", idle: {}", idle_name(self.idle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetrarch_dataplane::stage::Progress;
    use tetrarch_dataplane::types::Instant;

    struct Named(&'static str);

    impl Stage for Named {
        fn name(&self) -> &'static str {
            self.0
        }
        fn poll(&mut self, _now: Instant) -> Progress {
            Progress::Idle
        }
        fn next_deadline(&self) -> Option<Instant> {
            None
        }
    }

    fn stages() -> [Box<dyn Stage>; 3] {
        ["network", "ordering", "execution"].map(|name| Box::new(Named(name)) as Box<dyn Stage>)
    }

    #[test]
    fn each_stage_is_on_one_core_and_the_plan_reads_well() {
        let cores = vec![CoreId(4), CoreId(5), CoreId(6)];
        let spread = Placement { layout: Layout::Spread, idle: IdlePolicy::Spin, cores };
        assert_eq!(
            spread.to_string(),
            "network on cpu 4 | ordering on cpu 5 | execution on cpu 6, idle: spin"
        );
        let placed = spread.place(stages());
        let names: Vec<_> = placed.iter().map(|(core, pin)| (core.name(), *pin)).collect();
        assert_eq!(
            names,
            [
                ("network", Some(CoreId(4))),
                ("ordering", Some(CoreId(5))),
                ("execution", Some(CoreId(6)))
            ]
        );
        let fused = Placement { layout: Layout::Fused, idle: IdlePolicy::Park, cores: Vec::new() };
        assert_eq!(fused.to_string(), "network + ordering + execution on any cpu, idle: park");
        assert_eq!(fused.place(stages()).len(), 1);
    }
}
