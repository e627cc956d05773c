//! Which stage runs on which core.
//!
//! Owns the table. Always true: network, ordering and execution run on exactly one core each, ingress
//! on at least one; what the table says is what runs. Must not: start threads, or look at the machine.

use std::fmt;

use tetrarch_dataplane::affinity::CoreId;
use tetrarch_dataplane::endpoint::Waker;
use tetrarch_dataplane::stage::{Core, IdlePolicy};

use crate::node::Node;
use crate::stage::dispatch::IngressPlan;
use crate::stage::{StageKind, Wakers};

/// Cores of one node at most: the network stage feeds each ingress.
pub const CORES_MAX: usize = 64;

/// The cores of the spread layout when nothing says how many: more pay only for many signatures.
pub const SPREAD_CORES_MAX: usize = 4;

/// One line of the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CorePlan {
    /// What runs there, in the order in which a request meets it.
    pub stages: Vec<StageKind>,
    /// The processor it is pinned to; `None`: the system decides.
    pub cpu: Option<CoreId>,
}

/// The table, and what idle cores do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// What a core does when there is nothing to do.
    pub idle: IdlePolicy,
    cores: Vec<CorePlan>,
}

/// A table that cannot be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{problem}; {remedy}")]
pub struct BadTable {
    /// Which line; `None`: the table as a whole.
    pub core: Option<usize>,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// The name of an idle policy in configuration.
pub fn idle_name(policy: IdlePolicy) -> &'static str {
    match policy {
        IdlePolicy::Spin => "spin",
        IdlePolicy::Adaptive => "adaptive",
        IdlePolicy::Park => "park",
    }
}

/// The stage of this name in a table.
///
/// # Errors
/// There is none, in words.
pub fn stage_kind(name: &str) -> Result<StageKind, BadTable> {
    let kind = StageKind::ALL.into_iter().find(|kind| kind.name() == name);
    kind.ok_or_else(|| {
        let (problem, remedy) = match name {
            "egress" => (
                "egress has no core of its own, as it uses the links".to_owned(),
                "it runs wherever \"network\" does",
            ),
            "durability" => {
                ("nothing is durable in this release".to_owned(), "leave \"durability\" out")
            }
            _ => (
                format!("no stage is called {name:?}"),
                "use \"network\", \"ingress\", \"ordering\", \"execution\"",
            ),
        };
        BadTable { core: None, problem, remedy: remedy.into() }
    })
}

impl Placement {
    /// All stages on one core that is not pinned: least latency for the work, no hop between cores.
    pub fn fused(idle: IdlePolicy) -> Self {
        Self { idle, cores: vec![CorePlan { stages: StageKind::ALL.into(), cpu: None }] }
    }

    /// The stages spread over `cores` cores, none of them pinned.
    ///
    /// What costs most moves first: with two cores, the second helps to check signatures; three
    /// separate the links from what orders and executes; four give each stage a core and signatures
    /// another; all further cores check signatures.
    pub fn spread(idle: IdlePolicy, cores: usize) -> Self {
        use StageKind::{Execution, Ingress, Network, Ordering};
        let mut table: Vec<Vec<StageKind>> = match cores {
            0 | 1 => vec![StageKind::ALL.into()],
            2 => vec![StageKind::ALL.into(), vec![Ingress]],
            3 => vec![vec![Network, Ingress], vec![Ordering, Execution], vec![Ingress]],
            _ => vec![vec![Network, Ingress], vec![Ordering], vec![Execution]],
        };
        table.resize(table.len().max(cores.min(CORES_MAX)), vec![Ingress]);
        let cores = table.into_iter().map(|stages| CorePlan { stages, cpu: None }).collect();
        Self { idle, cores }
    }

    /// This table.
    ///
    /// # Errors
    /// A stage is missing or there twice, a core has nothing to do, or there are too many.
    pub fn table(idle: IdlePolicy, mut cores: Vec<CorePlan>) -> Result<Self, BadTable> {
        let bad = |core, problem: String, remedy: &str| {
            Err(BadTable { core, problem, remedy: remedy.into() })
        };
        if cores.is_empty() || cores.len() > CORES_MAX {
            let problem = format!("{} cores", cores.len());
            return bad(None, problem, &format!("list 1 to {CORES_MAX}"));
        }
        for (at, core) in cores.iter_mut().enumerate() {
            core.stages.sort_unstable();
            if core.stages.is_empty() {
                let remedy = "name a stage, or remove the core";
                return bad(Some(at), "a core without stages".into(), remedy);
            }
            if let Some(pair) = core.stages.windows(2).find(|pair| pair[0] == pair[1]) {
                let problem = format!("{:?} twice on one core", pair[0].name());
                return bad(Some(at), problem, "once is enough");
            }
        }
        for kind in StageKind::ALL {
            let places: Vec<usize> =
                (0..cores.len()).filter(|at| cores[*at].stages.contains(&kind)).collect();
            match places[..] {
                [] => {
                    let problem = format!("{:?} is nowhere", kind.name());
                    return bad(None, problem, "add it to the stages of a core");
                }
                [_] => {}
                [_, second, ..] if kind != StageKind::Ingress => {
                    let problem = format!("{:?} is on two cores", kind.name());
                    return bad(Some(second), problem, "only \"ingress\" may be on several");
                }
                _ => {}
            }
        }
        Ok(Self { idle, cores })
    }

    /// Pins the cores to these processors, in order.
    ///
    /// # Panics
    /// If there is not one for each core.
    pub fn pin(&mut self, cpus: &[CoreId]) {
        assert!(cpus.len() == self.cores.len(), "one processor for each core");
        for (core, cpu) in self.cores.iter_mut().zip(cpus) {
            core.cpu = Some(*cpu);
        }
    }

    /// The lines of the table.
    pub fn cores(&self) -> &[CorePlan] {
        &self.cores
    }

    /// The processor that links are pinned to: it reads and writes every message.
    pub fn network_cpu(&self) -> Option<CoreId> {
        self.cores[self.core_of(StageKind::Network)].cpu
    }

    /// Where ingress is, as the node has to know it.
    pub fn ingress(&self) -> IngressPlan {
        let has = |core: &CorePlan, kind| core.stages.contains(&kind);
        let ingress = || self.cores.iter().filter(|core| has(core, StageKind::Ingress));
        let inline = ingress().any(|core| has(core, StageKind::Network));
        IngressPlan { inline, workers: ingress().count() - usize::from(inline) }
    }

    /// Puts a node's stages on cores, each with the processor it is pinned to. The node was made with
    /// [`Placement::ingress`].
    pub fn place(&self, mut node: Node) -> Vec<(Core, Option<CoreId>)> {
        let mut cores: Vec<Core> = (0..self.cores.len()).map(|at| self.core(at)).collect();
        let network = self.core_of(StageKind::Network);
        let waker = |(at, core): (usize, &mut Core)| {
            if at == network { node.waker() } else { core.waker() }
        };
        let wakers: Vec<Waker> = cores.iter_mut().enumerate().map(waker).collect();
        if self.cores.len() > 1 {
            node.wake_across_cores(|kind, worker| self.wakers(&wakers, self.home(kind, worker)));
        }
        let stages = node.into_stages();
        let mut workers = stages.workers.into_iter();
        let (mut network, mut ordering) = (Some(stages.network), Some(stages.ordering));
        let mut execution = Some(stages.execution);
        for (plan, core) in self.cores.iter().zip(&mut cores) {
            let inline = plan.stages.contains(&StageKind::Network);
            for kind in &plan.stages {
                let stage = match kind {
                    StageKind::Network => network.take(),
                    StageKind::Ingress if inline => None,
                    StageKind::Ingress => workers.next(),
                    StageKind::Ordering => ordering.take(),
                    StageKind::Execution => execution.take(),
                };
                stage.into_iter().for_each(|stage| core.push(stage));
            }
        }
        debug_assert!(workers.next().is_none(), "the node was made for this table");
        cores.into_iter().zip(self.cores.iter().map(|plan| plan.cpu)).collect()
    }

    /// A core without stages, named after what will run there. The system cuts names of threads after
    /// 15 characters.
    fn core(&self, at: usize) -> Core {
        let first = self.cores[at].stages[0];
        let name = match first {
            _ if self.cores.len() == 1 => "node".to_owned(),
            StageKind::Ingress => format!("ingress-{at}"),
            _ => first.name().to_owned(),
        };
        Core::new(name, Vec::new(), self.idle)
    }

    /// The first core with such a stage.
    fn core_of(&self, kind: StageKind) -> usize {
        let has = |core: &CorePlan| core.stages.contains(&kind);
        self.cores.iter().position(has).expect("the table was checked")
    }

    /// The core of a stage; of ingress, that of the worker with this number.
    fn home(&self, kind: StageKind, worker: usize) -> usize {
        if kind == StageKind::Ingress { self.workers()[worker] } else { self.core_of(kind) }
    }

    /// The cores of the ingress workers.
    fn workers(&self) -> Vec<usize> {
        let worker = |core: &CorePlan| {
            core.stages.contains(&StageKind::Ingress) && !core.stages.contains(&StageKind::Network)
        };
        (0..self.cores.len()).filter(|at| worker(&self.cores[*at])).collect()
    }

    /// Whom a stage on the core `own` wakes.
    fn wakers(&self, cores: &[Waker], own: usize) -> Wakers {
        let other = |at: usize| (at != own).then(|| cores[at].clone());
        Wakers {
            network: other(self.core_of(StageKind::Network)),
            workers: self.workers().into_iter().map(other).collect(),
            ordering: other(self.core_of(StageKind::Ordering)),
            execution: other(self.core_of(StageKind::Execution)),
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, core) in self.cores.iter().enumerate() {
            let separator = if at == 0 { "" } else { " | " };
            let names: Vec<&str> = core.stages.iter().map(|kind| kind.name()).collect();
            write!(f, "{separator}{}", names.join(" + "))?;
            match core.cpu {
                Some(cpu) => write!(f, " on cpu {}", cpu.0)?,
                None => write!(f, " on any cpu")?,
            }
        }
        write!(f, ", idle: {}", idle_name(self.idle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(cores: &[&[&str]]) -> Result<Placement, BadTable> {
        let core = |names: &&[&str]| CorePlan {
            stages: names.iter().map(|name| stage_kind(name).unwrap()).collect(),
            cpu: None,
        };
        Placement::table(IdlePolicy::Park, cores.iter().map(core).collect())
    }

    #[test]
    fn the_plan_reads_well() {
        let mut spread = Placement::spread(IdlePolicy::Spin, 3);
        spread.pin(&[CoreId(4), CoreId(5), CoreId(6)]);
        assert_eq!(
            spread.to_string(),
            "network + ingress on cpu 4 | ordering + execution on cpu 5 | ingress on cpu 6, idle: spin"
        );
        assert_eq!(
            Placement::fused(IdlePolicy::Park).to_string(),
            "network + ingress + ordering + execution on any cpu, idle: park"
        );
    }

    #[test]
    fn every_width_of_spread_is_a_table_that_could_have_been_written() {
        for width in 0..=CORES_MAX + 1 {
            let spread = Placement::spread(IdlePolicy::Park, width);
            assert_eq!(spread.cores().len(), width.clamp(1, CORES_MAX));
            let again = Placement::table(IdlePolicy::Park, spread.cores().to_vec());
            assert_eq!(again.as_ref(), Ok(&spread));
            let ingress = spread.ingress();
            assert!(ingress.inline, "the network stage's core always helps");
            let others = [0, 0, 1, 1, 1, 2];
            if let Some(workers) = others.get(width) {
                assert_eq!(ingress.workers, *workers, "{spread}");
            }
        }
    }

    #[test]
    fn tables_are_normal_and_wrong_ones_say_what_is_wrong() {
        let all = table(&[&["execution", "ordering", "ingress", "network"]]).unwrap();
        assert_eq!(all, Placement::fused(IdlePolicy::Park));
        let split = table(&[&["network"], &["ingress", "execution"], &["ordering", "ingress"]]);
        assert_eq!(split.unwrap().ingress(), IngressPlan { inline: false, workers: 2 });
        let wrong = |cores: &[&[&str]]| {
            let error = table(cores).unwrap_err();
            (error.core, error.to_string())
        };
        let rest = ["ingress", "ordering", "execution"];
        for (cores, core, text) in [
            (vec![], None, "0 cores; list 1 to 64"),
            (vec![&rest[..]], None, "\"network\" is nowhere; add it"),
            (vec![&["network"][..], &rest, &["ordering"]], Some(2), "\"ordering\" is on two cores"),
            (vec![&["network"][..], &rest, &[]], Some(2), "a core without stages"),
            (vec![&["network", "network"][..], &rest], Some(0), "\"network\" twice on one core"),
        ] {
            let (found, message) = wrong(&cores);
            assert_eq!(found, core, "{message}");
            assert!(message.contains(text), "{message}");
        }
        for name in ["egress", "durability", "networks"] {
            assert!(!stage_kind(name).unwrap_err().remedy.is_empty());
        }
    }
}
