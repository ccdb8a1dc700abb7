//! The engine beside the floor, which is the same rows written by hand. Driver, settings, file system and run are the
//! same.
//!
//! Floor and engine take turns, and medians of their rates are compared, because a shared machine changes from
//! second to second. Ratios mean something; bare rates describe this machine in this minute.
//!
//! Run it as `cargo xtask bench`.

#![expect(clippy::print_stdout, reason = "its report is its output")]

mod asynchronous;
mod floor;
mod ground;
mod load;
mod measure;
mod report;
mod scenarios;

use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};

use crate::ground::{Ground, OnPostgres, OnSqlite};
use crate::scenarios::{Bench, Scenario};

/// Compares the speed of the engine with the same rows written by hand (the floor).
#[derive(Parser)]
#[command(name = "bench")]
struct Args {
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
    /// Fewer rows and rounds: the numbers are rough.
    #[arg(long)]
    quick: bool,
    /// Run only this measurement: steps, workflows, recovery, ex6, queue, wake, tasks or in-flight.
    #[arg(long)]
    only: Option<Scenario>,
    /// Directory for the databases. The bench makes a temporary folder in it.
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// Measure on SQLite files, or on a temporary server of the installed PostgreSQL.
    #[arg(long, value_enum, default_value = "sqlite")]
    backend: Backend,
    /// Measure on this server. The bench creates its own databases and drops them afterwards.
    #[arg(long, value_name = "postgresql://USER@HOST/DATABASE", conflicts_with = "backend")]
    database_url: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Backend {
    Sqlite,
    Postgres,
}

impl Args {
    fn ground(&self, dir: &Path) -> anyhow::Result<Box<dyn Ground>> {
        Ok(match (&self.database_url, self.backend) {
            (Some(url), _) => Box::new(OnPostgres::at(url)?),
            (None, Backend::Postgres) => Box::new(OnPostgres::private()?),
            (None, Backend::Sqlite) => Box::new(OnSqlite::new(dir)),
        })
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if cfg!(debug_assertions) {
        anyhow::bail!("a debug build says nothing about speed; run it as `cargo xtask bench`");
    }
    std::fs::create_dir_all(&args.dir)?;
    let dir = tempfile::Builder::new().prefix("run-").tempdir_in(&args.dir)?;
    let bench = Bench::new(args.ground(dir.path())?, dir.path(), args.quick);
    let report = bench.run(args.only)?;
    report.print();
    if args.json {
        println!("{}", report.to_json());
    }
    Ok(())
}
