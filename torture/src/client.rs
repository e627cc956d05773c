//! Clients that append to lists, and keep their own record of what they were told.
//!
//! Owns their threads. Always true: an operation is in the record before it is sent. Must not: judge.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tetrarch_client::{Client, ClientConfig, ClientError, ConnectError, Session};
use tetrarch_consensus::smr::client::Mode;
use tetrarch_services::kv::op::OperationWriter;
use tetrarch_services::kv::reply::Reply;
use tetrarch_services::kv::text;
use tetrarch_services::wire::Reader;

use crate::cluster::REQUEST_TIMEOUT;
use crate::dice::Dice;
use crate::history::{History, Id};

/// Lists.
pub const LISTS: usize = 4;
/// Sessions of a client.
const SESSIONS: usize = 3;
/// Operations of a client in flight at most.
const WINDOW: usize = 12;
/// What the run and its clients share.
pub struct Shared {
    history: Mutex<History>,
    /// Clients start nothing new.
    pub pause: AtomicBool,
    stop: AtomicBool,
    /// Operations that ended.
    pub ended: AtomicU64,
    in_flight: AtomicU64,
    /// Which lists are used.
    pub page: AtomicU32,
    /// An operation that takes longer has failed: every disturbance is over much sooner.
    pub patience: Duration,
}

impl Shared {
    /// Of lists that are empty yet.
    pub fn new(patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            history: Mutex::new(History::new(LISTS)),
            pause: AtomicBool::new(true),
            stop: AtomicBool::new(false),
            ended: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            page: AtomicU32::new(0),
            patience,
        })
    }

    /// The record.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has no client anything in flight?
    pub fn is_quiet(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) == 0
    }

    /// The key of a list.
    pub fn key(&self, list: usize) -> String {
        format!("list-{}-{list}", self.page.load(Ordering::Acquire))
    }
}

/// A command of the key-value store.
pub fn command(words: &[&[u8]]) -> Result<Vec<u8>> {
    let mut writer = OperationWriter::new();
    let Ok(parsed) = text::parse(words) else { bail!("no command: {words:?}") };
    writer.push(&parsed);
    Ok(writer.bytes().to_vec())
}

/// The number that an answer is.
pub fn integer(answer: &[u8]) -> Result<u64> {
    match Reply::read(&mut Reader::new(answer)) {
        Ok(Reply::Integer(number)) if number >= 0 => Ok(number as u64),
        other => bail!("no length of a list: {other:?}"),
    }
}

/// Connects as client `index`, for as long as it takes.
///
/// # Errors
/// Not within `patience`.
pub fn connect(directory: &Path, index: u32, patience: Duration) -> Result<Client> {
    let end = Instant::now() + patience;
    loop {
        let mut config = ClientConfig::load(directory, index)?;
        config.request_timeout = REQUEST_TIMEOUT;
        config.operation_timeout = patience;
        config.connect_timeout = Duration::from_secs(5);
        match Client::connect(config) {
            Ok(client) => return Ok(client),
            Err(ConnectError::Unreachable { .. }) if Instant::now() < end => {}
            Err(error) => return Err(error).with_context(|| format!("client {index}")),
        }
    }
}

/// What came of an operation.
struct Outcome {
    what: Operation,
    result: Result<Vec<u8>, ClientError>,
    end: Instant,
}

#[derive(Clone, Copy)]
enum Operation {
    Append(usize, Id),
    Ask(usize, Instant),
}

/// One client, its thread and its record.
struct Worker {
    directory: std::path::PathBuf,
    index: u32,
    shared: Arc<Shared>,
    dice: Dice,
    appends: u32,
}

/// Starts client `index`. It runs until the run stops it.
pub fn start(
    directory: &Path,
    index: u32,
    shared: &Arc<Shared>,
    dice: Dice,
) -> JoinHandle<Result<()>> {
    let (directory, shared) = (directory.to_path_buf(), Arc::clone(shared));
    let mut worker = Worker { directory, index, shared, dice, appends: 0 };
    std::thread::spawn(move || {
        while !worker.shared.stop.load(Ordering::Acquire) {
            worker.live()?;
        }
        Ok(())
    })
}

/// Stops all clients.
///
/// # Errors
/// What one of them met.
pub fn stop(shared: &Shared, clients: Vec<JoinHandle<Result<()>>>) -> Result<()> {
    shared.stop.store(true, Ordering::Release);
    for client in clients {
        match client.join() {
            Ok(ended) => ended?,
            Err(_) => bail!("a client panicked"),
        }
    }
    Ok(())
}

impl Worker {
    /// From its start to its end, which is sudden: what is in flight then is never heard of.
    fn live(&mut self) -> Result<()> {
        let client = connect(&self.directory, self.index, self.shared.patience)?;
        let sessions: Result<Vec<Session>, _> = (0..SESSIONS).map(|_| client.session()).collect();
        let sessions = sessions?;
        let (news_in, news) = channel();
        let dies = Instant::now() + Duration::from_millis(500 + self.dice.below(10_000));
        let mut in_flight = 0;
        let mut next = Instant::now();
        let ends = loop {
            let stops = self.shared.stop.load(Ordering::Acquire);
            let paused = self.shared.pause.load(Ordering::Acquire);
            if stops || (!paused && Instant::now() > dies && in_flight > 0) {
                break in_flight;
            }
            if !paused && in_flight < WINDOW && Instant::now() >= next {
                next = Instant::now() + Duration::from_micros(self.dice.below(12_000));
                let session = &sessions[self.dice.below(SESSIONS as u64) as usize];
                self.submit(session, &news_in)?;
                in_flight += 1;
            }
            in_flight -= self.take(&news, Duration::from_millis(2))?;
        };
        drop((sessions, client));
        // What still came counts; the rest is in doubt.
        let left = ends - self.take(&news, Duration::ZERO)?;
        (0..left).for_each(|_| self.shared.history().doubts());
        self.shared.in_flight.fetch_sub(left as u64, Ordering::AcqRel);
        // Incarnations come from the clock, four a second.
        std::thread::sleep(Duration::from_millis(300));
        Ok(())
    }

    fn submit(&mut self, session: &Session, news: &Sender<Outcome>) -> Result<()> {
        let list = self.dice.below(LISTS as u64) as usize;
        let key = self.shared.key(list);
        let appends = self.dice.chance(70);
        let ordered = appends || self.dice.chance(30);
        let start = Instant::now();
        let (what, operation) = if appends {
            self.appends += 1;
            let id = Id { client: self.index, number: self.appends };
            self.shared.history().appends(list, id, start);
            (Operation::Append(list, id), command(&[b"RPUSH", key.as_bytes(), &id.element()])?)
        } else {
            (Operation::Ask(list, start), command(&[b"LLEN", key.as_bytes()])?)
        };
        self.shared.in_flight.fetch_add(1, Ordering::AcqRel);
        let news = news.clone();
        let mode = if ordered { Mode::Ordered } else { Mode::ReadOnly };
        session.submit_with(&operation, mode, move |result| {
            // Nobody listens any more when the client is at its end.
            let _ = news.send(Outcome { what, result, end: Instant::now() });
        })?;
        Ok(())
    }

    /// Writes down what came. Returns how much.
    fn take(&self, news: &Receiver<Outcome>, wait: Duration) -> Result<usize> {
        let mut count = 0;
        let mut outcome = news.recv_timeout(wait).ok();
        while let Some(Outcome { what, result, end }) = outcome {
            let answer = match result {
                Err(ClientError::Closed) => {
                    outcome = news.try_recv().ok();
                    continue;
                }
                other => other.with_context(|| format!("client {}", self.index))?,
            };
            count += 1;
            let length = integer(&answer)?;
            match what {
                Operation::Append(list, id) => {
                    self.shared.history().appended(list, id, length, end)
                }
                Operation::Ask(list, start) => {
                    self.shared.history().asked(list, start, length, end)
                }
            }
            self.shared.ended.fetch_add(1, Ordering::AcqRel);
            self.shared.in_flight.fetch_sub(1, Ordering::AcqRel);
            outcome = news.try_recv().ok();
        }
        Ok(count)
    }
}
