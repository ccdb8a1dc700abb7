//! `cargo xtask ci`: all checks, in the order in which they say most for their time. `.ci/run` and the workflows of the
//! hosting service call this and nothing else. `--full` adds the checks that take hours.

mod demos;
mod load;

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, ensure};

use crate::cargo::{self, cargo};
use crate::{beside, mutants};

/// The options of `ci`.
#[derive(clap::Args)]
pub(crate) struct CiArgs {
    /// Also run the checks that take hours: tests during two builds, mutants, more kills.
    #[arg(long)]
    full: bool,
}

type Check = (&'static str, fn() -> anyhow::Result<()>);

/// With this variable set, a test that finds no PostgreSQL fails.
const REQUIRE_POSTGRES: (&str, &str) = ("PITON_REQUIRE_POSTGRES", "1");

const CHECKS: &[Check] = &[
    ("the README's test command", || run(&mut tests())),
    ("format", || run(cargo().args(["fmt", "--all", "--check"]))),
    ("lints", || run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))),
    ("documentation", || {
        let doc = ["doc", "--workspace", "--no-deps", "--document-private-items"];
        run(cargo().args(doc).env("RUSTDOCFLAGS", "-D warnings"))
    }),
    ("the engine with each backend, and each crate alone", each_crate_alone),
    ("a program that uses sqlx as well", beside::sqlx),
    ("encrypted connections", || {
        run(cargo().args(["test", "-p", "engine", "--features", "tls", "--test", "tls"]))
    }),
    ("demos", demos::on_sqlite),
    ("demos on PostgreSQL", demos::on_postgres),
    ("the same demos crash in the same places", demos::same_seed_same_story),
    ("torture: 300 kills", || torture("sqlite", 300)),
    ("PostgreSQL at length", at_length_on_postgres),
    ("torture on PostgreSQL: 100 kills", || torture("postgres", 100)),
    ("bench, quick", || run(xtask()?.args(["bench", "--quick"]))),
];

/// The checks that `--full` adds.
const AT_LENGTH: &[Check] = &[
    ("the README's test command ten times beside two builds", load::tests_beside_builds),
    ("torture: 5,000 kills", || torture("sqlite", 5_000)),
    ("torture on PostgreSQL: 300 kills", || torture("postgres", 300)),
    ("the engine with the oldest rusqlite", beside::oldest_rusqlite),
    ("mutants", || mutants::all_are_noticed()),
];

/// Runs all checks, up to the first that fails.
pub(crate) fn all(args: &CiArgs) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let at_length = if args.full { AT_LENGTH } else { &[] };
    for (name, check) in CHECKS.iter().chain(at_length) {
        println!("\n== {name}");
        let watch = Instant::now();
        check().with_context(|| format!("ci: {name}"))?;
        println!("== {name}: passed in {:.0} s", watch.elapsed().as_secs_f64());
    }
    println!("\nall checks passed in {:.0} s", began.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

/// The test command of the README, with PostgreSQL.
fn tests() -> Command {
    let mut command = cargo();
    command.args(["test", "--workspace"]).env(REQUIRE_POSTGRES.0, REQUIRE_POSTGRES.1);
    command
}

fn torture(backend: &str, kills: u32) -> anyhow::Result<()> {
    run(xtask()?.args(["torture", "--backend", backend, "--kills", &kills.to_string()]).args(["--seed", "1"]))
}

pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status =
        command.status().with_context(|| format!("{} cannot be started", command.get_program().display()))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

fn xtask() -> anyhow::Result<Command> {
    Ok(Command::new(cargo::xtask()?))
}

/// Builds each crate alone, as a program gets it that depends on one crate only.
fn each_crate_alone() -> anyhow::Result<()> {
    for package in ["model", "store", "engine"] {
        run(cargo().args(["check", "--quiet", "--package", package]))?;
    }
    for features in ["", "postgres", "sqlite,postgres", "sqlite,anyhow", "tokio", "sqlite,tokio"] {
        let check =
            ["check", "--quiet", "--package", "engine", "--no-default-features", "--features", features];
        run(cargo().args(check))?;
    }
    Ok(())
}

/// Runs whole checks that are samples otherwise: every commit at which a process may die, a minute of restarts, a
/// minute without a server.
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
