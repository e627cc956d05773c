//! `[placement]` of a replica's file, checked.
//!
//! Owns the errors about it. Always true: a placement that passes can be carried out on this machine,
//! as far as that can be known before. Must not: choose where the file says what is wanted.

use tetrarch_dataplane::affinity::{self, CoreId};
use tetrarch_dataplane::stage::IdlePolicy;

use super::{Check, ConfigError, PlacementFile};
use crate::placement::{BadTable, CORES_MAX, CorePlan, Placement, SPREAD_CORES_MAX, stage_kind};

impl Check<'_> {
    pub(super) fn placement(&self, raw: &PlacementFile) -> Result<Placement, ConfigError> {
        let idle = match raw.idle.as_str() {
            "spin" => IdlePolicy::Spin,
            "adaptive" => IdlePolicy::Adaptive,
            "park" => IdlePolicy::Park,
            other => {
                return Err(self.wrong(
                    "placement.idle",
                    format!("{other:?}"),
                    "no such idle policy",
                    "use \"park\" (shared cores), \"adaptive\" or \"spin\" (dedicated cores)",
                ));
            }
        };
        let layout = raw.layout.as_str();
        if layout != "table" && !raw.core.is_empty() {
            return Err(self.wrong(
                "placement.layout",
                format!("{layout:?}"),
                "[[placement.core]] lists cores, which this layout does not use",
                "use layout = \"table\", or remove the list",
            ));
        }
        let pins = &raw.cores;
        let mut placement = match layout {
            "fused" => Placement::fused(idle),
            "spread" => self.spread(idle, pins.len())?,
            "table" => self.table(idle, raw)?,
            other => {
                return Err(self.wrong(
                    "placement.layout",
                    format!("{other:?}"),
                    "no such layout",
                    "use \"fused\" (one core), \"spread\" (several) or \"table\" (as \
                     [[placement.core]] says)",
                ));
            }
        };
        let field = "placement.cores";
        if !pins.is_empty() {
            let wanted = placement.cores().len();
            if pins.len() != wanted {
                return Err(self.wrong(
                    field,
                    format!("{pins:?}"),
                    format!("the {layout} layout needs {wanted} processors"),
                    format!("list {wanted}, or none to let the system decide"),
                ));
            }
            placement.pin(&pins.iter().map(|cpu| CoreId(*cpu)).collect::<Vec<_>>());
        }
        self.cpus(if layout == "table" { "placement.core.cpu" } else { field }, &placement)?;
        Ok(placement)
    }

    /// As many cores as are pinned, or as there are, up to what pays without many signatures.
    fn spread(&self, idle: IdlePolicy, pinned: usize) -> Result<Placement, ConfigError> {
        let width = match pinned {
            0 => affinity::allowed_cores()
                .map_or(2, |allowed| allowed.len())
                .clamp(2, SPREAD_CORES_MAX),
            1 => {
                return Err(self.wrong(
                    "placement.cores",
                    "one processor",
                    "the spread layout needs several",
                    "list 2 or more, or use layout = \"fused\"",
                ));
            }
            more => more,
        };
        if width > CORES_MAX {
            let remedy = format!("list at most {CORES_MAX}");
            return Err(self.wrong("placement.cores", width, "too many processors", remedy));
        }
        Ok(Placement::spread(idle, width))
    }

    fn table(&self, idle: IdlePolicy, raw: &PlacementFile) -> Result<Placement, ConfigError> {
        let field = |core: Option<usize>| match core {
            Some(at) => format!("placement.core[{at}].stages"),
            None => "placement.core".into(),
        };
        let bad = |at: Option<usize>, error: BadTable| {
            let at = error.core.or(at);
            let value = match at.and_then(|at| raw.core.get(at)) {
                Some(core) => format!("{:?}", core.stages),
                None => format!("{} cores", raw.core.len()),
            };
            self.wrong(&field(at), value, error.problem, error.remedy)
        };
        if !raw.cores.is_empty() {
            return Err(self.wrong(
                "placement.cores",
                format!("{:?}", raw.cores),
                "in a table each core has its own processor",
                "write cpu = N in [[placement.core]] instead",
            ));
        }
        let mut cores = Vec::with_capacity(raw.core.len());
        for (at, core) in raw.core.iter().enumerate() {
            let stages = core.stages.iter().map(|name| stage_kind(name)).collect::<Result<_, _>>();
            let stages = stages.map_err(|error| bad(Some(at), error))?;
            cores.push(CorePlan { stages, cpu: core.cpu.map(CoreId) });
        }
        Placement::table(idle, cores).map_err(|error| bad(None, error))
    }

    /// Every processor exists, may be used, and is used once.
    fn cpus(&self, field: &str, placement: &Placement) -> Result<(), ConfigError> {
        let pinned: Vec<CoreId> = placement.cores().iter().filter_map(|core| core.cpu).collect();
        if pinned.is_empty() {
            return Ok(());
        }
        let allowed = affinity::allowed_cores().map_err(|error| {
            self.wrong(field, pinned[0].0, error.to_string(), "do not pin to processors")
        })?;
        for (at, cpu) in pinned.iter().enumerate() {
            if !allowed.contains(cpu) {
                let allowed: Vec<String> = allowed.iter().map(|cpu| cpu.0.to_string()).collect();
                return Err(self.wrong(
                    field,
                    cpu.0,
                    "this process has no such processor",
                    format!("use some of {}, or none to let the system decide", allowed.join(", ")),
                ));
            }
            if pinned[..at].contains(cpu) {
                return Err(self.wrong(
                    field,
                    cpu.0,
                    "two cores of the placement on one processor",
                    "give each its own, or put their stages on one core",
                ));
            }
        }
        Ok(())
    }
}
