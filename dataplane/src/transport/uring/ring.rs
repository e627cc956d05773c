//! A submission and completion ring that belongs to one thread.
//!
//! Owns the ring, and how many operations the kernel has. Always true: the thread that first enters
//! the ring is the only one that ever does; every operation counts as the kernel's until its last
//! completion was taken. Must not: know connections.
//!
//! Operations are pushed and leave together with the next [`Ring::submit`] or [`Ring::wait`].

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant as Wall};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::key::Key;

/// Operations that can wait for the next submission.
pub(super) const SUBMISSIONS_MAX: u32 = 1024;
/// Completions that the kernel can leave before it has to keep some aside.
const COMPLETIONS_MAX: u32 = 8192;
/// How long to wait, when the ring is dropped, for operations to be cancelled.
const QUIET_WITHIN: Duration = Duration::from_secs(1);

thread_local! {
    /// Cheaper than asking for the current thread each time.
    static ME: ThreadId = thread::current().id();
}

fn me() -> ThreadId {
    ME.with(|me| *me)
}

/// How a completion is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskRun {
    /// Only when the ring is entered, by the one thread that submits (Linux 6.1).
    Deferred,
    /// At the thread's next entry to the kernel, whatever it enters for (Linux 6.0).
    Cooperative,
}

/// A ring.
pub(super) struct Ring {
    ring: IoUring,
    owner: Option<ThreadId>,
    /// Operations pushed whose last completion was not taken.
    in_kernel: usize,
}

/// What the kernel says about an operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub(super) key: Key,
    /// As a system call's, but errors are negative.
    pub(super) result: i32,
    /// There will be more completions of the same operation.
    pub(super) more: bool,
    /// The provided buffer that was filled.
    pub(super) buffer: Option<u16>,
    /// The kernel lets go of the memory of a transmission.
    pub(super) released: bool,
}

impl Ring {
    /// A ring that belongs to nobody yet, of the best kind that the kernel has.
    ///
    /// # Errors
    /// The kernel does not have it, or does not permit it.
    pub(super) fn new() -> io::Result<Self> {
        match Self::with(TaskRun::Deferred) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                Self::with(TaskRun::Cooperative)
            }
            other => other,
        }
    }

    /// As [`Ring::new`], of this kind.
    ///
    /// # Errors
    /// The kernel does not have it, or does not permit it.
    pub(super) fn with(task_run: TaskRun) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETIONS_MAX).setup_taskrun_flag().setup_r_disabled();
        builder.setup_submit_all().dontfork();
        match task_run {
            TaskRun::Deferred => builder.setup_single_issuer().setup_defer_taskrun(),
            TaskRun::Cooperative => builder.setup_coop_taskrun(),
        };
        let ring = builder.build(SUBMISSIONS_MAX)?;
        Ok(Self { ring, owner: None, in_kernel: 0 })
    }

    /// To register memory and files with.
    pub(super) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.ring.submitter()
    }

    /// From now on the ring belongs to this thread.
    ///
    /// # Panics
    /// If it belongs to another one.
    #[inline]
    pub(super) fn own(&mut self) {
        let me = me();
        match self.owner {
            Some(owner) => {
                assert!(
                    owner == me,
                    "an io_uring endpoint stays with the thread that first used it"
                );
            }
            None => {
                self.owner = Some(me);
                let enabled = self.ring.submitter().register_enable_rings();
                assert!(enabled.is_ok(), "a ring is enabled once: {enabled:?}");
                // Saves the kernel a look-up each time. It may refuse: then it looks up.
                let _ = self.ring.submitter().register_ring_fd();
            }
        }
    }

    /// Queue an operation.
    ///
    /// # Safety
    /// Memory that the entry points to must stay as it is, and be written by nobody else if the
    /// kernel writes it, until the operation's last completion was taken.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: passed on to the caller.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                self.in_kernel += 1;
                return;
            }
            if self.submit().is_err() {
                // No memory for one more request: others have to give some back.
                thread::yield_now();
            }
        }
    }

    /// Queue an operation that refers to no memory of ours.
    fn push_plain(&mut self, key: Key, entry: squeue::Entry) {
        let entry = entry.user_data(key.encode());
        // SAFETY: the callers below build entries without pointers.
        unsafe { self.push(&entry) }
    }

    /// Accept connections of `listener` into the table of registered files until it fails.
    pub(super) fn accept(&mut self, key: Key, listener: RawFd) {
        let entry = opcode::AcceptMulti::new(types::Fd(listener)).allocate_file_index(true);
        self.push_plain(key, entry.build());
    }

    /// Receive from registered file `file` into provided buffers of `group` until it fails.
    pub(super) fn receive(&mut self, key: Key, file: u32, group: u16) {
        self.push_plain(key, opcode::RecvMulti::new(types::Fixed(file), group).build());
    }

    /// Say once when registered file `file` takes bytes.
    pub(super) fn poll_writable(&mut self, key: Key, file: u32) {
        let events = libc::POLLOUT as u32;
        self.push_plain(key, opcode::PollAdd::new(types::Fixed(file), events).build());
    }

    /// Say once when a connecting socket is connected or has failed.
    pub(super) fn poll_connected(&mut self, key: Key, socket: RawFd) {
        let events = libc::POLLOUT as u32;
        self.push_plain(key, opcode::PollAdd::new(types::Fd(socket), events).build());
    }

    /// Say each time that `descriptor` becomes readable.
    pub(super) fn poll_readable(&mut self, key: Key, descriptor: RawFd) {
        let events = libc::POLLIN as u32;
        let entry = opcode::PollAdd::new(types::Fd(descriptor), events).multi(true);
        self.push_plain(key, entry.build());
    }

    /// End all operations of `target`. They complete as cancelled.
    pub(super) fn cancel(&mut self, target: Key) {
        let target = types::CancelBuilder::user_data(target.encode()).all();
        self.push_plain(Key::Forgotten, opcode::AsyncCancel2::new(target).build());
    }

    /// Close registered file `file`: it is gone when no operation uses it any more.
    pub(super) fn close(&mut self, file: u32) {
        self.push_plain(Key::Forgotten, opcode::Close::new(types::Fixed(file)).build());
    }

    /// Does anything wait for the kernel to be entered?
    #[inline]
    pub(super) fn is_due(&mut self) -> bool {
        let submission = self.ring.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
    }

    /// Hand over what was pushed, and run what the kernel deferred. Does not wait.
    ///
    /// # Errors
    /// The kernel has no memory, or was interrupted: later.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        self.own();
        self.ring.submitter().submit().map(drop)
    }

    /// As [`Ring::submit`], then wait for a completion, at most `limit`.
    pub(super) fn wait(&mut self, limit: Duration) {
        self.own();
        let limit = types::Timespec::from(limit);
        let limit = types::SubmitArgs::new().timespec(&limit);
        // It is over, or a signal came, or there is no memory: the caller looks again in any case.
        let _ = self.ring.submitter().submit_with_args(1, &limit);
    }

    /// The next completion. Those with a key that we do not know are dropped.
    #[inline]
    pub(super) fn completion(&mut self) -> Option<Completion> {
        loop {
            let entry = self.ring.completion().next()?;
            let more = cqueue::more(entry.flags());
            if !more {
                self.in_kernel = self.in_kernel.saturating_sub(1);
            }
            if let Some(key) = Key::decode(entry.user_data()) {
                let (buffer, released) =
                    (cqueue::buffer_select(entry.flags()), cqueue::notif(entry.flags()));
                return Some(Completion { key, result: entry.result(), more, buffer, released });
            }
        }
    }

    /// Is there a completion, or something for the kernel to run?
    pub(super) fn has_completion(&self) -> bool {
        // SAFETY: the shared forms must not be used beside others of the same ring. These live for
        // this expression; the ring is not shared with other threads (`Ring` is not `Sync`).
        unsafe {
            !self.ring.completion_shared().is_empty() || self.ring.submission_shared().taskrun()
        }
    }

    /// Cancel everything and wait until the kernel has let go of all memory. `false`: it may still
    /// use some, which must then never be freed.
    pub(super) fn quiesce(&mut self) -> bool {
        match self.owner {
            // Nothing was ever handed over.
            None => return true,
            Some(owner) if owner != me() => return self.in_kernel == 0,
            Some(_) => {}
        }
        let limit = Wall::now() + QUIET_WITHIN;
        let mut submitted = self.submit();
        while self.in_kernel > 0 && Wall::now() < limit {
            if submitted.is_ok() {
                let within = types::Timespec::from(QUIET_WITHIN);
                let all = types::CancelBuilder::any().all();
                // What is on its way to complete is not found, and completes.
                let _ = self.ring.submitter().register_sync_cancel(Some(within), all);
            }
            self.wait(Duration::from_millis(10));
            while self.completion().is_some() {}
            submitted = self.submit();
        }
        // The other sides should learn of the end now, not when this thread ends: it holds the ring
        // as well, since the ring's descriptor is registered with it.
        let _ = self.ring.submitter().unregister_files();
        let _ = self.ring.submitter().unregister_ring_fd();
        self.in_kernel == 0
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}
