//! A step that fails is tried again, if you say so.
//!
//! [`StepOptions`] says how often, how long to wait between, and which errors are worth another attempt. The end is
//! recorded: the value, or the error with the failures of the attempts.
//!
//! Run it: `cargo run --bin retries -p examples`

#![expect(clippy::pedantic, clippy::print_stdout, reason = "an example is plain code, and prints")]

use std::io::{self, ErrorKind};
use std::time::Duration;

use engine::{BoxError, Context, Engine, Result, StepOptions};

/// The bank drops a connection now and then. A refusal stays a refusal, however often we ask.
const FLAKY_BANK: StepOptions = StepOptions::retries()
    .attempts_max(3)
    .interval(Duration::from_millis(10))
    .should_retry(|error| error.downcast_ref::<io::Error>().is_none_or(|e| e.kind() == ErrorKind::TimedOut));

fn pay(ctx: &mut Context, bank: String) -> Result<String> {
    ctx.step_with("charge", &FLAKY_BANK, |step| charge(&bank, step.attempt()))
}

/// A bank: the slow bank answers at the third call, the dead bank never, the strict bank refuses. Calls count from 1.
fn charge(bank: &str, call: u32) -> io::Result<String> {
    println!("calling the {bank} bank");
    match bank {
        "slow" if call == 3 => Ok("paid".to_owned()),
        "strict" => Err(io::Error::new(ErrorKind::PermissionDenied, "card declined")),
        _ => Err(io::Error::new(ErrorKind::TimedOut, "no answer")),
    }
}

fn main() -> Result<(), BoxError> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("retries.db");

    let engine = Engine::options().open_file(&file)?;
    let pay = engine.register("pay", pay)?;
    engine.launch()?;

    for bank in ["slow", "dead", "strict"] {
        match pay.start_as(&engine, bank, bank.to_owned())?.result() {
            Ok(receipt) => println!("=> {receipt}"),
            Err(error) => println!("=> {error}"),
        }
    }
    Ok(())
}

// Output:
// calling the slow bank
// calling the slow bank
// calling the slow bank
// => paid
// calling the dead bank
// calling the dead bank
// calling the dead bank
// => workflow dead failed: step charge failed 3 times: no answer
// calling the strict bank
// => workflow strict failed: step charge failed: card declined
