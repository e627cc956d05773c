//! What the operating system says about the machine, as far as it matters to placement.
//!
//! Owns nothing: values as they were read. Always true: what is not visible is `None` or empty, never
//! a guess. Must not: change anything, or fail: a machine without `/sys` is a machine, too.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Processors by number.
pub type Cpus = BTreeSet<usize>;

/// The machine as this process sees it.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Machine {
    /// Processors that are on.
    pub online: Cpus,
    /// Those that this process may use.
    pub allowed: Cpus,
    /// Those that the scheduler leaves alone (`isolcpus`).
    pub isolated: Cpus,
    /// Hardware threads that share a core; cores with one thread are left out.
    pub siblings: Vec<Cpus>,
    /// Memory nodes: their number and their processors.
    pub nodes: Vec<Node>,
    /// Network devices of hardware and the node that they are attached to.
    pub devices: Vec<Device>,
    /// Processors' worth of time that the cgroup allows.
    pub quota: Option<f64>,
    /// How processors choose their frequency: the names in use.
    pub governors: BTreeSet<String>,
    /// Free reserved huge pages of 2 MiB.
    pub huge_pages_free: Option<u64>,
    /// When huge pages are used unasked: `always`, `madvise`, `never`.
    pub transparent_huge_pages: Option<String>,
    /// Bytes that may be locked; `None`: no limit, or not visible.
    pub locked_memory_max: Option<u64>,
}

/// A memory node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Node {
    /// Its number.
    pub number: usize,
    /// Its processors.
    pub cpus: Cpus,
}

/// A network device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Device {
    /// As in `ip link`.
    pub name: String,
    /// Where it is attached, if the system knows.
    pub node: Option<usize>,
}

/// Bytes of this process that are in transparent huge pages now; `None` where the system does not
/// tell. The system counts them by walking all pages: for the start, not for every second.
pub fn transparent_huge_size() -> Option<u64> {
    transparent_huge(&text(Path::new("/proc/self/smaps_rollup"))?)
}

fn transparent_huge(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("AnonHugePages:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

impl Machine {
    /// Reads the machine that this process runs on.
    pub fn read() -> Self {
        Self::read_from(Path::new("/"))
    }

    /// Reads what is below `root`: for tests, a directory with `sys` and `proc`.
    pub fn read_from(root: &Path) -> Self {
        let cpu = root.join("sys/devices/system/cpu");
        let online = cpus(&cpu.join("online")).unwrap_or_default();
        let status = text(&root.join("proc/self/status")).unwrap_or_default();
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let allowed = allowed.and_then(parse_cpus).unwrap_or_else(|| online.clone());
        let huge = "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
        let thp = text(&root.join("sys/kernel/mm/transparent_hugepage/enabled"));
        Self {
            isolated: cpus(&cpu.join("isolated")).unwrap_or_default(),
            siblings: siblings(&cpu, &online),
            nodes: nodes(&root.join("sys/devices/system/node")),
            devices: devices(&root.join("sys/class/net")),
            quota: quota(root),
            governors: governors(&cpu, &online),
            huge_pages_free: text(&root.join(huge)).and_then(|text| text.parse().ok()),
            transparent_huge_pages: thp.and_then(|text| chosen(&text)),
            locked_memory_max: locked_memory(root),
            online,
            allowed,
        }
    }

    /// The node of a processor.
    pub fn node_of(&self, cpu: usize) -> Option<usize> {
        self.nodes.iter().find(|node| node.cpus.contains(&cpu)).map(|node| node.number)
    }

    /// The other hardware threads of a processor's core.
    pub fn siblings_of(&self, cpu: usize) -> Cpus {
        let group = self.siblings.iter().find(|group| group.contains(&cpu));
        group
            .map(|group| group.iter().copied().filter(|other| *other != cpu).collect())
            .unwrap_or_default()
    }

    /// The node of the network device, if all devices agree on one.
    pub fn device_node(&self) -> Option<usize> {
        let nodes: BTreeSet<usize> = self.devices.iter().filter_map(|device| device.node).collect();
        if nodes.len() == 1 { nodes.first().copied() } else { None }
    }

    /// `count` processors that are best for cores which work together, or all that there are:
    /// isolated ones first, then the network device's node, then one node, and no two hardware
    /// threads of a core as long as there are other cores. Processor 0, which serves most interrupts,
    /// comes last among equals.
    pub fn best(&self, count: usize) -> Vec<usize> {
        let home = self.device_node().or_else(|| {
            let room = |node: &&Node| node.cpus.intersection(&self.allowed).count();
            let roomy = self.nodes.iter().find(|node| room(node) >= count);
            roomy.or_else(|| self.nodes.iter().max_by_key(room)).map(|node| node.number)
        });
        let mut chosen: Vec<usize> = Vec::new();
        while chosen.len() < count {
            let free = self.allowed.iter().copied().filter(|cpu| !chosen.contains(cpu));
            let rank = |cpu: &usize| {
                let shared = self.siblings_of(*cpu).iter().any(|other| chosen.contains(other));
                let away = home.is_some() && self.node_of(*cpu) != home;
                (!self.isolated.contains(cpu), shared, away, *cpu == 0, *cpu)
            };
            match free.min_by_key(rank) {
                Some(cpu) => chosen.push(cpu),
                None => break,
            }
        }
        chosen
    }
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn cpus(path: &Path) -> Option<Cpus> {
    parse_cpus(&text(path)?)
}

/// `0-3,8,10-11`.
fn parse_cpus(list: &str) -> Option<Cpus> {
    let mut cpus = Cpus::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        // No machine has more; a file that says so is not what it seems.
        if last > 65_535 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// As they are written: `0-3,8`.
pub fn list(cpus: &Cpus) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for cpu in cpus {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
            _ => parts.push((*cpu, *cpu)),
        }
    }
    let part = |(first, last): &(usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    parts.iter().map(part).collect::<Vec<_>>().join(",")
}

fn siblings(cpu: &Path, online: &Cpus) -> Vec<Cpus> {
    let group =
        |number: &usize| cpus(&cpu.join(format!("cpu{number}/topology/thread_siblings_list")));
    let groups: BTreeSet<Cpus> = online.iter().filter_map(group).collect();
    groups.into_iter().filter(|group| group.len() > 1).collect()
}

/// Entries of a directory by name.
fn entries(path: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    let named = |entry: fs::DirEntry| Some((entry.file_name().into_string().ok()?, entry.path()));
    let mut all: Vec<_> = entries.filter_map(Result::ok).filter_map(named).collect();
    all.sort();
    all
}

fn nodes(path: &Path) -> Vec<Node> {
    let node = |(name, path): (String, PathBuf)| {
        let number = name.strip_prefix("node")?.parse().ok()?;
        Some(Node { number, cpus: cpus(&path.join("cpulist"))? })
    };
    let mut nodes: Vec<Node> = entries(path).into_iter().filter_map(node).collect();
    nodes.sort_by_key(|node| node.number);
    nodes
}

/// Devices of hardware: those that software makes have no `device`.
fn devices(path: &Path) -> Vec<Device> {
    let device = |(name, path): (String, PathBuf)| {
        path.join("device").exists().then(|| {
            let node = text(&path.join("device/numa_node")).and_then(|text| text.parse().ok());
            Device { name, node }
        })
    };
    entries(path).into_iter().filter_map(device).collect()
}

fn governors(cpu: &Path, online: &Cpus) -> BTreeSet<String> {
    let governor =
        |number: &usize| text(&cpu.join(format!("cpu{number}/cpufreq/scaling_governor")));
    online.iter().filter_map(governor).collect()
}

/// The smallest quota from this process' cgroup (version 2, or 1) up to the root.
fn quota(root: &Path) -> Option<f64> {
    let groups = text(&root.join("proc/self/cgroup"))?;
    let mut least: Option<f64> = None;
    let mut note = |quota: Option<f64>| {
        if let Some(quota) = quota {
            least = Some(least.map_or(quota, |least| least.min(quota)));
        }
    };
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, group) = (fields.next()?, fields.next()?, fields.next()?);
        let base = match controllers {
            "" => root.join("sys/fs/cgroup"),
            some if some.split(',').any(|name| name == "cpu") => root.join("sys/fs/cgroup/cpu"),
            _ => continue,
        };
        let mut path = PathBuf::from(group.trim_start_matches('/'));
        loop {
            let directory = base.join(&path);
            note(text(&directory.join("cpu.max")).and_then(|text| ratio(&text)));
            let number = |name| text(&directory.join(name))?.parse::<f64>().ok();
            let (quota, period) = (number("cpu.cfs_quota_us"), number("cpu.cfs_period_us"));
            note(quota.zip(period).filter(|(quota, _)| *quota > 0.0).map(|(q, p)| q / p));
            if !path.pop() {
                break;
            }
        }
    }
    least
}

/// `200000 100000`, or `max 100000` for no limit.
fn ratio(text: &str) -> Option<f64> {
    let (quota, period) = text.split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0.0).then(|| quota / period)
}

/// The word in brackets.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

fn locked_memory(root: &Path) -> Option<u64> {
    let limits = text(&root.join("proc/self/limits"))?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A directory with made-up files, gone when the test ends.
    pub(crate) struct Tree(PathBuf);

    impl Tree {
        pub(crate) fn new(name: &str, files: &[(&str, &str)]) -> Self {
            // Tests of one process run side by side, and several want the same machine.
            static NUMBER: AtomicUsize = AtomicUsize::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("tetrarch-{name}-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&path);
            for (file, content) in files {
                let file = path.join(file);
                fs::create_dir_all(file.parent().expect("a file")).expect("a writable directory");
                fs::write(file, content).expect("a writable directory");
            }
            Self(path)
        }

        pub(crate) fn machine(&self) -> Machine {
            Machine::read_from(&self.0)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Two nodes of four cores with two threads each; the network device is on the second.
    pub(crate) fn two_sockets() -> Tree {
        let mut files: Vec<(String, String)> = vec![
            ("sys/devices/system/cpu/online".into(), "0-15\n".into()),
            ("sys/devices/system/cpu/isolated".into(), "\n".into()),
            ("sys/devices/system/node/node0/cpulist".into(), "0-3,8-11\n".into()),
            ("sys/devices/system/node/node1/cpulist".into(), "4-7,12-15\n".into()),
            ("sys/class/net/eth0/device/numa_node".into(), "1\n".into()),
            ("sys/class/net/lo/mtu".into(), "65536\n".into()),
            ("proc/self/status".into(), "Name:\tx\nCpus_allowed_list:\t0-15\n".into()),
        ];
        for cpu in 0..16 {
            let cores = format!("sys/devices/system/cpu/cpu{cpu}");
            let group = format!("{},{}\n", cpu % 8, cpu % 8 + 8);
            files.push((format!("{cores}/topology/thread_siblings_list"), group));
            files.push((format!("{cores}/cpufreq/scaling_governor"), "powersave\n".into()));
        }
        let files: Vec<(&str, &str)> = files.iter().map(|(a, b)| (&a[..], &b[..])).collect();
        Tree::new("two-sockets", &files)
    }

    #[test]
    fn transparent_huge_pages_are_read_from_what_the_kernel_writes() {
        let rollup = "7ffc000-7fff000 ---p 00000000 00:00 0 [rollup]\nRss:            1236 kB\n\
                      AnonHugePages:      4096 kB\nHugetlb:               0 kB\n";
        assert_eq!(transparent_huge(rollup), Some(4 << 20));
        for broken in ["", "AnonHugePages: many kB", "AnonHugePages: 99999999999999999 kB"] {
            assert_eq!(transparent_huge(broken), None, "{broken}");
        }
    }

    #[test]
    fn lists_of_processors_are_read_and_written() {
        for text in ["", "0", "0-3,8,10-11"] {
            assert_eq!(list(&parse_cpus(text).unwrap()), text);
        }
        for text in ["a", "1-", "0-99999999999", "4294967295"] {
            assert_eq!(parse_cpus(text), None, "{text}");
        }
    }

    #[test]
    fn two_sockets_are_understood_and_the_best_processors_are_near_the_network() {
        let tree = two_sockets();
        let machine = tree.machine();
        assert_eq!((machine.online.len(), machine.allowed.len()), (16, 16));
        assert_eq!(machine.siblings.len(), 8);
        assert_eq!(machine.siblings_of(5), Cpus::from([13]));
        assert_eq!((machine.node_of(9), machine.node_of(6)), (Some(0), Some(1)));
        assert_eq!(machine.device_node(), Some(1));
        assert_eq!(machine.governors, BTreeSet::from(["powersave".to_owned()]));
        assert_eq!(machine.best(4), [4, 5, 6, 7]);
        assert_eq!(machine.best(5)[4], 1, "a whole core of the other node before half a core");
        assert_eq!(machine.best(100).len(), 16);
    }

    #[test]
    fn a_container_shows_its_share() {
        let tree = Tree::new(
            "container",
            &[
                ("sys/devices/system/cpu/online", "0-7"),
                ("proc/self/status", "Cpus_allowed_list:\t2-3,6"),
                ("proc/self/cgroup", "0::/pod/one\n"),
                ("sys/fs/cgroup/pod/cpu.max", "150000 100000"),
                ("sys/fs/cgroup/pod/one/cpu.max", "max 100000"),
                ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never"),
                ("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "64"),
                ("proc/self/limits", "Limit  Soft\nMax locked memory   8388608   8388608  bytes"),
            ],
        );
        let machine = tree.machine();
        assert_eq!(list(&machine.allowed), "2-3,6");
        assert_eq!(machine.quota, Some(1.5));
        assert_eq!(machine.transparent_huge_pages.as_deref(), Some("madvise"));
        assert_eq!((machine.huge_pages_free, machine.locked_memory_max), (Some(64), Some(8 << 20)));
        assert_eq!(machine.best(2), [2, 3]);
        let old = Tree::new(
            "container-v1",
            &[
                ("proc/self/cgroup", "4:cpu,cpuacct:/one\n3:memory:/one"),
                ("sys/fs/cgroup/cpu/one/cpu.cfs_quota_us", "50000"),
                ("sys/fs/cgroup/cpu/one/cpu.cfs_period_us", "100000"),
                ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1"),
                ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000"),
            ],
        );
        assert_eq!(old.machine().quota, Some(0.5));
    }

    #[test]
    fn a_machine_that_shows_nothing_is_no_error() {
        let tree = Tree::new("nothing", &[("empty", "")]);
        assert_eq!(tree.machine(), Machine::default());
        assert!(tree.machine().best(3).is_empty());
    }
}
