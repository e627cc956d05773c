//! Facts about the machine and the build: without them a figure means nothing.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// Where a result was made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Machine {
    /// Model name of the first processor.
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Instruction sets that matter here and are present.
    pub features: Vec<&'static str>,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
    /// Load average over one minute when the run began: other work on a shared machine.
    pub load: String,
    /// Commit of the working tree, with `+` when it was changed; empty outside a checkout.
    pub commit: String,
    /// `release` or `debug`.
    pub profile: &'static str,
}

impl Machine {
    /// Reads what the operating system says. A fact that cannot be read is empty.
    pub fn read() -> Self {
        Self {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            features: features(),
            memory_mib: memory_mib(),
            kernel: first_word("/proc/sys/kernel/osrelease"),
            load: first_word("/proc/loadavg"),
            commit: commit(),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" },
        }
    }

    /// One line for a report.
    pub fn line(&self) -> String {
        format!(
            "{} x {} ({}), {} MiB, Linux {}, load {}, {} build of {}",
            self.cores,
            self.cpu,
            self.features.join(" "),
            self.memory_mib,
            self.kernel,
            self.load,
            self.profile,
            if self.commit.is_empty() { "an unknown commit" } else { &self.commit },
        )
    }
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

fn first_word(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().next().unwrap_or_default().to_string()
}

fn memory_mib() -> u64 {
    let kib = field("/proc/meminfo", "MemTotal").and_then(|text| {
        text.split_whitespace().next().and_then(|number| number.parse::<u64>().ok())
    });
    kib.unwrap_or(0) / 1024
}

fn features() -> Vec<&'static str> {
    const WANTED: &[&str] = &["avx2", "avx512f", "aes", "vaes", "sha_ni"];
    let flags = field("/proc/cpuinfo", "flags").unwrap_or_default();
    let present: Vec<_> = flags.split_whitespace().collect();
    WANTED.iter().copied().filter(|flag| present.contains(flag)).collect()
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let Some(head) = git(&["rev-parse", "--short", "HEAD"]) else { return String::new() };
    let changed = git(&["status", "--porcelain"]).is_some_and(|status| !status.is_empty());
    if changed { format!("{head}+") } else { head }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_that_every_linux_has_are_read() {
        let machine = Machine::read();
        assert!(machine.cores >= 1);
        assert!(machine.memory_mib > 0);
        assert!(!machine.kernel.is_empty());
        assert!(machine.line().contains(&machine.kernel));
    }
}
