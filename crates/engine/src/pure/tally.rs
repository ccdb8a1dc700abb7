//! The failures of a step's attempts, in limited memory: 200,000 attempts take no more than a few.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::pure::error::Failure;
use crate::pure::limits::{ATTEMPT_KINDS_MAX, ATTEMPTS_CHARS_MAX};

/// The failed attempts of a step. Attempts with equal failures are counted together. Of different failures the first
/// and the last few are kept, and the others are only counted.
///
/// ```
/// # use engine::{Context, Error, Result, StepOptions}; use std::time::Duration;
/// fn pay(ctx: &mut Context, (): ()) -> Result<u32> {
///     let options = StepOptions::new().attempts_max(3).interval(Duration::ZERO);
///     match ctx.step_with("pay", &options, |_| Err::<u32, _>("no answer")) {
///         Err(Error::RetriesExhausted { attempts, .. }) => Ok(attempts.count()),
///         other => other,
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FailedAttempts(Box<Tally>);

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Tally {
    count: u32,
    alike: Vec<Alike>,
}

/// Attempts that failed with the same name, message and code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Alike {
    /// The failure of the last of these attempts.
    pub failure: Failure,
    /// How many attempts failed like this.
    pub times: u32,
    /// The first of these attempts. 1 is the first attempt of the step.
    pub first: u32,
    /// The last of these attempts.
    pub last: u32,
}

impl FailedAttempts {
    pub(crate) fn none() -> Self {
        Self(Box::default())
    }

    pub(crate) fn add(&mut self, failure: &Failure) {
        let tally = &mut self.0;
        tally.count = tally.count.saturating_add(1);
        let attempt = tally.count;
        let failure = failure.cut(ATTEMPTS_CHARS_MAX / ATTEMPT_KINDS_MAX);
        if let Some(alike) = tally.alike.iter_mut().find(|alike| alike.failure.is_like(&failure)) {
            *alike = Alike { failure, times: alike.times + 1, last: attempt, ..*alike };
            return;
        }
        tally.alike.push(Alike { failure, times: 1, first: attempt, last: attempt });
        if tally.alike.len() > ATTEMPT_KINDS_MAX {
            // The first failure is kept, for it may have caused the others.
            let oldest = (1..tally.alike.len()).min_by_key(|at| tally.alike[*at].last);
            oldest.map(|at| tally.alike.remove(at));
        }
    }

    /// How many attempts failed.
    pub fn count(&self) -> u32 {
        self.0.count
    }

    /// The kept failures, in the order in which each first came.
    pub fn alike(&self) -> &[Alike] {
        &self.0.alike
    }

    /// The failure of the first attempt, or of a later attempt that failed alike.
    pub fn first(&self) -> Option<&Failure> {
        self.0.alike.first().map(|alike| &alike.failure)
    }

    /// The failure of the last attempt.
    pub fn last(&self) -> Option<&Failure> {
        self.0.alike.iter().max_by_key(|alike| alike.last).map(|alike| &alike.failure)
    }
}

impl fmt::Display for FailedAttempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = self.alike()
            && only.times == self.count()
        {
            return write!(f, "{}", Short(&only.failure));
        }
        for (n, Alike { failure, times, first, last }) in self.alike().iter().enumerate() {
            let text = Short(failure);
            f.write_str(if n == 0 { "" } else { "; " })?;
            match times {
                1 => write!(f, "attempt {first}: {text}")?,
                _ if times - 1 == last - first => {
                    write!(f, "{times} times (attempts {first} to {last}): {text}")?;
                }
                _ => write!(f, "{times} times (first attempt {first}, last attempt {last}): {text}")?,
            }
        }
        let kept = self.alike().iter().fold(0_u32, |kept, alike| kept.saturating_add(alike.times));
        match self.count().saturating_sub(kept) {
            0 => Ok(()),
            others => write!(f, "; {others} more said something else"),
        }
    }
}

/// A failure in few words.
struct Short<'f>(&'f Failure);

/// How many characters of each failure stand in the text of all.
const SHORT_CHARS: usize = 1000;

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        match text.char_indices().nth(SHORT_CHARS) {
            None => f.write_str(&text),
            Some((end, _)) => write!(f, "{} (cut)", &text[..end]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'t>(texts: impl IntoIterator<Item = &'t str>) -> FailedAttempts {
        let mut attempts = FailedAttempts::none();
        for text in texts {
            attempts.add(&Failure::new("E", text));
        }
        attempts
    }

    #[test]
    fn attempts_that_failed_alike_are_told_together() {
        assert_eq!(of(["a", "a", "a"]).to_string(), "E: a");
        assert_eq!(of(["a", "b", "b"]).to_string(), "attempt 1: E: a; 2 times (attempts 2 to 3): E: b");
        let alternating = of(["a", "b", "a", "b"]);
        let two = "2 times (first attempt";
        assert_eq!(
            alternating.to_string(),
            format!("{two} 1, last attempt 3): E: a; {two} 2, last attempt 4): E: b")
        );
        assert_eq!(alternating.last().unwrap().message(), "b");
    }

    #[test]
    fn of_many_different_ones_the_first_and_the_last_few_are_kept() {
        let texts: Vec<_> = (1..=200_000).map(|n| format!("no answer to {n}")).collect();
        let attempts = of(texts.iter().map(String::as_str));
        let kept: Vec<_> = attempts.alike().iter().map(|alike| alike.first).collect();
        assert_eq!(kept, [1, 199_994, 199_995, 199_996, 199_997, 199_998, 199_999, 200_000]);
        assert_eq!(attempts.count(), 200_000);
        assert!(attempts.to_string().ends_with("; 199992 more said something else"), "{attempts}");
    }

    #[test]
    fn large_failures_are_kept_short() {
        let large = "x".repeat(300_000);
        let mut attempts = FailedAttempts::none();
        for n in 0..12 {
            let data = serde_json::json!(large.as_str());
            attempts.add(&Failure::new("E", format!("{n} {large}")).with_data(data));
        }
        assert!(serde_json::to_string(&attempts).unwrap().len() < 2 * ATTEMPTS_CHARS_MAX);
        assert!(attempts.to_string().len() < 10_000);
    }
}
