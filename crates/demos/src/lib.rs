//! The shared parts of the examples: arguments, a directory for their state, a story of the run, chaos. Also the
//! decision whether to go on with an earlier run or to start one.
//!
//! Each example is a binary in `src/bin/` with its workflow on top. [`run`] does the rest:
//!
//! 1. opens the system database and the application database in the example's directory;
//! 2. lets the example register its workflows, and launches the engine, which takes up what an earlier process
//!    left behind;
//! 3. adopts a pending run, or starts one when there is none;
//! 4. tells how it ended, in words or as one JSON object.
//!
//! Exit codes: 0 for success, 1 for a workflow that ended otherwise, 2 for wrong arguments, 3 when it could not run. An
//! interrupted run has 130. A crash ends by a signal.

mod chaos;
mod demo;
mod finish;
mod journal;
pub mod profile;
mod state;
mod story;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser};
use engine::sql::Native;
use engine::{Tx, Workflow};
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{Key, Store, Users};

pub use chaos::Chaos;
pub use demo::Demo;
pub use finish::Counts;
use profile::Profile;
pub use state::now;

/// A seed under which ex3 to ex7 crash at least once and then end well.
const SEED: u64 = 6709;

/// An example.
pub struct Example {
    /// `ex1` to `ex7`.
    pub name: &'static str,
    /// The lesson of the example, in one line.
    pub teaches: &'static str,
    /// The shape of its users table.
    pub key: Key,
    /// How many batches it has. Without batches the story tells each step.
    pub batches: Option<u64>,
    /// The conclusion, told at the end.
    pub lesson: Option<&'static str>,
}

/// Arguments that every example takes.
#[derive(Clone, Args)]
pub struct Common {
    /// Where the example keeps its state [default: target/demos/NAME]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The system database, by a URL of SQLite or PostgreSQL [default: sqlite:DIR/system.db]
    #[arg(long, env = "DBOS_DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// Seed of the failures and crashes. They also depend on the number of earlier runs in the directory
    #[arg(long, default_value_t = SEED, allow_negative_numbers = true)]
    seed: u64,
    /// Forget earlier runs first: delete the example's files in the directory. In a database named by URL, cancel its
    /// unfinished runs and empty its users table. No database is dropped
    #[arg(long)]
    fresh: bool,
    /// Tell the story on stderr, and print one JSON object as the last line of stdout
    #[arg(long)]
    json: bool,
}

#[derive(Parser)]
#[command(version, disable_help_subcommand = true)]
struct Cli<A: Args> {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    own: A,
}

/// The parts with which an example's workflows work. It holds no engine, because the engine holds the workflows.
pub struct App<O> {
    /// The application database.
    pub store: Arc<Store>,
    /// Failures on demand.
    pub chaos: Arc<Chaos>,
    /// The example's own arguments.
    pub options: O,
    /// The name of the users table in the system database on a server; in a file it is `users`.
    table: String,
    key: Key,
}

impl<O> App<O> {
    /// The users table in the system database, inside a transaction step.
    pub fn users_in<'c>(&self, tx: &'c mut Tx<'_>) -> Users<'c> {
        match tx.native() {
            Native::Sqlite(transaction) => Users::new(transaction, self.key),
            Native::Postgres(transaction) => Users::on_postgres(transaction, &self.table, self.key),
        }
    }
}

/// Parses the arguments, lets `register` make the workflow, runs it, and tells how it ended.
pub fn run<A, O>(
    example: &'static Example,
    register: impl FnOnce(&Demo, A) -> anyhow::Result<Workflow<(), O>>,
) -> ExitCode
where
    A: Args,
    O: Serialize + DeserializeOwned + Clone + Into<Counts>,
{
    play(example, None, register)
}

/// Runs an example as [`run`] does, and writes a profile of the run to the example's directory.
pub fn run_profiled<A, O>(
    example: &'static Example,
    profile: Arc<Profile>,
    register: impl FnOnce(&Demo, A) -> anyhow::Result<Workflow<(), O>>,
) -> ExitCode
where
    A: Args,
    O: Serialize + DeserializeOwned + Clone + Into<Counts>,
{
    play(example, Some(profile), register)
}

fn play<A, O>(
    example: &'static Example,
    profile: Option<Arc<Profile>>,
    register: impl FnOnce(&Demo, A) -> anyhow::Result<Workflow<(), O>>,
) -> ExitCode
where
    A: Args,
    O: Serialize + DeserializeOwned + Clone + Into<Counts>,
{
    let command = Cli::<A>::command().name(example.name).about(example.teaches);
    let matches = command.try_get_matches().unwrap_or_else(|error| without_values(error).exit());
    let mut cli = Cli::<A>::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    // A variable without a text counts as missing.
    if matches.value_source("database_url") == Some(ValueSource::EnvVariable) {
        cli.common.database_url.take_if(|url| url.is_empty());
    }
    let json = cli.common.json;
    let played = Demo::open(example, &cli.common, profile)
        .and_then(|demo| register(&demo, cli.own).and_then(|workflow| demo.play(&workflow)));
    played.unwrap_or_else(|error| {
        let told = story::one_line(&format!("{error:#}"));
        // The reader may have gone.
        let _ = writeln!(io::stderr(), "{}: {told}", example.name);
        if json {
            finish::print_json(&serde_json::json!({ "example": example.name, "error": told }));
        }
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

/// A probability between 0 and 1, for arguments.
///
/// # Errors
/// A text with the reason.
pub fn probability(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(p) if (0.0..=1.0).contains(&p) => Ok(p),
        _ => Err("a probability lies between 0 and 1, for example 0.4".to_owned()),
    }
}
