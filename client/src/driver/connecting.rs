//! Waiting for links.
//!
//! Owns the one loop that does that. Always true: it ends after the limit; operations that end meanwhile are
//! handed out by the next poll. Must not: submit anything.

use std::time::Duration;

use tetrarch_dataplane::clock::Clock;

use super::{ClientDriver, Completion};
use crate::error::ConnectError;
use tetrarch_consensus::smr::client::To;

/// How long one sleep lasts at most.
const PARK: Duration = Duration::from_millis(20);

/// While there are too few links, those that there are ask this often in which view the members are.
const ASK_EVERY: Duration = Duration::from_millis(500);

impl ClientDriver {
    /// Polls until enough replicas for an answer are connected.
    ///
    /// # Errors
    /// [`ConnectError::Unreachable`]: they are not after `limit`.
    pub fn connect(&mut self, clock: &dyn Clock, limit: Duration) -> Result<(), ConnectError> {
        self.connect_until(clock, limit, |driver| driver.connected() >= driver.needed())
    }

    /// Polls until `done`, such as more links than [`ClientDriver::connect`] waits for, or for as long as
    /// `limit`.
    ///
    /// # Errors
    /// [`ConnectError::Unreachable`]: neither is it done after `limit`, nor are enough replicas for an
    /// answer connected.
    pub fn connect_until(
        &mut self,
        clock: &dyn Clock,
        limit: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<(), ConnectError> {
        let began = clock.now();
        let mut ask_at = began + ASK_EVERY;
        let mut ended = Vec::new();
        loop {
            let now = clock.now();
            let worked = self.poll(now, &mut ended);
            if done(self) {
                break;
            }
            if now.since(began) >= limit {
                if self.connected() >= self.needed() {
                    break;
                }
                self.keep(ended);
                return Err(ConnectError::Unreachable {
                    connected: self.connected(),
                    of: self.members.peers().len(),
                    needed: self.needed(),
                    after: limit,
                });
            }
            if now >= ask_at && self.connected() < self.needed() {
                ask_at = now + ASK_EVERY;
                self.ask_for_view(now, To::All);
            }
            if !worked {
                self.park(now, PARK.min(limit.saturating_sub(now.since(began))));
            }
        }
        self.keep(ended);
        Ok(())
    }

    /// Gives back what a poll handed out.
    fn keep(&mut self, ended: Vec<Completion>) {
        self.ended.extend(ended);
    }
}
