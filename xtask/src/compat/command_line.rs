//! The `dbos` command line on workflows of ours, while they run.

use anyhow::Context as _;
use serde_json::{Value, json};

use super::program::Program;
use super::{Bench, seen};

/// One workflow of three steps that is held in its second.
const STAGES: &str = r#"{"steps": 3, "hold_at": 2}"#;
const ALL_DONE: [&str; 3] = ["done 1", "done 2", "done 3"];

/// A worker of ours, and the command line's view of its workflows.
struct Stage<'b> {
    bench: &'b Bench,
    url: String,
    worker: Program,
}

pub(super) fn check(bench: &Bench) -> anyhow::Result<()> {
    let url = bench.server.fresh_database();
    let worker = bench.rust(&url)?;
    let mut stage = Stage { bench, url, worker };
    stage.begin("held")?;
    looked_at(&stage)?;
    cancelled_and_resumed(&mut stage)?;
    resumed_while_it_runs(&mut stage)?;
    cancelled_and_resumed_while_it_waits(&stage)?;
    forked(&mut stage)
}

impl Stage<'_> {
    fn dbos(&self, args: &[&str]) -> anyhow::Result<Value> {
        self.bench.python.dbos_workflow(&self.url, args)
    }

    /// Starts a workflow and waits until it is held.
    fn begin(&mut self, id: &str) -> anyhow::Result<()> {
        self.bench.ask(
            &self.url,
            &["--application", "rust", "--id", id, "--no-wait", "--args", STAGES, "stages", "rust-orders"],
        )?;
        self.worker.wait_for(&format!("held {id} 2"))
    }

    fn recorded(&self, id: &str) -> anyhow::Result<Value> {
        let steps = self.dbos(&["steps", id])?;
        let steps = steps.as_array().with_context(|| format!("no steps of {id}: {steps}"))?;
        Ok(steps
            .iter()
            .map(|step| json!([step["function_id"], step["function_name"], step["output"]]))
            .collect())
    }

    /// Lets the workflow go on, and checks that it ends as if nothing had happened to it.
    fn finish(&mut self, id: &str) -> anyhow::Result<()> {
        self.worker.release(id)?;
        let ended = format!("SELECT status FROM dbos.workflow_status WHERE workflow_uuid = '{id}'");
        let success = json!([["SUCCESS"]]);
        self.bench.python.rows_become(&format!("{id} ends"), &self.url, &ended, &success)?;
        let output = &self.dbos(&["get", id])?["output"];
        seen::same(&format!("dbos workflow get {id}: its output"), output, &json!(ALL_DONE))?;
        let steps = json!([[1, "stage 1", "done 1"], [2, "stage 2", "done 2"], [3, "stage 3", "done 3"]]);
        seen::same(&format!("dbos workflow steps {id}"), &self.recorded(id)?, &steps)
    }

    fn status(&self, id: &str) -> anyhow::Result<Value> {
        Ok(self.dbos(&["get", id])?["status"].clone())
    }

    fn ran(&mut self, id: &str, expected: &[usize]) -> anyhow::Result<()> {
        let times: Vec<_> = (1..=3).map(|step| self.worker.count(&format!("ran {id} {step}"))).collect();
        seen::same(&format!("{id}: how often the body of each step ran"), &json!(times), &json!(expected))
    }
}

fn looked_at(stage: &Stage<'_>) -> anyhow::Result<()> {
    const SHOWN: [&str; 4] = ["workflow_id", "status", "name", "application_name"];
    let shown =
        json!({ "workflow_id": "held", "status": "PENDING", "name": "stages", "application_name": "rust" });
    let listed = stage.dbos(&["list", "--status", "PENDING", "--application-name", "rust"])?;
    let listed: Value =
        listed.as_array().into_iter().flatten().map(|one| seen::fields(one, &SHOWN)).collect();
    seen::same("dbos workflow list --status PENDING", &listed, &json!([shown]))?;
    let one = stage.dbos(&["get", "held"])?;
    seen::same("dbos workflow get held", &seen::fields(&one, &SHOWN), &shown)?;
    let input = json!({ "args": [], "kwargs": { "hold_at": 2, "steps": 3 } });
    seen::same("dbos workflow get held: its input", &one["input"], &input)?;
    seen::same("dbos workflow steps held", &stage.recorded("held")?, &json!([[1, "stage 1", "done 1"]]))
}

fn cancelled_and_resumed(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.dbos(&["cancel", "held"])?;
    stage.worker.wait_for("stopped held 2")?;
    println!("dbos workflow cancel held: its running step was told to stop");
    seen::same("dbos workflow get held", &stage.status("held")?, &json!("CANCELLED"))?;
    seen::same("dbos workflow steps held", &stage.recorded("held")?, &json!([[1, "stage 1", "done 1"]]))?;
    stage.dbos(&["resume", "held"])?;
    stage.worker.wait_for_times("held held 2", 2)?;
    seen::same("dbos workflow resume held: it runs again", &stage.status("held")?, &json!("PENDING"))?;
    stage.finish("held")?;
    stage.ran("held", &[1, 2, 1])
}

/// A resume: the execution that had the workflow gives way to a new one.
fn resumed_while_it_runs(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin("taken")?;
    stage.dbos(&["resume", "taken"])?;
    stage.worker.wait_for("stopped taken 2")?;
    stage.worker.wait_for_times("held taken 2", 2)?;
    println!("dbos workflow resume taken, while it runs: a new execution took over from the first");
    stage.finish("taken")?;
    stage.ran("taken", &[1, 2, 1])
}

/// A cancel and a resume of a workflow that has left its thread to wait for a message.
fn cancelled_and_resumed_while_it_waits(stage: &Stage<'_>) -> anyhow::Result<()> {
    let (python, url) = (&stage.bench.python, stage.url.as_str());
    let args = ["--application", "rust", "--id", "waits", "--no-wait", "--args", r#"["Hello"]"#];
    stage.bench.ask(url, &[args.as_slice(), &["greet", "rust-orders"]].concat())?;
    let status = "SELECT status FROM dbos.workflow_status WHERE workflow_uuid = 'waits'";
    python.rows_become("a workflow that waits without a thread", url, status, &json!([["DELAYED"]]))?;
    stage.dbos(&["cancel", "waits"])?;
    seen::same("dbos workflow cancel waits", &stage.status("waits")?, &json!("CANCELLED"))?;
    stage.dbos(&["resume", "waits"])?;
    python.rows_become("dbos workflow resume waits: it waits again", url, status, &json!([["DELAYED"]]))?;
    python.sql(url, r#"SELECT dbos.send_message('waits', '"Grace"'::json, 'name')::text"#)?;
    python.rows_become("it ends when its message comes", url, status, &json!([["SUCCESS"]]))?;
    seen::same(
        "dbos workflow get waits: its output",
        &stage.dbos(&["get", "waits"])?["output"],
        &json!("Hello, Grace"),
    )
}

fn forked(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.begin("source")?;
    let fork = ["fork", "source", "--step", "2", "--forked-workflow-id", "fork"];
    stage.dbos(&fork)?;
    stage.worker.wait_for("held fork 2")?;
    println!("dbos workflow fork source --step 2, while it runs: the fork runs beside it");
    stage.finish("fork")?;
    stage.ran("fork", &[0, 1, 1])?;
    stage.finish("source")?;
    stage.ran("source", &[1, 1, 1])?;
    // A fork of an ended workflow, under a version of its own choice.
    let again =
        ["fork", "source", "--step", "3", "--forked-workflow-id", "fork-2", "--application-version", "1"];
    stage.dbos(&again)?;
    stage.finish("fork-2")?;
    stage.ran("fork-2", &[0, 0, 1])
}
