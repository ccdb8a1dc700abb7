//! The engine beside the floor: what the same rows cost when they are written by hand, with the same driver, the
//! same settings, on the same file system, in the same run.
//!
//! Floor and engine take turns, and medians of their rates are compared, because a shared machine changes from
//! second to second. Ratios mean something; bare rates describe this machine in this minute.
//!
//! Run it as `cargo xtask bench`.

#![expect(clippy::print_stdout, reason = "its report is its output")]

mod floor;
mod load;
mod measure;
mod report;
mod scenarios;

use std::path::PathBuf;

use clap::Parser;

use crate::scenarios::{Bench, Scenario};

/// Measures the engine beside the floor.
#[derive(Parser)]
#[command(name = "bench")]
struct Args {
    /// One JSON object as the last line.
    #[arg(long)]
    json: bool,
    /// Fewer rows and rounds: the numbers are rough.
    #[arg(long)]
    quick: bool,
    /// Only this one: steps, workflows, recovery or ex6.
    #[arg(long)]
    only: Option<Scenario>,
    /// Where to put the databases (a temporary folder inside it) [default: target/bench].
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if cfg!(debug_assertions) {
        anyhow::bail!("a debug build says nothing about speed; run it as `cargo xtask bench`");
    }
    std::fs::create_dir_all(&args.dir)?;
    let bench = Bench::new(&args.dir, args.quick)?;
    let report = bench.run(args.only)?;
    report.print();
    if args.json {
        println!("{}", report.to_json());
    }
    Ok(())
}
