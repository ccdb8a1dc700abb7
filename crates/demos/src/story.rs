//! The story of a run, told while it goes on: steps that run, steps that are replayed and not repeated, failures,
//! crashes. A progress bar on a terminal, plain lines in a pipe.

use std::collections::{HashMap, HashSet};
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
    /// The finished batches of each workflow, by the steps that started them. A replay tells of them again.
    batches: HashMap<String, HashSet<u32>>,
    /// The workflow for which the program waits. Others may run beside it.
    followed: Option<WorkflowId>,
}

impl Seen {
    /// Notes that the batch that this step of this workflow started is done. Returns the number of finished batches,
    /// and whether the program waits for this workflow. `None` when the batch was noted before.
    fn batch_is_done(&mut self, workflow: &str, step: u32) -> Option<(usize, bool)> {
        let batches = self.batches.entry(workflow.to_owned()).or_default();
        let is_followed = || self.followed.as_ref().is_none_or(|followed| followed.as_str() == workflow);
        batches.insert(step).then(|| (batches.len(), is_followed()))
    }
}

/// The parent and the step of a child, whose id is `PARENT-STEP`.
fn place_of(child: &WorkflowId) -> Option<(&str, u32)> {
    let (parent, step) = child.as_str().rsplit_once('-')?;
    Some((parent, step.parse().ok()?))
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
        self.seen().followed = Some(id.clone());
        self.say(&format!("> workflow {id} starts"));
    }

    pub(crate) fn adopts(&self, id: &WorkflowId, progress: &Progress) {
        self.seen().followed = Some(id.clone());
        let children = match progress.children {
            0 => String::new(),
            n => format!(
                " (each child workflow counts as two steps: its start and its result); {} of {n} child workflows have ended",
                progress.children_done
            ),
        };
        self.say(&format!(
            "> workflow {id} was interrupted and goes on: {} recorded{children}",
            many(progress.steps_recorded, "step is", "steps are")
        ));
    }

    pub(crate) fn waits_for(&self, id: &WorkflowId, words: &str) {
        self.seen().followed = Some(id.clone());
        self.say(&format!("> workflow {id} {words}"));
    }

    pub(crate) fn parked(&self, id: &WorkflowId) {
        self.seen().followed = None;
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

    fn tell_batch(&self, seen: &mut Seen, child: &WorkflowId) {
        let Some((workflow, step)) = place_of(child) else { return };
        let Some((done, followed)) = seen.batch_is_done(workflow, step) else { return };
        match (&self.bar, self.example.batches) {
            (Some(bar), _) if followed => bar.set_position(done as u64),
            (None, Some(batches)) if followed => self.say(&format!("+ batch {done} of {batches} done")),
            (None, Some(batches)) => {
                self.say(&format!("+ batch {done} of {batches} done, of workflow {workflow}"));
            }
            _ => {}
        }
    }
}

impl Observer for Story {
    fn observe(&self, event: &Event<'_>) {
        let mut seen = self.seen();
        match event {
            Event::StepReplayed { workflow, name, step_id, .. } => {
                self.journal.note("step_replayed", &json!({ "name": name }));
                seen.replayed += 1;
                if self.example.batches.is_some() && *name == "DBOS.getResult" {
                    // The step before it is the start of that child.
                    let batch = seen.batch_is_done(workflow.as_str(), step_id.0.saturating_sub(1));
                    if let (Some((done, true)), Some(bar)) = (batch, &self.bar) {
                        bar.set_position(done as u64);
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
                    self.say(&format!("! step {name}, attempt {attempt}: {}{then}", failure.message()));
                }
            }
            Event::StepRecorded { name, success: true, .. } if self.example.batches.is_none() => {
                self.say(&format!("+ step {name}: done and recorded"));
            }
            Event::WorkflowEnded { workflow, name, status: WorkflowStatus::Success }
                if name.contains("batch") =>
            {
                self.tell_replays(&mut seen);
                self.tell_batch(&mut seen, workflow);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_counts_once_and_for_its_own_workflow() {
        let mut seen = Seen { followed: Some(WorkflowId::new("a").unwrap()), ..Seen::default() };
        let child = WorkflowId::new("a-3").unwrap();
        assert_eq!(place_of(&child), Some(("a", 3)));
        assert_eq!(seen.batch_is_done("a", 1), Some((1, true)));
        assert_eq!(seen.batch_is_done("a", 3), Some((2, true)));
        assert_eq!(seen.batch_is_done("b", 1), Some((1, false)));
        assert_eq!(seen.batch_is_done("a", 1), None, "a replay");
        assert_eq!(seen.batch_is_done("a", 5), Some((3, true)));
    }
}
