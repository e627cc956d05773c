//! The latest decisions, kept to help members that are behind.
//!
//! Owns copies of the batches of a contiguous run of instances that ends with the last decided one, in
//! one ring of bytes that is reserved at the start: network memory is not held for them. Always
//! true: it stays within its limits in number and bytes (rule LAG.4). Must not: decide anything.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::batch::Batch;
use crate::limits::DECISION_LOG_MAX;
use crate::message::Position;
use crate::payload::Payload;
use crate::spec;
use crate::types::{ConsensusId, Digest};

/// One decision.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// Instance and the epoch that decided it.
    pub(crate) at: Position,
    pub(crate) digest: Digest,
    pub(crate) timestamp_ns: u64,
    start: usize,
    size: usize,
}

/// See the module.
pub(crate) struct DecisionLog {
    ring: Vec<u8>,
    /// Where the next batch goes, if it fits before the end of the ring.
    end: usize,
    entries: VecDeque<Entry>,
    /// How many may be kept, and which beyond that, while there is room.
    max: usize,
    needed_above: ConsensusId,
}

impl DecisionLog {
    /// Bytes of the index of all decisions.
    pub(crate) const INDEX_SIZE: usize = (DECISION_LOG_MAX + 1) * size_of::<Entry>();

    /// Room for `size` bytes of batches; for `max` of them, 1 to [`DECISION_LOG_MAX`].
    pub(crate) fn new(size: usize, max: usize) -> Self {
        let entries = VecDeque::with_capacity(DECISION_LOG_MAX + 1);
        let max = max.clamp(1, DECISION_LOG_MAX);
        Self { ring: alloc::vec![0; size], end: 0, entries, max, needed_above: ConsensusId(0) }
    }

    /// Appends the decision of the next instance over the oldest ones.
    pub(crate) fn push<P: Payload>(&mut self, at: Position, batch: &Batch<P>) {
        spec!("LAG.4");
        let last = self.entries.back().map(|entry| entry.at.cid.next());
        assert!(last.is_none_or(|next| next == at.cid), "decisions come without gaps");
        let bytes = batch.payload().bytes();
        let size = bytes.len();
        if size > self.ring.len() {
            // (No correct member writes so large a batch, but where it checks nothing.)
            return self.clear();
        }
        let mut start = self.end;
        if start + size > self.ring.len() {
            // What lies between here and the end of the ring is the oldest.
            while self.entries.front().is_some_and(|entry| entry.start >= self.end) {
                self.entries.pop_front();
            }
            start = 0;
        }
        let over = |entry: &Entry| entry.start < start + size && start < entry.start + entry.size;
        let needed = self.needed_above;
        let spare = |entry: &Entry, count| count >= self.max && entry.at.cid <= needed;
        while let Some(oldest) = self.entries.front()
            && (over(oldest)
                || spare(oldest, self.entries.len())
                || self.entries.len() >= DECISION_LOG_MAX)
        {
            self.entries.pop_front();
        }
        self.ring[start..start + size].copy_from_slice(bytes);
        self.end = start + size;
        let (digest, timestamp_ns) = (batch.digest, batch.timestamp_ns);
        self.entries.push_back(Entry { at, digest, timestamp_ns, start, size });
    }

    /// Who gets a checkpoint of this replica may need all decisions above `cid`: as long as there is room, they are
    /// kept.
    pub(crate) fn keep_above(&mut self, cid: ConsensusId) {
        spec!("LAG.4", "ST.1");
        self.needed_above = cid;
    }

    /// The newest instance that is kept.
    pub(crate) fn last(&self) -> Option<ConsensusId> {
        self.entries.back().map(|entry| entry.at.cid)
    }

    /// Forgets all of them: what comes next need not follow.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.end = 0;
    }

    /// The oldest instance that is kept.
    pub(crate) fn start(&self) -> Option<ConsensusId> {
        self.entries.front().map(|entry| entry.at.cid)
    }

    /// The decision of instance `cid`.
    pub(crate) fn get(&self, cid: ConsensusId) -> Option<&Entry> {
        let index = cid.0.checked_sub(self.start()?.0)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// The encoded batch of a decision that is kept.
    pub(crate) fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.ring[entry.start..entry.start + entry.size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::REQUEST_HEADER_SIZE;
    use crate::limits::BATCH_SIZE_MAX;
    use crate::message::Request;
    use crate::payload::{HeapPool, SharedBytes};
    use crate::types::{ClientId, Epoch, Sequence, ViewId};

    fn batch(number: u64, size: usize) -> Batch<SharedBytes> {
        let mut body = alloc::vec![0; REQUEST_HEADER_SIZE + size];
        crate::batch::RequestHeader {
            client: ClientId(1),
            sequence: Sequence(number),
            view: 0,
            read_only: false,
            replier: crate::batch::Replier::EVERYONE,
            unanswered: 0,
            operation_size: size as u32,
        }
        .write(&mut body);
        let request = Request {
            client: ClientId(1),
            sequence: Sequence(number),
            digest: Digest::ZERO,
            read_only: false,
            auth: 0,
            body_size: body.len() as u32,
            payload: SharedBytes::from(&body[..]),
        };
        Batch::build(&mut HeapPool, number, &[request]).expect("heap")
    }

    // rule: LAG.4
    // rule: ST.1
    #[test]
    fn what_lies_above_a_checkpoint_is_kept_beyond_the_number() {
        let mut log = DecisionLog::new(2 * BATCH_SIZE_MAX, 3);
        for number in 1..=20 {
            if number > 10 {
                log.keep_above(ConsensusId(number - 6));
            }
            let at = Position { view: ViewId(0), cid: ConsensusId(number), epoch: Epoch(0) };
            log.push(at, &batch(number, 10));
            let start = if number > 10 { number - 5 } else { 1 };
            assert_eq!(log.start(), Some(ConsensusId(start)), "at {number}");
        }
        log.keep_above(ConsensusId(20));
        let at = Position { view: ViewId(0), cid: ConsensusId(21), epoch: Epoch(0) };
        log.push(at, &batch(21, 10));
        assert_eq!(log.start(), Some(ConsensusId(19)), "three in all");
    }

    // rule: LAG.4
    #[test]
    fn what_is_kept_is_whole_contiguous_and_as_much_as_fits() {
        let mut log = DecisionLog::new(2 * BATCH_SIZE_MAX, DECISION_LOG_MAX);
        let mut state = 7u64;
        let mut pushed = Vec::new();
        for number in 1..=400 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let batch = batch(number, (state >> 40) as usize % 200_000);
            let at = Position { view: ViewId(0), cid: ConsensusId(number), epoch: Epoch(0) };
            log.push(at, &batch);
            pushed.push(batch);
            let start = log.start().expect("just pushed").0;
            let mut kept = 0;
            for cid in start..=number {
                let entry = log.get(ConsensusId(cid)).expect("contiguous");
                let batch = &pushed[cid as usize - 1];
                assert_eq!(entry.digest, batch.digest);
                assert!(log.bytes(entry) == batch.payload().bytes(), "cid {cid}");
                kept += entry.size;
            }
            assert!(start == 1 || kept + 2 * 201_000 > 2 * BATCH_SIZE_MAX, "keeps only {kept}");
            assert!(log.get(ConsensusId(number + 1)).is_none());
        }
    }
}
