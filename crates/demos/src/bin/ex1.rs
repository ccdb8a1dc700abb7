//! ex1: the first workflow. Three kinds of steps, recorded one by one.

use std::process::ExitCode;

use clap::Args;
use demos::{Demo, Example};
use engine::{Context, Result, Workflow};
use store::{Key, Store};

/// Empties the table, stores two pages of ten users, and counts them.
fn users_workflow(ctx: &mut Context, store: &Store) -> Result<u64> {
    ctx.step("truncate", |_| store.users(|users| users.truncate()))?;
    // The time differs at every look, so it is a step: a recovered run goes on with the recorded time.
    let analyzed_at = ctx.step("analyzed_at", |_| Ok::<_, engine::Error>(demos::now()))?;
    let id = ctx.workflow_id().to_string();
    for page in 0..2 {
        let list = ctx.step("users", |_| Ok::<_, engine::Error>(model::fake_users(page, 10)))?;
        ctx.step("insert", |_| store.users(|users| users.insert_page(&list, &id, analyzed_at)))?;
    }
    ctx.step("count", |_| store.users(|users| users.count_latest(Some(&id))))
}

const EXAMPLE: Example = Example {
    name: "ex1",
    teaches: "a workflow of steps: each runs, is recorded, and never runs again",
    key: Key::Append,
    batches: None,
    lesson: None,
};

/// ex1 has no options of its own.
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
