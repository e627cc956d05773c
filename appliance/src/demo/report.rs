//! The demo's result, for people.

use std::fmt;
use std::time::Duration;

use super::load::{Check, Tally};
use crate::cli::DemoArgs;

/// Everything that was seen.
pub struct Verdict {
    /// With all replicas.
    pub before: Tally,
    /// From the leader's death on.
    pub after: Tally,
    /// The comparison at the end.
    pub check: Check,
    /// Which replica died.
    pub killed: u16,
    /// The last regency and its leader.
    pub regency: (u64, u64),
    /// What was asked for.
    pub args: DemoArgs,
}

impl Verdict {
    /// Were requests ordered before and after, and nothing lost or doubled?
    pub fn passed(&self) -> bool {
        let ordered = self.before.answered > 0 && self.after.answered > 0;
        ordered && self.check.wrong == 0 && self.check.unanswered == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { before, after, check, killed, regency, args } = self;
        writeln!(f, "\nResult")?;
        writeln!(f, "  before the leader died   {}", Line(before))?;
        writeln!(f, "  after                    {}", Line(after))?;
        writeln!(
            f,
            "  without an answer        {} after the death; suspicion takes 1.75 timeouts of {} ms",
            Short(after.longest_gap),
            args.request_timeout_ms
        )?;
        writeln!(f, "  new leader               replica {}, regency {}", regency.1, regency.0)?;
        writeln!(
            f,
            "  writes                   {} acknowledged, {} stored",
            check.acknowledged, check.stored
        )?;
        if self.passed() {
            writeln!(
                f,
                "  tolerated                the death of replica {killed}: no write was lost or \
                 executed twice"
            )
        } else {
            writeln!(
                f,
                "  FAILED                   {} sessions disagree with the store, {} requests had no \
                 answer",
                check.wrong, check.unanswered
            )
        }
    }
}

struct Line<'a>(&'a Tally);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = self.0;
        let rate = tally.answered as f64 / tally.duration.as_secs_f64().max(0.001);
        let at = |quantile| Short(Duration::from_micros(tally.latency.value_at_quantile(quantile)));
        write!(
            f,
            "{rate:8.0} requests/s   latency 50 % {}, 99 % {}, 99.9 % {}",
            at(0.5),
            at(0.99),
            at(0.999)
        )
    }
}

/// A duration with a unit that suits it.
struct Short(Duration);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        if seconds < 0.001 {
            write!(f, "{:.0} us", seconds * 1e6)
        } else if seconds < 1.0 {
            write!(f, "{:.1} ms", seconds * 1e3)
        } else {
            write!(f, "{seconds:.2} s")
        }
    }
}
