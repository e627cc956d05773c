//! Completion queues, and the work whose end they report.
//!
//! Owns a queue and the channel that tells of it. Always true: memory named in posted work stays untouched
//! until its completion or until its queue pair is destroyed; that is the contract of whoever posts. Must
//! not: interpret identifiers of work.

use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::Arc;

use super::memory::Domain;
use super::{check, sys};

/// Completions taken at a time.
const POLL_MAX: usize = 32;

/// The end of one piece of work.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport::rdma) struct Completion {
    /// What the poster called the work.
    pub(in crate::transport::rdma) work: u64,
    /// It did what it should; otherwise its queue pair is in error.
    pub(in crate::transport::rdma) ok: bool,
    /// Of a receive: how many bytes came.
    pub(in crate::transport::rdma) size: u32,
    /// Of a receive: the number that came along.
    pub(in crate::transport::rdma) number: Option<u32>,
}

/// Where the ends of the work of one endpoint are reported.
pub(in crate::transport::rdma) struct CompletionQueue {
    queue: NonNull<sys::ibv_cq>,
    channel: NonNull<sys::ibv_comp_channel>,
    _domain: Arc<Domain>,
}

// SAFETY: used by one thread at a time; the library does not care which.
unsafe impl Send for CompletionQueue {}

impl CompletionQueue {
    /// A queue that holds `size` completions.
    pub(in crate::transport::rdma) fn new(domain: &Arc<Domain>, size: usize) -> io::Result<Self> {
        let device = domain.device();
        // SAFETY: the context is open.
        let channel = unsafe { sys::ibv_create_comp_channel(device.context()) };
        let channel = NonNull::new(channel).ok_or_else(io::Error::last_os_error)?;
        let size = i32::try_from(size).unwrap_or(i32::MAX);
        // SAFETY: context and channel are open; a null user context is allowed.
        let queue = unsafe {
            sys::ibv_create_cq(device.context(), size, std::ptr::null_mut(), channel.as_ptr(), 0)
        };
        let Some(queue) = NonNull::new(queue) else {
            let error = io::Error::last_os_error();
            // SAFETY: nothing was made from it.
            unsafe { sys::ibv_destroy_comp_channel(channel.as_ptr()) };
            return Err(error);
        };
        let made = Self { queue, channel, _domain: Arc::clone(domain) };
        super::cm::set_nonblocking(made.fd())?;
        Ok(made)
    }

    /// Readable when an armed queue has got a completion.
    pub(in crate::transport::rdma) fn fd(&self) -> RawFd {
        // SAFETY: the channel is open.
        unsafe { self.channel.as_ref() }.fd
    }

    pub(super) fn pointer(&self) -> *mut sys::ibv_cq {
        self.queue.as_ptr()
    }

    /// Tell the channel of the next completion. What is in the queue already is not told.
    pub(in crate::transport::rdma) fn arm(&mut self) -> io::Result<()> {
        // SAFETY: the queue is there.
        match unsafe { sys::tetrarch_req_notify_cq(self.queue.as_ptr(), 0) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Take what the channel tells. `true`: it told something, so the queue is not armed any more.
    pub(in crate::transport::rdma) fn take_notices(&mut self) -> bool {
        let mut count = 0;
        loop {
            let (mut queue, mut context) = (std::ptr::null_mut(), std::ptr::null_mut());
            // SAFETY: the channel is open and does not block; the library writes two pointers.
            let result = unsafe {
                sys::ibv_get_cq_event(self.channel.as_ptr(), &raw mut queue, &raw mut context)
            };
            if result != 0 {
                break;
            }
            count += 1;
        }
        if count > 0 {
            // SAFETY: so many notices of this, the channel's only queue, were taken.
            unsafe { sys::ibv_ack_cq_events(self.queue.as_ptr(), count) };
        }
        count > 0
    }

    /// Hands up to 32 completions to `take`, oldest first. Returns how many.
    pub(in crate::transport::rdma) fn poll(&mut self, mut take: impl FnMut(Completion)) -> usize {
        let mut entries = [sys::ibv_wc::default(); POLL_MAX];
        // SAFETY: the queue is there; the library fills at most as many entries as it is told there are.
        let count = unsafe {
            sys::tetrarch_poll_cq(self.queue.as_ptr(), POLL_MAX as i32, entries.as_mut_ptr())
        };
        // A negative count means that the queue is broken: its work never ends, its peers are silent.
        let count = usize::try_from(count).unwrap_or(0);
        for entry in &entries[..count] {
            let with_number = entry.wc_flags & sys::IBV_WC_WITH_IMM != 0;
            // SAFETY: both variants of the union are numbers of 32 bits.
            let number = || u32::from_be(unsafe { entry.__bindgen_anon_1.imm_data });
            take(Completion {
                work: entry.wr_id,
                ok: entry.status == sys::IBV_WC_SUCCESS,
                size: entry.byte_len,
                number: with_number.then(number),
            });
        }
        count
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: destroyed once, all notices acknowledged; the queue pairs are gone, as their owner drops
        // them first. If one is left the library refuses, and the queue is leaked.
        unsafe {
            sys::ibv_destroy_cq(self.queue.as_ptr());
            sys::ibv_destroy_comp_channel(self.channel.as_ptr());
        }
    }
}

/// Bytes to receive into.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport::rdma) struct ReceiveWork {
    /// What the completion will call it.
    pub(in crate::transport::rdma) work: u64,
    /// The memory.
    pub(in crate::transport::rdma) address: *mut u8,
    /// Its bytes.
    pub(in crate::transport::rdma) size: u32,
    /// Its registration.
    pub(in crate::transport::rdma) key: u32,
}

// SAFETY: a name of memory; who uses it keeps the contract of posting.
unsafe impl Send for ReceiveWork {}

/// A part of what is transmitted.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport::rdma) struct Part {
    /// The memory.
    pub(in crate::transport::rdma) address: *const u8,
    /// Its bytes.
    pub(in crate::transport::rdma) size: u32,
    /// Its registration; of no interest for what is copied at once.
    pub(in crate::transport::rdma) key: u32,
}

/// One message of a queue pair: up to two parts and a number.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport::rdma) struct SendWork {
    /// What the completion will call it.
    pub(in crate::transport::rdma) work: u64,
    /// Its parts; those of no bytes do not count.
    pub(in crate::transport::rdma) parts: [Part; 2],
    /// The number that comes along.
    pub(in crate::transport::rdma) number: u32,
    /// Report its end, and with it that of all before.
    pub(in crate::transport::rdma) signalled: bool,
    /// Copy the bytes now: the memory is free when the call returns.
    pub(in crate::transport::rdma) copied: bool,
}

/// Posts all of `receives` as one list.
///
/// # Safety
/// The queue pair is there. The memory is, and is used by nobody else, until the completion or until the
/// queue pair is destroyed.
pub(super) unsafe fn post_receives(
    pair: *mut sys::ibv_qp,
    receives: &[ReceiveWork],
) -> io::Result<()> {
    let mut entries = [sys::ibv_sge::default(); POLL_MAX];
    let mut list = [sys::ibv_recv_wr::default(); POLL_MAX];
    for group in receives.chunks(POLL_MAX) {
        let count = group.len();
        for (at, receive) in group.iter().enumerate() {
            entries[at] = sys::ibv_sge {
                addr: receive.address as u64,
                length: receive.size,
                lkey: receive.key,
            };
            let next = if at + 1 < count { &raw mut list[at + 1] } else { std::ptr::null_mut() };
            list[at] = sys::ibv_recv_wr {
                wr_id: receive.work,
                next,
                sg_list: &raw mut entries[at],
                num_sge: 1,
            };
        }
        let mut bad = std::ptr::null_mut();
        // SAFETY: the list and its entries live until the call returns, which copies them.
        let result = unsafe { sys::tetrarch_post_recv(pair, list.as_mut_ptr(), &raw mut bad) };
        posted(result)?;
    }
    Ok(())
}

/// Posts all of `sends` as one list: one doorbell.
///
/// # Safety
/// The queue pair is there. The memory of what is not copied is, and is not written, until the completion of
/// this or a later send, or until the queue pair is destroyed.
pub(super) unsafe fn post_sends(pair: *mut sys::ibv_qp, sends: &[SendWork]) -> io::Result<()> {
    let mut entries = [[sys::ibv_sge::default(); 2]; POLL_MAX];
    let mut list = [sys::ibv_send_wr::default(); POLL_MAX];
    for group in sends.chunks(POLL_MAX) {
        let count = group.len();
        for (at, send) in group.iter().enumerate() {
            let mut parts = 0;
            for part in send.parts.iter().filter(|part| part.size > 0) {
                entries[at][parts] =
                    sys::ibv_sge { addr: part.address as u64, length: part.size, lkey: part.key };
                parts += 1;
            }
            let mut flags = 0;
            flags |= if send.signalled { sys::IBV_SEND_SIGNALED } else { 0 };
            flags |= if send.copied { sys::IBV_SEND_INLINE } else { 0 };
            let next = if at + 1 < count { &raw mut list[at + 1] } else { std::ptr::null_mut() };
            let number = sys::ibv_send_wr__bindgen_ty_1 { imm_data: send.number.to_be() };
            list[at] = sys::ibv_send_wr {
                wr_id: send.work,
                next,
                sg_list: entries[at].as_mut_ptr(),
                num_sge: parts as i32,
                opcode: sys::IBV_WR_SEND_WITH_IMM,
                send_flags: flags,
                __bindgen_anon_1: number,
                ..Default::default()
            };
        }
        let mut bad = std::ptr::null_mut();
        // SAFETY: the list and its entries live until the call returns, which copies them.
        let result = unsafe { sys::tetrarch_post_send(pair, list.as_mut_ptr(), &raw mut bad) };
        posted(result)?;
    }
    Ok(())
}

/// Posting returns an error's number; some devices return -1 and set `errno`.
fn posted(result: i32) -> io::Result<()> {
    if result > 0 { Err(io::Error::from_raw_os_error(result)) } else { check(result) }
}
