//! Sends that the device has not finished.
//!
//! Owns what it reads for them. Always true: chunks and frames of a send are kept until its completion, or that
//! of a later one, says that the device is done. Must not: post.

use std::collections::VecDeque;

use super::work::NUMBER_MASK;
use crate::frame::Frame;

/// Sends of a connection at a time.
pub(super) const SENDS_MAX: usize = 64;
/// What one send reads.
pub(super) struct Flight {
    /// A chunk of the endpoint.
    pub(super) chunk: Option<u16>,
    /// Of which a part is gathered: it stays as it is as long as somebody holds it.
    pub(super) _body: Option<Frame>,
}

/// The unfinished sends of one connection, oldest first.
pub(super) struct Flights {
    flights: VecDeque<Flight>,
    /// The number of the oldest.
    first: u32,
}

impl Flights {
    pub(super) fn new() -> Self {
        Self { flights: VecDeque::with_capacity(SENDS_MAX), first: 0 }
    }

    /// Sends that may be begun.
    pub(super) fn room(&self) -> usize {
        SENDS_MAX - self.flights.len()
    }

    /// The number of the next send.
    pub(super) fn next(&self) -> u32 {
        self.first.wrapping_add(self.flights.len() as u32) & NUMBER_MASK
    }

    /// The next send reads this.
    ///
    /// # Panics
    /// If there is no room.
    pub(super) fn begin(&mut self, flight: Flight) {
        assert!(self.room() > 0, "who sends has looked");
        self.flights.push_back(flight);
    }

    /// Send `number` and all before are done: `with` gets their chunks. Other numbers mean nothing.
    pub(super) fn end(&mut self, number: u32, mut with: impl FnMut(u16)) {
        let count = number.wrapping_sub(self.first) & NUMBER_MASK;
        if count as usize >= self.flights.len() {
            return;
        }
        for flight in self.flights.drain(..=count as usize) {
            flight.chunk.into_iter().for_each(&mut with);
        }
        self.first = number.wrapping_add(1) & NUMBER_MASK;
    }

    /// The device is done with all: the queue pair is gone.
    pub(super) fn end_all(&mut self, with: impl FnMut(u16)) {
        self.flights.drain(..).filter_map(|flight| flight.chunk).for_each(with);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_ends_all_sends_before_it() {
        let mut flights = Flights::new();
        flights.first = NUMBER_MASK - 1;
        for chunk in 0..5 {
            let chunk = (chunk != 1).then_some(chunk);
            flights.begin(Flight { chunk, _body: None });
        }
        assert_eq!((flights.next(), flights.room()), (3, SENDS_MAX - 5));
        let mut given = Vec::new();
        flights.end(0, |chunk| given.push(chunk));
        assert_eq!((given.as_slice(), flights.room()), (&[0, 2][..], SENDS_MAX - 2));
        // What has ended, and what has not begun.
        for number in [0, NUMBER_MASK, 3, 77] {
            flights.end(number, |_| panic!("{number} is no send"));
        }
        flights.end_all(|chunk| given.push(chunk));
        assert_eq!((given.as_slice(), flights.room()), (&[0, 2, 3, 4][..], SENDS_MAX));
    }
}
