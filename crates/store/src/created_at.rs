use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};

/// The time now, in microseconds since the Unix epoch, but never the same value twice in a process.
///
/// SQLite's own clock counts milliseconds. A fast retry falls into the same millisecond, and then a key with
/// `created_at` is violated.
pub(crate) fn next() -> DateTime<Utc> {
    static LAST: AtomicI64 = AtomicI64::new(0);
    #[expect(clippy::disallowed_methods, reason = "the one place of this crate that reads the clock")]
    let now = Utc::now().timestamp_micros();
    let after = |last: i64| now.max(last + 1);
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(after(last)));
    let micros = last.map_or(now, after);
    DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn no_two_threads_get_the_same_instant_and_each_sees_it_rise() {
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..5000).map(|_| super::next()).collect::<Vec<_>>()))
            .collect();
        let seen: Vec<Vec<_>> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        assert!(seen.iter().all(|list| list.is_sorted_by(|a, b| a < b)));
        assert_eq!(seen.into_iter().flatten().collect::<HashSet<_>>().len(), 20_000);
    }
}
