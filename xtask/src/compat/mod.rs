//! `cargo xtask compat`: the official DBOS package for Python and this engine on one database, in both directions.
//!
//! It needs python3, the network (once, for the packages) and PostgreSQL, so it is not part of `cargo test`. Each check
//! has databases of its own and prints a line for each result.

mod command_line;
mod enqueued;
mod foreign;
mod migrated;
mod program;
mod python;
mod reading;
mod seen;
mod server;
mod together;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::cargo;
use program::Program;
use python::Python;
use server::Server;

#[derive(Debug, clap::Args)]
pub(crate) struct CompatArgs {
    /// A Python of 3.11 or newer to make the environments with
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Only the checks whose name contains this
    #[arg(long, value_name = "WORDS")]
    only: Option<String>,
}

/// The parts with which the checks work.
struct Bench {
    /// A directory that may be written to.
    dir: PathBuf,
    /// A Python with the package whose schema the engine writes.
    python: Python,
    server: Server,
    /// Our program, `compat`.
    program: PathBuf,
    args: CompatArgs,
}

type Check = (&'static str, fn(&Bench) -> anyhow::Result<()>);

const CHECKS: [Check; 8] = [
    ("a database that the engine brought up", reading::schema),
    ("workflows enqueued by the Python client", enqueued::by_the_client),
    ("workflows enqueued and messages sent by SQL alone", enqueued::by_sql),
    ("the dbos command line, while workflows run", command_line::check),
    ("Rust and Python for each other on one database", foreign::check),
    ("Rust and Python die and recover beside each other", together::check),
    ("a database that Python migrated", migrated::check),
    ("ex6 read by the Python client", reading::ex6),
];

pub(crate) fn check(args: CompatArgs) -> anyhow::Result<ExitCode> {
    let program = cargo::build("compat", "compat", false)?;
    let target = program.ancestors().nth(2).context("the program lies in no target directory")?;
    let dir = target.join("compat");
    let python = Python::environment(&args.python, &dir.join("venv"), python::PACKAGE)?;
    let bench = Bench { dir, python, server: Server::start()?, program, args };
    let wanted = |name: &str| bench.args.only.as_ref().is_none_or(|words| name.contains(words.as_str()));
    let (mut done, mut failed) = (0, Vec::new());
    for (name, check) in CHECKS.into_iter().filter(|(name, _)| wanted(name)) {
        println!("\n== {name}");
        done += 1;
        if let Err(error) = check(&bench) {
            println!("FAILED: {error:#}");
            failed.push(name);
        }
    }
    if done == 0 {
        bail!("no check has this in its name; there are: {}", CHECKS.map(|(name, _)| name).join("; "));
    }
    if !failed.is_empty() {
        bail!("{} of {done} checks failed: {}", failed.len(), failed.join("; "));
    }
    println!("\nall {done} checks passed with {}", python::PACKAGE);
    Ok(ExitCode::SUCCESS)
}

impl Bench {
    /// Our program as a worker on a database, ready to run workflows.
    fn rust(&self, url: &str) -> anyhow::Result<Program> {
        let mut command = std::process::Command::new(&self.program);
        command.arg("serve").env("DBOS_DATABASE_URL", url);
        Program::start(&mut command)
    }

    /// Runs our program as a client. Its output is JSON.
    fn ask(&self, url: &str, args: &[&str]) -> anyhow::Result<serde_json::Value> {
        let mut command = std::process::Command::new(&self.program);
        command.args(["--app", "client", "ask"]).args(args).env("DBOS_DATABASE_URL", url);
        seen::json(&python::succeed(&mut command)?)
    }
}
