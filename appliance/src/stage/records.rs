//! The records of a replica on their way to its log, and what waits for them.
//!
//! Owns the writer's end of the log (in the ordering stage), and the messages that wait until what they
//! tell is durable (in the network stage). Always true: records go in in order; what waits leaves in
//! order, and never before (rule DUR.2). Must not: wait for a disk.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tetrarch_consensus::record::RECORD_HEAD_SIZE_MAX;
use tetrarch_consensus::{Lsn, Record, spec};
use tetrarch_dataplane::endpoint::Waker;
use tetrarch_dataplane::ring::Consumer;
use tetrarch_dataplane::storage::{self, Storage, StorageError};

use super::{Outbound, SENDS_MAX};
use crate::metrics::Metrics;
use crate::payload::FramePayload;

/// How far a log is durable, for every stage to look at.
#[derive(Clone, Debug)]
pub struct Watermark(Arc<AtomicU64>);

impl Watermark {
    /// Of a replica without a log: nothing waits.
    pub fn volatile() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }

    /// Of a log that this number says how far it is durable.
    pub fn of(durable: Arc<AtomicU64>) -> Self {
        Self(durable)
    }

    /// Everything up to here is durable.
    pub fn get(&self) -> Lsn {
        Lsn(self.0.load(Ordering::Acquire))
    }
}

/// The log as the ordering stage sees it.
pub struct Records {
    storage: Box<dyn Storage>,
    head: Vec<u8>,
    durable: Lsn,
    /// The record before which none is needed, and up to where records were given up.
    needed_from: Option<Arc<AtomicU64>>,
    given_up: u64,
}

impl Records {
    /// Records go to `storage`.
    pub fn new(mut storage: Box<dyn Storage>) -> Self {
        let durable = Lsn(storage.durable().0);
        let head = Vec::with_capacity(RECORD_HEAD_SIZE_MAX);
        Self { storage, head, durable, needed_from: None, given_up: 0 }
    }

    /// From now on gives up records before the number that this holds.
    pub fn keep_from(&mut self, needed_from: Arc<AtomicU64>) {
        self.needed_from = Some(needed_from);
    }

    /// What other stages look at.
    pub fn watermark(&self) -> Watermark {
        Watermark(self.storage.watermark())
    }

    /// From now on wakes this when something has become durable.
    pub fn wake(&mut self, waker: Waker) {
        self.storage.wake(waker);
    }

    /// Appends `record`, if there is room for it now.
    pub fn append(&mut self, lsn: Lsn, record: &Record<FramePayload>) -> bool {
        let batch = record.encode(&mut self.head);
        let fits = self.head.len() + batch.len() <= self.storage.room();
        if fits {
            self.storage.append(storage::Lsn(lsn.0), &[&self.head, batch]);
        }
        fits
    }

    /// Hands over what was appended, if no write is under way.
    pub fn flush(&mut self) {
        self.storage.flush();
    }

    /// How far the log is durable now.
    pub fn durable(&mut self) -> Lsn {
        Lsn(self.storage.durable().0)
    }

    /// Gives up the records that are not needed any more.
    pub fn give_up(&mut self) {
        if let Some(needed_from) = &self.needed_from {
            let below = needed_from.load(Ordering::Acquire);
            if below > self.given_up {
                spec!("CKP.3");
                self.given_up = below;
                self.storage.truncate(storage::Lsn(below));
            }
        }
    }

    /// Records before `below` are not needed any more: what makes them so is on stable storage.
    pub fn truncate(&mut self, below: Lsn) {
        self.storage.truncate(storage::Lsn(below.0));
    }

    /// What has become durable since the last call.
    pub fn news(&mut self) -> Option<Lsn> {
        let durable = Lsn(self.storage.durable().0);
        let more = durable > self.durable;
        self.durable = durable;
        more.then_some(durable)
    }

    /// Why nothing more will be durable.
    pub fn failure(&self) -> Option<Arc<StorageError>> {
        self.storage.failure()
    }

    /// Publishes how far the log is.
    pub fn publish(&self, appended: Lsn, metrics: &Metrics) {
        let counts = self.storage.counts();
        metrics.log_appended.set(appended.0);
        metrics.log_durable.set(self.durable.0);
        metrics.log_groups.set(counts.groups);
        metrics.log_bytes.set(counts.bytes);
        metrics.log_busy_ns.set(counts.busy_ns);
        metrics.log_slowest_ns.set(counts.slowest_ns);
        metrics.log_segments.set(counts.segments);
    }
}

/// Messages that wait for the log.
pub struct Held {
    watermark: Watermark,
    queue: VecDeque<Outbound>,
}

impl Held {
    /// Nothing waits longer than until `watermark`.
    pub fn new(watermark: Watermark) -> Self {
        Self { watermark, queue: VecDeque::with_capacity(SENDS_MAX) }
    }

    /// Everything up to here is durable.
    pub fn durable(&self) -> Lsn {
        self.watermark.get()
    }

    /// The next message that may leave, now that `durable` is: one that waited, else one of `sends`,
    /// from which those that have to wait are taken as long as there is room.
    pub fn next(&mut self, sends: &mut Consumer<Outbound>, durable: Lsn) -> Option<Outbound> {
        spec!("DUR.2");
        let released = self.queue.pop_front_if(|outbound| outbound.after <= durable);
        if released.is_some() {
            return released;
        }
        while self.queue.len() < SENDS_MAX {
            let outbound = sends.pop()?;
            if outbound.after <= durable {
                return Some(outbound);
            }
            self.queue.push_back(outbound);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetrarch_consensus::message::Stop;
    use tetrarch_consensus::{Batch, Message, Recipients, Regency, ViewId};
    use tetrarch_dataplane::ring::ring;

    fn outbound(after: u64) -> Outbound {
        let arena = tetrarch_dataplane::arena::Arena::heap(&tetrarch_dataplane::arena::ArenaSpec {
            classes: vec![tetrarch_dataplane::arena::SlotClass { slot_size: 64, count: 1 }],
        });
        let frame = arena.expect("memory").pool().copy_from(&[0; 16]).expect("a slot");
        let requests = Batch::parse(FramePayload(frame)).expect("an empty list");
        let stop = Stop { view: ViewId(0), regency: Regency(after as u32), requests };
        Outbound { to: Recipients::Others, message: Message::Stop(stop), after: Lsn(after) }
    }

    // rule: DUR.2
    #[test]
    fn what_waits_leaves_in_order_and_what_does_not_wait_overtakes_it() {
        let mark = Arc::new(AtomicU64::new(3));
        let mut held = Held::new(Watermark(Arc::clone(&mark)));
        let (mut sends_in, mut sends) = ring(SENDS_MAX + 2);
        let mut next = |held: &mut Held| {
            let durable = held.durable();
            held.next(&mut sends, durable).map(|outbound| outbound.after.0)
        };
        for after in [3, 4, 0, 6] {
            assert!(sends_in.push(outbound(after)).is_ok());
        }
        assert_eq!([next(&mut held), next(&mut held), next(&mut held)], [Some(3), Some(0), None]);
        mark.store(5, Ordering::Release);
        assert_eq!([next(&mut held), next(&mut held)], [Some(4), None]);
        mark.store(6, Ordering::Release);
        assert_eq!(next(&mut held), Some(6));
        // As many as can wait, and two that stay in the ring: all leave in the end.
        let last = 7 + SENDS_MAX as u64 + 1;
        for after in 7..=last {
            assert!(sends_in.push(outbound(after)).is_ok());
        }
        assert_eq!(next(&mut held), None);
        assert_eq!(sends_in.len(), 2, "what finds no room waits in its ring");
        mark.store(last, Ordering::Release);
        for after in 7..=last {
            assert_eq!(next(&mut held), Some(after));
        }
        assert_eq!(next(&mut held), None);
    }
}
