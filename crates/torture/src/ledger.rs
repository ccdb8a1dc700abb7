//! The effects ledger: the bodies that ran and the values that workflows saw, in the order in which it happened.
//!
//! Each line is one `write` to a file opened for appending. So the lines of all processes have one order, and a kill
//! loses no line that was written.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

/// One line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The body of a step began.
    Body {
        /// The workflow.
        workflow: String,
        /// Name of the step, unique in its workflow.
        step: String,
        /// The run of the workflow.
        run: u32,
    },
    /// A workflow saw the outcome of a step: live, or replayed.
    Saw {
        /// The workflow.
        workflow: String,
        /// Name of the step.
        step: String,
        /// The run of the workflow.
        run: u32,
        /// The value that it saw.
        value: String,
    },
}

/// An open ledger.
pub struct Ledger(File);

impl Ledger {
    /// Opens a ledger for appending.
    ///
    /// # Errors
    /// The error of the file system.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(OpenOptions::new().create(true).append(true).open(path)?))
    }

    /// Notes that a body begins.
    pub fn body(&self, workflow: &str, step: &str, run: u32) {
        self.line(&format!("body\t{workflow}\t{step}\t{run}\n"));
    }

    /// Notes a value that a workflow saw.
    pub fn saw(&self, workflow: &str, step: &str, run: u32, value: &str) {
        self.line(&format!("saw\t{workflow}\t{step}\t{run}\t{value}\n"));
    }

    fn line(&self, line: &str) {
        (&self.0).write_all(line.as_bytes()).expect("the ledger of a torture can be written");
    }

    /// All lines of a ledger, oldest first. A ledger that was never opened has no lines.
    ///
    /// # Errors
    /// The error of the file system.
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
