//! The latest decisions, kept to help members that are behind.
//!
//! Owns copies of the batches of a contiguous run of instances that ends with the last decided one, in
//! one ring of bytes that is reserved at the start: network memory is not held for them. The oldest may be
//! elsewhere: what is needed and does not fit any more is handed to the node, as a stream of bytes. Always
//! true: it stays within its limits in number and bytes (rule LAG.4). Must not: decide anything.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::batch::Batch;
use crate::limits::{BATCH_SIZE_MAX, DECISION_LOG_MAX};
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
    /// In the ring, or in the stream of what is elsewhere.
    start: usize,
    size: usize,
}

/// Where a decision's batch is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Here.
    Here,
    /// So many bytes from there on in the stream of what was handed to the node.
    Elsewhere { at: u64, size: usize },
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
    /// Of the entries so many, the oldest, are elsewhere.
    elsewhere: usize,
    /// Bytes that were ever handed to the node, and how many of the last of them it keeps.
    stream: usize,
    elsewhere_max: usize,
}

impl DecisionLog {
    /// Bytes of the index of all decisions.
    pub(crate) const INDEX_SIZE: usize = (DECISION_LOG_MAX + 1) * size_of::<Entry>();

    /// Room for `size` bytes of batches; for `max` of them, 1 to [`DECISION_LOG_MAX`].
    pub(crate) fn new(size: usize, max: usize) -> Self {
        let entries = VecDeque::with_capacity(DECISION_LOG_MAX + 1);
        let max = max.clamp(1, DECISION_LOG_MAX);
        Self {
            ring: alloc::vec![0; size],
            end: 0,
            entries,
            max,
            needed_above: ConsensusId(0),
            elsewhere: 0,
            stream: 0,
            elsewhere_max: 0,
        }
    }

    /// From now on the node keeps so many bytes.
    pub(crate) fn keep_elsewhere(&mut self, size: usize) {
        self.elsewhere_max = size;
    }

    /// Appends the decision of the next instance over the oldest ones. `put` hands bytes to the node, with their place in
    /// the stream, at most as many as the largest batch has; false: it cannot.
    pub(crate) fn push<P: Payload>(
        &mut self,
        at: Position,
        batch: &Batch<P>,
        put: &mut dyn FnMut(u64, &[u8]) -> bool,
    ) {
        spec!("LAG.4");
        let last = self.entries.back().map(|entry| entry.at.cid.next());
        assert!(last.is_none_or(|next| next == at.cid), "decisions come without gaps");
        let bytes = batch.payload().bytes();
        let size = bytes.len();
        self.drop_spare();
        if size > self.ring.len() {
            // (No correct member writes so large a batch, but where it checks nothing.)
            return self.clear();
        }
        let mut start = self.end;
        if start + size > self.ring.len() {
            // What lies between here and the end of the ring is the oldest.
            let end = self.end;
            self.move_out(&|entry| entry.start >= end, put);
            start = 0;
        }
        let over = |entry: &Entry| entry.start < start + size && start < entry.start + entry.size;
        self.move_out(&over, put);
        self.drop_far();
        self.ring[start..start + size].copy_from_slice(bytes);
        self.end = start + size;
        let (digest, timestamp_ns) = (batch.digest, batch.timestamp_ns);
        self.entries.push_back(Entry { at, digest, timestamp_ns, start, size });
    }

    /// Forgets the oldest that are too many, or not needed where they are.
    fn drop_spare(&mut self) {
        while let Some(oldest) = self.entries.front() {
            let (count, needed) = (self.entries.len(), oldest.at.cid > self.needed_above);
            let spare = !needed && (count >= self.max || self.elsewhere > 0);
            if !spare && count < DECISION_LOG_MAX {
                return;
            }
            self.forget(1);
        }
    }

    /// Forgets what the node does not keep any more.
    fn drop_far(&mut self) {
        while let Some(oldest) = self.entries.front().filter(|_| self.elsewhere > 0)
            && self.stream - oldest.start > self.elsewhere_max
        {
            self.forget(1);
        }
    }

    /// Makes room where the oldest entries are that are here and of which `leave` says so: what is needed goes to the
    /// node.
    fn move_out(
        &mut self,
        leave: &dyn Fn(&Entry) -> bool,
        put: &mut dyn FnMut(u64, &[u8]) -> bool,
    ) {
        // Of the ring, what is not handed over yet.
        let mut run = 0..0;
        while let Some(&Entry { at, start, size, .. }) =
            self.entries.get(self.elsewhere).filter(|it| leave(it))
        {
            if at.cid <= self.needed_above || self.elsewhere_max == 0 {
                self.forget(self.elsewhere + 1);
                continue;
            }
            if run.end != start || run.len() + size > BATCH_SIZE_MAX {
                self.hand_over(core::mem::replace(&mut run, start..start), put);
            }
            // `hand_over` may have forgotten those before.
            self.entries[self.elsewhere].start = self.stream + run.len();
            self.elsewhere += 1;
            run.end += size;
        }
        self.hand_over(run, put);
    }

    fn hand_over(&mut self, run: core::ops::Range<usize>, put: &mut dyn FnMut(u64, &[u8]) -> bool) {
        if run.is_empty() {
            return;
        }
        let at = self.stream;
        self.stream += run.len();
        if !put(at as u64, &self.ring[run]) {
            self.forget(self.elsewhere);
        }
    }

    /// The oldest `count` are gone.
    fn forget(&mut self, count: usize) {
        self.entries.drain(..count);
        self.elsewhere = self.elsewhere.saturating_sub(count);
    }

    /// The node has lost what came before this place in the stream.
    pub(crate) fn lose_elsewhere(&mut self, before: u64) {
        let lost = |entry: &&Entry| (entry.start as u64) < before;
        let count = self.entries.iter().take(self.elsewhere).take_while(lost).count();
        self.forget(count);
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
        (self.end, self.elsewhere) = (0, 0);
    }

    /// The oldest instance that is kept.
    pub(crate) fn start(&self) -> Option<ConsensusId> {
        self.entries.front().map(|entry| entry.at.cid)
    }

    fn index(&self, cid: ConsensusId) -> Option<usize> {
        usize::try_from(cid.0.checked_sub(self.start()?.0)?).ok()
    }

    /// The decision of instance `cid`.
    pub(crate) fn get(&self, cid: ConsensusId) -> Option<&Entry> {
        self.entries.get(self.index(cid)?)
    }

    /// Where the batch of a decision is that is kept.
    pub(crate) fn place(&self, entry: &Entry) -> Place {
        let elsewhere = self.index(entry.at.cid).is_some_and(|index| index < self.elsewhere);
        let (at, size) = (entry.start as u64, entry.size);
        if elsewhere { Place::Elsewhere { at, size } } else { Place::Here }
    }

    /// The encoded batch of a decision that is kept here.
    pub(crate) fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.ring[entry.start..entry.start + entry.size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::REQUEST_HEADER_SIZE;
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

    fn nowhere(_: u64, _: &[u8]) -> bool {
        unreachable!("nothing is handed over before it was said that it may be")
    }

    /// What does not fit goes to the node, in order, and is found there again.
    // rule: LAG.4
    #[test]
    fn what_is_needed_and_does_not_fit_is_elsewhere() {
        const ELSEWHERE: usize = 3 << 20;
        let mut log = DecisionLog::new(2 * BATCH_SIZE_MAX, 4);
        let (mut stream, mut state) = (Vec::new(), 3u64);
        let mut pushed = Vec::new();
        log.keep_elsewhere(ELSEWHERE);
        for number in 1..=600u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let large = if state >> 60 == 0 { 200_000 } else { 60_000 };
            let batch = batch(number, (state >> 30) as usize % large);
            let at = Position { view: ViewId(0), cid: ConsensusId(number), epoch: Epoch(0) };
            let mut put = |at: u64, bytes: &[u8]| {
                assert!(at == stream.len() as u64 && bytes.len() <= BATCH_SIZE_MAX);
                stream.extend_from_slice(bytes);
                number % 97 != 0
            };
            log.push(at, &batch, &mut put);
            pushed.push(batch);
            if number % 40 == 0 {
                log.keep_above(ConsensusId(number - 30));
            }
            if number % 150 == 0 {
                log.lose_elsewhere(stream.len() as u64 - 100_000);
            }
            let start = log.start().expect("just pushed").0;
            let mut here = 0;
            for cid in start..=number {
                let entry = log.get(ConsensusId(cid)).expect("contiguous");
                let bytes = match log.place(entry) {
                    Place::Here => log.bytes(entry),
                    Place::Elsewhere { at, size } => {
                        assert!(here == 0 && stream.len() - at as usize <= ELSEWHERE);
                        &stream[at as usize..][..size]
                    }
                };
                here += usize::from(log.place(entry) == Place::Here);
                assert!(bytes == pushed[cid as usize - 1].payload().bytes(), "cid {cid}");
            }
            let kept = number - start + 1;
            let free = number % 97 < 40 || number % 150 < 40;
            assert!(free || kept >= 30.min(number), "{kept} of those needed at {number}");
        }
        assert!(stream.len() > 4 << 20, "{} bytes were handed over", stream.len());
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
            log.push(at, &batch(number, 10), &mut nowhere);
            let start = if number > 10 { number - 5 } else { 1 };
            assert_eq!(log.start(), Some(ConsensusId(start)), "at {number}");
        }
        log.keep_above(ConsensusId(20));
        let at = Position { view: ViewId(0), cid: ConsensusId(21), epoch: Epoch(0) };
        log.push(at, &batch(21, 10), &mut nowhere);
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
            log.push(at, &batch, &mut nowhere);
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
