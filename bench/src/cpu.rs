//! Processor time of this process and of others, from `/proc`.

use std::fs;
use std::time::Instant;

/// Clock ticks per second in `/proc/PID/stat`: fixed by the kernel's interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time since it was started.
pub struct CpuMeter {
    begin: Instant,
    own: f64,
    others: Vec<(u32, f64)>,
}

impl CpuMeter {
    /// Starts to count for this process and for `pids`.
    pub fn start(pids: &[u32]) -> Self {
        let others = pids.iter().map(|pid| (*pid, seconds(&pid.to_string()))).collect();
        Self { begin: Instant::now(), own: seconds("self"), others }
    }

    /// Processor seconds per second: of this process, and of each other one.
    pub fn stop(&self) -> (f64, Vec<f64>) {
        let elapsed = self.begin.elapsed().as_secs_f64().max(1e-9);
        let own = (seconds("self") - self.own) / elapsed;
        let other = |(pid, before): &(u32, f64)| (seconds(&pid.to_string()) - before) / elapsed;
        (own, self.others.iter().map(other).collect())
    }
}

/// User and system time of a process so far; 0 when it is gone.
fn seconds(pid: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is a name in parentheses that may hold anything.
    let Some((_, fields)) = text.rsplit_once(')') else { return 0.0 };
    let ticks = |at: usize| fields.split_whitespace().nth(at).and_then(|f| f.parse::<f64>().ok());
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / TICKS_PER_SECOND
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
        assert!(own > 0.0 && others[0] > 0.0, "{own} {others:?}");
        assert_eq!(others[1], 0.0, "no such process");
    }
}
