//! The end of a run: its result, in words and as JSON.

use std::io::{self, Write as _};
use std::process::ExitCode;

use engine::{Error, WorkflowId, WorkflowStatus};
use serde::Serialize;
use serde_json::{Value, json};

use crate::Demo;
use crate::story::many;

/// Users that a workflow counted, and the rows that hold them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Each user counted once.
    pub unique_users: u64,
    /// All rows; `None` where the application database has to be asked.
    pub rows: Option<u64>,
}

impl From<u64> for Counts {
    fn from(unique_users: u64) -> Self {
        Self { unique_users, rows: None }
    }
}

pub(crate) struct Finish<'d> {
    pub(crate) demo: &'d Demo,
}

impl Finish<'_> {
    pub(crate) fn tell<O>(&self, id: &WorkflowId, outcome: &engine::Result<O>) -> anyhow::Result<ExitCode>
    where
        O: Serialize + Clone + Into<Counts>,
    {
        let story = &self.demo.story;
        story.end_bar();
        let status = self.demo.engine.progress(id)?.status;
        let users = |count: store::Result<u64>| count.unwrap_or_default();
        let counts = match outcome {
            Ok(output) => output.clone().into(),
            Err(_) => users(self.demo.store.users(|users| users.count_latest(Some(id.as_str())))).into(),
        };
        let stored = || users(self.demo.store.users(|users| users.count_of_workflow(id.as_str())));
        let rows = counts.rows.unwrap_or_else(stored);
        let duplicates = rows.saturating_sub(counts.unique_users);
        self.say_how_it_ended(id, status, outcome.as_ref().err(), [counts.unique_users, rows, duplicates]);
        let totals = self.demo.journal.totals();
        let ended = json!({
            "example": self.demo.example.name,
            "workflow_id": id.as_str(),
            "status": status.as_str(),
            "output": outcome.as_ref().ok().map(serde_json::to_value).transpose()?,
            "error": outcome.as_ref().err().map(ToString::to_string),
            "unique_users": counts.unique_users,
            "rows": rows,
            "duplicates": duplicates,
            "runs": totals.runs,
            "steps_run": totals.steps_run,
            "steps_replayed": totals.steps_replayed,
            "wall_ms": self.demo.began.elapsed().as_millis(),
        });
        self.demo.journal.note("ended", &ended);
        if self.demo.json {
            print_json(&ended);
        }
        Ok(ExitCode::from(u8::from(status != WorkflowStatus::Success)))
    }

    /// The run was told to stop, and this process has let go of it.
    pub(crate) fn tell_stop(&self, id: Option<&WorkflowId>) -> ExitCode {
        let story = &self.demo.story;
        story.end_bar();
        story.say(&match id {
            Some(id) => format!("  stopped; workflow {id} goes on at the next start"),
            None => "  stopped; the next start goes on from here".to_owned(),
        });
        if self.demo.json {
            // It tells nothing about users: a hanging step may hold their database.
            let totals = self.demo.journal.totals();
            let progress = id.and_then(|id| self.demo.engine.progress(id).ok());
            print_json(&json!({
                "example": self.demo.example.name,
                "workflow_id": id.map(WorkflowId::as_str),
                "status": progress.map(|progress| progress.status.as_str()),
                "output": null,
                "error": "stopped",
                "runs": totals.runs,
                "steps_run": totals.steps_run,
                "steps_replayed": totals.steps_replayed,
                "wall_ms": self.demo.began.elapsed().as_millis(),
            }));
        }
        ExitCode::from(130)
    }

    fn say_how_it_ended(
        &self,
        id: &WorkflowId,
        status: WorkflowStatus,
        error: Option<&Error>,
        counts: [u64; 3],
    ) {
        let story = &self.demo.story;
        let [unique, rows, duplicates] = counts;
        story.say(&format!("{status}: workflow {id}"));
        if let Some(error) = error {
            story.say(&format!("  {error}"));
        }
        let totals = self.demo.journal.totals();
        let users = match duplicates {
            0 => format!("{unique} users in {rows} rows, no duplicates"),
            1 => format!("{unique} users in {rows} rows, one of them a duplicate"),
            n => format!("{unique} users in {rows} rows, {n} of them duplicates"),
        };
        story.say(&format!("  {users}"));
        // The journal knows of crashes only: a killed process cannot note its death.
        let crashes = match totals.crashes {
            0 => String::new(),
            n => format!(", {} on purpose", many(n, "crash", "crashes")),
        };
        story.say(&format!(
            "  {} in this directory{crashes}; {} ran, {} replayed and not repeated",
            many(totals.runs, "run of the program", "runs of the program"),
            many(totals.steps_run, "step attempt", "step attempts"),
            many(totals.steps_replayed, "recorded step was", "recorded steps were"),
        ));
        if let Some(lesson) = self.demo.example.lesson {
            story.say(&format!("  to learn: {lesson}"));
        }
    }
}

/// The last line of standard output.
pub(crate) fn print_json(object: &Value) {
    // The reader may have gone.
    let _ = writeln!(io::stdout(), "{object}");
}
