//! The journal of an example's runs: one JSON object a line, written while the run goes on. A crash loses no line.
//!
//! `cargo xtask run` counts its lines over several processes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

pub(crate) struct Journal {
    path: PathBuf,
    file: File,
}

/// Sums over all runs in the directory.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Totals {
    pub(crate) runs: u64,
    pub(crate) steps_run: u64,
    pub(crate) steps_replayed: u64,
    pub(crate) crashes: u64,
}

impl Journal {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Opens the next run and returns its number, from 1.
    pub(crate) fn begin_run(&self) -> io::Result<u64> {
        let run = self.totals().runs + 1;
        let line = json!({ "event": "run", "run": run, "pid": std::process::id() });
        (&self.file).write_all(format!("{line}\n").as_bytes())?;
        Ok(run)
    }

    /// Notes an event by one write, so that lines of several processes do not mix. A failure to note does not end the
    /// program.
    pub(crate) fn note(&self, event: &str, more: &Value) {
        let mut line = json!({ "event": event });
        if let (Some(line), Some(more)) = (line.as_object_mut(), more.as_object()) {
            line.extend(more.clone());
        }
        let _ = (&self.file).write_all(format!("{line}\n").as_bytes());
    }

    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for line in fs::read(&self.path).unwrap_or_default().split(|byte| *byte == b'\n') {
            let Ok(line) = serde_json::from_slice::<Value>(line) else { continue };
            match line["event"].as_str() {
                Some("run") => totals.runs += 1,
                Some("step_run") => totals.steps_run += 1,
                Some("step_replayed") => totals.steps_replayed += 1,
                Some("crash") => totals.crashes += 1,
                _ => {}
            }
        }
        totals
    }
}
