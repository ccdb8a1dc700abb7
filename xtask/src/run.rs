//! `cargo xtask run exN`: builds an example once and starts it. `--until-success` starts it again whenever it dies. The
//! events of its runs are in the example's journal, which survives every crash.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cargo;
use crate::supervise::{self, End};

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The example to run
    #[arg(value_parser = ["ex1", "ex2", "ex3", "ex4", "ex5", "ex6", "ex7"])]
    example: String,
    /// Restart the example after each crash until its workflow ends
    #[arg(long)]
    until_success: bool,
    /// Seed of the failures and crashes; the same seed gives the same run
    #[arg(long)]
    seed: Option<u64>,
    /// Directory for the state of the example [default: target/demos/EXAMPLE]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The system database, by a URL of SQLite or PostgreSQL [default: sqlite:DIR/system.db]
    #[arg(long, env = "DBOS_DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// Forget earlier runs first
    #[arg(long)]
    fresh: bool,
    /// Give up after this many restarts
    #[arg(long, default_value_t = 100)]
    max_restarts: u32,
    /// Print one JSON object as the last line of stdout
    #[arg(long)]
    json: bool,
    /// Further flags of the example, after `--`
    #[arg(last = true)]
    flags: Vec<OsString>,
}

/// The reason why the example is not started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// The workflow has ended, well or not; a restart would not change that.
    Ended,
    /// The program could not run at all.
    CannotRun(u8),
    Died,
    Limit,
    Interrupt,
}

/// The starts of one example.
struct Loop<'a> {
    args: &'a RunArgs,
    program: PathBuf,
    dir: PathBuf,
    began: Instant,
    deaths: Vec<String>,
    /// Where in the journal this loop began.
    journal_from: usize,
}

pub(crate) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let program = cargo::build("demos", &args.example, false)?;
    let dir = args.dir.clone().unwrap_or_else(|| default_dir(&program, &args.example));
    supervise::forward_signals()?;
    let journal_from = if args.fresh { 0 } else { journal_lines(&dir).len() };
    let mut starts = Loop { args, program, dir, began: Instant::now(), deaths: Vec::new(), journal_from };
    let stop = starts.until_it_stops()?;
    Ok(starts.tell(stop))
}

/// `target/demos/exN`, for a program in `target/debug`.
fn default_dir(program: &Path, example: &str) -> PathBuf {
    let target = program.ancestors().nth(2).unwrap_or_else(|| Path::new("target"));
    target.join("demos").join(example)
}

fn journal_lines(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("journal.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

impl Loop<'_> {
    fn until_it_stops(&mut self) -> anyhow::Result<Stop> {
        loop {
            let end = supervise::run(&mut self.command())
                .with_context(|| format!("{} cannot be started", self.program.display()))?;
            let signal = match end {
                End::Exit(0 | 1) => return Ok(Stop::Ended),
                // The example was told to stop, by this program or by the user.
                End::Exit(130) => return Ok(Stop::Interrupt),
                End::Exit(_) if supervise::was_interrupted() => return Ok(Stop::Interrupt),
                End::Exit(code) => return Ok(Stop::CannotRun(code)),
                End::Death(signal) => signal,
            };
            self.deaths.push(signal.clone());
            if supervise::was_interrupted() {
                return Ok(Stop::Interrupt);
            }
            if !self.args.until_success {
                self.say(&format!("the program died of {signal}; --until-success starts it again"));
                return Ok(Stop::Died);
            }
            let restarts = u32::try_from(self.deaths.len()).unwrap_or(u32::MAX);
            if restarts > self.args.max_restarts {
                self.say(&format!("the program died of {signal}; that was the last of {restarts} starts"));
                return Ok(Stop::Limit);
            }
            self.say(&format!("the program died of {signal}; restart {restarts}"));
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--dir").arg(&self.dir);
        if let Some(seed) = self.args.seed {
            command.arg("--seed").arg(seed.to_string());
        }
        // The runs are forgotten once, not at every restart.
        if self.args.fresh && self.deaths.is_empty() {
            command.arg("--fresh");
        }
        // The URL is not an argument: `ps` shows arguments to every user.
        if let Some(url) = &self.args.database_url {
            command.env("DBOS_DATABASE_URL", url);
        }
        if self.args.json {
            command.arg("--json").stdout(Stdio::null());
        }
        command.args(&self.args.flags);
        command
    }

    /// Prints to stderr, as the example's own lines where they are not on stdout.
    fn say(&self, line: &str) {
        if self.args.json {
            eprintln!("\nxtask: {line}\n");
        } else {
            println!("\nxtask: {line}\n");
        }
    }

    fn tell(&self, stop: Stop) -> ExitCode {
        let lines = journal_lines(&self.dir);
        let lines = lines.get(self.journal_from..).unwrap_or_default();
        let report = self.report(stop, lines);
        if self.args.json {
            println!("{report}");
        } else {
            println!("\nxtask: {}", in_words(stop, &report, &self.args.example));
        }
        match stop {
            Stop::Ended if report["status"] == "SUCCESS" => ExitCode::SUCCESS,
            Stop::CannotRun(code) => ExitCode::from(code),
            Stop::Interrupt => ExitCode::from(130),
            Stop::Ended | Stop::Died | Stop::Limit => ExitCode::from(1),
        }
    }

    fn report(&self, stop: Stop, lines: &[Value]) -> Value {
        let count = |event: &str| lines.iter().filter(|line| line["event"] == event).count();
        let last = |event: &str| lines.iter().rev().find(|line| line["event"] == event);
        let ended = last("ended").filter(|_| stop == Stop::Ended).cloned().unwrap_or_default();
        let workflow = last("workflow").map(|line| line["id"].clone()).unwrap_or_default();
        // A workflow that did not end is in the database and goes on.
        let pending = || if workflow.is_null() { Value::Null } else { json!("PENDING") };
        json!({
            "example": self.args.example,
            "workflow_id": workflow,
            "status": if ended.is_null() { pending() } else { ended["status"].clone() },
            "output": ended["output"],
            "error": ended["error"],
            "stopped_by": match stop {
                Stop::Ended => "end",
                Stop::CannotRun(_) => "error",
                Stop::Died => "death",
                Stop::Limit => "max_restarts",
                Stop::Interrupt => "interrupt",
            },
            "restarts": count("run").saturating_sub(1),
            "deaths": self.deaths,
            "unique_users": ended["unique_users"],
            "rows": ended["rows"],
            "duplicates": ended["duplicates"],
            "steps_run": count("step_run"),
            "steps_replayed": count("step_replayed"),
            "wall_ms": u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }
}

fn in_words(stop: Stop, report: &Value, example: &str) -> String {
    let number = |key: &str| report[key].as_u64().unwrap_or_default();
    let (restarts, wall) = (number("restarts"), Duration::from_millis(number("wall_ms")));
    let seconds = wall.as_secs_f64();
    let times = match restarts {
        0 => String::new(),
        1 => " after 1 restart".to_owned(),
        n => format!(" after {n} restarts"),
    };
    let steps = format!(
        "{} step attempts ran, {} recorded steps were replayed",
        number("steps_run"),
        number("steps_replayed")
    );
    match stop {
        Stop::Ended if report["status"] == "SUCCESS" => {
            format!("{example} succeeded{times} in {seconds:.1} s; {steps}")
        }
        Stop::Ended => format!(
            "{example} ended with {}{times}; this is final, so another start would not change it",
            report["status"].as_str().unwrap_or("no status")
        ),
        Stop::CannotRun(code) => {
            format!("{example} could not run (exit code {code}); a restart would not help")
        }
        Stop::Died => format!("{example} is not finished; its workflow waits for the next start"),
        Stop::Limit => {
            format!(
                "{example} is not finished{times}, the limit of --max-restarts; its workflow waits for the next start"
            )
        }
        Stop::Interrupt => format!("interrupted{times}; the workflow waits for the next start"),
    }
}
