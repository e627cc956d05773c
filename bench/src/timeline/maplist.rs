//! Sessions that use the map of lists as the thesis' experiment does (4.5): each fills a list of its own
//! with strings of 100 bytes, asks for sizes in between, and removes the list before it grows large.
//!
//! Always true: a session knows what its list holds, so an answer that does not fit, because a request was
//! lost or executed twice, is noticed.

use std::time::Duration;

use anyhow::Result;
use tetrarch_client::{Bytes, ClientDriver, Completion, Mode, Outcome};
use tetrarch_dataplane::clock::{Clock, SystemClock};
use tetrarch_dataplane::types::Instant;
use tetrarch_services::kv::command::Args;
use tetrarch_services::maplist::{Answer, Operation};

/// Bytes of each string that is inserted.
const ENTRY_SIZE: usize = 100;
/// Entries at which a list is removed.
const PURGE_AT: u64 = 50;
/// Every so many entries its session asks for a size.
const SIZE_EVERY: u64 = 10;
/// The longest sleep when there is nothing to do.
const PARK: Duration = Duration::from_millis(5);

/// What a session asks next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    /// Makes the list, with its first entry.
    Put,
    PutEntry,
    Size,
    /// Reads the list before it is removed.
    Get,
    Remove,
}

struct Session {
    key: Vec<u8>,
    turn: Turn,
    /// Entries that the list has.
    entries: u64,
}

impl Session {
    fn new(number: u32) -> Self {
        Self { key: format!("list:{number}").into_bytes(), turn: Turn::Put, entries: 0 }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let (key, entry) = (self.key.as_slice(), [b'x'; ENTRY_SIZE]);
        let operation = match self.turn {
            Turn::Put => Operation::Put { key, entries: Args::Words(&[&entry]) },
            Turn::PutEntry => Operation::PutEntry { key, entry: &entry },
            Turn::Size => Operation::Size,
            Turn::Get => Operation::Get { key },
            Turn::Remove => Operation::Remove { key },
        };
        operation.write(out);
    }

    /// Is this what the map has to answer?
    fn fits(&self, sessions: u64, answer: &Answer<'_>) -> bool {
        match (self.turn, answer) {
            (Turn::Put, Answer::Flag(before)) => !before,
            (Turn::PutEntry | Turn::Remove, Answer::Flag(there)) => *there,
            (Turn::Size, Answer::Number(keys)) => (1..=sessions).contains(keys),
            (Turn::Get, Answer::List(list)) => {
                list.len() as u64 == self.entries && list.iter().all(|it| it.len() == ENTRY_SIZE)
            }
            _ => false,
        }
    }

    /// The answer came: on to the next turn.
    fn proceed(&mut self) {
        self.entries = match self.turn {
            Turn::Put => 1,
            Turn::PutEntry => self.entries + 1,
            Turn::Remove => 0,
            Turn::Size | Turn::Get => self.entries,
        };
        self.turn = match (self.turn, self.entries) {
            (_, 0) => Turn::Put,
            (Turn::Get, _) => Turn::Remove,
            (_, PURGE_AT..) => Turn::Get,
            (Turn::PutEntry, entries) if entries.is_multiple_of(SIZE_EVERY) => Turn::Size,
            _ => Turn::PutEntry,
        };
    }
}

/// A closed loop over all sessions.
pub struct MapListLoad {
    driver: ClientDriver,
    clock: SystemClock,
    sessions: Vec<Session>,
    completions: Vec<Completion>,
    operation: Vec<u8>,
    /// Requests that were answered.
    pub answered: u64,
    /// Answers that did not fit.
    pub wrong: u64,
    /// What the first one of them was.
    pub first_wrong: Option<String>,
}

impl MapListLoad {
    /// `sessions` sessions over `driver`, which start with nothing in the map.
    pub fn new(driver: ClientDriver, sessions: u32) -> Self {
        Self {
            driver,
            clock: SystemClock::new(),
            sessions: (0..sessions).map(Session::new).collect(),
            completions: Vec::new(),
            operation: Vec::new(),
            answered: 0,
            wrong: 0,
            first_wrong: None,
        }
    }

    /// The time on the clock of this load.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Waits for links to so many replicas as answers need, then sends each session's first request.
    ///
    /// # Errors
    /// They are not there after `limit`.
    pub fn begin(&mut self, limit: Duration) -> Result<()> {
        self.driver.connect(&self.clock, limit)?;
        (0..self.sessions.len()).try_for_each(|session| self.submit(session))
    }

    /// Receives what came and asks on. Returns whether there was an answer.
    ///
    /// # Errors
    /// A request could not be sent.
    pub fn turn(&mut self) -> Result<bool> {
        self.poll();
        let mut completions = std::mem::take(&mut self.completions);
        let any = !completions.is_empty();
        for completion in completions.drain(..) {
            let number = completion.session as usize;
            self.check(number, &completion.outcome);
            self.sessions[number].proceed();
            self.submit(number)?;
        }
        self.completions = completions;
        Ok(any)
    }

    fn check(&mut self, number: usize, outcome: &Outcome<Bytes>) {
        self.answered += 1;
        let (session, count) = (&self.sessions[number], self.sessions.len() as u64);
        let answer = match outcome {
            Outcome::Done(bytes) => Answer::parse(bytes).ok(),
            _ => None,
        };
        if !answer.is_some_and(|answer| session.fits(count, &answer)) {
            self.wrong += 1;
            self.first_wrong.get_or_insert_with(|| {
                format!(
                    "session {number}, {:?} on a list of {}: {answer:?}",
                    session.turn, session.entries
                )
            });
        }
    }

    fn submit(&mut self, session: usize) -> Result<()> {
        self.operation.clear();
        self.sessions[session].write(&mut self.operation);
        self.driver.submit(self.clock.now(), session as u32, Mode::Ordered, &self.operation)?;
        Ok(())
    }

    fn poll(&mut self) {
        let now = self.clock.now();
        if !self.driver.poll(now, &mut self.completions) {
            self.driver.park(now, PARK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer to the session's request, as an honest map gives it.
    struct Model {
        entries: Option<u64>,
    }

    impl Model {
        fn answer(&mut self, turn: Turn) -> Vec<u8> {
            let entry: &[u8] = &[b'x'; ENTRY_SIZE];
            let words = vec![entry; self.entries.unwrap_or(0) as usize];
            let answer = match turn {
                Turn::Put => Answer::Flag(self.entries.replace(1).is_some()),
                Turn::PutEntry => {
                    self.entries = self.entries.map(|count| count + 1);
                    Answer::Flag(self.entries.is_some())
                }
                Turn::Size => Answer::Number(u64::from(self.entries.is_some())),
                Turn::Get => Answer::List(Args::Words(&words)),
                Turn::Remove => Answer::Flag(self.entries.take().is_some()),
            };
            let mut bytes = Vec::new();
            answer.write(&mut bytes);
            bytes
        }
    }

    /// Turns until an answer does not fit, when the map executes each request so often as told.
    fn turns_until_wrong(times: impl Fn(u32) -> u32) -> Option<u32> {
        let (mut session, mut model) = (Session::new(0), Model { entries: None });
        (0..500).find(|turn| {
            let answers = (0..times(*turn)).map(|_| model.answer(session.turn));
            let fits = answers
                .last()
                .is_none_or(|bytes| session.fits(1, &Answer::parse(&bytes).expect("an answer")));
            session.proceed();
            !fits
        })
    }

    #[test]
    fn a_lost_or_doubled_write_shows_in_a_later_answer() {
        assert_eq!(turns_until_wrong(|_| 1), None, "an honest map is never wrong");
        for odd in [0, 1, 7, 20, 40] {
            let lost = turns_until_wrong(|turn| u32::from(turn != odd));
            let doubled = turns_until_wrong(|turn| 1 + u32::from(turn == odd));
            let is_read = |at| matches!(turn_of(at), Turn::Size | Turn::Get);
            assert_eq!(lost.is_none(), is_read(odd), "lost at {odd}");
            assert_eq!(doubled.is_none(), is_read(odd), "doubled at {odd}");
        }
    }

    fn turn_of(at: u32) -> Turn {
        let mut session = Session::new(0);
        (0..at).for_each(|_| session.proceed());
        session.turn
    }
}
