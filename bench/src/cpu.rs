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
    machine: f64,
}

/// Processor seconds per second.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct CpuReading {
    /// Of this process.
    pub own: Usage,
    /// Of each process that was named.
    pub others: Vec<Usage>,
    /// Of everything that runs on the machine, these included.
    pub machine: f64,
}

impl CpuMeter {
    /// Starts to count for this process and for `pids`.
    pub fn start(pids: &[u32]) -> Self {
        let others = pids.iter().map(|pid| (*pid, usage(&pid.to_string()))).collect();
        Self { begin: Instant::now(), own: usage("self"), others, machine: machine_busy() }
    }

    /// What was used since.
    pub fn stop(&self) -> CpuReading {
        let elapsed = self.begin.elapsed().as_secs_f64().max(1e-9);
        let own = usage("self").since(self.own, elapsed);
        let other = |(pid, before): &(u32, Usage)| usage(&pid.to_string()).since(*before, elapsed);
        let others = self.others.iter().map(other).collect();
        CpuReading { own, others, machine: (machine_busy() - self.machine).max(0.0) / elapsed }
    }
}

/// Processor time that anybody used since the machine was started.
fn machine_busy() -> f64 {
    /// Fields of the line, in order, that are time in which nothing ran.
    const IDLE: [usize; 2] = [3, 4];
    /// User, nice, system, idle, iowait, irq, softirq, steal; the rest is counted in these.
    const FIELDS: usize = 8;
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let Some(line) = text.lines().find_map(|line| line.strip_prefix("cpu ")) else { return 0.0 };
    let ticks = line.split_whitespace().take(FIELDS).enumerate();
    let busy = ticks.filter(|(at, _)| !IDLE.contains(at));
    busy.filter_map(|(_, field)| field.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
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
        // A tick is 10 ms of processor time, which may take long on a busy machine. The meters are
        // read one after the other, so a tick may come between them.
        let counted = |reading: &CpuReading| {
            reading.own.user > 0.0 && reading.others[0].total() > 0.0 && reading.machine > 0.0
        };
        while !counted(&meter.stop()) && begin.elapsed().as_secs() < 30 {
            for turn in 0..1_000_000 {
                sum = std::hint::black_box(sum.wrapping_mul(31) ^ turn);
            }
        }
        let CpuReading { own, others, machine } = meter.stop();
        assert!(std::hint::black_box(sum) != 7);
        assert!(own.user > 0.0 && others[0].total() > 0.0, "{own:?} {others:?}");
        assert!(machine > 0.0, "{machine}");
        assert_eq!(others[1], Usage::default(), "no such process");
    }
}
