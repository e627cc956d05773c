//! Linearizability of the registers, by comparing numbers.
//!
//! The canonical history gives each write of a register its place, and each answer names the version it
//! saw; so an operation's place in the order of its register is known, and the only question left is
//! whether real time agrees. (A history is linearizable when each register's is.) Must not: search.

use std::collections::BTreeMap;

use tetrarch_consensus::{ClientId, Instant, Sequence};

use crate::service::{Answer, Operation};

#[derive(Clone, Copy, Debug)]
struct Record {
    operation: Operation,
    start: Instant,
    end: Option<Instant>,
    sequence: Option<Sequence>,
    answer: Option<Answer>,
}

/// What correct clients did, and the values that each register had.
#[derive(Clone, Debug, Default)]
pub struct History {
    records: BTreeMap<(ClientId, u64), Record>,
    executed: BTreeMap<(ClientId, Sequence), Answer>,
    values: BTreeMap<(u8, u64), u64>,
}

impl History {
    /// A client starts an operation.
    pub fn invoked(&mut self, client: ClientId, token: u64, operation: Operation, now: Instant) {
        let record = Record { operation, start: now, end: None, sequence: None, answer: None };
        self.records.insert((client, token), record);
    }

    /// The operation has an ordered number.
    pub fn numbered(&mut self, client: ClientId, token: u64, sequence: Sequence) {
        if let Some(record) = self.records.get_mut(&(client, token)) {
            record.sequence = Some(sequence);
        }
    }

    /// The number of the operation's ordered request, if it has one.
    pub fn number(&self, client: ClientId, token: u64) -> Option<Sequence> {
        self.records.get(&(client, token)).and_then(|record| record.sequence)
    }

    /// The operation ended.
    pub fn returned(&mut self, client: ClientId, token: u64, answer: Answer, now: Instant) {
        if let Some(record) = self.records.get_mut(&(client, token)) {
            (record.end, record.answer) = (Some(now), Some(answer));
        }
    }

    /// An ordered request was executed, for the first time anywhere.
    pub fn ordered(
        &mut self,
        client: ClientId,
        sequence: Sequence,
        operation: Operation,
        answer: Answer,
    ) {
        self.executed.insert((client, sequence), answer);
        let value = match operation {
            Operation::Put(_, value) => value,
            Operation::Add(..) => answer.value,
            Operation::Get(_) => return,
        };
        self.values.insert((operation.key(), answer.version), value);
    }

    /// Operations that ended.
    pub fn completed(&self) -> usize {
        self.records.values().filter(|record| record.end.is_some()).count()
    }

    /// What does not fit.
    pub fn check(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut moments: BTreeMap<u8, Vec<(Instant, bool, u64)>> = BTreeMap::new();
        for ((client, token), record) in &self.records {
            let executed = record
                .sequence
                .and_then(|sequence| self.executed.get(&(*client, sequence)).copied());
            let Some(answer) = record.answer.or(executed) else { continue };
            let key = record.operation.key();
            if let (Operation::Get(_), Some(seen)) = (record.operation, record.answer) {
                let value = match seen.version {
                    0 => Some(0),
                    version => self.values.get(&(key, version)).copied(),
                };
                if value != Some(seen.value) {
                    wrong.push(format!("{client} op {token} read {seen:?}, which never was"));
                }
            }
            let written = match (record.operation, record.answer) {
                (Operation::Put(_, value), Some(_)) => Some(value),
                (Operation::Add(..), Some(answer)) => Some(answer.value),
                _ => None,
            };
            if written.is_some() && self.values.get(&(key, answer.version)).copied() != written {
                wrong.push(format!("{client} op {token} was told {answer:?}, which never was"));
            }
            let place = answer.version * 2 + u64::from(!record.operation.writes());
            let moments = moments.entry(key).or_default();
            moments.push((record.start, false, place));
            if let Some(end) = record.end {
                moments.push((end, true, place));
            }
        }
        for (key, mut moments) in moments {
            // At equal times an operation starts before another ends: they are concurrent.
            moments.sort_unstable();
            let mut newest = 0;
            for (at, ends, place) in moments {
                if ends {
                    newest = newest.max(place);
                } else if place < newest {
                    wrong.push(format!(
                        "register {key}: an operation that started at {} took place at {place}, \
                         after one at {newest} had ended",
                        at.0
                    ));
                }
            }
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ClientId = ClientId(1);
    const B: ClientId = ClientId(2);

    fn two_writes() -> History {
        let mut history = History::default();
        for (token, value) in [(1, 10), (2, 20)] {
            let sequence = Sequence::new(1, token as u32);
            let answer = Answer { version: token, value: 0 };
            history.invoked(A, token, Operation::Put(0, value), Instant(token * 100));
            history.numbered(A, token, sequence);
            history.ordered(A, sequence, Operation::Put(0, value), answer);
            history.returned(A, token, answer, Instant(token * 100 + 50));
        }
        history
    }

    fn read(history: &mut History, answer: Answer, start: u64, end: u64) {
        history.invoked(B, start, Operation::Get(0), Instant(start));
        history.returned(B, start, answer, Instant(end));
    }

    #[test]
    fn a_read_may_see_what_was_current_while_it_ran() {
        let mut history = two_writes();
        read(&mut history, Answer { version: 1, value: 10 }, 160, 300);
        read(&mut history, Answer { version: 2, value: 20 }, 205, 230);
        assert_eq!(history.check(), Vec::<String>::new());
    }

    #[test]
    fn a_stale_read_is_found() {
        let mut history = two_writes();
        read(&mut history, Answer { version: 1, value: 10 }, 260, 300);
        assert_eq!(history.check().len(), 1);
    }

    #[test]
    fn reads_may_not_go_back_in_time() {
        let mut history = two_writes();
        read(&mut history, Answer { version: 2, value: 20 }, 205, 210);
        read(&mut history, Answer { version: 1, value: 10 }, 220, 230);
        assert_eq!(history.check().len(), 1);
    }

    #[test]
    fn a_value_that_never_was_is_found() {
        let mut history = two_writes();
        read(&mut history, Answer { version: 2, value: 99 }, 260, 300);
        assert_eq!(history.check().len(), 1);
    }
}
