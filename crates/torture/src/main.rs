//! The torture as a program: `cargo xtask torture` runs it.

#![expect(clippy::print_stdout, reason = "its report is its output")]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use torture::judge::{self, JudgeArgs};
use torture::worker::{self, WorkerArgs};

#[derive(Parser)]
#[command(name = "torture", about = "Kills processes that run workflows, and audits what is left")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start workers, kill them at random, let the last one finish, audit.
    Judge(JudgeArgs),
    /// Run workflows until killed. The judge starts these.
    Worker(WorkerArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Judge(args) => judge::judge(&args).map(|verdict| {
            println!("{verdict}");
            verdict.is_clean()
        }),
        Command::Worker(args) => worker::work(&args).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("torture: {error:#}");
            ExitCode::from(3)
        }
    }
}
