//! Fetching: what the core wants kept, and the state that comes of it.
//!
//! Owns the file that is being fetched, from the first chunk until it is a checkpoint of this replica. Always true:
//! an image is told to be ready only when it is durable as a whole; its name comes after the record that says that it
//! was installed, so a crash between any two leaves something to go on with (ADR 0031). Must not: fetch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tetrarch_consensus::{ConsensusId, Digest, Input, Lsn, Ordered, Payload, spec};
use tetrarch_dataplane::storage::Owner;

use super::partial::Partial;
use super::progress::Progress;
use super::{Install, State};
use crate::checkpoint::Target;
use crate::checkpoint::file::FileError;
use crate::checkpoint::image::ImageError;
use crate::checkpoint::shelf::Shelf;
use crate::checkpoint::store::Store;
use crate::metrics::Metrics;
use crate::payload::FramePayload;
use crate::stage::records::Watermark;
use crate::{info, warning};

/// See the module.
pub struct Incoming {
    store: Store,
    owner: Owner,
    shelf: Arc<Shelf>,
    /// How far the log is durable.
    watermark: Watermark,
    current: Option<Current>,
    /// To tell ordering, oldest first.
    news: VecDeque<Input<FramePayload>>,
    metrics: Arc<Metrics>,
}

/// The image that is here, in part or as a whole.
struct Current {
    partial: Partial,
    progress: Progress,
    /// The state is of this image now: it gets its name when this record is durable.
    installed: Option<Lsn>,
}

impl Incoming {
    /// Fetches into `store`, and hands what is whole to `shelf`.
    pub fn new(
        store: Store,
        owner: Owner,
        shelf: Arc<Shelf>,
        watermark: Watermark,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { store, owner, shelf, watermark, current: None, news: VecDeque::new(), metrics }
    }

    /// What there is to tell ordering.
    pub fn news(&mut self) -> Option<Input<FramePayload>> {
        self.news.pop_front()
    }

    /// Makes room for an image, or goes on with what there is of it.
    pub fn begin(&mut self, now: Instant, target: Target) {
        spec!("ST.4");
        let Target { cid, root, .. } = target;
        if self.current.as_ref().is_some_and(|current| current.installed.is_some()) {
            // Its file is still in the place of the next one. The core asks again.
            return self.fail(cid, "the one before it is not durable yet");
        }
        let same = |current: &Current| current.partial.target() == target;
        if !self.current.as_ref().is_some_and(same) {
            self.current = None;
            match Partial::begin(&self.store, self.owner, target) {
                Ok(partial) => {
                    let there = partial.count() - partial.missing();
                    let progress = Progress::new(now, target, (there, partial.count()));
                    self.current = Some(Current { partial, progress, installed: None });
                }
                Err(error) => return self.fail(cid, error),
            }
        }
        let Some(current) = &self.current else { return };
        current.progress.publish(&self.metrics);
        let (have, whole) = (current.partial.have(), current.partial.missing() == 0);
        self.news.push_back(Input::Resumed { cid, root: Digest(root), have });
        if whole {
            self.complete();
        }
    }

    /// Keeps a chunk that has this digest.
    pub fn store(
        &mut self,
        now: Instant,
        (cid, index, leaf): (ConsensusId, u32, Digest),
        payload: FramePayload,
    ) {
        let Some(current) = &mut self.current else { return };
        if current.partial.target().cid != cid || current.installed.is_some() {
            return;
        }
        match current.partial.put(u64::from(index), &leaf.0, payload.bytes()) {
            Ok(new) => {
                if new {
                    current.progress.add(now, payload.size());
                    current.progress.publish(&self.metrics);
                }
                self.news.push_back(Input::Stored { cid, index });
                if new && current.partial.missing() == 0 {
                    self.complete();
                }
            }
            Err(error) => {
                self.discard();
                self.fail(cid, error);
            }
        }
    }

    /// What is here is not to be relied on, or of no use.
    fn discard(&mut self) {
        if let Some(current) = self.current.take() {
            current.partial.discard();
        }
    }

    /// All is there.
    fn complete(&mut self) {
        let Some(Current { partial, progress, .. }) = &mut self.current else { return };
        let cid = partial.target().cid;
        match partial.complete().map_err(ReadError::from).and_then(|()| ordered(partial)) {
            Ok(ordered) => {
                progress.end(Instant::now());
                progress.publish(&self.metrics);
                self.news.push_back(Input::TransferReady(Box::new(ordered)));
            }
            Err(error) => {
                // It would be no better the next time.
                self.discard();
                self.fail(cid, error);
            }
        }
    }

    fn fail(&mut self, cid: ConsensusId, error: impl std::fmt::Display) {
        warning!("checkpoint {cid}: cannot be fetched now: {error}");
        self.metrics.transfers_failed.add(1);
        self.news.push_back(Input::TransferFailed { cid });
    }

    /// The image is not needed.
    pub fn end(&mut self, cid: ConsensusId) {
        let is = |current: &mut Current| {
            current.partial.target().cid == cid && current.installed.is_none()
        };
        if let Some(current) = self.current.take_if(is) {
            current.partial.discard();
            Progress::publish_none(&self.metrics);
        }
    }

    /// Replaces a state by that of the image.
    ///
    /// # Errors
    /// The state cannot be read, though one-correct members have the same: this replica cannot go on.
    pub fn install(&mut self, install: Install) -> Result<State, String> {
        spec!("ST.5");
        let Install { base, cid, mut state } = install;
        let start = Instant::now();
        let current = self.current.as_mut().filter(|it| it.partial.target().cid == cid);
        let current = current.ok_or(format!("checkpoint {cid}: to be installed, and not there"))?;
        replace(&current.partial, &mut state).map_err(|error| match error {
            ImageError::Io(error) => format!(
                "checkpoint {cid}: {error}. It was whole when it was written: look at the disk, and start this \
                 replica again; it will ask the others once more"
            ),
            error => format!(
                "checkpoint {cid}: {error}. The others have the same bytes, so this replica's program, service or \
                 configuration is another one than theirs: make them equal (service, service_seed, cluster.toml) and \
                 start it again"
            ),
        })?;
        current.installed = Some(base);
        self.metrics.transfers.add(1);
        self.metrics.transfer_install_ns.set(start.elapsed().as_nanos() as u64);
        Progress::publish_none(&self.metrics);
        info!("checkpoint {cid}: installed in {:.1} s", start.elapsed().as_secs_f64());
        Ok(state)
    }

    /// Makes the image that was installed a checkpoint of this replica, when the record of it is durable.
    ///
    /// # Errors
    /// It cannot be named: a start would find a log that goes on from a checkpoint that is not there.
    pub fn settle(&mut self) -> Result<(), String> {
        let durable = self.watermark.get();
        let is_due = |current: &mut Current| current.installed.is_some_and(|base| base <= durable);
        let Some(Current { partial, installed: Some(base), .. }) = self.current.take_if(is_due)
        else {
            return Ok(());
        };
        let file = partial.adopt(base).map_err(|error| error.to_string())?;
        let Target { cid, size, root } = file.header.target();
        self.shelf.add(file);
        let root = Digest(root);
        self.news.push_back(Input::Checkpointed { cid, size, root });
        Ok(())
    }
}

/// What can be wrong with an image that was fetched.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("it is of instance {0}")]
    Instance(ConsensusId),
}

/// The core's share of an image.
fn ordered(partial: &Partial) -> Result<Ordered, ReadError> {
    let ordered = partial.image().ordered()?;
    match ordered.cid == partial.target().cid {
        true => Ok(ordered),
        false => Err(ReadError::Instance(ordered.cid)),
    }
}

fn replace(partial: &Partial, state: &mut State) -> Result<(), ImageError> {
    let mut reader = partial.image();
    let ordered = reader.ordered()?;
    reader.state(&ordered, &mut state.cache, &mut *state.service)
}
