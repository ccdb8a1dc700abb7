//! The official package reads the tables that this engine wrote, and all that ex6 left.

use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::python::succeed;
use super::{Bench, seen};

pub(super) fn schema(bench: &Bench) -> anyhow::Result<()> {
    let url = bench.server.fresh_database();
    drop(bench.rust(&url)?);
    let said = bench.python.script("check_schema.py", &url, &[])?;
    seen::contains("check_schema.py on PostgreSQL", &said, "schema matches v125")
}

/// On both backends.
pub(super) fn ex6(bench: &Bench) -> anyhow::Result<()> {
    let sqlite = bench.dir.join("ex6-sqlite");
    let file = format!("sqlite:///{}", sqlite.join("system.db").display());
    finish_ex6(&sqlite, None)?;
    let said = bench.python.script("check_schema.py", &file, &[])?;
    seen::contains("check_schema.py on SQLite", &said, "schema matches v125")?;
    listed(bench, "list_all.py on SQLite", &file)?;

    let url = bench.server.fresh_database();
    finish_ex6(&bench.dir.join("ex6-postgres"), Some(&url))?;
    listed(bench, "list_all.py on PostgreSQL", &url)
}

fn finish_ex6(dir: &std::path::Path, url: Option<&str>) -> anyhow::Result<()> {
    let mut run = Command::new(crate::cargo::xtask()?);
    run.args(["run", "ex6", "--until-success", "--fresh", "--json", "--dir"]).arg(dir);
    match url {
        Some(url) => run.env("DBOS_DATABASE_URL", url),
        None => run.env_remove("DBOS_DATABASE_URL"),
    };
    succeed(&mut run)?;
    Ok(())
}

fn listed(bench: &Bench, what: &str, url: &str) -> anyhow::Result<()> {
    let listed = seen::json(&bench.python.script("list_all.py", url, &[])?)?;
    let (workflows, steps) = readable(&listed)?;
    println!(
        "{what}: {workflows} workflows and {steps} steps of ex6; all inputs, outputs and steps are JSON, no errors"
    );
    Ok(())
}

/// Each batch is a child workflow, the batches' steps are lists of users.
fn readable(listed: &Value) -> anyhow::Result<(usize, usize)> {
    let workflows = listed["workflows"].as_array().context("no workflows were listed")?;
    ensure!(workflows.len() == 11, "expected one workflow and 10 children, seen {}", workflows.len());
    let mut count = 0;
    for workflow in workflows {
        let id = &workflow["workflow_id"];
        ensure!(workflow["status"] == "SUCCESS", "{id}: expected SUCCESS, seen {}", workflow["status"]);
        ensure!(workflow["input"]["args"].is_array(), "the input of {id} is {}", workflow["input"]);
        ensure!(workflow["error"].is_null(), "{id} has the error {}", workflow["error"]);
        for step in workflow["steps"].as_array().with_context(|| format!("{id} has no steps"))? {
            let readable = step["child_workflow_id"].is_string() || !step["output"].is_null();
            // An insert returns no value, and its record says so.
            ensure!(readable || step["function_name"] == "insert", "step {step} of {id} cannot be read");
            // A value that cannot be read is handed out as the stored text.
            ensure!(!step["output"].is_string(), "the output of step {step} of {id} is not decoded");
            count += 1;
        }
    }
    let total = workflows.iter().find(|workflow| workflow["parent_workflow_id"].is_null());
    let total = total.map(|total| &total["output"]);
    ensure!(total == Some(&json!(1000)), "expected that ex6 counts 1000 users, seen {total:?}");
    Ok((workflows.len(), count))
}
