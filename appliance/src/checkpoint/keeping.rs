//! The threads that work with a replica's checkpoints.
//!
//! Owns how they are put together: one writes what execution copied, one fetches and serves. Always true: they run
//! only where checkpoints are taken, and end with what holds them. Must not: do anything while the node runs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tetrarch_consensus::{Digest, Input};
use tetrarch_dataplane::storage::Owner;
use tetrarch_dataplane::storage::file::Probe;

use super::Target;
use super::shelf::Shelf;
use super::store::Store;
use super::transfer::incoming::Incoming;
use super::transfer::outgoing::Outgoing;
use super::transfer::{self, Rates, Transfer};
use super::writer::{Pace, Writer, WriterParts};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::stage::Background;
use crate::stage::records::Watermark;

/// The threads, while they run.
pub struct Keeping {
    _writer: Writer,
    transfer: Transfer,
}

impl Keeping {
    /// Why this replica cannot go on, if that is so.
    pub fn failure(&self) -> Option<&str> {
        self.transfer.failure()
    }
}

/// What they work with.
pub struct Keeper {
    /// Where the checkpoints are.
    pub store: Store,
    /// Whose they are.
    pub owner: Owner,
    /// Those that others may have.
    pub shelf: Arc<Shelf>,
    /// How far the log is durable, and what says that it has failed, if there is one.
    pub log: (Watermark, Option<Probe>),
    /// How fast others get chunks.
    pub rates: Rates,
    /// What taking one may stop execution for before operators are told.
    pub pause_max: Duration,
}

impl Keeper {
    /// Starts the threads, if `node` takes checkpoints. Before its first turn, while all of its frames are free.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(self, node: &mut Node, metrics: Arc<Metrics>) -> Result<Option<Keeping>> {
        let Self { store, owner, shelf, log: (watermark, probe), rates, pause_max } = self;
        let config = node.core().config();
        let (every, view, id) = (config.checkpoint_every, config.view.clone(), config.id);
        let Some(index) = view.index_of(id).filter(|_| every > 0) else { return Ok(None) };
        let Some((background, bell)) = node.take_background() else { return Ok(None) };
        let Background { transfer: rings, written: mut news } = background;
        for file in shelf.files().iter().rev() {
            let Target { cid, size, root } = file.header.target();
            let told = news.push(Input::Checkpointed { cid, size, root: Digest(root) });
            debug_assert!(told.is_ok(), "the ring is empty");
        }
        let incoming = Incoming::new(
            store.clone(),
            owner,
            Arc::clone(&shelf),
            watermark.clone(),
            Arc::clone(&metrics),
        );
        let outgoing = Outgoing::new(
            Arc::clone(&shelf),
            view.id(),
            rates,
            node.pool().clone(),
            Arc::clone(&metrics),
        );
        let parts = transfer::Parts { rings, incoming, outgoing, bell: bell.clone() };
        let (transfer, handover) = Transfer::start(parts)?;
        node.wake_transfer(transfer.waker());
        let needed_from = shelf.needed_from();
        let pace = Pace::new((index, view.n()), every, pause_max);
        let parts =
            WriterParts { store, owner, pace, watermark, probe, shelf, news, bell, metrics };
        let (writer, sink) = Writer::start(parts, handover)?;
        node.keep_checkpoints(sink, needed_from);
        Ok(Some(Keeping { _writer: writer, transfer }))
    }
}
