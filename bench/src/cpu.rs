//! Processor time of this process and of others, from `/proc`.

use std::fs;
use std::time::Instant;

use serde::Serialize;

/// Clock ticks per second in `/proc/PID/stat`: fixed by the kernel's interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time, in seconds, or in seconds per second.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Usage {
    /// In the program.
    pub user: f64,
    /// In the kernel for the program.
    pub system: f64,
}

impl Usage {
    /// Both.
    pub fn total(self) -> f64 {
        self.user + self.system
    }

    fn since(self, before: Usage, elapsed: f64) -> Usage {
        let rate = |now: f64, then: f64| (now - then).max(0.0) / elapsed;
        Usage { user: rate(self.user, before.user), system: rate(self.system, before.system) }
    }
}

/// Processor time since it was started.
pub struct CpuMeter {
    begin: Instant,
    own: Usage,
    others: Vec<(u32, Usage)>,
}

impl CpuMeter {
    /// Starts to count for this process and for `pids`.
    pub fn start(pids: &[u32]) -> Self {
        let others = pids.iter().map(|pid| (*pid, usage(&pid.to_string()))).collect();
        Self { begin: Instant::now(), own: usage("self"), others }
    }

    /// Processor seconds per second: of this process, and of each other one.
    pub fn stop(&self) -> (Usage, Vec<Usage>) {
        let elapsed = self.begin.elapsed().as_secs_f64().max(1e-9);
        let own = usage("self").since(self.own, elapsed);
        let other = |(pid, before): &(u32, Usage)| usage(&pid.to_string()).since(*before, elapsed);
        (own, self.others.iter().map(other).collect())
    }
}

/// User and system time of a process so far; 0 when it is gone.
fn usage(pid: &str) -> Usage {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is a name in parentheses that may hold anything.
    let Some((_, fields)) = text.rsplit_once(')') else { return Usage::default() };
    let ticks = |at: usize| fields.split_whitespace().nth(at).and_then(|f| f.parse::<f64>().ok());
    let seconds = |at| ticks(at).unwrap_or(0.0) / TICKS_PER_SECOND;
    Usage { user: seconds(11), system: seconds(12) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_this_process_is_counted() {
        let meter = CpuMeter::start(&[std::process::id(), u32::MAX]);
        let begin = Instant::now();
        let mut sum = 0u64;
        while begin.elapsed().as_millis() < 60 {
            sum = sum.wrapping_mul(31).wrapping_add(1);
        }
        let (own, others) = meter.stop();
        assert!(std::hint::black_box(sum) != 7);
        assert!(own.user > 0.0 && others[0].total() > 0.0, "{own:?} {others:?}");
        assert_eq!(others[1], Usage::default(), "no such process");
    }
}
