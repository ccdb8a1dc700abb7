//! `cargo xtask ci`: everything that must pass, in the order in which it says most for its time. `.ci/run` and the
//! workflows of the hosting service call this and nothing else.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::cargo::{self, cargo};

type Check = (&'static str, fn() -> anyhow::Result<()>);

/// With this variable set, a test that finds no PostgreSQL fails.
const REQUIRE_POSTGRES: (&str, &str) = ("PITON_REQUIRE_POSTGRES", "1");

const CHECKS: [Check; 13] = [
    ("the README's test command", || {
        run(cargo().args(["test", "--workspace"]).env(REQUIRE_POSTGRES.0, REQUIRE_POSTGRES.1))
    }),
    ("format", || run(cargo().args(["fmt", "--all", "--check"]))),
    ("lints", || run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))),
    ("documentation", || {
        let doc = ["doc", "--workspace", "--no-deps", "--document-private-items"];
        run(cargo().args(doc).env("RUSTDOCFLAGS", "-D warnings"))
    }),
    ("the engine with each backend, and each crate alone", each_crate_alone),
    ("encrypted connections", || {
        run(cargo().args(["test", "-p", "engine", "--features", "tls", "--test", "tls"]))
    }),
    ("demos", || demos(&[], &GOLDEN)),
    ("demos on PostgreSQL", demos_on_postgres),
    ("the same demos crash in the same places", same_seed_same_story),
    ("torture: 300 kills", || run(xtask()?.args(["torture", "--kills", "300", "--seed", "1"]))),
    ("PostgreSQL at length", at_length_on_postgres),
    ("torture on PostgreSQL: 100 kills", || {
        run(xtask()?.args(["torture", "--backend", "postgres", "--kills", "100", "--seed", "1"]))
    }),
    ("bench, quick", || run(xtask()?.args(["bench", "--quick"]))),
];

/// All of them, up to the first that fails.
pub(crate) fn all() -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    for (name, check) in CHECKS {
        println!("\n== {name}");
        let watch = Instant::now();
        check().with_context(|| format!("ci: {name}"))?;
        println!("== {name}: passed in {:.0} s", watch.elapsed().as_secs_f64());
    }
    println!("\nall checks passed in {:.0} s", began.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status =
        command.status().with_context(|| format!("{} cannot be started", command.get_program().display()))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

fn xtask() -> anyhow::Result<Command> {
    Ok(Command::new(std::env::current_exe()?))
}

/// What somebody gets who depends on one crate only.
fn each_crate_alone() -> anyhow::Result<()> {
    for package in ["model", "store", "engine"] {
        run(cargo().args(["check", "--quiet", "--package", package]))?;
    }
    for features in ["", "postgres", "sqlite,postgres", "sqlite,anyhow"] {
        let check =
            ["check", "--quiet", "--package", "engine", "--no-default-features", "--features", features];
        run(cargo().args(check))?;
    }
    Ok(())
}

/// What each example ends with. Numbers: exit code, unique users, rows.
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

/// Through this command, if it is one, before the examples' own.
fn demos(through: &[&Path], expected: &[Golden]) -> anyhow::Result<()> {
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

/// Each beside a server of its own.
fn demos_on_postgres() -> anyhow::Result<()> {
    let cluster = cargo::build("cluster", "cluster", false)?;
    demos(&[&cluster], &ON_POSTGRES)
}

/// What is a sample otherwise: every commit that a process may die at, a minute of restarts, a minute without a server.
fn at_length_on_postgres() -> anyhow::Result<()> {
    let kills = ["test", "-p", "torture", "--test", "kills_postgres"];
    let fleet = ["test", "-p", "engine", "--features", "postgres", "--test", "fleet"];
    for tests in [&kills[..], &fleet[..]] {
        let mut command = cargo();
        command
            .args(tests)
            .args(["--", "--include-ignored"])
            .env("PITON_LONG_TESTS", "1")
            .env(REQUIRE_POSTGRES.0, REQUIRE_POSTGRES.1);
        run(&mut command)?;
    }
    Ok(())
}

/// ex6 dies of real segmentation faults, and the seed says when.
fn same_seed_same_story() -> anyhow::Result<()> {
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
    let this = std::env::current_exe()?;
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
