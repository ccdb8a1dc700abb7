//! A database that does not answer: said once, and once more when it answers again.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::Stopwatch;
use crate::id::WorkflowId;
use crate::notices::Notices;
use crate::sync::{lock, say};
use crate::sysdb::DbError;

/// Who notices: some of them may work while others do not, as on a disk that is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Writes,
    Reads,
    #[cfg(feature = "postgres")]
    Lease,
}

/// What one engine knows of its database's trouble.
#[derive(Debug)]
pub(crate) struct Outage {
    /// Which, for people: a process may have several.
    database: String,
    /// Whether there is any, to be asked without a lock.
    lasts: AtomicBool,
    trouble: Mutex<Trouble>,
    /// What does not pass by itself, and odd rows.
    pub(crate) notices: Notices,
}

#[derive(Debug, Default)]
struct Trouble {
    parts: Vec<Part>,
    since: Option<Stopwatch>,
    reason: Option<String>,
    failures: u64,
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

    /// A row that cannot be read as it is, and what becomes of it.
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
        let source = Box::<dyn std::error::Error + Send + Sync>::from("the disk is full");
        DbError { statement: "commit", may_pass: true, source: source.into() }
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
}
