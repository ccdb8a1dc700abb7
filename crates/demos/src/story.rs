//! The story of a run, told while it happens: what runs, what is replayed and not repeated, what fails, what
//! crashes. A progress bar on a terminal, plain lines in a pipe.

use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use engine::{Event, Observer, Progress, WorkflowId, WorkflowStatus};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::Example;
use crate::journal::Journal;
use crate::profile::Table;
use crate::state::State;

pub(crate) struct Story {
    example: &'static Example,
    /// Standard output belongs to the JSON object.
    on_stderr: bool,
    journal: Arc<Journal>,
    bar: Option<ProgressBar>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Replayed steps that were not told yet: many are one line.
    replayed: u64,
    /// Batches of the current run that are done.
    batches: u64,
}

impl Story {
    pub(crate) fn new(example: &'static Example, on_stderr: bool, journal: Arc<Journal>) -> Self {
        let is_terminal = if on_stderr { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
        let bar = example.batches.filter(|_| is_terminal).map(|batches| {
            let target = if on_stderr { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::stdout() };
            let style = ProgressStyle::with_template("  {bar:40} {pos} of {len} batches")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::with_draw_target(Some(batches), target).with_style(style)
        });
        Self { example, on_stderr, journal, bar, seen: Mutex::default() }
    }

    /// One line, above the progress bar if there is one.
    pub(crate) fn say(&self, line: &str) {
        let line = one_line(line);
        match &self.bar {
            Some(bar) => bar.println(line),
            // A reader that went away (`| head`) does not end the demo.
            None if self.on_stderr => drop(writeln!(io::stderr(), "{line}")),
            None => drop(writeln!(io::stdout(), "{line}")),
        }
    }

    pub(crate) fn open(&self, state: &State, seed: u64, run: u64) {
        self.say(&format!("{}: {}", self.example.name, self.example.teaches));
        self.say(&format!("  run {run} in {}, seed {seed}", state.dir.display()));
    }

    pub(crate) fn starts(&self, id: &WorkflowId) {
        self.say(&format!("> workflow {id} starts"));
    }

    pub(crate) fn adopts(&self, id: &WorkflowId, progress: &Progress) {
        let children = match progress.children {
            0 => String::new(),
            n => format!(", {} of {n} child workflows ended", progress.children_done),
        };
        self.say(&format!(
            "> workflow {id} was interrupted and goes on: {} recorded{children}",
            many(progress.steps_recorded, "step is", "steps are")
        ));
    }

    pub(crate) fn parked(&self, id: &WorkflowId) {
        self.say(&format!("> workflow {id} was interrupted too often and is parked; a new one starts"));
    }

    pub(crate) fn crashes(&self, place: &str) {
        self.tell_replays(&mut self.seen());
        self.journal.note("crash", &json!({ "place": place }));
        self.say(&format!("X crash {place}: the process dies of a segmentation fault"));
        self.end_bar();
    }

    pub(crate) fn profile(&self, table: &Table, dir: &Path) {
        self.end_bar();
        for line in table.to_string().lines() {
            self.say(line);
        }
        let files = ["prof", "svg", "folded"].map(|kind| format!("main_profile.{kind}"));
        self.say(&format!("  in {}: {}", dir.display(), files.join(", ")));
    }

    pub(crate) fn stopping(&self) {
        self.say("  told to stop: running steps end, the rest is for the next start");
    }

    pub(crate) fn end_bar(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_replays(&self, seen: &mut Seen) {
        match std::mem::take(&mut seen.replayed) {
            0 => {}
            n => {
                let steps = many(n, "recorded step was", "recorded steps were");
                self.say(&format!("= {steps} replayed and not repeated"));
            }
        }
    }

    fn batch_is_done(&self, seen: &mut Seen, how: &str) {
        seen.batches += 1;
        if let Some(bar) = &self.bar {
            bar.set_position(seen.batches);
        } else if let Some(batches) = self.example.batches {
            self.say(&format!("+ batch {} of {batches} {how}", seen.batches));
        }
    }
}

impl Observer for Story {
    fn observe(&self, event: &Event<'_>) {
        let mut seen = self.seen();
        match event {
            Event::StepReplayed { name, .. } => {
                self.journal.note("step_replayed", &json!({ "name": name }));
                seen.replayed += 1;
                if self.example.batches.is_some() && *name == "DBOS.getResult" {
                    seen.batches += 1;
                    if let Some(bar) = &self.bar {
                        bar.set_position(seen.batches);
                    }
                }
            }
            Event::StepRan { name, attempt, failure, retry_in, .. } => {
                self.tell_replays(&mut seen);
                self.journal.note("step_run", &json!({ "name": name, "failed": failure.is_some() }));
                if let Some(failure) = failure {
                    let then = match retry_in {
                        Some(wait) => format!("; again in {wait:?}"),
                        None => "; no attempt is left".to_owned(),
                    };
                    self.say(&format!("! step {name}, attempt {}: {}{then}", attempt + 1, failure.message()));
                }
            }
            Event::StepRecorded { name, success: true, .. } if self.example.batches.is_none() => {
                self.say(&format!("+ step {name}: done and recorded"));
            }
            Event::WorkflowEnded { name, status: WorkflowStatus::Success, .. } if name.contains("batch") => {
                self.tell_replays(&mut seen);
                self.batch_is_done(&mut seen, "done");
            }
            Event::WorkflowEnded { .. } => self.tell_replays(&mut seen),
            Event::Recovered { workflows } => {
                self.journal.note("recovered", &json!({ "workflows": workflows }));
            }
            _ => {}
        }
    }
}

/// Log lines go where the story goes.
pub(crate) struct LogPipe(pub(crate) Arc<Story>);

impl Write for LogPipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        match &self.0.bar {
            Some(bar) => bar.println(text.trim_end()),
            None => io::stderr().write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// A number with its noun.
pub(crate) fn many(count: u64, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

/// Control characters of names and errors must not reach a terminal.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] }).collect()
}
