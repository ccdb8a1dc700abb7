//! The demos, from nothing to their ends: the report of each, and that a seed tells the same story each time.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::cargo;

/// The end of an example: exit code, unique users, rows.
struct Golden {
    args: &'static [&'static str],
    exit: i32,
    status: &'static str,
    unique_users: u64,
    rows: Rows,
}

enum Rows {
    Exactly(u64),
    MoreThan(u64),
}

const fn golden(
    args: &'static [&'static str],
    exit: i32,
    status: &'static str,
    users: u64,
    rows: Rows,
) -> Golden {
    Golden { args, exit, status, unique_users: users, rows }
}

const ON_POSTGRES: [Golden; 3] = [
    golden(&["ex1"], 0, "SUCCESS", 20, Rows::Exactly(20)),
    golden(&["ex6"], 0, "SUCCESS", 1000, Rows::MoreThan(1000)),
    golden(&["ex7"], 0, "SUCCESS", 1000, Rows::Exactly(1000)),
];

const GOLDEN: [Golden; 8] = [
    golden(&["ex1"], 0, "SUCCESS", 20, Rows::Exactly(20)),
    golden(&["ex2"], 1, "ERROR", 10, Rows::Exactly(10)),
    golden(&["ex3"], 0, "SUCCESS", 20, Rows::Exactly(20)),
    golden(&["ex3", "--", "--truncate-in-body"], 0, "SUCCESS", 10, Rows::Exactly(10)),
    golden(&["ex4"], 0, "SUCCESS", 20, Rows::Exactly(20)),
    golden(&["ex5"], 0, "SUCCESS", 1000, Rows::Exactly(1000)),
    golden(&["ex6"], 0, "SUCCESS", 1000, Rows::MoreThan(1000)),
    golden(&["ex7"], 0, "SUCCESS", 1000, Rows::Exactly(1000)),
];

/// Runs the examples, through this command if there is one.
fn run(through: &[&Path], expected: &[Golden]) -> anyhow::Result<()> {
    for golden in expected {
        let (exit, report) = report(through, golden.args)?;
        println!("{}: {report}", golden.args.join(" "));
        let rows = report["rows"].as_u64().context("no rows are reported")?;
        let as_expected = match golden.rows {
            Rows::Exactly(expected) => rows == expected,
            Rows::MoreThan(least) => rows > least,
        };
        ensure!(exit == Some(golden.exit), "exit code {exit:?}, not {}", golden.exit);
        ensure!(report["status"] == golden.status, "not {}", golden.status);
        ensure!(report["unique_users"] == golden.unique_users, "not {} users", golden.unique_users);
        ensure!(as_expected, "{rows} rows");
    }
    Ok(())
}

pub(super) fn on_sqlite() -> anyhow::Result<()> {
    run(&[], &GOLDEN)
}

/// Runs each example beside a server of its own.
pub(super) fn on_postgres() -> anyhow::Result<()> {
    let cluster = cargo::build("cluster", "cluster", false)?;
    run(&[&cluster], &ON_POSTGRES)
}

/// ex6 dies of real segmentation faults, and the seed says when.
pub(super) fn same_seed_same_story() -> anyhow::Result<()> {
    let stories = [report(&[], &["ex6"])?.1, report(&[], &["ex6"])?.1];
    let deaths = |story: &Value| story["deaths"].as_array().map_or(0, Vec::len);
    ensure!(deaths(&stories[0]) >= 1, "nothing crashed: {}", stories[0]);
    ensure!(stories[0]["deaths"][0] == "SIGSEGV", "not of a segmentation fault: {}", stories[0]);
    for key in ["deaths", "restarts", "rows", "duplicates"] {
        ensure!(stories[0][key] == stories[1][key], "{key} differ: {} {}", stories[0], stories[1]);
    }
    Ok(())
}

/// `cargo xtask run … --json` from nothing to its end.
fn report(through: &[&Path], args: &[&str]) -> anyhow::Result<(Option<i32>, Value)> {
    let (example, flags) = args.split_first().context("no example is named")?;
    let this = cargo::xtask()?;
    let mut words = through.iter().copied().chain([this.as_path()]);
    let mut command = Command::new(words.next().context("no program")?);
    command.args(words).args(["run", example, "--until-success", "--fresh", "--json"]).args(flags);
    let output = command.env_remove("DBOS_DATABASE_URL").output()?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let Some(Ok(report)) = stdout.lines().last().map(serde_json::from_str) else {
        bail!("{args:?} reports nothing; it says: {}", String::from_utf8_lossy(&output.stderr));
    };
    Ok((output.status.code(), report))
}
