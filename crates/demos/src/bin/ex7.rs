//! ex7: ex6 with transaction steps. The rows and the record of their step are one commit. So the same failures and the
//! same crashes leave exactly 1,000 rows, and no row has to be left out of the count.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use demos::{App, Counts, Demo, Example};
use engine::{BoxError, Context, Result, StepOptions, Workflow};
use serde::{Deserialize, Serialize};
use store::Key;

const BATCHES: u64 = 10;
const PAGES: u64 = 10;

/// A generator fails about once in fifty times.
const GENERATE: StepOptions = StepOptions::retries().interval(Duration::from_millis(100));
/// An insert fails often, and ten failures in a row are one in ten thousand batches.
const INSERT: StepOptions =
    StepOptions::new().attempts_max(10).interval(Duration::from_millis(100)).rate(0.1);

/// The workflow's result. The users are in the system database, so the workflow counts them itself.
#[derive(Clone, Serialize, Deserialize)]
struct Found {
    unique_users: u64,
    rows: u64,
}

/// Ten batches, each a child workflow; after the fifth the process may crash.
fn users_workflow(
    ctx: &mut Context,
    batch: &Workflow<(String, u64), u64>,
    app: &App<Options>,
) -> Result<Found> {
    let id = ctx.workflow_id().to_string();
    ctx.transaction("create", |tx| {
        let users = app.users_in(tx);
        users.create()?;
        users.truncate()
    })?;
    for number in 1..=BATCHES {
        ctx.run(batch, (id.clone(), number))?;
        if number > 5 && app.chaos.strikes("crash", app.options.crash, &[number]) {
            app.chaos.crash(&format!("after batch {number}"));
        }
    }
    ctx.transaction("count", |tx| -> store::Result<Found> {
        let users = app.users_in(tx);
        Ok(Found { unique_users: users.count_latest(Some(&id))?, rows: users.count_of_workflow(&id)? })
    })
}

/// Ten pages, generated one by one and inserted together, with the step's record or not at all.
fn users_batch_workflow(ctx: &mut Context, (run, number): (String, u64), app: &App<Options>) -> Result<u64> {
    let App { chaos, options, .. } = app;
    let mut list = Vec::new();
    for page in 0..PAGES {
        list.extend(ctx.step_with("users", &GENERATE, |step| {
            let place = [number, page, u64::from(step.attempt())];
            if chaos.strikes("generate", options.generate_failure, &place) {
                return Err("simulated failure of the generator");
            }
            Ok(model::fake_users(number * PAGES + page, 10))
        })?);
    }
    let analyzed_at = demos::now();
    ctx.transaction_with("insert", &INSERT, |tx, step| -> Result<usize, BoxError> {
        app.users_in(tx).insert_page(&list, &run, analyzed_at)?;
        if chaos.strikes("insert", options.insert_failure, &[number, u64::from(step.attempt())]) {
            return Err("simulated failure after the write: its rows are rolled back".into());
        }
        Ok(list.len())
    })
    .map(|inserted| inserted as u64)
}

const EXAMPLE: Example = Example {
    name: "ex7",
    teaches: "ex6's failures with transaction steps: effect and record are one commit, so there are no duplicates",
    key: Key::Append,
    batches: Some(BATCHES),
    lesson: None,
};

#[derive(Args, Clone)]
struct Options {
    /// How likely the process crashes after each batch from the sixth on
    #[arg(long, default_value_t = 0.1, value_parser = demos::probability, allow_negative_numbers = true)]
    crash: f64,
    /// How likely an insert fails after it has written
    #[arg(long, default_value_t = 0.4, value_parser = demos::probability, allow_negative_numbers = true)]
    insert_failure: f64,
    /// How likely generating a page fails
    #[arg(long, default_value_t = 0.02, value_parser = demos::probability, allow_negative_numbers = true)]
    generate_failure: f64,
}

impl From<Found> for Counts {
    fn from(found: Found) -> Self {
        Self { unique_users: found.unique_users, rows: Some(found.rows) }
    }
}

fn main() -> ExitCode {
    demos::run(&EXAMPLE, |demo: &Demo, options: Options| -> anyhow::Result<Workflow<(), Found>> {
        let (child, parent) = (demo.app(options.clone()), demo.app(options));
        let batch = demo.engine.register("users_batch_workflow", move |ctx: &mut Context, input| {
            users_batch_workflow(ctx, input, &child)
        })?;
        Ok(demo.engine.register("users_workflow", move |ctx: &mut Context, (): ()| {
            users_workflow(ctx, &batch, &parent)
        })?)
    })
}
