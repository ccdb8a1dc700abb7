//! A database that does not answer: said once, and once more when it answers again.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::pure::clock::Stopwatch;
use crate::pure::id::WorkflowId;
use crate::pure::notices::Notices;
use crate::pure::sync::{lock, say};
use crate::sysdb::DbError;

/// The part of the engine that notices: some parts may work while others do not, as on a full disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Writes,
    Reads,
    #[cfg(feature = "postgres")]
    Lease,
    #[cfg(feature = "postgres")]
    News,
    #[cfg(feature = "postgres")]
    Steps,
}

/// The database, or the way to it, fell silent for so long. The connection was given up, and the request may have been
/// done all the same.
#[derive(Debug)]
pub(crate) struct Silent(pub(crate) Duration);

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server did not answer within {:.1} s", self.0.as_secs_f64())
    }
}

impl std::error::Error for Silent {}

/// The trouble of one engine's database.
#[derive(Debug)]
pub(crate) struct Outage {
    /// The name of the database, for people: a process may have several.
    database: String,
    /// Whether there is trouble; read without a lock.
    lasts: AtomicBool,
    trouble: Mutex<Trouble>,
    /// Trouble that does not pass by itself, and odd rows.
    pub(crate) notices: Notices,
}

#[derive(Debug, Default)]
struct Trouble {
    parts: Vec<Part>,
    since: Option<Stopwatch>,
    reason: Option<String>,
    /// When the last one was over.
    over: Option<Stopwatch>,
    failures: u64,
}

impl Trouble {
    /// Whether this is trouble that was over already: each connection finds out by itself that it fell silent, some of
    /// them late.
    fn is_old(&self, error: &DbError) -> bool {
        let silent = error.source.downcast_ref::<Silent>();
        self.since.is_none()
            && silent.zip(self.over).is_some_and(|(Silent(silent_for), over)| over.elapsed() <= *silent_for)
    }
}

impl Outage {
    pub(crate) fn of(database: String) -> Self {
        let notices = Notices::of(database.clone());
        Self { database, lasts: AtomicBool::new(false), trouble: Mutex::default(), notices }
    }

    /// A call failed in a way that may pass, and is made again.
    pub(crate) fn failed(&self, part: Part, error: &DbError) {
        let reason = error.to_string();
        let is_new = {
            let mut trouble = lock(&self.trouble);
            if trouble.is_old(error) {
                say!(debug, "{reason}; trying again");
                return;
            }
            if !trouble.parts.contains(&part) {
                trouble.parts.push(part);
            }
            trouble.reason = Some(reason.clone());
            trouble.failures += 1;
            self.lasts.store(true, Ordering::Release);
            let is_new = trouble.since.is_none();
            trouble.since.get_or_insert_with(Stopwatch::start);
            is_new
        };
        if is_new {
            say!(
                warn,
                "the system database {} does not answer as it should: {reason}; trying until it does",
                self.database
            );
        } else {
            say!(debug, "{reason}; trying again");
        }
    }

    /// A call succeeded.
    pub(crate) fn passed(&self, part: Part) {
        if !self.lasts.load(Ordering::Acquire) {
            return;
        }
        let lasted = {
            let mut trouble = lock(&self.trouble);
            trouble.parts.retain(|failing| *failing != part);
            if !trouble.parts.is_empty() {
                return;
            }
            trouble.reason = None;
            trouble.over = Some(Stopwatch::start());
            self.lasts.store(false, Ordering::Release);
            let failures = std::mem::take(&mut trouble.failures);
            trouble.since.take().map(|since| (since, failures))
        };
        if let Some((since, failures)) = lasted {
            let lasted = since.elapsed().as_secs_f64();
            say!(
                info,
                "the system database {} answers again, after {lasted:.1} s and {failures} failures",
                self.database
            );
        }
    }

    /// A call was refused for good, and is made again all the same.
    pub(crate) fn refused(&self, what: &'static str, error: &DbError) {
        self.notices.failed(what, &error.source.to_string());
    }

    /// Names a row that cannot be read as it is, with the consequence.
    pub(crate) fn names_row(&self, workflow: &WorkflowId, what: &str) {
        self.notices.name(&format!("workflow {workflow}"), what);
    }

    /// Why it does not answer, as far as that is known.
    pub(crate) fn reason(&self) -> Option<String> {
        lock(&self.trouble).reason.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> DbError {
        DbError { may_pass: true, ..DbError::lasting("commit", "the disk is full") }
    }

    #[test]
    fn an_outage_is_over_when_every_part_that_failed_has_succeeded() {
        let outage = Outage::of("shop.db".to_owned());
        outage.passed(Part::Writes);
        assert_eq!(outage.reason(), None);
        outage.failed(Part::Writes, &error());
        outage.failed(Part::Reads, &error());
        outage.passed(Part::Reads);
        assert_eq!(outage.reason().as_deref(), Some("commit: the disk is full"));
        outage.passed(Part::Writes);
        assert_eq!(outage.reason(), None);
    }

    #[test]
    fn a_silence_that_began_before_the_end_of_an_outage_is_a_part_of_it() {
        let outage = Outage::of("shop".to_owned());
        let silent_for = |time| DbError { source: std::sync::Arc::new(Silent(time)), ..error() };
        outage.failed(Part::Writes, &error());
        outage.passed(Part::Writes);
        outage.failed(Part::Reads, &silent_for(Duration::from_secs(3600)));
        assert_eq!(outage.reason(), None, "it began an hour ago");
        outage.failed(Part::Reads, &silent_for(Duration::ZERO));
        assert!(outage.reason().is_some(), "another one");
    }
}
