//! Rates, medians and quantiles.

use std::time::{Duration, Instant};

/// The number of units that one round did, its time, and the time of each unit.
#[derive(Debug, Clone, Default)]
pub(crate) struct Round {
    pub(crate) rate: f64,
    pub(crate) latencies: Vec<Duration>,
}

/// Times `work`, which does `count` units.
pub(crate) fn timed<T>(count: usize, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(f64, T)> {
    let start = Instant::now();
    let value = work()?;
    #[expect(clippy::cast_precision_loss, reason = "counts of a bench are small")]
    let rate = count as f64 / start.elapsed().as_secs_f64();
    Ok((rate, value))
}

/// The middle of several rounds.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The duration that this share of the durations does not pass, in milliseconds.
pub(crate) fn quantile_ms(durations: &[Duration], percent: usize) -> f64 {
    let mut sorted = durations.to_vec();
    sorted.sort();
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).map_or(f64::NAN, |d| d.as_secs_f64() * 1000.0)
}
