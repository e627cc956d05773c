//! The processes of a cluster, their directory and what they said.
//!
//! Owns both. Always true: a process that is replaced is gone before; all of them end with this one, by the
//! end of their standard input. Must not: remove the directory of a run that failed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tetrarch_appliance::checkpoint::file::CheckpointFile;
use tetrarch_appliance::checkpoint::store::Store;
use tetrarch_appliance::config::PlacementFile;
use tetrarch_appliance::init::{InitOptions, init};
use tetrarch_appliance::ports::free_range;
use tetrarch_appliance::recovery::checkpoints_path;
use tetrarch_appliance::service::ServiceKind;
use tetrarch_appliance::status::Report;
use tetrarch_consensus::FaultModel;
use tetrarch_dataplane::storage::Owner;
use tetrarch_dataplane::storage::fault::SECTOR_SIZE;
use tetrarch_dataplane::transport::choice::TransportKind;
use tetrarch_dataplane::types::Digest;

use crate::Careless;
use crate::dice::Dice;

/// Replicas of a cluster.
pub const REPLICAS: usize = 4;

/// The one that has a bad disk, if any has: as many as a cluster of four tolerates.
pub const BAD: usize = REPLICAS - 1;

/// Which cluster.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Clients.
    pub clients: u32,
    /// Decisions from one checkpoint to the next.
    pub checkpoint_every: u64,
    /// Instances that may be open at once.
    pub depth: usize,
    /// What the replicas do wrong.
    pub careless: Option<Careless>,
    /// What takes longer has failed.
    pub patience: Duration,
    /// Is the disk of [`BAD`] emptied and put back to older states?
    pub bad_disk: bool,
}

/// See the module.
pub struct Processes {
    directory: PathBuf,
    careless: Option<Careless>,
    bad_disk: bool,
    replicas: Vec<Option<Child>>,
    /// Bytes of each replica's output that were looked at.
    read: Vec<usize>,
    cluster: u64,
    /// The root of each checkpoint that was seen.
    roots: BTreeMap<u64, Digest>,
}

/// How long a request may wait before a leader is suspected.
pub const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);

impl Processes {
    /// Makes a cluster, and starts all replicas.
    ///
    /// # Errors
    /// There are no free ports, or the system refuses.
    pub fn start(directory: &Path, shape: &Shape) -> Result<Self> {
        let mut this = Self::make(directory, shape)?;
        this.spawn_all()?;
        Ok(this)
    }

    /// Makes the cluster's files in `directory`, which must not exist.
    ///
    /// # Errors
    /// There are no free ports, or the system refuses.
    pub fn make(directory: &Path, shape: &Shape) -> Result<Self> {
        let options = InitOptions {
            replicas: REPLICAS as u16,
            f: None,
            depth: shape.depth,
            model: FaultModel::Byzantine,
            clients: shape.clients,
            base_port: free_range(2 * REPLICAS as u16)?,
            hosts: Vec::new(),
            service: ServiceKind::Kv,
            request_timeout_ms: REQUEST_TIMEOUT.as_millis() as u64,
            durable: true,
            checkpoint_every: shape.checkpoint_every,
            transport: TransportKind::Tcp,
            placement: PlacementFile::default(),
            frames_mib: Some(16),
        };
        let cluster = init(directory, &options)?;
        Ok(Self {
            directory: directory.to_path_buf(),
            careless: shape.careless,
            bad_disk: shape.bad_disk,
            replicas: (0..REPLICAS).map(|_| None).collect(),
            read: vec![0; REPLICAS],
            cluster: cluster.id,
            roots: BTreeMap::new(),
        })
    }

    /// Starts all replicas.
    ///
    /// # Errors
    /// The system refuses.
    pub fn spawn_all(&mut self) -> Result<()> {
        (0..REPLICAS).try_for_each(|id| self.spawn(id))
    }

    /// Has a replica ended by itself? How, and its last lines.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn take_ended(&mut self, id: usize) -> Result<Option<(ExitStatus, String)>> {
        let ended = self.replicas[id].as_mut().map(Child::try_wait).transpose()?.flatten();
        if ended.is_some() {
            self.replicas[id] = None;
        }
        Ok(ended.map(|status| (status, self.last_lines(id))))
    }

    fn output(&self, id: usize) -> PathBuf {
        self.directory.join(format!("replica-{id}.log"))
    }

    /// Starts a replica that is down.
    ///
    /// # Errors
    /// The system refuses.
    pub fn spawn(&mut self, id: usize) -> Result<()> {
        let output = File::options().create(true).append(true).open(self.output(id))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("replica").arg(&self.directory).args(["--id", &id.to_string()]);
        if let Some(careless) = self.careless {
            command.args(["--careless", careless.name()]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(output);
        self.replicas[id] = Some(command.spawn().context("cannot start a replica")?);
        Ok(())
    }

    /// Kills one at once. It is gone when this returns.
    ///
    /// # Errors
    /// It had ended by itself: with its last lines.
    pub fn kill(&mut self, id: usize) -> Result<()> {
        self.check_one(id)?;
        if let Some(mut child) = self.replicas[id].take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Kills several, all before it waits for any.
    ///
    /// # Errors
    /// One had ended by itself: with its last lines.
    pub fn kill_at_once(&mut self, ids: &[usize]) -> Result<()> {
        ids.iter().try_for_each(|id| self.check_one(*id))?;
        for id in ids {
            if let Some(child) = &mut self.replicas[*id] {
                child.kill()?;
            }
        }
        for id in ids {
            if let Some(mut child) = self.replicas[*id].take() {
                child.wait()?;
            }
        }
        Ok(())
    }

    fn check_one(&mut self, id: usize) -> Result<()> {
        let ended = self.replicas[id].as_mut().map(Child::try_wait).transpose()?.flatten();
        match ended {
            Some(status) => {
                bail!("replica {id} ended by itself ({status}):\n{}", self.last_lines(id))
            }
            None => Ok(()),
        }
    }

    /// Looks whether all run that should, and at what they said since the last look.
    ///
    /// # Errors
    /// One ended by itself, or suspects another of misbehaviour.
    pub fn check(&mut self) -> Result<()> {
        for id in 0..REPLICAS {
            self.check_one(id)?;
            let text = fs::read(self.output(id))?;
            let news = String::from_utf8_lossy(&text[self.read[id].min(text.len())..]).into_owned();
            self.read[id] = text.len();
            // One that forgot what it promised is rightly suspected.
            let forgetful = format!("misbehaviour: replica {BAD} ");
            let is_known = |line: &str| self.bad_disk && line.contains(&forgetful);
            let bad = ["misbehaviour", "panicked", "Z error "];
            let is_bad =
                |line: &&str| bad.iter().any(|word| line.contains(word)) && !is_known(line);
            if let Some(line) = news.lines().find(is_bad) {
                bail!("replica {id}: {line}");
            }
        }
        Ok(())
    }

    fn data(&self, id: usize) -> PathBuf {
        self.directory.join(format!("replica-{id}.data"))
    }

    /// What a loss of power may do to checkpoints that were being written or fetched: they have no name yet, and any
    /// of their sectors may be missing. The replica is down.
    ///
    /// # Errors
    /// The system refuses.
    pub fn tear_unfinished(&self, id: usize, dice: &mut Dice) -> Result<()> {
        let Ok(entries) = fs::read_dir(self.data(id).join("checkpoints")) else { return Ok(()) };
        for path in entries.flatten().map(|entry| entry.path()) {
            let named = path.extension().is_some_and(|it| it == "checkpoint" || it == "unusable");
            if named || !path.is_file() {
                continue;
            }
            let file = File::options().write(true).open(&path)?;
            let sectors = file.metadata()?.len() / SECTOR_SIZE as u64;
            for sector in (0..sectors).filter(|_| dice.chance(20)) {
                file.write_all_at(&[0; SECTOR_SIZE], sector * SECTOR_SIZE as u64)?;
            }
        }
        Ok(())
    }

    /// The disk of [`BAD`], which is down, loses its records, or is put back to what it was the last time; or that is
    /// noted, for a later time.
    ///
    /// # Errors
    /// The system refuses.
    pub fn spoil_disk(&self, dice: &mut Dice) -> Result<()> {
        let (data, older) = (self.data(BAD), self.directory.join("older.data"));
        let parts = ["log", "checkpoints"];
        if dice.chance(30) {
            for part in parts.iter().filter(|part| data.join(part).exists()) {
                fs::remove_dir_all(data.join(part))?;
            }
        } else if older.exists() {
            fs::remove_dir_all(&data)?;
            fs::rename(&older, &data)?;
        } else {
            for part in parts.iter().filter(|part| data.join(part).exists()) {
                copy_files(&data.join(part), &older.join(part))?;
            }
            copy_files(&data, &older)?;
        }
        Ok(())
    }

    /// Replicas that have a checkpoint of one instance have the same one, now or ever.
    ///
    /// # Errors
    /// They have not.
    pub fn compare_checkpoints(&mut self) -> Result<()> {
        for id in 0..REPLICAS {
            let store =
                Store::new(checkpoints_path(&self.directory.join(format!("replica-{id}.data"))));
            let owner = Owner { cluster: self.cluster, replica: id as u16 };
            for path in store.list()? {
                let file = match CheckpointFile::open(&path, owner) {
                    Ok(file) => file,
                    // Replicas run, and remove old ones.
                    Err(_) if !path.exists() => continue,
                    Err(error) => return Err(error.into()),
                };
                let (cid, root) = (file.header.position.cid.0, file.header.root);
                if *self.roots.entry(cid).or_insert(root) != root {
                    bail!("replica {id}: its state at instance {cid} is not that of others");
                }
            }
        }
        Ok(())
    }

    fn last_lines(&self, id: usize) -> String {
        let text = fs::read_to_string(self.output(id)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// Waits until all replicas have decided and executed the same.
    ///
    /// # Errors
    /// Not within `patience`: what each says.
    pub fn wait_until_level(&mut self, patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        loop {
            let report = Report::collect(&self.directory)?;
            let decided: Vec<_> =
                report.replicas.iter().map(|it| it.status.as_ref().map(|it| it.decided)).collect();
            // One whose disk was put back may need what nobody keeps any more.
            let judged = if self.bad_disk { BAD } else { REPLICAS };
            if decided[..judged].iter().all(|it| it.is_some() && *it == decided[0]) {
                return Ok(());
            }
            self.check()?;
            if Instant::now() > end {
                let lines: Vec<String> = (0..REPLICAS).map(|id| self.last_lines(id)).collect();
                bail!(
                    "not level after {patience:?}: decided {decided:?}\n{}\n{}",
                    report.table(),
                    lines.join("\n")
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Restarts that began from a checkpoint, restarts that left out an interrupted write, and checkpoints that could
    /// not be used.
    pub fn recoveries(&self) -> (usize, usize, usize) {
        let all: String = (0..REPLICAS)
            .map(|id| fs::read_to_string(self.output(id)).unwrap_or_default())
            .collect();
        let count = |words: &str| all.matches(words).count();
        (count(" from checkpoint "), count("interrupted write"), count("set aside"))
    }

    /// Removes everything.
    ///
    /// # Errors
    /// The system refuses.
    pub fn remove(mut self) -> Result<()> {
        self.stop();
        fs::remove_dir_all(&self.directory)?;
        Ok(())
    }

    fn stop(&mut self) {
        for mut child in self.replicas.iter_mut().filter_map(Option::take) {
            // It may be gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The files of a directory, not those of directories in it.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)?.flatten().filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
