//! Resident memory of processes, from `/proc`.

use std::fs;

/// Watches some processes.
#[derive(Clone, Debug)]
pub struct Memory {
    pids: Vec<u32>,
}

impl Memory {
    /// Of these processes.
    pub fn of(pids: &[u32]) -> Self {
        Self { pids: pids.to_vec() }
    }

    /// What each has resident now, MiB; 0 when it is gone.
    pub fn now(&self) -> Vec<f64> {
        self.pids.iter().map(|pid| resident_mib(&pid.to_string())).collect()
    }

    /// What this process has resident now, MiB.
    pub fn own() -> f64 {
        resident_mib("self")
    }
}

/// The most that a process had resident since [`forget_peak`], or since it began, MiB; 0 when it is gone.
pub fn peak_mib(pid: u32) -> f64 {
    status_mib(&pid.to_string(), "VmHWM:")
}

/// Lets the peak of a process begin anew. `false`: the system does not.
pub fn forget_peak(pid: u32) -> bool {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").is_ok()
}

fn resident_mib(pid: &str) -> f64 {
    status_mib(pid, "VmRSS:")
}

fn status_mib(pid: &str, name: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_touched_shows() {
        let before = Memory::own();
        let touched = vec![1u8; 64 << 20];
        let memory = Memory::of(&[std::process::id(), u32::MAX]).now();
        assert!(touched.iter().all(|byte| *byte == 1));
        assert!(memory[0] > before + 32.0, "{before} {memory:?}");
        assert_eq!(memory[1], 0.0, "no such process");
        let peak = peak_mib(std::process::id());
        assert!(peak >= memory[0] - 1.0, "{peak} {memory:?}");
        assert_eq!(peak_mib(u32::MAX), 0.0);
        assert!(!forget_peak(u32::MAX));
    }
}
