//! Log lines for trouble that repeats: each reason why a database refuses, and each row that cannot be read, is said
//! once.
//!
//! The number of lines is limited, however long the trouble lasts, and whether it comes by a timer or once for each
//! row.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::pure::clock::Stopwatch;
use crate::pure::listing::brief;
use crate::pure::sync::{lock, say};

/// How long a reason is not said again, though its trouble ended in between. Trouble that comes and goes takes two
/// lines in this time, as when the writes of one workflow are refused while those of others succeed.
const SAID_AGAIN_AFTER: Duration = Duration::from_secs(300);

/// How many different reasons are told apart.
const REASONS_MAX: usize = 64;

/// How many rows are named in the life of an engine.
const ROWS_MAX: usize = 1000;

/// How much of an id is shown.
const ROW_CHARS_MAX: usize = 300;

/// The lines that one engine has written so far.
#[derive(Debug)]
pub(crate) struct Notices {
    /// The name of the database, for people: a process may have several.
    database: String,
    /// Whether there is any trouble; read without a lock.
    lasts: AtomicBool,
    said_again_after: Duration,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    /// The operations that fail now, and when each last failed.
    failing: HashMap<&'static str, Stopwatch>,
    since: Option<Stopwatch>,
    failures: u64,
    /// Whether the log said anything of this trouble, so that its end is worth a line.
    heard: bool,
    /// Each trouble has a number, so that a reason knows whether it was said of this trouble.
    number: u64,
    reasons: HashMap<String, Reason>,
    rows: HashSet<String>,
}

#[derive(Debug)]
struct Reason {
    said: Stopwatch,
    said_of: u64,
    last: Stopwatch,
}

impl Notices {
    pub(crate) fn of(database: String) -> Self {
        let (lasts, said) = (AtomicBool::new(false), Mutex::default());
        Self { database, lasts, said_again_after: SAID_AGAIN_AFTER, said }
    }

    /// Notes a failure of an operation that is tried again. Operations that fail for one reason are one trouble.
    pub(crate) fn failed(&self, what: &'static str, reason: &str) {
        if self.is_new(what, reason) {
            let (what, database) = (words(what), &self.database);
            say!(warn, "`{what}` fails at the system database {database}: {reason} (said once)");
        } else {
            say!(debug, "`{}` fails: {reason}; trying again", words(what));
        }
    }

    fn is_new(&self, what: &'static str, reason: &str) -> bool {
        let mut said = lock(&self.said);
        let said = &mut *said;
        self.lasts.store(true, Ordering::Release);
        let (now, again_after, number) = (Stopwatch::start(), self.said_again_after, said.number);
        said.failing.insert(what, now);
        said.since.get_or_insert(now);
        said.failures += 1;
        if let Some(known) = said.reasons.get_mut(reason) {
            let last = std::mem::replace(&mut known.last, now);
            let old = known.said_of != number && known.said.elapsed() >= again_after;
            if !old && last.elapsed() < again_after {
                return false;
            }
            (known.said, known.said_of) = (now, number);
        } else {
            if said.reasons.len() >= REASONS_MAX {
                said.reasons.retain(|_, reason| reason.last.elapsed() < again_after);
            }
            if said.reasons.len() >= REASONS_MAX {
                return false;
            }
            said.reasons.insert(reason.to_owned(), Reason { said: now, said_of: number, last: now });
        }
        said.heard = true;
        true
    }

    /// Notes a success of the operation. When no operation fails any more, the trouble is over.
    pub(crate) fn passed(&self, what: &'static str) {
        if self.lasts.load(Ordering::Acquire) {
            // An operation that is not tried again does not count as failing for ever.
            let of_late = |last: &Stopwatch| last.elapsed() < self.said_again_after;
            self.end("is over", |failing| failing.retain(|failed, last| *failed != what && of_late(last)));
        }
    }

    /// Notes the success of many operations. While there is no trouble, they are not looked at.
    pub(crate) fn all_passed<I: Iterator<Item = &'static str>>(&self, all: impl FnOnce() -> I) {
        if self.lasts.load(Ordering::Acquire) {
            all().for_each(|what| self.passed(what));
        }
    }

    /// The engine stops: failures of trouble that lasts are counted in the log now.
    pub(crate) fn close(&self) {
        self.end("lasted until the shutdown", HashMap::clear);
    }

    fn end(&self, how: &str, remove: impl FnOnce(&mut HashMap<&'static str, Stopwatch>)) {
        let ended = {
            let mut said = lock(&self.said);
            remove(&mut said.failing);
            if !said.failing.is_empty() {
                return;
            }
            self.lasts.store(false, Ordering::Release);
            said.number += 1;
            let failures = std::mem::take(&mut said.failures);
            let heard = std::mem::take(&mut said.heard);
            said.since.take().filter(|_| heard).map(|since| (since, failures))
        };
        if let Some((since, failures)) = ended {
            let (database, lasted) = (&self.database, since.elapsed().as_secs_f64());
            say!(
                info,
                "trouble with the system database {database} {how}: {failures} failures in {lasted:.1} s"
            );
        }
    }

    /// Names a row once, by its id or by a text in place of an id.
    pub(crate) fn name(&self, row: &str, what: &str) {
        // An id of another program may be long, and may hold a line break.
        let row = &brief(row, ROW_CHARS_MAX);
        let known = {
            let mut said = lock(&self.said);
            if said.rows.len() > ROWS_MAX || !said.rows.insert(row.to_owned()) {
                return;
            }
            said.rows.len()
        };
        if known > ROWS_MAX {
            say!(
                warn,
                "more than {ROWS_MAX} odd rows in the system database {}; no more are named",
                self.database
            );
        } else {
            say!(warn, "{row} in the system database {}: {what}", self.database);
        }
    }
}

/// The words of a name in the code: `take up work` for `take_up_work`.
fn words(name: &str) -> String {
    name.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notices() -> Notices {
        Notices::of("shop.db".to_owned())
    }

    #[test]
    fn a_reason_is_new_once_whatever_fails_of_it() {
        let notices = notices();
        assert!(notices.is_new("claim", "no such table"));
        assert!(!notices.is_new("claim", "no such table"));
        assert!(!notices.is_new("settle", "no such table"));
        assert!(notices.is_new("settle", "permission denied"));
        assert_eq!(lock(&notices.said).failures, 4);
    }

    #[test]
    fn trouble_is_over_when_all_that_failed_has_succeeded() {
        let notices = notices();
        notices.failed("claim", "no such table");
        notices.failed("settle", "no such table");
        notices.passed("claim");
        assert!(notices.lasts.load(Ordering::SeqCst));
        notices.passed("settle");
        assert!(!notices.lasts.load(Ordering::SeqCst));
        assert_eq!(lock(&notices.said).failures, 0);
    }

    #[test]
    fn what_is_never_tried_again_does_not_keep_the_trouble_open() {
        let mut notices = notices();
        notices.failed("send", "too large");
        notices.failed("settle", "too large");
        notices.passed("settle");
        assert!(notices.lasts.load(Ordering::SeqCst));
        notices.said_again_after = Duration::ZERO;
        notices.passed("settle");
        assert!(!notices.lasts.load(Ordering::SeqCst));
    }

    #[test]
    fn trouble_that_comes_and_goes_is_not_said_each_time() {
        let mut notices = notices();
        assert!(notices.is_new("settle", "too large"));
        for _ in 0..100 {
            notices.passed("settle");
            assert!(!notices.is_new("settle", "too large"));
        }
        // After a while it is said again, also while it lasts without an end.
        notices.passed("settle");
        assert!(!notices.is_new("settle", "too large"));
        notices.said_again_after = Duration::ZERO;
        assert!(notices.is_new("settle", "too large"));
    }

    #[test]
    fn reasons_without_number_are_a_number_of_lines() {
        let notices = notices();
        let new = (0..10_000).filter(|n| notices.is_new("settle", &format!("reason {n}"))).count();
        assert_eq!(new, REASONS_MAX);
        for n in 0..10_000 {
            notices.name(&format!("workflow {n}"), "odd");
        }
        assert_eq!(lock(&notices.said).rows.len(), ROWS_MAX + 1);
    }
}
