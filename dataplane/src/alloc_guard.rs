//! An allocator that can be frozen: proof that steady state allocates nothing.
//!
//! Owns one state and one counter for each thread. Always true: it hands every request to the
//! allocator inside, unchanged; freezing concerns the calling thread only. Must not: allocate, lock
//! or use a thread-local that needs a destructor, because it runs inside every allocation.
//!
//! A binary or test installs it with `#[global_allocator]`, warms up, calls [`freeze`] on the
//! thread that must not allocate and reads [`violations`] (tests), or calls [`freeze_or_abort`]
//! (an appliance that would rather stop). Freeing is not counted: it takes no memory.
//!
//! What makes the unsafe code sound: every call passes the caller's arguments to the inner
//! allocator, whose contract is the same.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

/// What an allocation on this thread means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Thawed,
    Counting,
    Aborting,
}

thread_local! {
    // Constant initialisers and no destructor: using them allocates nothing.
    static STATE: Cell<State> = const { Cell::new(State::Thawed) };
    static VIOLATIONS: Cell<u64> = const { Cell::new(0) };
}

/// From now on allocations of the calling thread are counted. Starts from zero.
pub fn freeze() {
    VIOLATIONS.set(0);
    STATE.set(State::Counting);
}

/// From now on an allocation of the calling thread ends the process, with a message that names the
/// size on standard error.
pub fn freeze_or_abort() {
    VIOLATIONS.set(0);
    STATE.set(State::Aborting);
}

/// The calling thread may allocate again. Returns how often it did while frozen.
pub fn thaw() -> u64 {
    STATE.set(State::Thawed);
    VIOLATIONS.get()
}

/// How often the calling thread allocated since it was frozen.
pub fn violations() -> u64 {
    VIOLATIONS.get()
}

/// Run `work` frozen and count its allocations.
///
/// # Panics
/// If no [`FrozenAllocator`] is installed: then the answer would always be zero.
pub fn count_allocations<R>(work: impl FnOnce() -> R) -> (R, u64) {
    assert!(installed(), "make FrozenAllocator the #[global_allocator] of this binary");
    freeze();
    let result = work();
    (result, thaw())
}

/// Is a [`FrozenAllocator`] the global allocator? Allocates a little to find out; the calling
/// thread must not be frozen.
pub fn installed() -> bool {
    freeze();
    drop(std::hint::black_box(Box::new(0u64)));
    thaw() > 0
}

/// Passes everything to `A` and watches the threads that are frozen.
#[derive(Debug, Default)]
pub struct FrozenAllocator<A> {
    inner: A,
}

impl<A> FrozenAllocator<A> {
    /// Watch `inner`.
    pub const fn new(inner: A) -> Self {
        Self { inner }
    }
}

// SAFETY: every method hands its arguments unchanged to `A`, which upholds the contract; `watch`
// neither allocates nor unwinds (`try_with` covers threads whose locals are gone).
unsafe impl<A: GlobalAlloc> GlobalAlloc for FrozenAllocator<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        watch(layout.size());
        // SAFETY: the caller's contract is the inner one's.
        unsafe { self.inner.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from the inner allocator with this layout.
        unsafe { self.inner.dealloc(block, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        watch(layout.size());
        // SAFETY: the caller's contract is the inner one's.
        unsafe { self.inner.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        watch(size);
        // SAFETY: `block` came from the inner allocator with this layout; the caller vouches for
        // `size`.
        unsafe { self.inner.realloc(block, layout, size) }
    }
}

#[inline]
fn watch(size: usize) {
    let state = STATE.try_with(Cell::get).unwrap_or(State::Thawed);
    if state != State::Thawed {
        violated(state, size);
    }
}

#[cold]
#[inline(never)]
fn violated(state: State, size: usize) {
    // The state was readable just now, so is the counter; if not, there is nothing left to count.
    let _ = VIOLATIONS.try_with(|count| count.set(count.get().saturating_add(1)));
    if state == State::Aborting {
        let mut text = [0u8; 96];
        let size = message(size, &mut text);
        // SAFETY: writes initialised bytes of a live buffer to standard error. A failed write
        // changes nothing: the process ends anyway.
        unsafe { libc::write(2, text.as_ptr().cast(), size) };
        std::process::abort();
    }
}

/// The last words, written without allocating; returns how many bytes.
fn message(size: usize, text: &mut [u8; 96]) -> usize {
    use std::io::Write as _;
    let mut rest = &mut text[..];
    // Fits: the words are 64 bytes, a number at most 20. What did not fit would be cut.
    let _ = writeln!(rest, "a frozen thread allocated {size} bytes: steady state must not");
    let left = rest.len();
    text.len() - left
}

#[cfg(test)]
mod tests {
    use super::*;

    // What needs the allocator installed is in tests/alloc.rs.

    #[test]
    fn the_message_names_the_size() {
        let mut text = [0; 96];
        let size = message(usize::MAX, &mut text);
        let text = std::str::from_utf8(&text[..size]).unwrap();
        assert_eq!(
            text,
            "a frozen thread allocated 18446744073709551615 bytes: steady state must not\n"
        );
    }

    #[test]
    fn without_the_allocator_it_says_so_instead_of_zero() {
        assert!(!installed());
        let outcome = std::panic::catch_unwind(|| count_allocations(|| ()));
        assert!(outcome.is_err());
    }
}
