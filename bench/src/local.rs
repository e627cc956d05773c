//! A cluster of real `tetrarch` processes on loopback, in a temporary directory, for a measurement.

use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tetrarch_appliance::ports::free_range;
use tetrarch_dataplane::transport::choice::TransportKind;

/// The processes. They are stopped, and the directory is removed, when this is dropped.
pub struct LocalCluster {
    directory: PathBuf,
    tetrarch: PathBuf,
    /// Those that were started: the first ones.
    replicas: Vec<Child>,
    /// Where the metrics of each replica are, of those that may be added as well.
    metrics: Vec<SocketAddr>,
    /// What the View Manager was asked to do and has not done yet.
    changes: Vec<(String, Child)>,
}

/// Which cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Replicas.
    pub replicas: u16,
    /// Only crashes are tolerated, with majorities.
    pub crash_only: bool,
}

impl Shape {
    /// `byzantine n=4`.
    pub fn name(self) -> String {
        format!("{} n={}", if self.crash_only { "crash" } else { "byzantine" }, self.replicas)
    }
}

impl LocalCluster {
    /// Makes the configuration, starts the replicas and waits until each answers.
    ///
    /// # Errors
    /// A missing binary, no free ports, or a replica that ends: with its last lines.
    pub fn start(tetrarch: &Path, shape: Shape) -> Result<Self> {
        Self::start_with(tetrarch, shape, &[])
    }

    /// As [`LocalCluster::start`], with further arguments of `tetrarch init`. The service is `null` unless one of
    /// them says otherwise.
    ///
    /// # Errors
    /// As there.
    pub fn start_with(tetrarch: &Path, shape: Shape, init: &[String]) -> Result<Self> {
        let mut cluster = Self::make(tetrarch, shape, init)?;
        for _ in 0..shape.replicas {
            cluster.start_next()?;
        }
        for id in 0..shape.replicas {
            cluster.wait(id)?;
        }
        Ok(cluster)
    }

    /// Makes the configuration and starts nobody.
    ///
    /// # Errors
    /// A missing binary, or no free ports.
    pub fn make(tetrarch: &Path, shape: Shape, init: &[String]) -> Result<Self> {
        let name = format!("tetrarch-bench-{}-{}", std::process::id(), unique());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).with_context(|| directory.display().to_string())?;
        let (tetrarch, count) = (tetrarch.to_path_buf(), shape.replicas);
        let model = if shape.crash_only { "crash" } else { "byzantine" };
        // Replica i listens at this port plus i, its metrics are at this port plus n plus i.
        let base = free_range(2 * count)?;
        let metrics = (0..count).map(|id| local(base + count + id)).collect();
        let cluster =
            Self { directory, tetrarch, replicas: Vec::new(), metrics, changes: Vec::new() };
        let null = ["--service".to_owned(), "null".to_owned()];
        let service: &[String] = if init.contains(&null[0]) { &[] } else { &null };
        let output = Command::new(&cluster.tetrarch)
            .arg("init")
            .arg(cluster.path())
            .args(["--replicas", &shape.replicas.to_string(), "--model", model])
            .args(["--base-port", &base.to_string()])
            .args(service)
            .args(init)
            .output()
            .with_context(|| {
                format!("{} cannot be run: build it first", cluster.tetrarch.display())
            })?;
        if !output.status.success() {
            bail!("tetrarch init: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(cluster)
    }

    /// Starts the next replica. Does not wait until it answers.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_next(&mut self) -> Result<()> {
        let child = self.spawn(self.replicas.len() as u16, &[])?;
        self.replicas.push(child);
        Ok(())
    }

    /// Makes keys and a configuration for another replica, the one after the last.
    ///
    /// # Errors
    /// No free ports, or `tetrarch view keys` fails.
    pub fn prepare_next(&mut self) -> Result<()> {
        let (id, base) = (self.metrics.len(), free_range(2)?);
        let (address, metrics) = (local(base).to_string(), local(base + 1));
        let output = Command::new(&self.tetrarch)
            .args(["view", "keys"])
            .arg(self.path())
            .args(["--id", &id.to_string(), "--address", &address])
            .args(["--metrics", &metrics.to_string()])
            .output()?;
        if !output.status.success() {
            bail!("tetrarch view keys: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        self.metrics.push(metrics);
        Ok(())
    }

    /// Starts a replica that was prepared, the next one, and has the View Manager add it. Waits for neither.
    ///
    /// # Errors
    /// It is not the next one, or something cannot be started.
    pub fn add(&mut self, id: u16) -> Result<()> {
        if usize::from(id) != self.replicas.len() || self.replicas.len() >= self.metrics.len() {
            bail!("replica {id} is not the next one that was prepared");
        }
        let child = self.spawn(id, &["--join"])?;
        self.replicas.push(child);
        let keys = self.path().join(format!("replica-{id}.public"));
        let keys = keys.to_str().context("the temporary directory has a name in UTF-8")?.to_owned();
        self.change("add", &["--keys", &keys])
    }

    /// Has the View Manager remove a replica. Does not wait for it.
    ///
    /// # Errors
    /// There is none of this number, or the command cannot be started.
    pub fn remove(&mut self, id: u16) -> Result<()> {
        self.replicas.get(usize::from(id)).with_context(|| no_replica(id))?;
        self.change("remove", &[&id.to_string()])
    }

    fn change(&mut self, what: &str, args: &[&str]) -> Result<()> {
        let log = self.directory.join("view.log");
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let child = Command::new(&self.tetrarch)
            .args(["view", what])
            .arg(self.path())
            .args(args)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.changes.push((what.to_owned(), child));
        Ok(())
    }

    /// Looks after what the View Manager was asked to do.
    ///
    /// # Errors
    /// It failed, with what it said.
    pub fn check_changes(&mut self) -> Result<()> {
        while let Some((what, child)) = self.changes.first_mut() {
            let Some(status) = child.try_wait()? else { return Ok(()) };
            if !status.success() {
                let said = fs::read_to_string(self.directory.join("view.log")).unwrap_or_default();
                bail!("tetrarch view {what} ended ({status}): {}", said.trim());
            }
            self.changes.remove(0);
        }
        Ok(())
    }

    /// What a replica has said.
    pub fn log(&self, id: u16) -> String {
        let log = self.directory.join(format!("replica-{id}.log"));
        fs::read_to_string(log).unwrap_or_default()
    }

    /// Starts a replica's process, whose log goes on in the same file.
    fn spawn(&self, id: u16, args: &[&str]) -> Result<Child> {
        let log = self.directory.join(format!("replica-{id}.log"));
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let child = Command::new(&self.tetrarch)
            .arg("replica")
            .arg(self.path())
            .args(["--id", &id.to_string()])
            .args(args)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(child)
    }

    /// SIGKILL to a replica.
    ///
    /// # Errors
    /// There is none of this number.
    pub fn kill(&mut self, id: u16) -> Result<()> {
        let child = self.replicas.get_mut(usize::from(id)).with_context(|| no_replica(id))?;
        // One that is gone already is as dead as it shall be.
        let _ = child.kill();
        child.wait()?;
        Ok(())
    }

    /// Starts a replica again that was killed. Does not wait until it answers.
    ///
    /// # Errors
    /// There is none of this number, or it runs.
    pub fn restart(&mut self, id: u16) -> Result<()> {
        let child = self.replicas.get_mut(usize::from(id)).with_context(|| no_replica(id))?;
        if child.try_wait()?.is_none() {
            bail!("replica {id} runs: kill it first");
        }
        self.replicas[usize::from(id)] = self.spawn(id, &[])?;
        Ok(())
    }

    /// The cluster directory.
    pub fn path(&self) -> PathBuf {
        self.directory.join("cluster")
    }

    /// Processes of the replicas.
    pub fn pids(&self) -> Vec<u32> {
        self.replicas.iter().map(Child::id).collect()
    }

    /// Where the replicas' metrics are, of those that were prepared as well.
    pub fn metrics(&self) -> Vec<SocketAddr> {
        self.metrics.clone()
    }

    /// Until a replica that was started answers.
    ///
    /// # Errors
    /// It ends, with its last lines, or does not answer.
    pub fn wait(&mut self, id: u16) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(20);
        let metrics = self.metrics()[usize::from(id)];
        // The metrics come last: a replica that serves them has all it needs.
        while std::net::TcpStream::connect(metrics).is_err() {
            let child = self.replicas.get_mut(usize::from(id)).with_context(|| no_replica(id))?;
            if let Some(status) = child.try_wait()? {
                bail!("replica {id} ended ({status}): {}", self.log(id).trim());
            }
            if Instant::now() > end {
                bail!("replica {id} does not listen after 20 s");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        let changes = self.changes.iter_mut().map(|(_, child)| child);
        for replica in self.replicas.iter_mut().chain(changes) {
            // Nothing to do about a process that is gone already.
            let _ = replica.kill();
            let _ = replica.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn no_replica(id: u16) -> String {
    format!("there is no replica {id}")
}

/// Arguments of `tetrarch init` for replicas over this transport.
pub fn over(transport: TransportKind) -> [String; 2] {
    ["--transport".into(), transport.name().into()]
}

fn unique() -> u128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |elapsed| elapsed.as_nanos())
}

/// The `tetrarch` binary beside this one, unless another is named.
///
/// # Errors
/// When there is none.
pub fn tetrarch_binary(named: Option<&Path>) -> Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("tetrarch");
    let path = named.map_or(beside, Path::to_path_buf);
    if !path.exists() {
        bail!("{} is missing: cargo build --release -p tetrarch-appliance", path.display());
    }
    Ok(path)
}
