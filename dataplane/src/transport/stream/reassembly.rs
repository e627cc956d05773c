//! From a byte stream to whole messages.
//!
//! Owns the message that is only half there. Always true: a byte is taken from the input exactly
//! once; a message below [`SMALL_MAX`] holds no slot before it is complete, so that half messages of
//! unauthenticated peers cost no pool; a size is compared with the limit before it is used. Must
//! not: do IO.

use crate::arena::FramePool;
use crate::burst::Burst;
use crate::endpoint::{ConnId, EndpointCounts, HeaderBytes, RawReceived, framed_size};
use crate::frame::FrameMut;
use crate::limits::HEADER_SIZE;
use crate::reject::Reject;

/// Messages up to this size, header included, wait for their rest outside the pool.
pub(in crate::transport) const SMALL_MAX: usize = 1024;

/// Why [`Reassembly::take`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum Stop {
    /// The input is used up.
    NeedMore,
    /// `into` is full; there is more in the input.
    Full,
    /// No slot is free; the rest of the input has to wait.
    PoolExhausted,
}

/// Where whole messages go.
pub(in crate::transport) struct Sink<'a> {
    pub(in crate::transport) conn: ConnId,
    /// The largest message, header included.
    pub(in crate::transport) limit: u32,
    pub(in crate::transport) pool: &'a FramePool,
    pub(in crate::transport) into: &'a mut Burst<RawReceived>,
}

/// A message that is received into its slot.
struct Large {
    header: HeaderBytes,
    frame: FrameMut,
    have: usize,
    size: usize,
}

/// The half message of one connection.
pub(in crate::transport) struct Reassembly {
    small: Box<[u8; SMALL_MAX]>,
    have: usize,
    large: Option<Large>,
}

impl Reassembly {
    pub(in crate::transport) fn new() -> Self {
        Self { small: Box::new([0; SMALL_MAX]), have: 0, large: None }
    }

    /// Forget everything: the connection is gone.
    pub(in crate::transport) fn reset(&mut self) {
        self.have = 0;
        self.large = None;
    }

    /// The rest of the slot of a large message, to be received into directly.
    pub(in crate::transport) fn space(&mut self) -> Option<&mut [u8]> {
        let large = self.large.as_mut()?;
        Some(&mut large.frame.bytes_mut()[large.have..large.size])
    }

    /// `count` bytes were written to [`Reassembly::space`]. Returns the message if it is complete.
    pub(in crate::transport) fn advance(
        &mut self,
        conn: ConnId,
        count: usize,
    ) -> Option<RawReceived> {
        let large = self.large.as_mut()?;
        large.have = (large.have + count).min(large.size);
        if large.have < large.size {
            return None;
        }
        let large = self.large.take()?;
        let body = large.frame.freeze(large.size as u32);
        Some(RawReceived { conn, header: large.header, body })
    }

    /// Move whole messages from `input` to the sink, and keep the beginning of the last one.
    ///
    /// # Errors
    /// The stream is not made of our messages, or one is above the limit. Nothing after that can be
    /// understood: close the connection.
    pub(in crate::transport) fn take(
        &mut self,
        input: &mut &[u8],
        sink: &mut Sink<'_>,
    ) -> Result<Stop, Reject> {
        loop {
            if sink.into.is_full() {
                return Ok(Stop::Full);
            }
            let step = if self.large.is_some() {
                self.continue_large(input, sink)
            } else if self.have > 0 {
                self.continue_small(input, sink)?
            } else {
                self.begin(input, sink)?
            };
            if let Some(stop) = step {
                return Ok(stop);
            }
        }
    }

    /// As [`Reassembly::take`], counting the messages that became whole. `None`: malformed.
    pub(in crate::transport) fn take_counted(
        &mut self,
        input: &mut &[u8],
        sink: &mut Sink<'_>,
        counts: &mut EndpointCounts,
    ) -> Option<Stop> {
        let before = sink.into.len();
        let stop = self.take(input, sink);
        for message in sink.into.iter().skip(before) {
            counts.note_rx(message.body.size());
        }
        stop.ok()
    }

    /// No message is begun: most are whole in the input.
    fn begin(&mut self, input: &mut &[u8], sink: &mut Sink<'_>) -> Result<Option<Stop>, Reject> {
        let Some((header, rest)) = input.split_first_chunk::<HEADER_SIZE>() else {
            self.keep(input, input.len());
            return Ok(Some(Stop::NeedMore));
        };
        let size = size_of(header, sink.limit)?;
        let body_size = size - HEADER_SIZE;
        if let Some((body, rest)) = rest.split_at_checked(body_size) {
            if !emit(header, body, sink) {
                return Ok(Some(Stop::PoolExhausted));
            }
            *input = rest;
            return Ok(None);
        }
        if size <= SMALL_MAX {
            self.keep(input, input.len());
            return Ok(Some(Stop::NeedMore));
        }
        if !self.begin_large(*header, body_size, sink) {
            return Ok(Some(Stop::PoolExhausted));
        }
        *input = rest;
        Ok(None)
    }

    /// A message was begun outside the pool.
    fn continue_small(
        &mut self,
        input: &mut &[u8],
        sink: &mut Sink<'_>,
    ) -> Result<Option<Stop>, Reject> {
        if self.have < HEADER_SIZE {
            self.keep(input, HEADER_SIZE - self.have);
            if self.have < HEADER_SIZE {
                return Ok(Some(Stop::NeedMore));
            }
        }
        let mut header = [0; HEADER_SIZE];
        header.copy_from_slice(&self.small[..HEADER_SIZE]);
        let size = size_of(&header, sink.limit)?;
        if size > SMALL_MAX {
            if !self.begin_large(header, size - HEADER_SIZE, sink) {
                return Ok(Some(Stop::PoolExhausted));
            }
            self.have = 0;
            return Ok(None);
        }
        self.keep(input, size.saturating_sub(self.have));
        if self.have < size {
            return Ok(Some(Stop::NeedMore));
        }
        if !emit(&header, &self.small[HEADER_SIZE..size], sink) {
            return Ok(Some(Stop::PoolExhausted));
        }
        self.have = 0;
        Ok(None)
    }

    fn continue_large(&mut self, input: &mut &[u8], sink: &mut Sink<'_>) -> Option<Stop> {
        let space = self.space()?;
        let count = space.len().min(input.len());
        space[..count].copy_from_slice(&input[..count]);
        *input = &input[count..];
        match self.advance(sink.conn, count) {
            Some(message) => {
                // There is room: `take` looked before this step.
                let pushed = sink.into.push(message);
                debug_assert!(pushed.is_ok());
                None
            }
            None => Some(Stop::NeedMore),
        }
    }

    fn begin_large(&mut self, header: HeaderBytes, size: usize, sink: &Sink<'_>) -> bool {
        let Some(frame) = sink.pool.alloc(size) else {
            return false;
        };
        self.large = Some(Large { header, frame, have: 0, size });
        true
    }

    /// Move up to `count` bytes of the input behind what is kept.
    fn keep(&mut self, input: &mut &[u8], count: usize) {
        let count = count.min(input.len()).min(SMALL_MAX - self.have);
        self.small[self.have..self.have + count].copy_from_slice(&input[..count]);
        self.have += count;
        *input = &input[count..];
    }
}

/// The size of the message, checked against the format and the connection's limit.
fn size_of(header: &HeaderBytes, limit: u32) -> Result<usize, Reject> {
    let size = framed_size(header)?;
    if size > limit {
        return Err(Reject::BadSize);
    }
    Ok(size as usize)
}

/// Copy a whole message to a slot. `false`: none is free.
fn emit(header: &HeaderBytes, body: &[u8], sink: &mut Sink<'_>) -> bool {
    let Some(body) = sink.pool.copy_from(body) else {
        return false;
    };
    let pushed = sink.into.push(RawReceived { conn: sink.conn, header: *header, body });
    debug_assert!(pushed.is_ok(), "`take` looked for room before this step");
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::{Arena, ArenaSpec, SlotClass};
    use crate::header::Header;
    use proptest::prelude::*;

    fn message(number: u64, size: usize) -> Vec<u8> {
        let header = Header {
            kind: 1,
            auth: 0,
            size: (HEADER_SIZE + size) as u32,
            sender: 0,
            proof_size: 0,
            cluster: 1,
            session: 0,
            sequence: number,
            body_digest: [0; 32],
            tag: [0; 16],
        };
        let body = (0..size).map(|at| (at as u64 + number) as u8);
        header.to_bytes().into_iter().chain(body).collect()
    }

    fn arena(count: u32) -> Arena {
        let class = |slot_size| SlotClass { slot_size, count };
        Arena::heap(&ArenaSpec { classes: vec![class(512), class(8192)] }).unwrap()
    }

    const LIMIT: u32 = (HEADER_SIZE + 8192) as u32;

    /// Feed `stream` in the given cuts; whole messages are taken from the burst at once.
    fn feed(stream: &[u8], cuts: &[usize], pool: &FramePool) -> Result<Vec<Vec<u8>>, Reject> {
        let conn = ConnId::new(1, 1);
        let mut reassembly = Reassembly::new();
        let mut into = Burst::with_capacity(2);
        let mut whole = Vec::new();
        let mut rest = stream;
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let cut = (*cuts.next().unwrap_or(&1)).min(rest.len());
            let (mut input, after) = rest.split_at(cut);
            rest = after;
            loop {
                let mut sink = Sink { conn, limit: LIMIT, pool, into: &mut into };
                let stop = reassembly.take(&mut input, &mut sink)?;
                for RawReceived { header, body, .. } in into.drain() {
                    whole.push([&header[..], body.bytes()].concat());
                }
                match stop {
                    Stop::NeedMore => break,
                    Stop::Full => {}
                    Stop::PoolExhausted => panic!("nothing is held"),
                }
            }
            assert!(input.is_empty(), "all of it was taken");
        }
        Ok(whole)
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_messages(
            sizes in proptest::collection::vec(
                prop_oneof![0usize..600, 900usize..1100, 0usize..=8192], 1..20),
            cuts in proptest::collection::vec(prop_oneof![1usize..200, 1usize..5000], 1..10),
        ) {
            let messages: Vec<_> =
                sizes.iter().enumerate().map(|(i, size)| message(i as u64, *size)).collect();
            let arena = arena(4);
            let whole = feed(&messages.concat(), &cuts, &arena.pool());
            prop_assert_eq!(whole, Ok(messages));
            prop_assert_eq!(arena.free_slots(), arena.total_slots());
        }

        #[test]
        fn any_bytes_are_messages_or_rejected(
            mut stream in proptest::collection::vec(any::<u8>(), 0..2000),
            cuts in proptest::collection::vec(1usize..500, 1..5),
            begins_well: bool,
        ) {
            if begins_well && stream.len() > HEADER_SIZE {
                stream[..6].copy_from_slice(&message(0, 0)[..6]);
                stream[40..48].fill(0);
                stream[10..12].fill(0);
            }
            // No panic, no slot lost.
            let arena = arena(4);
            let _ = feed(&stream, &cuts, &arena.pool());
            prop_assert_eq!(arena.free_slots(), arena.total_slots());
        }
    }

    #[test]
    fn a_message_waits_for_a_slot_without_loss() {
        for size in [100, 2000] {
            let arena = arena(1);
            let pool = arena.pool();
            let (mut small, mut large) = (pool.alloc(1), pool.alloc(8192));
            let mut into = Burst::with_capacity(4);
            let mut reassembly = Reassembly::new();
            let stream = message(7, size);
            let (mut input, mut rest) = stream.split_at(50);
            let mut sink =
                Sink { conn: ConnId::new(0, 0), limit: LIMIT, pool: &pool, into: &mut into };
            assert_eq!(reassembly.take(&mut input, &mut sink), Ok(Stop::NeedMore));
            for _ in 0..3 {
                assert_eq!(reassembly.take(&mut rest, &mut sink), Ok(Stop::PoolExhausted));
            }
            small.take();
            large.take();
            assert_eq!(reassembly.take(&mut rest, &mut sink), Ok(Stop::NeedMore));
            let whole = into.pop_front().map(|raw| [&raw.header[..], raw.body.bytes()].concat());
            assert_eq!(whole, Some(stream));
        }
    }

    #[test]
    fn a_size_above_the_limit_is_refused_before_its_body_comes() {
        let arena = arena(1);
        let pool = arena.pool();
        let mut into = Burst::with_capacity(4);
        let stream = message(7, 8193);
        let mut sink = Sink { conn: ConnId::new(0, 0), limit: LIMIT, pool: &pool, into: &mut into };
        for cut in [HEADER_SIZE, HEADER_SIZE + 1] {
            let mut input = &stream[..cut];
            let stop = Reassembly::new().take(&mut input, &mut sink);
            assert_eq!(stop, Err(Reject::BadSize));
        }
    }
}
