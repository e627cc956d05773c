//! The thread that fetches a checkpoint from others, and gives them chunks of its own.
//!
//! Owns the thread, and what travels between it and the stages. Always true: no stage waits for a disk because of a
//! transfer, nor for the time that restoring a state takes; the chunks that are in memory are few, whoever asks for
//! how many. Must not: decide what is fetched, or from whom (the core does), or believe a chunk that was not verified.

pub mod incoming;
pub mod outgoing;
pub mod partial;
pub mod progress;
mod syncing;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Result;
use incoming::Incoming;
use outgoing::OPEN_MAX;
use outgoing::Outgoing;
pub use outgoing::{ON_THE_WAY_MAX, Rates};
use tetrarch_consensus::{ConsensusId, Digest, Input, Lsn, ReplicaId, StateMachine, ViewId};
use tetrarch_dataplane::endpoint::Waker;
use tetrarch_dataplane::frame::Frame;
use tetrarch_dataplane::ring::{Consumer, Producer, ring};

use super::companion::{Companion, Stop};
use super::{CHUNK_SIZE, Target, chunk_count};
use crate::payload::FramePayload;
use crate::reply_cache::ReplyCache;
use crate::stage::Wakers;

/// Bytes that the thread needs beside frames, while checkpoints of up to `state_size` bytes are fetched and served:
/// a chunk that is read back, a digest for each of those that come, and the trees of those that leave.
pub fn transfer_size(state_size: u64) -> usize {
    let digests = chunk_count(state_size) as usize * size_of::<Digest>();
    CHUNK_SIZE + digests + OPEN_MAX * 2 * digests
}

/// How often the thread looks around when nobody wakes it.
const TICK: Duration = Duration::from_millis(100);

/// What the core wants.
#[derive(Debug)]
pub enum Order {
    /// Make room for the chunks of this image.
    Begin(Target),
    /// Keep a chunk of it.
    Store {
        /// Which image.
        cid: ConsensusId,
        /// Which chunk.
        index: u32,
        /// The digest of its bytes.
        leaf: Digest,
        /// Its bytes.
        payload: FramePayload,
    },
    /// This image is not needed.
    End(ConsensusId),
    /// Send a chunk of a checkpoint of this replica.
    Send {
        /// To whom.
        to: ReplicaId,
        /// The view that this replica is in.
        view: ViewId,
        /// Which checkpoint.
        cid: ConsensusId,
        /// Its root.
        root: Digest,
        /// Which chunk.
        index: u32,
    },
}

/// A chunk that is ready to leave: the body of a CHUNK.
#[derive(Debug)]
pub struct Parcel {
    /// To whom.
    pub to: ReplicaId,
    /// The body.
    pub frame: Frame,
    /// Its digest.
    pub digest: [u8; 32],
}

/// The application and the replies that are kept.
pub struct State {
    /// The application.
    pub service: Box<dyn StateMachine>,
    /// The kept replies.
    pub cache: ReplyCache,
}

/// The state that is to be replaced by the one of the image that was fetched.
pub struct Install {
    /// The record from which a replay behind it begins.
    pub base: Lsn,
    /// Which image.
    pub cid: ConsensusId,
    /// What is replaced.
    pub state: State,
}

/// Wakes the stages.
#[derive(Clone)]
pub struct Bell {
    /// The network stage's core.
    pub network: Waker,
    /// Those of the others, as the network stage knows them, when they have cores of their own.
    pub others: Arc<OnceLock<Wakers>>,
}

impl Bell {
    /// All stages.
    pub fn ring(&self) {
        self.network.wake();
        if let Some(Wakers { ordering, execution, .. }) = self.others.get() {
            ordering.iter().chain(execution).for_each(Waker::wake);
        }
    }
}

/// The thread's ends of the rings.
pub struct Rings {
    /// From ordering.
    pub orders: Consumer<Order>,
    /// To ordering.
    pub news: Producer<Input<FramePayload>>,
    /// To the network stage.
    pub parcels: Producer<Parcel>,
}

/// Execution's ends.
pub struct Handover {
    installs: Producer<Install>,
    installed: Consumer<(ConsensusId, State)>,
    thread: Waker,
}

impl Handover {
    /// Hands over a state; it comes back replaced.
    pub fn install(&mut self, install: Install) {
        let pushed = self.installs.push(install);
        debug_assert!(pushed.is_ok(), "one state is away at a time");
        self.thread.wake();
    }

    /// The state that came back, and the instance that it is of.
    pub fn installed(&mut self) -> Option<(ConsensusId, State)> {
        self.installed.pop()
    }
}

/// The thread, while it runs.
pub struct Transfer {
    failure: Arc<OnceLock<String>>,
    thread: Companion,
}

/// What the thread works with.
pub struct Parts {
    /// Its rings.
    pub rings: Rings,
    /// Fetches.
    pub incoming: Incoming,
    /// Serves.
    pub outgoing: Outgoing,
    /// Wakes the stages.
    pub bell: Bell,
}

impl Transfer {
    /// Starts the thread. The second value is for execution.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(parts: Parts) -> Result<(Self, Handover)> {
        let (installs, installs_out) = ring(1);
        let (installed_in, installed) = ring(1);
        let failure = Arc::new(OnceLock::new());
        let told = Arc::clone(&failure);
        let thread = Companion::start("transfer", move |stop| {
            let Parts { rings, incoming, outgoing, bell } = parts;
            let (installs, installed, failure) = (installs_out, installed_in, told);
            let worker =
                Worker { rings, incoming, outgoing, bell, installs, installed, stop, failure };
            worker.run();
        })?;
        let handover = Handover { installs, installed, thread: thread.waker() };
        Ok((Self { failure, thread }, handover))
    }

    /// Wakes the thread.
    pub fn waker(&self) -> Waker {
        self.thread.waker()
    }

    /// Why this replica cannot go on, if that is so.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }
}

struct Worker {
    rings: Rings,
    incoming: Incoming,
    outgoing: Outgoing,
    bell: Bell,
    installs: Consumer<Install>,
    installed: Producer<(ConsensusId, State)>,
    stop: Stop,
    failure: Arc<OnceLock<String>>,
}

impl Worker {
    fn run(mut self) {
        while !self.stop.is_due() && self.failure.get().is_none() {
            let worked = self.turn(Instant::now());
            if !worked {
                let wait = self.outgoing.wait(Instant::now()).unwrap_or(TICK);
                std::thread::park_timeout(wait.min(TICK));
            }
        }
        // A state that is here is not given back: a replica that goes on with half of one would be worse.
    }

    /// `false`: there is nothing to do now.
    fn turn(&mut self, now: Instant) -> bool {
        let mut worked = false;
        while self.rings.news.room() > 1
            && let Some(order) = self.rings.orders.pop()
        {
            worked = true;
            match order {
                Order::Begin(target) => self.incoming.begin(now, target),
                Order::Store { cid, index, leaf, payload } => {
                    self.incoming.store(now, (cid, index, leaf), payload);
                }
                Order::End(cid) => self.incoming.end(cid),
                Order::Send { to, view, cid, root, index } => {
                    self.outgoing.enter(view);
                    self.outgoing.want(now, to, (cid, root), index)
                }
            }
            self.tell();
            // Whoever fetches here gets something meanwhile.
            self.outgoing.send(now, &mut self.rings.parcels);
        }
        if let Some(install) = self.installs.pop() {
            worked = true;
            self.install(install);
        }
        if let Err(error) = self.incoming.settle() {
            self.fail(error);
        }
        self.tell();
        worked |= self.outgoing.send(now, &mut self.rings.parcels);
        if worked {
            self.bell.ring();
        }
        worked
    }

    fn install(&mut self, install: Install) {
        let cid = install.cid;
        match self.incoming.install(install) {
            Ok(state) => {
                let pushed = self.installed.push((cid, state));
                debug_assert!(pushed.is_ok(), "one state is away at a time");
            }
            Err(error) => self.fail(error),
        }
    }

    /// What there is to tell ordering, as long as there is room.
    fn tell(&mut self) {
        while self.rings.news.room() > 0
            && let Some(input) = self.incoming.news()
        {
            let pushed = self.rings.news.push(input);
            debug_assert!(pushed.is_ok(), "the room was checked");
        }
    }

    fn fail(&mut self, error: String) {
        // The first reason stays.
        let _ = self.failure.set(error);
    }
}
