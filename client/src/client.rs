//! A client with a thread of its own: blocking calls, waiting handles and callbacks.
//!
//! Owns the thread that polls a [`ClientDriver`]. Always true: every operation that was taken ends
//! with exactly one result or error; the queue to the thread is bounded by sessions times windows.
//! Must not: do protocol work on the caller's thread.

mod parked;
mod pump;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tetrarch_consensus::limits::{OPERATION_SIZE_MAX, SESSION_WINDOW};
use tetrarch_consensus::smr::client::{Busy, Mode, Notice};
use tetrarch_dataplane::endpoint::Waker;
use tetrarch_dataplane::types::{Instant, OpenError};

use crate::config::ClientConfig;
use crate::driver::ClientDriver;
use crate::error::{ClientError, ConnectError};
use pump::Pump;

/// The result of an operation.
pub type OperationResult = Result<Vec<u8>, ClientError>;

/// What is done with the result of an operation.
enum Sink {
    Channel(SyncSender<OperationResult>),
    Callback(Box<dyn FnOnce(OperationResult) + Send>),
}

impl Sink {
    fn put(self, result: OperationResult) {
        match self {
            // Nobody waits any more: nothing to tell.
            Self::Channel(channel) => drop(channel.try_send(result)),
            Self::Callback(callback) => callback(result),
        }
    }
}

/// A session's number and how much it has in flight. The number is used again when the session and
/// its last operation are gone.
struct Place {
    shared: Arc<Shared>,
    number: u32,
    in_flight: AtomicUsize,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.listeners.push((self.number, None));
        queue.free.push(self.number);
    }
}

/// Is told of the notices of a session.
type Listener = Box<dyn FnMut(Notice) + Send>;

/// An operation on its way to the thread, and there.
struct Command {
    place: Arc<Place>,
    mode: Mode,
    operation: Vec<u8>,
    sink: Sink,
    /// When its caller gives up; set by the thread.
    due: Instant,
}

impl Command {
    /// Ends the operation: makes its place in the window free, then tells the result.
    fn end(self, result: OperationResult) {
        self.place.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.sink.put(result);
    }
}

/// What callers and the thread share.
struct Shared {
    queue: Mutex<Queue>,
    waker: Waker,
    sessions_max: u32,
    window: usize,
}

#[derive(Default)]
struct Queue {
    commands: Vec<Command>,
    /// Who listens to notices of a session from now on.
    listeners: Vec<(u32, Option<Listener>)>,
    /// Sessions that were given back.
    free: Vec<u32>,
    /// Sessions that were never given out begin here.
    fresh: u32,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No holder leaves the queue half changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client of a cluster, with a thread that does the work. Closed when dropped.
///
/// ```no_run
/// use tetrarch_client::{Client, ClientConfig};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::connect(ClientConfig::load("demo".as_ref(), 0)?)?;
/// let session = client.session()?;
/// let result = session.invoke(b"operation")?;
/// let state = session.query(b"question")?;
/// # drop((result, state));
/// # Ok(())
/// # }
/// ```
pub struct Client {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    /// Connects to the cluster over TCP and waits until enough replicas for an answer are.
    ///
    /// # Errors
    /// [`ConnectError`]: what is missing, and what to do.
    pub fn connect(config: ClientConfig) -> Result<Self, ConnectError> {
        Self::run(ClientDriver::open(&config)?, &config)
    }

    /// As [`Client::connect`], with a driver that the caller made: over another transport, or with a
    /// comparator and an extractor.
    ///
    /// # Errors
    /// [`ConnectError`]: what is missing, and what to do.
    pub fn run(driver: ClientDriver, config: &ClientConfig) -> Result<Self, ConnectError> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            waker: driver.waker(),
            sessions_max: config.sessions_max,
            window: config.window.clamp(1, SESSION_WINDOW),
        });
        let (ready, connected) = sync_channel(1);
        let pump = Pump::new(driver, shared.clone(), config, ready);
        let thread = std::thread::Builder::new()
            .name("tetrarch-client".into())
            .spawn(move || pump.run())
            .map_err(|source| OpenError::System {
                action: "start the client's thread".into(),
                source,
                remedy: "raise the limit of threads (ulimit -u)".into(),
            })?;
        let client = Self { shared, thread: Some(thread) };
        match connected.recv() {
            Ok(Ok(())) => Ok(client),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ConnectError::Open(OpenError::Unsupported {
                what: "the client's thread".into(),
                remedy: "it ended at once; its message is on standard error".into(),
            })),
        }
    }

    /// A session of its own: its operations are executed in the order in which they were given. Give
    /// each independent stream of operations its own session.
    ///
    /// # Errors
    /// [`ClientError::Sessions`]: all are in use.
    pub fn session(&self) -> Result<Session, ClientError> {
        let mut queue = self.shared.lock();
        let max = self.shared.sessions_max;
        let number = match queue.free.pop() {
            Some(number) => number,
            None if queue.fresh < max => {
                queue.fresh += 1;
                queue.fresh - 1
            }
            None => return Err(ClientError::Sessions { max }),
        };
        drop(queue);
        let (shared, in_flight) = (self.shared.clone(), AtomicUsize::new(0));
        Ok(Session { place: Arc::new(Place { shared, number, in_flight }) })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.waker.wake();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported there; callers see `Closed`.
            drop(thread.join());
        }
    }
}

/// One stream of operations. May be used from several threads at a time.
pub struct Session {
    place: Arc<Place>,
}

impl Session {
    /// Has `operation` ordered and executed, and waits for its result.
    ///
    /// # Errors
    /// [`ClientError`]: whether it may be executed yet, and what to do.
    pub fn invoke(&self, operation: &[u8]) -> OperationResult {
        self.submit(operation, Mode::Ordered)?.wait()
    }

    /// Has `operation`, which must not change anything, executed on the current state of each
    /// replica; ordered when they disagree. Waits for its result.
    ///
    /// # Errors
    /// [`ClientError`]: what went wrong, and what to do.
    pub fn query(&self, operation: &[u8]) -> OperationResult {
        self.submit(operation, Mode::ReadOnly)?.wait()
    }

    /// Starts an operation and returns at once.
    ///
    /// # Errors
    /// [`ClientError::Busy`] when the session's window is full, [`ClientError::OperationSize`],
    /// [`ClientError::Closed`]: nothing was sent.
    pub fn submit(&self, operation: &[u8], mode: Mode) -> Result<Pending, ClientError> {
        let (sender, receiver) = sync_channel(1);
        self.push(operation, mode, Sink::Channel(sender))?;
        Ok(Pending { receiver })
    }

    /// Starts an operation and returns at once; `on_complete` is called with the result on the
    /// client's thread. It must return soon and not block: wake an event loop, send to a channel.
    ///
    /// # Errors
    /// As [`Session::submit`]; `on_complete` is then not called.
    pub fn submit_with(
        &self,
        operation: &[u8],
        mode: Mode,
        on_complete: impl FnOnce(OperationResult) + Send + 'static,
    ) -> Result<(), ClientError> {
        self.push(operation, mode, Sink::Callback(Box::new(on_complete)))
    }

    /// From now on `listener` is called, on the client's thread, with each notice to this session: what the service tells
    /// it without being asked. It must return soon and not block. Notices may be lost; see
    /// [`ClientDriver::notice`].
    pub fn on_notice(&self, listener: impl FnMut(Notice) + Send + 'static) {
        let shared = &self.place.shared;
        shared.lock().listeners.push((self.place.number, Some(Box::new(listener))));
        shared.waker.wake();
    }

    /// The number that replicas know this session by, for a service that tells it something later.
    pub fn number(&self) -> u32 {
        self.place.number
    }

    /// Operations that this session has in flight.
    pub fn in_flight(&self) -> usize {
        self.place.in_flight.load(Ordering::Acquire)
    }

    fn push(&self, operation: &[u8], mode: Mode, sink: Sink) -> Result<(), ClientError> {
        if operation.len() > OPERATION_SIZE_MAX {
            return Err(ClientError::OperationSize { size: operation.len() });
        }
        let Place { shared, in_flight, .. } = &*self.place;
        let next = |used: usize| (used < shared.window).then_some(used + 1);
        if in_flight.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).is_err() {
            return Err(ClientError::Busy(Busy::Window));
        }
        let (place, operation) = (self.place.clone(), operation.to_vec());
        let command = Command { place, mode, operation, sink, due: Instant(0) };
        let mut queue = shared.lock();
        if queue.closed {
            in_flight.fetch_sub(1, Ordering::AcqRel);
            return Err(ClientError::Closed);
        }
        queue.commands.push(command);
        drop(queue);
        shared.waker.wake();
        Ok(())
    }
}

/// An operation in flight. Dropping it does not take the operation back.
pub struct Pending {
    receiver: Receiver<OperationResult>,
}

impl Pending {
    /// Waits for the result.
    ///
    /// # Errors
    /// [`ClientError`]: whether the operation may be executed yet, and what to do.
    pub fn wait(self) -> OperationResult {
        self.receiver.recv().unwrap_or(Err(ClientError::Closed))
    }

    /// The result, if there is one already; comes once.
    pub fn try_take(&self) -> Option<OperationResult> {
        match self.receiver.try_recv() {
            Ok(result) => Some(result),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(ClientError::Closed)),
        }
    }
}

/// How long the thread sleeps at most: it is woken for everything it has to do.
const PARK_MAX: Duration = Duration::from_millis(100);
