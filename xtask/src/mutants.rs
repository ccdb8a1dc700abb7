//! `cargo xtask mutants`: small changes to the engine, each of which a fast test must notice.
//!
//! cargo-mutants makes them in a copy of the sources. `.cargo/mutants.toml` names the changes without a meaning, each
//! with its reason. It does not change SQL: the tests of the fences are about SQL.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::cargo::{cargo, root};

const VERSION: &str = "27.1.0";

/// Files of the engine whose mistakes lose or double data, and the tests that are quick to notice.
struct Group {
    files: &'static [&'static str],
    suite: &'static str,
}

const GROUPS: [Group; 2] = [
    Group {
        files: &[
            "fleet/mod.rs",
            "fleet/recovery.rs",
            "flow/child_result.rs",
            "flow/history.rs",
            "flow/operation.rs",
            "flow/race.rs",
            "flow/sequence.rs",
            "flow/start_child.rs",
            "flow/waits.rs",
            "machines/committer.rs",
            "sysdb/sqlite/claims.rs",
            "sysdb/sqlite/races.rs",
            "sysdb/sqlite/steps.rs",
            "sysdb/sqlite/workflows.rs",
        ],
        suite: "conformance",
    },
    Group {
        files: &[
            "sysdb/postgres/batch.rs",
            "sysdb/postgres/claims.rs",
            "sysdb/postgres/part.rs",
            "sysdb/postgres/races.rs",
            "sysdb/postgres/steps.rs",
            "sysdb/postgres/workflows.rs",
            "sysdb/postgres/writer.rs",
        ],
        suite: "conformance_postgres",
    },
];

/// The options of `mutants`.
#[derive(clap::Args, Default)]
pub(crate) struct MutantsArgs {
    /// Files to change, relative to `crates/engine/src` [default: all files listed in xtask/src/mutants.rs]
    #[arg(long, num_args = 1.., value_name = "FILE")]
    files: Vec<String>,
    /// Only say which changes would be made.
    #[arg(long)]
    list: bool,
    /// Time limit for the tests of one change, in seconds. A test that hangs ends by itself after three minutes.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    timeout: u64,
}

/// Tries all changes and fails if one was not noticed.
pub(crate) fn all_are_noticed() -> anyhow::Result<()> {
    let args = MutantsArgs { timeout: 300, ..MutantsArgs::default() };
    ensure!(run(&args)? == ExitCode::SUCCESS, "some changes were not noticed");
    Ok(())
}

pub(crate) fn run(args: &MutantsArgs) -> anyhow::Result<ExitCode> {
    for file in &args.files {
        let known = GROUPS.iter().any(|group| group.files.contains(&file.as_str()));
        ensure!(known, "{file} is in no group of xtask/src/mutants.rs, which says what tests it");
    }
    for file in GROUPS.iter().flat_map(|group| group.files) {
        ensure!(
            root().join(source(file)).is_file(),
            "crates/engine/src/{file} is in a group of xtask/src/mutants.rs, but not there"
        );
    }
    let program = program()?;
    let mut all_noticed = true;
    for group in &GROUPS {
        let asked = |file: &&&str| args.files.is_empty() || args.files.iter().any(|asked| asked == **file);
        let files: Vec<&str> = group.files.iter().filter(asked).copied().collect();
        if !files.is_empty() {
            all_noticed &= command(&program, args, group.suite, &files).status()?.success();
        }
    }
    Ok(if all_noticed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn source(file: &str) -> PathBuf {
    PathBuf::from("crates/engine/src").join(file)
}

/// The changes to files that one suite tests.
fn command(program: &PathBuf, args: &MutantsArgs, suite: &str, files: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).args([
        "mutants",
        "--package",
        "engine",
        "--features",
        "postgres,tokio",
        "--no-shuffle",
    ]);
    for file in files {
        command.arg("--file").arg(source(file));
    }
    if args.list {
        command.arg("--list");
        return command;
    }
    let timeout = Duration::from_secs(args.timeout).as_secs().to_string();
    command.args(["--timeout", &timeout, "--output"]).arg(root().join("target/mutants").join(suite));
    for word in ["--lib", "--test", suite] {
        command.arg(format!("--cargo-arg={word}"));
    }
    // No test here is about a disk that loses its power.
    let in_memory = PathBuf::from("/dev/shm");
    if suite == "conformance" {
        // This skips the tests of the other backend.
        command.env("PITON_PG_BIN", "none");
        if in_memory.is_dir() {
            command.env("TMPDIR", in_memory);
        }
    }
    command
}

/// The path of cargo-mutants. Installs it where it is missing, in the version that the settings are for.
fn program() -> anyhow::Result<PathBuf> {
    let tools = root().join("target/tools").join(VERSION);
    let program = tools.join("bin").join(format!("cargo-mutants{}", std::env::consts::EXE_SUFFIX));
    if !program.exists() {
        let install = ["install", "cargo-mutants", "--locked", "--version", VERSION, "--root"];
        let status = cargo().args(install).arg(&tools).status().context("cargo cannot be started")?;
        ensure!(status.success(), "cargo-mutants {VERSION} cannot be installed: {status}");
    }
    Ok(program)
}
