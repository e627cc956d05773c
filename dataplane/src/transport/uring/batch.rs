//! Transmissions that leave together.
//!
//! Owns the memory that small messages are copied to, and the lists of slices that the kernel reads.
//! Always true: between [`Batch::add`] and [`Batch::is_complete`] nothing that was added changes.
//! Must not: wait.
//!
//! Every transmission carries `MSG_DONTWAIT`: it takes what the socket has room for while it is
//! submitted and is complete when the submission returns. So the kernel holds no memory of ours
//! while a peer is slow, and one batch serves all connections.

use std::io::IoSlice;

use io_uring::{opcode, types};

use super::key::Key;
use super::ring::Ring;
use crate::endpoint::ConnId;
use crate::frame::Frame;
use crate::limits::HEADER_SIZE;
use crate::transport::stream::tx_queue::{COPY_MAX, SCRATCH_SIZE, SLICES_MAX, TxQueue};

/// Transmissions of one batch.
const SENDS_MAX: usize = 256;
/// Slices of one batch.
const SLICES_TOTAL: usize = 4 * SENDS_MAX;
/// Bytes that are copied for one batch.
const SCRATCH_TOTAL: usize = 8 * SCRATCH_SIZE;

/// What became of a transmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) conn: ConnId,
    /// Bytes offered.
    pub(super) offered: usize,
    /// Bytes taken, or a negative error.
    pub(super) result: i32,
}

/// One batch, used again and again.
pub(super) struct Batch {
    scratch: Box<[u8]>,
    scratch_used: usize,
    slices: Box<[libc::iovec]>,
    slices_used: usize,
    messages: Box<[libc::msghdr]>,
    sends: Vec<Sent>,
    /// Transmissions without a result.
    open: usize,
}

// SAFETY: the pointers among the slices are for the kernel. They are written in `add` and mean
// nothing once the batch is complete, which is before `add` returns control to other threads.
unsafe impl Send for Batch {}

impl Batch {
    pub(super) fn new() -> Self {
        let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Self {
            scratch: vec![0; SCRATCH_TOTAL].into_boxed_slice(),
            scratch_used: 0,
            slices: vec![nothing; SLICES_TOTAL].into_boxed_slice(),
            slices_used: 0,
            // SAFETY: a message header is plain numbers and pointers; all zero means an empty one.
            messages: vec![unsafe { std::mem::zeroed() }; SENDS_MAX].into_boxed_slice(),
            sends: Vec::with_capacity(SENDS_MAX),
            open: 0,
        }
    }

    /// Forget the results of the last batch.
    ///
    /// # Panics
    /// If it is not complete.
    pub(super) fn begin(&mut self) {
        assert!(self.is_complete(), "the kernel is done with the last batch");
        self.sends.clear();
        (self.scratch_used, self.slices_used) = (0, 0);
    }

    /// Is there room for one more transmission of any kind?
    pub(super) fn has_room(&self) -> bool {
        self.sends.len() < SENDS_MAX
            && self.scratch_used + HEADER_SIZE + COPY_MAX <= SCRATCH_TOTAL
            && self.slices_used + SLICES_MAX <= SLICES_TOTAL
    }

    /// Add the next bytes of `tx`, up to the first body of `body_max` bytes or more.
    ///
    /// # Safety
    /// `tx` must not change before the batch is complete: the kernel reads its frames. There is
    /// [room](Batch::has_room), and `tx` has bytes to send below that limit.
    pub(super) unsafe fn add(
        &mut self,
        ring: &mut Ring,
        file: u32,
        conn: ConnId,
        tx: &TxQueue,
        body_max: usize,
    ) {
        let scratch_end = (self.scratch_used + SCRATCH_SIZE).min(SCRATCH_TOTAL);
        let scratch = &mut self.scratch[self.scratch_used..scratch_end];
        let place = &mut self.slices[self.slices_used..self.slices_used + SLICES_MAX];
        let mut count = 0;
        let gathered = tx.gather_with(scratch, body_max, |slices: &[IoSlice<'_>]| {
            for (to, from) in place.iter_mut().zip(slices) {
                *to =
                    libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
            }
            count = slices.len();
        });
        self.scratch_used += gathered.copied;
        let at = self.sends.len();
        let (file, flags) = (types::Fixed(file), libc::MSG_DONTWAIT);
        let entry = if count == 1 {
            let slice = self.slices[self.slices_used];
            let bytes = slice.iov_base.cast_const().cast();
            opcode::Send::new(file, bytes, slice.iov_len as u32).flags(flags).build()
        } else {
            let message = &mut self.messages[at];
            message.msg_iov = &raw mut self.slices[self.slices_used];
            message.msg_iovlen = count as _;
            opcode::SendMsg::new(file, &raw const *message).flags(flags as u32).build()
        };
        self.slices_used += count;
        self.push(Sent { conn, offered: gathered.offered, result: 0 });
        // SAFETY: scratch, slices and message header are ours, on the heap, and not written before
        // `begin` of the next batch, which insists on the completion; bodies are the caller's word.
        unsafe { ring.push(&entry.user_data(Key::Send(at as u32).encode())) };
    }

    /// Add bytes of a frame that the kernel reads where they are, also after the batch is complete.
    /// Returns the place of the transmission in this batch.
    ///
    /// # Safety
    /// `frame` must be held until the completion of `flight` that [releases] it. There is
    /// [room](Batch::has_room).
    ///
    /// [releases]: super::ring::Completion::released
    pub(super) unsafe fn add_zero_copy(
        &mut self,
        ring: &mut Ring,
        file: u32,
        conn: ConnId,
        (frame, from): (&Frame, usize),
        (flight, registered): (u32, Option<u16>),
    ) -> u32 {
        let bytes = &frame.bytes()[from..];
        let entry = opcode::SendZc::new(types::Fixed(file), bytes.as_ptr(), bytes.len() as u32)
            .flags(libc::MSG_DONTWAIT)
            .buf_index(registered)
            .build()
            .user_data(Key::SendZeroCopy(flight).encode());
        let at = self.push(Sent { conn, offered: bytes.len(), result: 0 });
        // SAFETY: the bytes of a frame do not change; the caller keeps it.
        unsafe { ring.push(&entry) };
        at
    }

    fn push(&mut self, sent: Sent) -> u32 {
        self.open += 1;
        self.sends.push(sent);
        self.sends.len() as u32 - 1
    }

    /// The kernel is done with a transmission.
    pub(super) fn complete(&mut self, at: u32, result: i32) {
        self.sends[at as usize].result = result;
        self.open -= 1;
    }

    /// Is there nothing in it?
    pub(super) fn is_empty(&self) -> bool {
        self.sends.is_empty()
    }

    /// Has every transmission its result?
    pub(super) fn is_complete(&self) -> bool {
        self.open == 0
    }

    /// What became of transmission `at`.
    pub(super) fn sent(&self, at: usize) -> Option<Sent> {
        self.sends.get(at).copied()
    }
}
