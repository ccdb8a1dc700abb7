//! `cargo xtask`: runs the examples until they succeed, the checks, the torture and the bench.
//!
//! It depends on no crate of the workspace; it builds and runs their programs.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to people")]

mod beside;
mod cargo;
mod check;
mod compat;
mod mutants;
mod run;
mod supervise;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Run the examples, the checks, the torture, the bench"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run an example. With --until-success, restart it after each crash.
    Run(run::RunArgs),
    /// Run all checks: tests, format, lints, documentation, demos, torture, bench. With --full, also the checks that take hours.
    Ci(check::CiArgs),
    /// Change the engine in small ways, one at a time, and see whether the tests notice: --files --list --timeout.
    Mutants(mutants::MutantsArgs),
    /// Kill processes at random and audit what they leave: --seed N --kills K --processes P --dir D
    /// --backend postgres.
    #[command(disable_help_flag = true)]
    Torture {
        /// Arguments for the torture program.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<OsString>,
    },
    /// Compare the engine with the same rows written by hand (the floor): --json --quick --only WHAT --dir D --backend postgres
    /// --database-url URL.
    #[command(disable_help_flag = true)]
    Bench {
        /// Arguments for the bench program.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<OsString>,
    },
    /// Start a temporary PostgreSQL server and run a command with its URL in `DBOS_DATABASE_URL`: pg -- CMD
    Pg {
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "CMD")]
        args: Vec<OsString>,
    },
    /// Check that this engine and the DBOS package for Python can share a database. Needs python3 with pip, and
    /// PostgreSQL.
    Compat(compat::CompatArgs),
}

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| without_values(error).exit());
    let done = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Ci(args) => check::all(&args),
        Command::Mutants(args) => mutants::run(&args),
        Command::Torture { args } => cargo::hand_over("torture", &["judge".into()], &args),
        Command::Bench { args } => cargo::hand_over("bench", &[], &args),
        Command::Pg { args } => cargo::hand_over("cluster", &[], &args),
        Command::Compat(args) => compat::check(args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::from(3)
    })
}

/// The error without values. A value in a wrong place may come from a URL that was not quoted, so it may be the
/// password.
fn without_values(mut error: clap::Error) -> clap::Error {
    let may_be_of_a_url =
        |arg: &str| !arg.starts_with('-') && arg.contains(['=', ':', '/', '@', '?', '&', '%']);
    if matches!(error.get(ContextKind::InvalidArg), Some(ContextValue::String(arg)) if may_be_of_a_url(arg)) {
        error.insert(ContextKind::InvalidArg, ContextValue::String("***".to_owned()));
    }
    error
}
