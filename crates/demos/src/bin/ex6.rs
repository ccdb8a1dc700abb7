//! ex6: inserts that fail after they have written, steps that fail, and crashes. Rows come out double; the window
//! query counts the latest version of each user, and finds exactly 1,000.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use demos::{App, Demo, Example};
use engine::{BoxError, Context, Result, StepOptions, Workflow};
use store::Key;

const BATCHES: u64 = 10;
const PAGES: u64 = 10;

/// A generator fails about once in fifty times.
const GENERATE: StepOptions = StepOptions::retries().interval(Duration::from_millis(100));
/// An insert fails often, and ten failures in a row are one in ten thousand batches.
const INSERT: StepOptions =
    StepOptions::new().attempts_max(10).interval(Duration::from_millis(100)).rate(0.1);

/// Ten batches, each a child workflow; after the fifth the process may crash.
fn users_workflow(
    ctx: &mut Context,
    batch: &Workflow<(String, u64), u64>,
    app: &App<Options>,
) -> Result<u64> {
    let id = ctx.workflow_id().to_string();
    for number in 1..=BATCHES {
        ctx.run(batch, (id.clone(), number))?;
        if number > 5 && app.chaos.strikes("crash", app.options.crash, &[number]) {
            app.chaos.crash(&format!("after batch {number}"));
        }
    }
    ctx.step("count", |_| app.store.users(|users| users.count_latest(Some(&id))))
}

/// Ten pages, generated one by one and inserted together, under the id of the whole run.
fn users_batch_workflow(ctx: &mut Context, (run, number): (String, u64), app: &App<Options>) -> Result<u64> {
    let App { store, chaos, options, .. } = app;
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
    // Not a step: a recovered run writes another time, and its rows are new versions.
    let analyzed_at = demos::now();
    ctx.step_with("insert", &INSERT, |step| -> Result<usize, BoxError> {
        store.users(|users| users.insert_page(&list, &run, analyzed_at))?;
        if chaos.strikes("insert", options.insert_failure, &[number, u64::from(step.attempt())]) {
            return Err("simulated failure after the write: its rows are in".into());
        }
        Ok(list.len())
    })
    .map(|inserted| inserted as u64)
}

const EXAMPLE: Example = Example {
    name: "ex6",
    teaches: "steps fail after their write and the process crashes, but each user is counted once",
    key: Key::Append,
    batches: Some(BATCHES),
    lesson: Some(
        "an insert that fails after its write leaves its rows behind, and the retry adds new versions of the same \
         users. Count the latest version of each user, or write in a transaction step as ex7 does",
    ),
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

fn main() -> ExitCode {
    demos::run(&EXAMPLE, |demo: &Demo, options: Options| -> anyhow::Result<Workflow<(), u64>> {
        let (child, parent) = (demo.app(options.clone()), demo.app(options));
        let batch = demo.engine.register("users_batch_workflow", move |ctx: &mut Context, input| {
            users_batch_workflow(ctx, input, &child)
        })?;
        Ok(demo.engine.register("users_workflow", move |ctx: &mut Context, (): ()| {
            users_workflow(ctx, &batch, &parent)
        })?)
    })
}
