//! A segment that is made before it is needed.
//!
//! Owns the thread that fills it with zeros, and its pace. Always true: the zeros are spread over the time that is
//! said, so that groups do not queue behind them; who needs the segment at once gets it as fast as the disk
//! allows. Must not: leave a file under a name of a spare that is not whole.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::StorageError;
use super::disk::{ZEROS_SIZE, create_zeroed_slowly};

/// The longest pause between two writes of zeros: a segment is there soon even if the log is hardly written.
const PAUSE_MAX: Duration = Duration::from_millis(10);
/// The name under which it is made.
pub(super) const UNFINISHED: &str = "prepared.new";

/// A segment that is being made.
pub(super) struct Spare {
    hurry: Arc<AtomicBool>,
    thread: JoinHandle<Result<String, StorageError>>,
}

impl Spare {
    /// Begins to make a file of `size` zeros, `name` in `directory`, spread over a time of `within`. Without a
    /// thread there is none.
    pub(super) fn begin(
        directory: PathBuf,
        name: String,
        size: u64,
        within: Duration,
    ) -> Option<Self> {
        let hurry = Arc::new(AtomicBool::new(false));
        let hurried = Arc::clone(&hurry);
        let pause = pause(size, within);
        let make = move || {
            let unfinished = directory.join(UNFINISHED);
            let fail = |source| StorageError::Io {
                path: unfinished.clone(),
                operation: "make a segment",
                source,
            };
            let mut rest = || {
                if !hurried.load(Ordering::Acquire) {
                    thread::park_timeout(pause);
                }
            };
            create_zeroed_slowly(&unfinished, size, &mut rest).map_err(fail)?;
            fs::rename(&unfinished, directory.join(&name)).map_err(fail)?;
            Ok(name)
        };
        let thread = thread::Builder::new().name("log-segment".into()).spawn(make).ok()?;
        Some(Self { hurry, thread })
    }

    /// Is it made, or has it failed?
    pub(super) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for it, without pauses from now on. Its name, if it could be made.
    pub(super) fn finish(self) -> Option<String> {
        self.hurry.store(true, Ordering::Release);
        self.thread.thread().unpark();
        // Who needs a segment and has none makes one, and is told why that fails.
        self.thread.join().ok()?.ok()
    }
}

/// Between two writes of zeros, so that `size` bytes take about `within`.
fn pause(size: u64, within: Duration) -> Duration {
    let writes = u32::try_from(size.div_ceil(ZEROS_SIZE as u64)).unwrap_or(u32::MAX);
    (within / writes.max(1)).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_make_up_the_time_and_have_an_end() {
        let size = 128 * ZEROS_SIZE as u64;
        assert_eq!(pause(size, Duration::from_millis(256)), Duration::from_millis(2));
        assert_eq!(pause(size, Duration::MAX), PAUSE_MAX);
        assert_eq!(pause(1, Duration::ZERO), Duration::ZERO);
    }
}
