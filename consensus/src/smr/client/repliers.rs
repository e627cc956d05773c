//! Whom to ask for the whole result, when the others answer with its digest.
//!
//! Owns what each member was like as a replier. Always true: a member that did not serve is left out
//! for a pause that grows each time, and asked again after it; the choice follows from the inputs
//! alone. Must not: decide what a result is: a replier can delay one, and nothing else.

use alloc::vec::Vec;
use core::time::Duration;

use super::PAUSE_GROWTH_MAX;
use crate::batch::Replier;
use crate::config::View;
use crate::types::Instant;

/// Of so many choices one asks a member that used to be late: it may be so no more.
const PROBE_EVERY: u32 = 64;

/// Weight of the past in the averages: one new value counts an eighth.
const AVERAGE_WEIGHT: u64 = 8;

/// What is known of one member.
#[derive(Clone, Debug, Default)]
struct Record {
    is_up: bool,
    /// Not asked before this.
    avoided_until: Option<Instant>,
    /// How often in a row it did not serve.
    failures: u32,
    /// How long after the certificate its results came, on average, in nanoseconds.
    lateness: u64,
}

/// All members.
#[derive(Debug)]
pub(super) struct Repliers {
    records: Vec<Record>,
    choices: u32,
    /// From sending to certificate, on average, in nanoseconds.
    latency: u64,
    /// The cluster's request timeout.
    timeout: Duration,
}

impl Repliers {
    pub(super) fn new(members: usize, timeout: Duration) -> Self {
        let records = alloc::vec![Record::default(); members];
        Self { records, choices: 0, latency: 0, timeout }
    }

    /// Other members than `before`: what is known of those that stay is kept.
    pub(super) fn enter_view(&mut self, before: &View, view: &View) {
        let mut old = core::mem::take(&mut self.records);
        let mut record = |id| before.index_of(id).map(|place| core::mem::take(&mut old[place]));
        self.records = view.members().iter().map(|id| record(*id).unwrap_or_default()).collect();
    }

    pub(super) fn set_up(&mut self, member: usize, is_up: bool) {
        self.records[member].is_up = is_up;
    }

    /// Who answers the next request in full: members take turns, those that are usually among the
    /// last to answer now and then only. Everyone when nobody can be trusted with it.
    pub(super) fn choose(&mut self, now: Instant) -> Replier {
        crate::spec!("CLI.7");
        self.choices = self.choices.wrapping_add(1);
        let probe = self.choices.is_multiple_of(PROBE_EVERY);
        let usable = self.members(|record| record.is_usable(now));
        let prompt = self.members(|record| record.is_usable(now) && self.is_prompt(record));
        let choice = if probe || prompt == 0 { usable } else { prompt };
        if choice == 0 {
            return Replier::EVERYONE;
        }
        let turn = if probe { self.choices / PROBE_EVERY } else { self.choices };
        let turn = turn % choice.count_ones();
        let rest = (0..turn).fold(choice, |rest, _| rest & (rest - 1));
        Replier::member(rest.trailing_zeros() as usize)
    }

    /// A certificate came `after` its request was sent.
    pub(super) fn certified(&mut self, after: Duration) {
        self.latency = average(self.latency, after);
    }

    /// `member` served a result, so long `after` the certificate.
    pub(super) fn served(&mut self, member: usize, after: Duration) {
        let record = &mut self.records[member];
        record.failures = 0;
        record.lateness = average(record.lateness, after);
    }

    /// `member` was silent, or sent something else than the others agree on.
    pub(super) fn failed(&mut self, member: usize, now: Instant) {
        crate::spec!("CLI.8");
        let record = &mut self.records[member];
        if record.avoided_until.is_some_and(|until| now < until) {
            // Requests that were under way together fail together, once.
            return;
        }
        let pause = self.timeout / 2 * (1 << record.failures.min(PAUSE_GROWTH_MAX));
        record.avoided_until = Some(now + pause);
        record.failures = record.failures.saturating_add(1);
    }

    /// How long a result may come after its certificate: twice what a certificate takes, but some
    /// part of the timeout at least, or a pause of the machine would be taken for a fault.
    pub(super) fn patience(&self) -> Duration {
        crate::spec!("CLI.8", "TIME.6");
        (2 * self.latency()).clamp(self.timeout / 64, self.timeout / 8)
    }

    /// From sending to certificate, on average.
    pub(super) fn latency(&self) -> Duration {
        Duration::from_nanos(self.latency)
    }

    fn members(&self, which: impl Fn(&Record) -> bool) -> u64 {
        let members = self.records.iter().enumerate().filter(|(_, record)| which(record));
        members.fold(0, |set, (index, _)| set | 1 << index)
    }

    fn is_prompt(&self, record: &Record) -> bool {
        record.lateness <= self.latency / 4
    }
}

impl Record {
    fn is_usable(&self, now: Instant) -> bool {
        self.is_up && self.avoided_until.is_none_or(|until| now >= until)
    }
}

fn average(old: u64, new: Duration) -> u64 {
    let new = u64::try_from(new.as_nanos()).unwrap_or(u64::MAX / AVERAGE_WEIGHT);
    old - old / AVERAGE_WEIGHT + new / AVERAGE_WEIGHT
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant(1_000_000_000_000);
    const TIMEOUT: Duration = Duration::from_secs(2);
    const MILLISECOND: Duration = Duration::from_millis(1);

    fn up(members: usize) -> Repliers {
        let mut repliers = Repliers::new(members, TIMEOUT);
        (0..members).for_each(|member| repliers.set_up(member, true));
        (0..32).for_each(|_| repliers.certified(4 * MILLISECOND));
        repliers
    }

    /// How often each member is chosen, and everyone at the end.
    fn chosen(repliers: &mut Repliers, now: Instant, times: usize) -> [usize; 5] {
        let mut counts = [0; 5];
        (0..times).for_each(|_| counts[repliers.choose(now).index().unwrap_or(4)] += 1);
        counts
    }

    #[test]
    fn members_take_turns_and_those_that_are_away_are_left_out() {
        // rule: CLI.7
        let mut repliers = up(4);
        let fair = |count: &usize| (90..=110).contains(count);
        let counts = chosen(&mut repliers, NOW, 400);
        assert!(counts[..4].iter().all(fair) && counts[4] == 0, "{counts:?}");
        repliers.set_up(1, false);
        let [first, none, third, fourth, everyone] = chosen(&mut repliers, NOW, 300);
        assert_eq!((none, everyone), (0, 0));
        assert!([first, third, fourth].iter().all(fair));
        (0..4).for_each(|member| repliers.set_up(member, false));
        assert_eq!(chosen(&mut repliers, NOW, 10), [0, 0, 0, 0, 10]);
    }

    #[test]
    fn a_member_that_fails_is_avoided_for_a_growing_while() {
        // rule: CLI.8
        let mut repliers = up(4);
        let mut now = NOW;
        for pause in [1, 2, 4, 8, 16, 32, 32] {
            let pause = Duration::from_secs(pause);
            repliers.failed(2, now);
            repliers.failed(2, now + MILLISECOND);
            assert_eq!(chosen(&mut repliers, now + (pause - MILLISECOND), 90)[2], 0);
            now = now + pause;
            assert!(chosen(&mut repliers, now, 90)[2] > 20);
        }
        repliers.served(2, Duration::ZERO);
        repliers.failed(2, now);
        assert!(chosen(&mut repliers, now + TIMEOUT / 2, 90)[2] > 20, "served once: trusted again");
    }

    #[test]
    fn a_member_that_is_always_late_is_asked_now_and_then() {
        // rule: CLI.7
        let mut repliers = up(4);
        (0..32).for_each(|_| repliers.served(3, 3 * MILLISECOND));
        let late = chosen(&mut repliers, NOW, 6400)[3];
        assert!((10..=100).contains(&late), "{late}");
        (0..64).for_each(|_| repliers.served(3, Duration::ZERO));
        assert!(chosen(&mut repliers, NOW, 400)[3] >= 90);
        // When all are late, they take turns as before.
        for member in 0..4 {
            (0..64).for_each(|_| repliers.served(member, 3 * MILLISECOND));
        }
        assert!(chosen(&mut repliers, NOW, 400).iter().take(4).all(|&count| count >= 90));
    }

    #[test]
    fn patience_follows_the_latency_within_bounds() {
        // rule: CLI.8
        let mut repliers = up(4);
        assert_eq!(repliers.patience(), TIMEOUT / 64);
        (0..64).for_each(|_| repliers.certified(50 * MILLISECOND));
        let patience = repliers.patience();
        assert!((95 * MILLISECOND..=100 * MILLISECOND).contains(&patience), "{patience:?}");
        (0..64).for_each(|_| repliers.certified(Duration::from_secs(3600)));
        assert_eq!(repliers.patience(), TIMEOUT / 8);
    }
}
