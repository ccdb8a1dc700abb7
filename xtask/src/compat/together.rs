//! Programs of both kinds die in the middle of their work. Each takes up its own and leaves the other's alone.

use anyhow::ensure;
use serde_json::{Value, json};

use super::program::Program;
use super::{Bench, foreign, seen};

struct Ground<'b> {
    bench: &'b Bench,
    url: String,
}

pub(super) fn check(bench: &Bench) -> anyhow::Result<()> {
    let ground = Ground { bench, url: bench.server.fresh_database() };
    let (mut rust, mut python) = (bench.rust(&ground.url)?, bench.python.worker(&ground.url)?);
    ground.hold_rust(&mut rust, "in-rust")?;
    ground.hold_python(&mut python, "in-python")?;
    rust.kill()?;
    python.kill()?;
    println!("both programs were killed, each in a step of a workflow");

    let theirs = ground.row("in-python")?;
    let mut rust = bench.rust(&ground.url)?;
    rust.wait_for("held in-rust 2")?;
    rust.release("in-rust")?;
    ground.ended("in-rust", "a new Rust program takes up its own", 2)?;
    ground.untouched("in-python", &theirs)?;

    ground.hold_rust(&mut rust, "in-rust-2")?;
    rust.kill()?;
    let ours = ground.row("in-rust-2")?;
    let mut python = bench.python.worker(&ground.url)?;
    python.wait_for("held in-python")?;
    python.release("in-python")?;
    ground.ended("in-python", "a new Python program takes up its own", 2)?;
    // By now it has served its queue, and every workflow that it could have taken.
    let args = ["--application", "python", "--args", "[1, 1]", "add", "python-work"];
    seen::same("and serves others", &bench.ask(&ground.url, &args)?["result"], &json!(2))?;
    ground.untouched("in-rust-2", &ours)?;

    // A workflow that the command line lets go on belongs to its application, also where both serve the queue.
    let fork = ["fork", "in-rust", "--step", "2", "--forked-workflow-id", "fork"];
    bench.python.dbos_workflow(&ground.url, &fork)?;
    let mut rust = bench.rust(&ground.url)?;
    for id in ["in-rust-2", "fork"] {
        rust.wait_for(&format!("held {id} 2"))?;
        rust.release(id)?;
    }
    ground.ended("in-rust-2", "a third Rust program takes up its own", 2)?;
    ground.ended("fork", "a fork of a Rust workflow runs in Rust", 1)?;
    foreign::each_ran_its_own(
        bench,
        &ground.url,
        &json!([
            ["python", "add", "python-1"],
            ["python", "held-in-python", "python-1"],
            ["rust", "stages", "piton"]
        ]),
    )
}

impl Ground<'_> {
    fn hold_rust(&self, rust: &mut Program, id: &str) -> anyhow::Result<()> {
        const STAGES: &str = r#"{"steps": 2, "hold_at": 2}"#;
        let args =
            ["--application", "rust", "--id", id, "--no-wait", "--args", STAGES, "stages", "rust-orders"];
        self.bench.ask(&self.url, &args)?;
        rust.wait_for(&format!("held {id} 2"))
    }

    fn hold_python(&self, python: &mut Program, id: &str) -> anyhow::Result<()> {
        let args = ["--application", "python", "--id", id, "--no-wait", "held-in-python", "python-work"];
        self.bench.ask(&self.url, &args)?;
        python.wait_for(&format!("held {id}"))
    }

    /// All columns that a recovery or a claim would change.
    fn row(&self, id: &str) -> anyhow::Result<Value> {
        let row = format!(
            "SELECT status, application_name, application_version, executor_id, owner_xid, queue_name,
                    recovery_attempts, updated_at,
                    (SELECT count(*) FROM dbos.operation_outputs o WHERE o.workflow_uuid = s.workflow_uuid)
               FROM dbos.workflow_status s WHERE workflow_uuid = '{id}'"
        );
        self.bench.python.sql(&self.url, &row)
    }

    fn untouched(&self, id: &str, before: &Value) -> anyhow::Result<()> {
        let now = self.row(id)?;
        ensure!(now[0][0] == "PENDING", "{id}: expected PENDING, seen {now}");
        seen::same(&format!("the other's {id} is as it was"), &now, before)
    }

    fn ended(&self, id: &str, what: &str, attempts: u32) -> anyhow::Result<()> {
        let row = format!(
            "SELECT status, recovery_attempts FROM dbos.workflow_status WHERE workflow_uuid = '{id}'"
        );
        let what = format!("{what}: {id}");
        self.bench.python.rows_become(&what, &self.url, &row, &json!([["SUCCESS", attempts]]))
    }
}
