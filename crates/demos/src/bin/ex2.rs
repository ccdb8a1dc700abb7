//! ex2: a step that does too much. It generates and inserts, and fails after the insert. So its retry inserts the same
//! rows again and violates the key. This example fails by design.

use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use demos::{Demo, Example};
use engine::{BoxError, Context, Result, StepInfo, StepOptions, Workflow};
use store::{Key, Store};

/// Three attempts, as by default, with shorter waits.
const RETRIES: StepOptions = StepOptions::retries().interval(Duration::from_millis(200));

/// Empties the table, then stores two pages. It comes no further than the first page.
fn users_workflow(ctx: &mut Context, store: &Store) -> Result<u64> {
    ctx.step("truncate", |_| store.users(|users| users.truncate()))?;
    let analyzed_at = ctx.step("analyzed_at", |_| Ok::<_, engine::Error>(demos::now()))?;
    let id = ctx.workflow_id().to_string();
    for page in 0..2 {
        ctx.step_with("users", &RETRIES, |step| generate_and_insert(step, store, page, &id, analyzed_at))?;
    }
    ctx.step("count", |_| store.users(|users| users.count()))
}

/// Two things in one step: when it fails after the second, the retry does both again.
fn generate_and_insert(
    step: &StepInfo,
    store: &Store,
    page: u64,
    workflow_id: &str,
    analyzed_at: DateTime<Utc>,
) -> Result<(), BoxError> {
    let list = model::fake_users(page, 10);
    store.users(|users| users.insert_page(&list, workflow_id, analyzed_at))?;
    if step.attempt() < step.attempts_max() {
        return Err("simulated error after the insert".into());
    }
    Ok(())
}

const EXAMPLE: Example = Example {
    name: "ex2",
    teaches: "fails by design: a step that inserts and then fails violates the key when it is tried again",
    key: Key::Strict,
    batches: None,
    lesson: Some(
        "let a step do one thing, or make the step safe to run twice. ex4 separates generating from inserting. ex6 \
         counts correctly despite duplicates. ex7 has no duplicates, because its inserts are transaction steps",
    ),
};

/// ex2 has no options of its own.
#[derive(Args)]
struct Options {}

fn main() -> ExitCode {
    demos::run(&EXAMPLE, |demo: &Demo, options: Options| -> anyhow::Result<Workflow<(), u64>> {
        let app = demo.app(options);
        Ok(demo
            .engine
            .register("users_workflow", move |ctx: &mut Context, (): ()| users_workflow(ctx, &app.store))?)
    })
}
