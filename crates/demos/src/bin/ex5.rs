//! ex5: where the time goes. Ten batches of ten pages of ten users by child workflows, and a profile of the run:
//! engine, commits, step bodies, application database, waits.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use demos::profile::{Part, Profile};
use demos::{App, Demo, Example};
use engine::{BoxError, Codec, Context, Result, StepOptions, Workflow};
use store::Key;

const BATCHES: u64 = 10;
const PAGES: u64 = 10;

/// Pages are large and for this program alone, so bincode writes them. A step that fails one time in ten fails six
/// times in a row once in a million.
const GENERATE: StepOptions =
    StepOptions::new().attempts_max(6).interval(Duration::from_millis(10)).codec(Codec::Bincode);

/// Ten batches, each a child workflow; after each the process may crash.
fn users_workflow(
    ctx: &mut Context,
    batch: &Workflow<(String, u64), u64>,
    app: &App<Options>,
) -> Result<u64> {
    let id = ctx.workflow_id().to_string();
    let mut total = 0;
    for number in 0..BATCHES {
        total += ctx.run(batch, (id.clone(), number))?;
        if app.chaos.strikes("crash", app.options.crash, &[number]) {
            app.chaos.crash(&format!("after batch {}", number + 1));
        }
    }
    Ok(total)
}

/// Ten pages: each generated in a step, and inserted by the workflow itself.
fn users_batch_workflow(
    ctx: &mut Context,
    (run, number): (String, u64),
    app: &App<Options>,
    profile: &Profile,
) -> Result<u64, BoxError> {
    let analyzed_at = demos::now();
    let mut total = 0;
    for page in 0..PAGES {
        let users = ctx.step_with("users", &GENERATE, |step| {
            let place = [number, page, u64::from(step.attempt())];
            if app.chaos.strikes("generate", app.options.generate_failure, &place) {
                return Err("simulated failure of the generator");
            }
            Ok(model::fake_users(number * PAGES + page, 10))
        })?;
        profile.measure("insert_users_page", Part::ApplicationDatabase, || {
            app.store.users(|table| table.insert_page(&users, &run, analyzed_at))
        })?;
        total += users.len() as u64;
    }
    Ok(total)
}

const EXAMPLE: Example = Example {
    name: "ex5",
    teaches: "where the time goes: a profile of ten batches by child workflows",
    key: Key::Append,
    batches: Some(BATCHES),
    lesson: Some("look at main_profile.svg in a browser, or `snakeviz main_profile.prof`"),
};

#[derive(Args, Clone)]
struct Options {
    /// How likely the process crashes after each batch
    #[arg(long, default_value_t = 0.02, value_parser = demos::probability, allow_negative_numbers = true)]
    crash: f64,
    /// How likely generating a page fails
    #[arg(long, default_value_t = 0.1, value_parser = demos::probability, allow_negative_numbers = true)]
    generate_failure: f64,
}

fn main() -> ExitCode {
    let profile = Arc::new(Profile::default());
    demos::run_profiled(
        &EXAMPLE,
        profile.clone(),
        |demo: &Demo, options: Options| -> anyhow::Result<Workflow<(), u64>> {
            let (child, parent) = (demo.app(options.clone()), demo.app(options));
            let batch = demo.engine.register("users_batch_workflow", move |ctx: &mut Context, input| {
                users_batch_workflow(ctx, input, &child, &profile)
            })?;
            Ok(demo.engine.register("users_workflow", move |ctx: &mut Context, (): ()| {
                users_workflow(ctx, &batch, &parent)
            })?)
        },
    )
}
