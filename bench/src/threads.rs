//! Processor time of the threads of processes, from `/proc`, in nanoseconds.

use std::collections::HashMap;
use std::fs;
use std::time::Instant;

/// What each thread of some processes had used at a time.
pub struct ThreadTimes {
    at: Instant,
    pids: Vec<u32>,
    times: HashMap<(u32, String), u64>,
}

impl ThreadTimes {
    /// Now.
    pub fn of(pids: &[u32]) -> Self {
        let times = pids.iter().flat_map(|pid| {
            threads(*pid).into_iter().map(move |(thread, used)| ((*pid, thread), used))
        });
        Self { at: Instant::now(), pids: pids.to_vec(), times: times.collect() }
    }

    /// Processor seconds per second of the thread that used most since.
    pub fn busiest_since(&self) -> f64 {
        let now = Self::of(&self.pids);
        let used = now.times.iter().map(|(thread, used)| {
            used.saturating_sub(self.times.get(thread).copied().unwrap_or(0))
        });
        let elapsed = now.at.duration_since(self.at).as_nanos().max(1);
        used.max().unwrap_or(0) as f64 / elapsed as f64
    }
}

/// Id and time of each thread; none when the process is gone.
fn threads(pid: u32) -> Vec<(String, u64)> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let time = |task: fs::DirEntry| {
        // Time on a processor, time waiting for one, and how often.
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let used = text.split_whitespace().next()?.parse().ok()?;
        Some((task.file_name().to_string_lossy().to_string(), used))
    };
    tasks.filter_map(|task| time(task.ok()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_that_works_is_the_busiest() {
        let start = ThreadTimes::of(&[std::process::id(), u32::MAX]);
        let begin = Instant::now();
        let mut sum = 0u64;
        while begin.elapsed().as_millis() < 40 {
            sum = sum.wrapping_mul(31).wrapping_add(1);
        }
        assert!(std::hint::black_box(sum) != 7);
        assert!(start.busiest_since() > 0.0);
        assert_eq!(ThreadTimes::of(&[u32::MAX]).busiest_since(), 0.0, "no such process");
    }
}
