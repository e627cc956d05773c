//! How another thread ends a `park`.
//!
//! Owns who sleeps and who was woken. Always true: a wake is never lost, and costs a system call
//! only if somebody may sleep. Must not: know what the signal is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::endpoint::Waker;

/// Makes a sleeping endpoint's kernel object ready.
pub(in crate::transport) trait Signal: Send + Sync + 'static {
    /// If it fails, the sleep ends at its limit.
    fn signal(&self);
}

/// What an endpoint and its wakers share.
pub(in crate::transport) struct Wake<S> {
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    signal: S,
    /// Somebody called `wake` since the last `park` returned.
    pending: AtomicBool,
    parked: AtomicBool,
    /// The owner waits for our descriptor itself, so we cannot know when it sleeps.
    watched: AtomicBool,
}

impl<S: Signal> Wake<S> {
    pub(in crate::transport) fn new(signal: S) -> Self {
        let [pending, parked, watched] = [(); 3].map(|()| AtomicBool::new(false));
        Self { shared: Arc::new(Shared { signal, pending, parked, watched }) }
    }

    /// What a wake makes ready.
    pub(in crate::transport) fn signal(&self) -> &S {
        &self.shared.signal
    }

    /// From now on every wake signals.
    pub(in crate::transport) fn watch(&self) {
        self.shared.watched.store(true, Ordering::SeqCst);
    }

    /// The owner is about to sleep. `false`: it was woken already, and must not. Either way
    /// [`Wake::rise`] follows.
    pub(in crate::transport) fn lie_down(&self) -> bool {
        self.shared.parked.store(true, Ordering::SeqCst);
        !self.shared.pending.swap(false, Ordering::SeqCst)
    }

    /// The owner is awake.
    pub(in crate::transport) fn rise(&self) {
        self.shared.parked.store(false, Ordering::SeqCst);
        self.shared.pending.store(false, Ordering::SeqCst);
    }

    pub(in crate::transport) fn waker(&self) -> Waker {
        let shared = Arc::clone(&self.shared);
        Waker::new(move || {
            shared.pending.store(true, Ordering::SeqCst);
            let asleep = shared.parked.load(Ordering::SeqCst);
            if asleep || shared.watched.load(Ordering::SeqCst) {
                shared.signal.signal();
            }
        })
    }
}
