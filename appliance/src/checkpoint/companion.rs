//! A thread that works beside the stages and ends with what holds it.
//!
//! Owns the thread. Always true: when a [`Companion`] is gone its thread is, too. Must not: interrupt what the thread
//! does at that moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, Thread};

use anyhow::{Context, Result};
use tetrarch_dataplane::endpoint::Waker;

/// See the module.
pub(super) struct Companion {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Tells a thread when to end.
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// It is time.
    pub(super) fn is_due(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Companion {
    /// Starts a thread with this name, which looks at what it is given, and is unparked, when it shall end.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(super) fn start(name: &str, work: impl FnOnce(Stop) + Send + 'static) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Stop(Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || work(told))
            .context("the system refused a thread; raise the limit of processes (ulimit -u)")?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Wakes it.
    pub(super) fn waker(&self) -> Waker {
        let thread = self.thread.as_ref().map(|thread| thread.thread().clone());
        Waker::new(move || thread.iter().for_each(Thread::unpark))
    }
}

impl Drop for Companion {
    /// What is under way is given up, as at a crash.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It has said why, if it panicked.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_ends_with_its_companion_also_when_it_sleeps() {
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let companion = Companion::start("sleeper", move |stop| {
            while !stop.is_due() {
                std::thread::park();
            }
            end.store(true, Ordering::Release);
        });
        let companion = companion.expect("a thread");
        companion.waker().wake();
        assert!(!ended.load(Ordering::Acquire), "to be woken is not to end");
        drop(companion);
        assert!(ended.load(Ordering::Acquire));
    }
}
