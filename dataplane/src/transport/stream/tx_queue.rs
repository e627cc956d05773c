//! Messages that wait for a connection to take them.
//!
//! Owns the queue and how far its first message was written. Always true: bounded in messages and
//! bytes; bytes leave in order, each once. Must not: do IO.
//!
//! Small messages are copied side by side into one buffer: that is cheaper than an `iovec` each
//! (the kernel looks at every one). Large bodies are referenced where they are.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

use crate::endpoint::{HeaderBytes, RawOutgoing};
use crate::frame::Frame;
use crate::limits::HEADER_SIZE;

/// Bodies up to this size are copied.
pub(in crate::transport) const COPY_MAX: usize = 4096;
/// Slices of one write.
pub(in crate::transport) const SLICES_MAX: usize = 64;
/// Bytes of the buffer that small messages of one write are copied to.
pub(in crate::transport) const SCRATCH_SIZE: usize = 64 * 1024;

struct Message {
    header: HeaderBytes,
    body: Option<Frame>,
}

impl Message {
    fn body(&self) -> &[u8] {
        self.body.as_ref().map_or(&[], Frame::bytes)
    }

    fn size(&self) -> usize {
        HEADER_SIZE + self.body().len()
    }
}

/// Part of a write.
enum Segment {
    Scratch(Range<usize>),
    Body { message: usize, range: Range<usize> },
}

/// The transmit queue of a connection.
pub(in crate::transport) struct TxQueue {
    messages: VecDeque<Message>,
    /// Of all messages, written parts included.
    bytes: usize,
    /// How much of the first message was written.
    written: usize,
}

impl TxQueue {
    pub(in crate::transport) fn new() -> Self {
        Self { messages: VecDeque::new(), bytes: 0, written: 0 }
    }

    /// Make place for `count` messages now rather than when they come.
    pub(in crate::transport) fn reserve(&mut self, count: usize) {
        self.messages.reserve(count.saturating_sub(self.messages.len()));
    }

    /// Forget everything: the connection is gone.
    pub(in crate::transport) fn reset(&mut self) {
        self.messages.clear();
        (self.bytes, self.written) = (0, 0);
    }

    pub(in crate::transport) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Append a message. An empty queue takes any message.
    ///
    /// # Errors
    /// Gives it back if the queue is full.
    pub(in crate::transport) fn push(
        &mut self,
        out: RawOutgoing,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<(), RawOutgoing> {
        let size = out.size();
        let full = self.messages.len() >= messages_max || self.bytes + size > bytes_max;
        if full && !self.messages.is_empty() {
            return Err(out);
        }
        self.bytes += size;
        self.messages.push_back(Message { header: out.header, body: out.body });
        Ok(())
    }

    /// Call `write` with the next bytes: as many as fit a write. It says how many it took.
    pub(in crate::transport) fn write_with<E>(
        &mut self,
        scratch: &mut [u8],
        write: impl FnOnce(&[IoSlice<'_>]) -> Result<usize, E>,
    ) -> Result<Written, E> {
        let mut outcome = Ok(0);
        let offered = self.gather_with(scratch, usize::MAX, |slices| outcome = write(slices));
        let (bytes, offered) = (outcome?, offered.offered);
        let messages = self.advance(bytes.min(offered));
        Ok(Written { bytes, offered, messages })
    }

    /// Call `with` with the next bytes, as many as fit a write, up to the first body of which
    /// `body_max` bytes or more are left. Nothing counts as written before [`TxQueue::advance`].
    pub(in crate::transport) fn gather_with(
        &self,
        scratch: &mut [u8],
        body_max: usize,
        with: impl FnOnce(&[IoSlice<'_>]),
    ) -> Gathered {
        let mut segments: [Segment; SLICES_MAX] =
            std::array::from_fn(|_| Segment::Scratch(Range::default()));
        let (count, copied) = self.gather(scratch, body_max, &mut segments);
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut offered = 0;
        for (slice, segment) in slices.iter_mut().zip(&segments[..count]) {
            let bytes = match segment {
                Segment::Scratch(range) => &scratch[range.clone()],
                Segment::Body { message, range } => &self.messages[*message].body()[range.clone()],
            };
            offered += bytes.len();
            *slice = IoSlice::new(bytes);
        }
        with(&slices[..count]);
        Gathered { offered, copied }
    }

    /// The rest of the first body, if its header is written and `min` bytes or more are left: the
    /// frame, and where the rest begins.
    pub(in crate::transport) fn large_body(&self, min: usize) -> Option<(&Frame, usize)> {
        let body = self.messages.front()?.body.as_ref()?;
        let from = self.written.checked_sub(HEADER_SIZE)?;
        (body.size() - from >= min).then_some((body, from))
    }

    /// Describe the next bytes as segments, copying what is small. Returns how many segments, and
    /// how many bytes were copied.
    fn gather(
        &self,
        scratch: &mut [u8],
        body_max: usize,
        segments: &mut [Segment; SLICES_MAX],
    ) -> (usize, usize) {
        let mut count = 0;
        let mut used = 0;
        let mut skip = self.written;
        for (index, message) in self.messages.iter().enumerate() {
            let body = message.body();
            let head = skip.min(HEADER_SIZE);
            let from = skip - head;
            skip = 0;
            let rest = &body[from..];
            let copied = HEADER_SIZE - head + if rest.len() <= COPY_MAX { rest.len() } else { 0 };
            // A message takes two more segments at most.
            if used + copied > scratch.len() || count + 2 > SLICES_MAX {
                break;
            }
            let start = used;
            for part in [&message.header[head..], if rest.len() <= COPY_MAX { rest } else { &[] }] {
                scratch[used..used + part.len()].copy_from_slice(part);
                used += part.len();
            }
            match segments[..count].last_mut() {
                Some(Segment::Scratch(range)) if range.end == start => range.end = used,
                _ if used > start => {
                    segments[count] = Segment::Scratch(start..used);
                    count += 1;
                }
                _ => {}
            }
            if rest.len() >= body_max {
                break;
            }
            if rest.len() > COPY_MAX {
                segments[count] = Segment::Body { message: index, range: from..body.len() };
                count += 1;
            }
        }
        (count, used)
    }

    /// `count` more bytes were written: drop what is complete. Returns how many messages.
    pub(in crate::transport) fn advance(&mut self, count: usize) -> usize {
        self.written += count;
        let mut complete = 0;
        while let Some(message) = self.messages.front() {
            let size = message.size();
            if self.written < size {
                break;
            }
            self.written -= size;
            self.bytes -= size;
            self.messages.pop_front();
            complete += 1;
        }
        complete
    }
}

/// What was offered to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) struct Gathered {
    /// Bytes in all slices.
    pub(in crate::transport) offered: usize,
    /// Those of them that were copied to the scratch memory.
    pub(in crate::transport) copied: usize,
}

/// What one write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) struct Written {
    /// Bytes taken.
    pub(in crate::transport) bytes: usize,
    /// Bytes offered.
    pub(in crate::transport) offered: usize,
    /// Messages that are completely written now.
    pub(in crate::transport) messages: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::{Arena, ArenaSpec, SlotClass};
    use crate::endpoint::ConnId;
    use proptest::prelude::*;

    fn arena() -> Arena {
        let class = |slot_size, count| SlotClass { slot_size, count };
        Arena::heap(&ArenaSpec { classes: vec![class(512, 256), class(70_000, 64)] }).unwrap()
    }

    fn out(arena: &Arena, number: u8, size: usize) -> RawOutgoing {
        let bytes: Vec<u8> = (0..size).map(|at| (at >> 3) as u8 ^ number).collect();
        let body = (size > 0).then(|| arena.pool().copy_from(&bytes).unwrap());
        RawOutgoing { conn: ConnId(0), header: [number; HEADER_SIZE], body }
    }

    proptest! {
        /// Whatever a socket takes at a time, the bytes leave in order, each once.
        #[test]
        fn bytes_leave_in_order(
            sizes in proptest::collection::vec(
                prop_oneof![0usize..300, 4000usize..4200, 0usize..70_000], 1..60),
            takes in proptest::collection::vec(prop_oneof![1usize..500, 1usize..200_000], 1..10),
            scratch_size in prop_oneof![Just(SCRATCH_SIZE), Just(HEADER_SIZE + COPY_MAX)],
        ) {
            let arena = arena();
            let mut queue = TxQueue::new();
            let mut expected = Vec::new();
            for (number, size) in (0..).zip(&sizes) {
                let out = out(&arena, number, *size);
                expected.extend_from_slice(&out.header);
                expected.extend_from_slice(out.body.as_ref().map_or(&[], |body| body.bytes()));
                prop_assert!(queue.push(out, 100, usize::MAX).is_ok());
            }
            let mut scratch = vec![0; scratch_size];
            let mut left = Vec::new();
            let mut messages = 0;
            let mut takes = takes.iter().cycle();
            while !queue.is_empty() {
                let take = *takes.next().unwrap_or(&1);
                let written = queue.write_with::<()>(&mut scratch, |slices| {
                    let before = left.len();
                    for slice in slices {
                        let room = take - (left.len() - before);
                        left.extend_from_slice(&slice[..slice.len().min(room)]);
                    }
                    Ok(left.len() - before)
                });
                let written = written.expect("the closure does not fail");
                prop_assert!(written.bytes > 0 && written.bytes <= written.offered);
                messages += written.messages;
            }
            prop_assert_eq!(messages, sizes.len());
            prop_assert!(left == expected);
            prop_assert_eq!(arena.free_slots(), arena.total_slots());
        }
    }

    #[test]
    fn the_queue_is_bounded_in_messages_and_bytes() {
        let arena = arena();
        let mut queue = TxQueue::new();
        assert!(queue.push(out(&arena, 1, 60_000), 3, 1000).is_ok(), "an empty queue takes any");
        assert!(queue.push(out(&arena, 2, 0), 3, 1000).is_err());
        queue.reset();
        for number in 0..3 {
            assert!(queue.push(out(&arena, number, 0), 3, 1000).is_ok());
        }
        assert!(queue.push(out(&arena, 4, 0), 3, 1000).is_err());
    }
}
