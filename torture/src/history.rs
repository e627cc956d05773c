//! What clients were told, and whether it can be true.
//!
//! Owns the record. Clients append to lists and ask for their lengths. An answer to an append is the length
//! afterwards, so each answer says its place in the order of its list; whether there is an order that fits all
//! answers and real time is then a comparison of numbers, without a search. (A history is linearizable when
//! each list's is: Herlihy and Wing, TOPLAS 1990, locality.) Always true: an append whose answer never came
//! may have happened once, at any time after its start, or not. Must not: ask anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Names an append in the whole run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Id {
    /// Which client.
    pub client: u32,
    /// Which of its appends.
    pub number: u32,
}

impl Id {
    /// The element that this append appends. Some are small, some take several sectors.
    pub fn element(self) -> Vec<u8> {
        let mixed =
            crate::dice::Dice::new(u64::from(self.client) << 32 | u64::from(self.number)).next();
        let size = match mixed % 2 {
            0 => mixed / 2 % 3000,
            _ => mixed / 2 % 40,
        };
        let mut element = format!("{}.{}.", self.client, self.number).into_bytes();
        let start = element.len();
        element.resize(start + size as usize, 0);
        for (at, byte) in element[start..].iter_mut().enumerate() {
            *byte = b'a' + ((mixed >> (at % 32)) % 26) as u8;
        }
        element
    }

    /// Whose element it is, if it is one.
    pub fn of(element: &[u8]) -> Option<Self> {
        let mut parts = element.splitn(3, |byte| *byte == b'.');
        let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse().ok();
        let id = Self { client: number()?, number: number()? };
        (id.element() == element).then_some(id)
    }
}

/// An answer that came.
#[derive(Clone, Copy, Debug)]
struct Told {
    start: Instant,
    end: Instant,
    /// The append's place, from 1 on; that of a question: how many there were.
    length: u64,
    append: Option<Id>,
}

impl Told {
    /// Questions lie between appends.
    fn place(&self) -> u64 {
        self.length * 2 + u64::from(self.append.is_none())
    }
}

/// One list.
#[derive(Default)]
struct List {
    /// What was there at the last look.
    elements: Vec<Id>,
    /// Answers since then.
    told: Vec<Told>,
    /// The newest place that an operation had which ended before the last look.
    floor: u64,
}

/// Everything that clients know.
#[derive(Default)]
pub struct History {
    lists: Vec<List>,
    /// Appends without an answer, and when they began.
    open: BTreeMap<(usize, Id), Instant>,
    /// All elements of all lists.
    seen: BTreeSet<(usize, Id)>,
    acknowledged: u64,
    doubted: u64,
    happened: u64,
}

impl History {
    /// Of so many empty lists.
    pub fn new(lists: usize) -> Self {
        Self { lists: (0..lists).map(|_| List::default()).collect(), ..Self::default() }
    }

    /// From here on other lists are used, empty ones. What is open for the old ones is forgotten.
    pub fn turn_page(&mut self) {
        let lists = self.lists.len();
        self.lists = (0..lists).map(|_| List::default()).collect();
        self.open.clear();
        self.seen.clear();
    }

    /// An append begins.
    pub fn appends(&mut self, list: usize, id: Id, start: Instant) {
        self.open.insert((list, id), start);
    }

    /// An append was acknowledged: the list has this length with it.
    pub fn appended(&mut self, list: usize, id: Id, length: u64, end: Instant) {
        if let Some(start) = self.open.remove(&(list, id)) {
            self.acknowledged += 1;
            self.lists[list].told.push(Told { start, end, length, append: Some(id) });
        }
    }

    /// A client asked for the length of a list and was told.
    pub fn asked(&mut self, list: usize, start: Instant, length: u64, end: Instant) {
        self.lists[list].told.push(Told { start, end, length, append: None });
    }

    /// A client was killed: nobody will hear of this append any more.
    pub fn doubts(&mut self) {
        self.doubted += 1;
    }

    /// How much of a list was seen at the last look.
    pub fn seen(&self, list: usize) -> usize {
        self.lists[list].elements.len()
    }

    /// What a list had at the last look.
    pub fn elements(&self, list: usize) -> &[Id] {
        &self.lists[list].elements
    }

    /// Appends that were acknowledged, that were never answered, and those of the latter that happened.
    pub fn counts(&self) -> (u64, u64, u64) {
        (self.acknowledged, self.doubted, self.happened)
    }

    /// A look at the end of `list`, behind what was seen before, that began at `began`.
    ///
    /// # Errors
    /// What cannot be.
    pub fn look(&mut self, list: usize, found: &[Vec<u8>], began: Instant) -> Result<(), String> {
        let first = self.seen(list);
        let mut told: Vec<Told> = std::mem::take(&mut self.lists[list].told);
        let appends: BTreeMap<Id, u64> =
            told.iter().filter_map(|told| Some((told.append?, told.length))).collect();
        if appends.len() != told.iter().filter(|told| told.append.is_some()).count() {
            return Err(format!("list {list}: an append was acknowledged twice"));
        }
        for (at, element) in found.iter().enumerate() {
            let place = (first + at) as u64 + 1;
            let Some(id) = Id::of(element) else {
                return Err(format!(
                    "list {list}: element {place} was never appended: {element:?}"
                ));
            };
            if !self.seen.insert((list, id)) {
                return Err(format!("list {list}: {id:?} is there twice, again at {place}"));
            }
            let acknowledged = appends.get(&id).copied();
            match (acknowledged, self.open.remove(&(list, id))) {
                (Some(told), _) if told != place => {
                    return Err(format!(
                        "list {list}: {id:?} is at {place}, its client was told {told}"
                    ));
                }
                (Some(_), _) => {}
                // Nobody was told. It cannot be before what had ended when it began.
                (None, Some(start)) => {
                    self.happened += 1;
                    let end = Instant::now();
                    told.push(Told { start, end, length: place, append: Some(id) });
                }
                (None, None) => {
                    return Err(format!("list {list}: nobody appended {id:?} at {place}"));
                }
            }
            self.lists[list].elements.push(id);
        }
        let is_missing =
            |told: &Told| told.append.is_some_and(|id| !self.seen.contains(&(list, id)));
        let (missing, told): (Vec<_>, Vec<_>) = told.into_iter().partition(is_missing);
        if let Some(lost) = missing.iter().find(|told| told.end < began) {
            let (id, place, length) = (lost.append, lost.length, self.seen(list));
            return Err(format!(
                "list {list}: {id:?} is LOST: its client was told that it is element {place}, of {length}"
            ));
        }
        // What was acknowledged during the look waits for the next one.
        self.lists[list].told = missing;
        let floor = self.lists[list].floor;
        self.lists[list].floor =
            in_real_time(floor, &told).map_err(|wrong| format!("list {list}: {wrong}"))?;
        Ok(())
    }
}

/// Does the order of places agree with real time? Returns the newest place.
fn in_real_time(floor: u64, told: &[Told]) -> Result<u64, String> {
    // At equal times an operation starts before another ends: they are concurrent.
    let mut moments: Vec<(Instant, bool, u64)> = Vec::with_capacity(2 * told.len());
    for told in told {
        moments.push((told.start, false, told.place()));
        moments.push((told.end, true, told.place()));
    }
    moments.sort_unstable();
    let mut newest = floor;
    for (_, ends, place) in moments {
        if ends {
            newest = newest.max(place);
        } else if place < newest {
            return Err(format!(
                "an operation took place at {} after one at {} had ended: {}",
                place / 2,
                newest / 2,
                "the answers do not fit real time"
            ));
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(ms: u64) -> Instant {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        // In the past, so that a look comes after everything.
        let now = Instant::now() - Duration::from_secs(10);
        *START.get_or_init(|| now) + Duration::from_millis(ms)
    }

    fn id(number: u32) -> Id {
        Id { client: 1, number }
    }

    /// Two appends, one after the other.
    fn two() -> History {
        let mut history = History::new(1);
        for number in [1, 2] {
            let start = u64::from(number) * 100;
            history.appends(0, id(number), at(start));
            history.appended(0, id(number), number.into(), at(start + 50));
        }
        history
    }

    fn elements(numbers: &[u32]) -> Vec<Vec<u8>> {
        numbers.iter().map(|number| id(*number).element()).collect()
    }

    #[test]
    fn an_element_names_its_append() {
        for number in 0..500 {
            assert_eq!(Id::of(&id(number).element()), Some(id(number)));
        }
        let mut torn = id(1).element();
        torn.push(0);
        assert_eq!((Id::of(&torn), Id::of(b""), Id::of(b"1.x.")), (None, None, None));
    }

    #[test]
    fn what_was_told_and_what_is_there_agree() {
        let mut history = two();
        history.appends(0, id(3), at(300));
        history.doubts();
        history.asked(0, at(260), 2, at(400));
        assert_eq!(history.look(0, &elements(&[1, 2, 3]), Instant::now()), Ok(()));
        assert_eq!((history.counts(), history.seen(0)), ((2, 1, 1), 3));
        history.appends(0, id(4), at(500));
        assert_eq!(
            history.look(0, &[], Instant::now()),
            Ok(()),
            "an append in doubt may happen later"
        );
        assert_eq!(history.look(0, &elements(&[4]), Instant::now()), Ok(()));
    }

    #[test]
    fn what_is_lost_doubled_moved_or_invented_is_found() {
        for (found, wrong) in [
            (&[1][..], "LOST"),
            (&[1, 2, 1], "twice"),
            (&[2, 1], "was told"),
            (&[1, 2, 9], "nobody appended"),
        ] {
            let error = two().look(0, &elements(found), Instant::now()).expect_err("it cannot be");
            assert!(error.contains(wrong), "{error}");
        }
        let error = two().look(0, &[b"1.1.x".to_vec()], Instant::now()).expect_err("it cannot be");
        assert!(error.contains("never appended"), "{error}");
        let mut later = two();
        assert_eq!(later.look(0, &elements(&[1, 2]), Instant::now()), Ok(()));
        assert!(
            later
                .look(0, &elements(&[2]), Instant::now())
                .expect_err("it cannot be")
                .contains("twice")
        );
    }

    #[test]
    fn an_answer_from_the_past_is_found() {
        let mut history = two();
        // It began after the second append had been acknowledged.
        history.asked(0, at(260), 1, at(300));
        let error = history.look(0, &elements(&[1, 2]), Instant::now()).expect_err("it cannot be");
        assert!(error.contains("real time"), "{error}");
        // So is one in the next round, and an append in doubt that came too early.
        let mut history = two();
        assert_eq!(history.look(0, &elements(&[1, 2]), Instant::now()), Ok(()));
        history.asked(0, at(900), 1, at(950));
        assert!(history.look(0, &[], Instant::now()).is_err());
        let mut history = History::new(1);
        history.appends(0, id(2), at(100));
        history.appended(0, id(2), 2, at(150));
        history.appends(0, id(1), at(160));
        assert!(history.look(0, &elements(&[1, 2]), Instant::now()).is_err());
    }
}
