//! Writes to the key-value store: large ones that fill it, and small ones that go on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tetrarch_client::{Busy, ClientConfig, ClientDriver, Completion, Mode, Outcome};
use tetrarch_dataplane::clock::{Clock, SystemClock};
use tetrarch_services::kv::op::OperationWriter;
use tetrarch_services::kv::text;

/// Bytes that a value of the filling takes in the store, with its key and what the store adds.
const VALUE_SIZE: usize = 128 * 1024;
/// Sessions that fill.
const FILLERS: u32 = 16;
/// Small writes go to so many keys.
const KEYS: usize = 10_000;

fn set(key: &str, value: &[u8]) -> Result<Vec<u8>> {
    let words = [b"SET", key.as_bytes(), value];
    let command = text::parse(&words).map_err(|_| anyhow!("SET is a command of the store"))?;
    let mut writer = OperationWriter::new();
    writer.push(&command);
    Ok(writer.bytes().to_vec())
}

/// A client that keeps its sessions busy.
struct Pump {
    driver: ClientDriver,
    clock: SystemClock,
    idle: Vec<u32>,
    /// Was made, and there was no room for it.
    unsent: Option<Vec<u8>>,
    completions: Vec<Completion>,
}

impl Pump {
    fn connect(directory: &Path, client: u32, sessions: u32) -> Result<Self> {
        let mut config = ClientConfig::load(directory, client)?;
        config.sessions_max = config.sessions_max.max(sessions);
        let mut pump = Self {
            driver: ClientDriver::open(&config)?,
            clock: SystemClock::new(),
            idle: (0..sessions).collect(),
            unsent: None,
            completions: Vec::new(),
        };
        pump.driver.connect(&pump.clock, Duration::from_secs(20))?;
        Ok(pump)
    }

    /// Gives idle sessions what `next` makes; it makes nothing when there is no more.
    fn submit(&mut self, mut next: impl FnMut() -> Option<Vec<u8>>) -> Result<bool> {
        while let Some(session) = self.idle.pop() {
            let Some(operation) = self.unsent.take().or_else(&mut next) else {
                self.idle.push(session);
                return Ok(false);
            };
            let now = self.clock.now();
            match self.driver.submit(now, session, Mode::Ordered, &operation) {
                Ok(_) => {}
                Err(Busy::Window | Busy::Overload | Busy::Memory) => {
                    self.idle.push(session);
                    self.unsent = Some(operation);
                    break;
                }
                Err(error) => return Err(error).context("the request was not taken"),
            }
        }
        Ok(true)
    }

    /// Waits for answers. Returns how many came.
    fn turn(&mut self) -> Result<u64> {
        let now = self.clock.now();
        if !self.driver.poll(now, &mut self.completions) {
            self.driver.park(now, Duration::from_millis(20));
        }
        let mut answered = 0;
        for completion in self.completions.drain(..) {
            self.idle.push(completion.session);
            match completion.outcome {
                Outcome::Done(_) => answered += 1,
                Outcome::Forgotten | Outcome::Refused => bail!("a write was refused"),
            }
        }
        Ok(answered)
    }
}

/// Writes values of `bytes` in all.
///
/// # Errors
/// The cluster does not answer.
pub fn fill(directory: &Path, bytes: usize) -> Result<()> {
    let mut pump = Pump::connect(directory, 0, FILLERS)?;
    let (mut written, mut answered) = (0, 0);
    let count = (bytes / VALUE_SIZE) as u64;
    while answered < count {
        pump.submit(|| {
            if written == count {
                return None;
            }
            written += 1;
            // Less than the size by what is around it, so that the sum fits the store.
            let value = vec![written as u8; VALUE_SIZE - 512];
            set(&format!("large:{written}"), &value).ok()
        })?;
        answered += pump.turn()?;
    }
    Ok(())
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
    /// The longest time without an answer, ns.
    stall: AtomicU64,
}

/// Small writes on a thread.
pub struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<()>>,
}

impl Load {
    /// Starts so many sessions.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn start(directory: &Path, sessions: u32) -> Result<Self> {
        let operations: Result<Vec<_>> =
            (0..KEYS).map(|key| set(&format!("small:{key}"), &[b'x'; 100])).collect();
        let operations = operations?;
        let shared = Arc::new(Shared::default());
        let (in_thread, directory) = (Arc::clone(&shared), directory.to_path_buf());
        let thread = std::thread::spawn(move || {
            // What moves the bytes may belong to the thread that made it.
            let mut pump = Pump::connect(&directory, 1, sessions)?;
            let (mut at, mut last) = (0, Instant::now());
            while !in_thread.stop.load(Ordering::Acquire) {
                pump.submit(|| {
                    at = (at + 1) % operations.len();
                    Some(operations[at].clone())
                })?;
                let answered = pump.turn()?;
                let now = Instant::now();
                let pause = (now - last).as_nanos() as u64;
                in_thread.stall.fetch_max(pause, Ordering::Relaxed);
                if answered > 0 {
                    last = now;
                    in_thread.answered.fetch_add(answered, Ordering::Relaxed);
                }
            }
            Ok(())
        });
        Ok(Self { shared, thread })
    }

    /// Answers so far.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Answers in a second over the next while.
    pub fn rate_over(&self, time: Duration) -> f64 {
        let (start, before) = (Instant::now(), self.answered());
        sleep(time);
        (self.answered() - before) as f64 / start.elapsed().as_secs_f64()
    }

    /// The longest time without an answer, since it was forgotten.
    pub fn stall(&self) -> Duration {
        Duration::from_nanos(self.shared.stall.load(Ordering::Relaxed))
    }

    /// See [`Load::stall`].
    pub fn forget_stall(&self) {
        self.shared.stall.store(0, Ordering::Relaxed);
    }

    /// Ends it.
    ///
    /// # Errors
    /// It had ended by itself.
    pub fn stop(self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Release);
        self.thread.join().map_err(|_| anyhow!("the load ended with a panic"))?
    }
}
