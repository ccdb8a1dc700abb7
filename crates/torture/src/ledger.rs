//! The effects ledger: what bodies did and what workflows saw, in the order in which it happened.
//!
//! Each line is one `write` to a file opened for appending, so the lines of all processes have one order, and a kill
//! loses none that was written.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The body of a step began.
    Body {
        /// Of which workflow.
        workflow: String,
        /// Name of the step, unique in its workflow.
        step: String,
        /// In which run of the workflow.
        run: u32,
    },
    /// A workflow saw the outcome of a step: live, or replayed.
    Saw {
        /// Which workflow.
        workflow: String,
        /// Name of the step.
        step: String,
        /// In which of its runs.
        run: u32,
        /// The value it saw.
        value: String,
    },
}

/// An open ledger.
pub struct Ledger(File);

impl Ledger {
    /// Opens it for appending.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(OpenOptions::new().create(true).append(true).open(path)?))
    }

    /// Notes that a body begins.
    pub fn body(&self, workflow: &str, step: &str, run: u32) {
        self.line(&format!("body\t{workflow}\t{step}\t{run}\n"));
    }

    /// Notes what a workflow saw.
    pub fn saw(&self, workflow: &str, step: &str, run: u32, value: &str) {
        self.line(&format!("saw\t{workflow}\t{step}\t{run}\t{value}\n"));
    }

    fn line(&self, line: &str) {
        (&self.0).write_all(line.as_bytes()).expect("the ledger of a torture can be written");
    }

    /// All lines of a ledger, oldest first.
    ///
    /// # Errors
    /// What the file system says; a ledger that was never opened has no lines.
    pub fn read(path: &Path) -> io::Result<Vec<Entry>> {
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = std::fs::read_to_string(path)?;
        let owned = |text: &str| text.to_owned();
        let entry = |line: &str| match line.split('\t').collect::<Vec<_>>()[..] {
            ["body", workflow, step, run] => {
                Some(Entry::Body { workflow: owned(workflow), step: owned(step), run: run.parse().ok()? })
            }
            ["saw", workflow, step, run, value] => Some(Entry::Saw {
                workflow: owned(workflow),
                step: owned(step),
                run: run.parse().ok()?,
                value: owned(value),
            }),
            _ => None,
        };
        Ok(text.lines().filter_map(entry).collect())
    }
}
