//! Time. No other file of the engine reads it, but for the generator of unique ids.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};

/// A point in time: milliseconds since the Unix epoch, as the system tables hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Makes a timestamp of milliseconds since the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The time `duration` after `self`, rounded up to a millisecond; `None` when there is no such date.
    pub fn checked_add(self, duration: Duration) -> Option<Self> {
        let millis = i64::try_from(duration.as_nanos().div_ceil(1_000_000)).ok()?;
        let sum = Self(self.0.checked_add(millis)?);
        sum.to_datetime().map(|_| sum)
    }

    /// The time `duration` before `self`, or the first date there is.
    #[must_use]
    pub(crate) fn saturating_sub(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(millis))
    }

    /// The time from `earlier` until `self`; zero when `self` is not later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0).try_into().unwrap_or(0))
    }

    /// The calendar date; `None` beyond the years that `chrono` knows.
    pub fn to_datetime(self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_millis(self.0)
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(date: DateTime<Utc>) -> Self {
        Self(date.timestamp_millis())
    }
}

impl fmt::Display for Timestamp {
    /// Writes ISO 8601 in UTC with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_datetime() {
            Some(date) => f.write_str(&date.to_rfc3339_opts(SecondsFormat::Millis, true)),
            None => write!(f, "{} ms since 1970", self.0),
        }
    }
}

/// The source of the engine's time.
pub(crate) trait TimeSource: Send + Sync + fmt::Debug {
    fn now(&self) -> Timestamp;

    /// The steady time: it only passes, an operator cannot set it, and it says nothing about the date.
    fn steady_now(&self) -> Timestamp;

    /// How long a thread may really sleep, in a wait with `remaining` to go, before it looks again.
    fn nap(&self, remaining: Duration) -> Duration;
}

/// The time source of one engine: the wall clock for times that are recorded, its steady time for all others.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    source: Arc<dyn TimeSource>,
    steady: bool,
}

impl Clock {
    pub(crate) fn system() -> Self {
        Self { source: Arc::new(SystemTime), steady: false }
    }

    /// Real time, which only passes, also where the engine has a clock that a test moves: for the patience of callers.
    pub(crate) fn real() -> Self {
        Self::system().steady()
    }

    #[cfg(feature = "testing")]
    pub(crate) fn new(source: Arc<dyn TimeSource>) -> Self {
        Self { source, steady: false }
    }

    /// The clock for pauses and timeouts: setting the wall clock does not change their length.
    pub(crate) fn steady(&self) -> Self {
        Self { source: self.source.clone(), steady: true }
    }

    pub(crate) fn now(&self) -> Timestamp {
        if self.steady { self.source.steady_now() } else { self.source.now() }
    }

    /// How long to block before looking again, or `None` when `deadline` has come.
    pub(crate) fn nap_until(&self, deadline: Timestamp) -> Option<Duration> {
        let remaining = deadline.since(self.now());
        (!remaining.is_zero()).then(|| self.source.nap(remaining))
    }
}

#[derive(Debug)]
struct SystemTime;

impl TimeSource for SystemTime {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        Utc::now().into()
    }

    fn steady_now(&self) -> Timestamp {
        static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        Timestamp::from_millis(i64::try_from(ORIGIN.elapsed().as_millis()).unwrap_or(i64::MAX))
    }

    /// The wall clock may be set while a thread sleeps, so no nap is long.
    fn nap(&self, remaining: Duration) -> Duration {
        remaining.min(Duration::from_secs(10))
    }
}

/// Measures how long a call takes, also while the wall clock is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Blocks this thread. Only for waits that no signal can end, such as SQLite's busy handler.
#[expect(clippy::disallowed_methods, reason = "the one place that sleeps")]
pub(crate) fn block_for(duration: Duration) {
    std::thread::sleep(duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_rounds_up_so_that_nothing_wakes_early() {
        let start = Timestamp::from_millis(1_000);
        assert_eq!(start.checked_add(Duration::from_nanos(1)), Some(Timestamp::from_millis(1_001)));
        assert_eq!(start.checked_add(Duration::ZERO), Some(start));
    }

    #[test]
    fn a_date_that_does_not_exist_is_no_date() {
        assert_eq!(Timestamp::from_millis(0).checked_add(Duration::MAX), None);
        let ten_years = Duration::from_secs(10 * 365 * 24 * 3600);
        assert!(Timestamp::from_millis(0).checked_add(ten_years).is_some());
    }

    #[test]
    fn a_clock_that_went_back_leaves_no_negative_wait() {
        assert_eq!(Timestamp::from_millis(5).since(Timestamp::from_millis(9)), Duration::ZERO);
        assert_eq!(Timestamp::from_millis(i64::MIN).since(Timestamp::from_millis(i64::MAX)), Duration::ZERO);
    }

    #[test]
    fn a_timestamp_reads_as_iso_8601() {
        assert_eq!(Timestamp::from_millis(1_767_323_045_678).to_string(), "2026-01-02T03:04:05.678Z");
        assert_eq!(Timestamp::from_millis(i64::MAX).to_string(), "9223372036854775807 ms since 1970");
    }
}
