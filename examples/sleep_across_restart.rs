//! A sleep that outlives its process.
//!
//! The workflow goes to sleep and its process is killed (SIGKILL, no clean-up). This process opens the same file and
//! the workflow goes on. It sleeps for the rest of the time, and the step before the sleep does not run again.
//!
//! Run it: `cargo run --bin sleep_across_restart -p examples`

#![expect(clippy::pedantic, clippy::print_stdout, reason = "an example is plain code, and prints")]

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use engine::{BoxError, Context, Engine, Event, Observer, Result, Stop};

fn remind(ctx: &mut Context, user: String) -> Result<()> {
    let address = ctx.step("look up", |_| look_up(&user))?;
    ctx.sleep(Duration::from_secs(2))?; // three days work the same way
    ctx.step("mail", |_| mail(&address))
}

fn look_up(user: &str) -> Result<String> {
    println!("looking up {user}");
    Ok(format!("{user}@example.org"))
}

fn mail(address: &str) -> Result<()> {
    println!("mail to {address}");
    Ok(())
}

/// Every start of the program does this, the first and the next.
fn remind_ada(url: &str) -> Result<()> {
    // A longer sleep than this gives its thread back. Five seconds is the default.
    let options = Engine::options().suspend_after(Duration::ZERO).observer(Arc::new(Sleepers));
    let engine = options.open(url)?;
    let remind = engine.register("remind", remind)?;
    engine.launch()?;
    remind.start_as(&engine, "remind-ada", "ada".to_owned())?.result()
}

/// Tells when a workflow sleeps, so that the process can be killed at the right moment.
struct Sleepers;

impl Observer for Sleepers {
    fn observe(&self, event: &Event<'_>) {
        if let Event::WorkflowLeft { reason: Stop::Suspended, .. } = event {
            println!("asleep");
        }
    }
}

fn main() -> Result<(), BoxError> {
    if let Some(url) = env::args().nth(1) {
        return Ok(remind_ada(&url)?);
    }
    let dir = tempfile::tempdir()?;
    let url = format!("sqlite:{}", dir.path().join("reminders.db").display());

    let mut first = Command::new(env::current_exe()?).arg(&url).stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(first.stdout.take().ok_or("no pipe")?).lines();
    for line in lines {
        let line = line?;
        println!("first process: {line}");
        if line == "asleep" {
            first.kill()?;
        }
    }
    first.wait()?;
    println!("first process: killed");
    remind_ada(&url)?;
    Ok(())
}

// Output:
// first process: looking up ada
// first process: asleep
// first process: killed
// mail to ada@example.org
