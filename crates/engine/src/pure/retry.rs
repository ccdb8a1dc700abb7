//! Whether a failed attempt is tried again, and after how long. Pure arithmetic.

use std::time::Duration;

use crate::pure::error::{Error, Result};

/// The longest wait between two attempts, unless the options give another.
const CAP: Duration = Duration::from_secs(3600);

/// How many attempts a step has, and how long the waits between them are. Set through [`crate::StepOptions`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RetryPolicy {
    pub(crate) attempts_max: u32,
    pub(crate) interval: Duration,
    pub(crate) rate: f64,
    pub(crate) cap: Duration,
}

impl RetryPolicy {
    /// One attempt.
    pub(crate) const ONCE: Self =
        Self { attempts_max: 1, interval: Duration::from_secs(1), rate: 2.0, cap: CAP };

    /// Refuses a policy without meaning.
    pub(crate) fn check(&self, step: &str) -> Result<()> {
        let reason = if self.attempts_max == 0 {
            "attempts_max is 0; a step is tried at least once"
        } else if !self.rate.is_finite() || self.rate < 0.0 {
            "rate must be a finite number of at least 0"
        } else {
            return Ok(());
        };
        Err(Error::InvalidOption { what: format!("retries of step {step}"), reason: reason.to_owned() })
    }

    /// The wait after the failed attempt number `attempt`, counted from 1. It is `interval * rate^(attempt - 1)`, at
    /// most `cap`.
    pub(crate) fn wait_after(&self, attempt: u32) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.interval.as_secs_f64() * self.rate.powi(exponent);
        // 0 * infinity is not a number: with an interval of zero the wait is zero.
        let beyond = if self.interval.is_zero() { Duration::ZERO } else { self.cap };
        Duration::try_from_secs_f64(seconds).unwrap_or(beyond).min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn policy(interval_ms: u64, rate: f64) -> RetryPolicy {
        RetryPolicy { attempts_max: 10, interval: Duration::from_millis(interval_ms), rate, cap: CAP }
    }

    fn waits_ms(policy: RetryPolicy) -> [u128; 4] {
        [1, 2, 3, 4].map(|attempt| policy.wait_after(attempt).as_micros() / 1000)
    }

    #[test]
    fn the_wait_grows_by_the_rate() {
        assert_eq!(waits_ms(policy(1000, 2.0)), [1000, 2000, 4000, 8000]);
        assert_eq!(waits_ms(policy(100, 3.0)), [100, 300, 900, 2700]);
    }

    #[test]
    fn a_rate_below_one_shortens_the_wait() {
        assert_eq!(waits_ms(policy(1000, 0.1)), [1000, 100, 10, 1]);
        assert_eq!(waits_ms(policy(1000, 0.0)), [1000, 0, 0, 0]);
    }

    #[test]
    fn a_policy_without_meaning_is_refused() {
        for rate in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
            assert!(policy(1, rate).check("s").is_err(), "{rate}");
        }
        assert!(policy(1, -0.0).check("s").is_ok());
        let none = RetryPolicy { attempts_max: 0, ..RetryPolicy::ONCE };
        let error = none.check("charge").unwrap_err().to_string();
        assert_eq!(error, "retries of step charge: attempts_max is 0; a step is tried at least once");
    }

    proptest! {
        #[test]
        fn a_growing_wait_never_shrinks_and_never_passes_the_cap(
            interval_ms in 0_u64..100_000, rate in 1.0_f64..1e12, attempt in 1_u32..20_000
        ) {
            let policy = policy(interval_ms, rate);
            let wait = policy.wait_after(attempt);
            prop_assert!(wait <= CAP);
            prop_assert!(wait <= policy.wait_after(attempt + 1));
        }
    }
}
