//! `cargo xtask compat`: a finished ex6 seen by the official DBOS package for Python.
//!
//! It needs python3 and the network (once, for the package), so it is not part of `cargo test`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::cargo;

/// The version whose schema the engine writes.
const PACKAGE: &str = "dbos==3.4.0";

#[derive(Debug, clap::Args)]
pub(crate) struct CompatArgs {
    /// A Python of 3.11 or newer to make the environment with
    #[arg(long, default_value = "python3")]
    python: PathBuf,
}

pub(crate) fn check(args: &CompatArgs) -> anyhow::Result<ExitCode> {
    let program = cargo::build("demos", "ex6", false)?;
    let target = program.ancestors().nth(2).context("the program lies in no target directory")?;
    let dir = target.join("compat");
    let python = environment(&args.python, &dir.join("venv"))?;
    finish_ex6(&dir.join("ex6"))?;

    let url = format!("sqlite:///{}", dir.join("ex6/system.db").display());
    println!("check_schema.py: {}", script(&python, "check_schema.py", &url)?.trim());
    let listed = serde_json::from_str(&script(&python, "list_all.py", &url)?).context("list_all.py")?;
    let (workflows, steps) = readable(&listed)?;
    println!("list_all.py: {workflows} workflows and {steps} steps, all inputs, outputs and errors readable");
    Ok(ExitCode::SUCCESS)
}

/// A virtual environment with the package, made once.
fn environment(python: &Path, venv: &Path) -> anyhow::Result<PathBuf> {
    let inside = venv.join("bin/python");
    let has_it =
        || Command::new(&inside).args(["-c", "import dbos"]).output().is_ok_and(|o| o.status.success());
    if !has_it() {
        println!("making a virtual environment with {PACKAGE} in {}", venv.display());
        succeed(Command::new(python).args(["-m", "venv"]).arg(venv))?;
        succeed(Command::new(&inside).args(["-m", "pip", "install", "--quiet", PACKAGE]))?;
    }
    Ok(inside)
}

fn finish_ex6(dir: &Path) -> anyhow::Result<()> {
    let this = std::env::current_exe()?;
    let mut run = Command::new(this);
    run.args(["run", "ex6", "--until-success", "--fresh", "--json", "--dir"]).arg(dir);
    succeed(run.env_remove("DBOS_DATABASE_URL"))?;
    Ok(())
}

fn script(python: &Path, name: &str, url: &str) -> anyhow::Result<String> {
    succeed(Command::new(python).arg(cargo::root().join("xtask/compat").join(name)).arg(url))
}

/// Its standard output, or an error with all that it said.
fn succeed(command: &mut Command) -> anyhow::Result<String> {
    let output =
        command.output().with_context(|| format!("{} cannot be started", command.get_program().display()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        bail!("{command:?} failed:\n{}{}", text(&output.stdout), text(&output.stderr));
    }
    Ok(text(&output.stdout))
}

/// What the official client read of ex6: each batch is a child workflow, the batches' steps are lists of users.
fn readable(listed: &Value) -> anyhow::Result<(usize, usize)> {
    let workflows = listed["workflows"].as_array().context("no workflows were listed")?;
    ensure!(workflows.len() == 11, "ex6 has one workflow and 10 children, not {}", workflows.len());
    let mut count = 0;
    for workflow in workflows {
        let id = &workflow["workflow_id"];
        ensure!(workflow["status"] == "SUCCESS", "{id} is {}", workflow["status"]);
        ensure!(workflow["input"]["args"].is_array(), "the input of {id} is {}", workflow["input"]);
        ensure!(workflow["error"].is_null(), "{id} has the error {}", workflow["error"]);
        for step in workflow["steps"].as_array().with_context(|| format!("{id} has no steps"))? {
            let readable = step["child_workflow_id"].is_string() || !step["output"].is_null();
            // An insert returns nothing, and that is what is recorded.
            ensure!(readable || step["function_name"] == "insert", "step {step} of {id} cannot be read");
            count += 1;
        }
    }
    let total = workflows.iter().find(|workflow| workflow["parent_workflow_id"].is_null());
    ensure!(total.is_some_and(|total| total["output"] == 1000), "ex6 did not count 1000 users: {total:?}");
    Ok((workflows.len(), count))
}
