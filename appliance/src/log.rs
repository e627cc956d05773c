//! Lines for operators, on standard error.
//!
//! Owns their form: time in UTC, level, text. Always true: one line per call, written at once, so
//! that lines of several threads do not mix. Must not: be called by a stage; what stages have to
//! say reaches here through a bounded ring, so a peer cannot fill a disk.

use std::fmt;
use std::io::Write;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How much an operator should care.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// As intended.
    Info,
    /// Works, but somebody should look.
    Warn,
    /// Does not work.
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Info => "info ",
            Self::Warn => "warn ",
            Self::Error => "error",
        }
    }
}

/// Who speaks, when several processes share a terminal.
static SPEAKER: OnceLock<String> = OnceLock::new();

/// Begins every further line of this process with `name`. Only the first call counts.
pub fn set_speaker(name: String) {
    // Whoever was first keeps the name.
    let _ = SPEAKER.set(name);
}

/// Writes one line. A standard error that is gone is no reason to stop.
pub fn write(level: Level, text: fmt::Arguments<'_>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let line = match SPEAKER.get() {
        Some(name) => format!("{} {} {name}: {text}\n", utc(now), level.name()),
        None => format!("{} {} {text}\n", utc(now), level.name()),
    };
    // Nobody is left to tell.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// An ordinary event.
#[macro_export]
macro_rules! info {
    ($($text:tt)*) => { $crate::log::write($crate::log::Level::Info, format_args!($($text)*)) };
}

/// Something an operator should look at.
#[macro_export]
macro_rules! warning {
    ($($text:tt)*) => { $crate::log::write($crate::log::Level::Warn, format_args!($($text)*)) };
}

/// A failure.
#[macro_export]
macro_rules! error {
    ($($text:tt)*) => { $crate::log::write($crate::log::Level::Error, format_args!($($text)*)) };
}

/// Lets a few lines through in each period and counts the rest.
#[derive(Debug)]
pub struct Limiter {
    period: Duration,
    burst: u32,
    since: Option<Instant>,
    passed: u32,
    held_back: u64,
}

impl Limiter {
    /// At most `burst` lines in each `period`.
    pub fn new(burst: u32, period: Duration) -> Self {
        Self { period, burst, since: None, passed: 0, held_back: 0 }
    }

    /// May a line be written now? `Some(n)`: yes, and `n` were held back since the last one.
    pub fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.duration_since(since) >= self.period) {
            (self.since, self.passed) = (Some(now), 0);
        }
        if self.passed == self.burst {
            self.held_back += 1;
            return None;
        }
        self.passed += 1;
        Some(std::mem::take(&mut self.held_back))
    }
}

/// `2026-11-21T09:00:00.123Z`.
fn utc(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since_epoch.subsec_millis()
    )
}

/// Year, month and day of a day since 1970-01-01, in the proleptic Gregorian calendar. Years are
/// counted from March, so that the leap day is the last of its year; an era has 400 years.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let at = |seconds, millis: u32| utc(Duration::new(seconds, millis * 1_000_000));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400, 7), "2000-02-29T00:00:00.007Z");
        assert_eq!(at(1_709_251_199, 999), "2024-02-29T23:59:59.999Z");
        assert_eq!(at(4_107_542_399, 0), "2100-02-28T23:59:59.000Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn a_limiter_lets_a_few_through_and_says_how_many_it_held_back() {
        let mut limiter = Limiter::new(2, Duration::from_secs(1));
        let start = Instant::now();
        let passed: Vec<_> = (0..5).map(|_| limiter.pass(start)).collect();
        assert_eq!(passed, [Some(0), Some(0), None, None, None]);
        assert_eq!(limiter.pass(start + Duration::from_secs(1)), Some(3));
    }
}
