//! A program for `cargo xtask compat`: `serve` runs workflows until its standard input ends, `ask` puts one into a
//! queue, also of another application, and prints what came of it.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its lines are what the checks read")]

mod ask;
mod gate;
mod workflows;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use engine::Engine;

/// Which database, and as which application.
#[derive(Parser)]
#[command(name = "compat", about = "Shares a database with programs of the official DBOS packages")]
struct Cli {
    /// The system database
    #[arg(long, env = "DBOS_DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// Name of this application
    #[arg(long, default_value = "rust")]
    app: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run workflows until standard input ends; a line `release ID` there lets a held workflow go on.
    Serve,
    /// Enqueue a workflow by its name, wait for it, and print its result or its error as JSON.
    Ask(ask::AskArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        Command::Serve => serve(&cli),
        Command::Ask(args) => open(&cli).and_then(|engine| args.ask(&engine)),
    };
    done.map_or_else(
        |error| {
            eprintln!("compat: {error:#}");
            ExitCode::from(3)
        },
        |()| ExitCode::SUCCESS,
    )
}

fn open(cli: &Cli) -> anyhow::Result<Engine> {
    // The checks wait until a wait has left its thread.
    let options = Engine::options().suspend_after(Duration::from_millis(500));
    Ok(options.app(&cli.app).open(&cli.database_url)?)
}

fn serve(cli: &Cli) -> anyhow::Result<()> {
    let engine = open(cli)?;
    let gate = gate::Gate::default();
    workflows::register(&engine, &gate)?;
    engine.launch()?;
    println!("ready");
    for line in std::io::stdin().lines() {
        if let Some(id) = line?.strip_prefix("release ") {
            gate.release(id);
        }
    }
    engine.shutdown(Duration::from_secs(10));
    Ok(())
}
