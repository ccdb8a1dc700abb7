//! ex4: steps generate, the workflow inserts. After a crash the body runs again with another `analyzed_at`, so its
//! inserts violate no key. The truncation is in the body too, so no row is there twice.

use std::process::ExitCode;

use clap::Args;
use demos::{App, Demo, Example};
use engine::{BoxError, Context, Result, StepOptions, Workflow, WorkflowOptions};
use model::User;
use store::Key;

/// Generates in steps, inserts in between.
fn users_workflow(ctx: &mut Context, app: &App<Options>) -> Result<u64, BoxError> {
    let App { store, chaos, options, .. } = app;
    let id = ctx.workflow_id().to_string();
    store.users(|users| users.truncate())?;
    // Not a step, on purpose: a recovered run takes a new time and writes new rows.
    let analyzed_at = demos::now();

    let first = users(ctx, 0)?;
    store.users(|users| users.insert_page(&first, &id, analyzed_at))?;
    if chaos.strikes("crash", options.crash, &[]) {
        chaos.crash("between the pages");
    }
    let second = users(ctx, 1)?;
    store.users(|users| users.insert_page(&second, &id, analyzed_at))?;
    Ok(store.users(|users| users.count_of_workflow(&id))?)
}

/// Only generates: running it twice does no harm.
fn users(ctx: &mut Context, page: u64) -> Result<Vec<User>> {
    ctx.step_with("users", &StepOptions::retries(), |_| Ok::<_, engine::Error>(model::fake_users(page, 10)))
}

const EXAMPLE: Example = Example {
    name: "ex4",
    teaches: "steps generate, the workflow inserts: a recovered run writes its rows again, and the result is correct",
    key: Key::Strict,
    batches: None,
    lesson: None,
};

#[derive(Args)]
struct Options {
    /// How likely the process crashes between the pages
    #[arg(long, default_value_t = 0.5, value_parser = demos::probability, allow_negative_numbers = true)]
    crash: f64,
}

fn main() -> ExitCode {
    demos::run(&EXAMPLE, |demo: &Demo, options: Options| -> anyhow::Result<Workflow<(), u64>> {
        let app = demo.app(options);
        let recoveries = WorkflowOptions::new().recovery_attempts_max(3);
        Ok(demo.engine.register_with("users_workflow", recoveries, move |ctx: &mut Context, (): ()| {
            users_workflow(ctx, &app)
        })?)
    })
}
