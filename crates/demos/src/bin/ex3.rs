//! ex3: a crash between two steps. The process dies of a real segmentation fault; the next start goes on after the
//! last recorded step.

use std::process::ExitCode;

use clap::Args;
use demos::{App, Demo, Example};
use engine::{BoxError, Context, Result, Workflow, WorkflowOptions};
use store::{Key, Store};

/// Stores a page, may crash, stores another. The truncation is a step: otherwise a recovered run would do it again and
/// lose the first page. `--truncate-in-body` shows that.
fn users_workflow(ctx: &mut Context, app: &App<Options>) -> Result<u64, BoxError> {
    let App { store, chaos, options, .. } = app;
    if options.truncate_in_body {
        store.users(|users| users.truncate())?;
    } else {
        ctx.step("truncate", |_| store.users(|users| users.truncate()))?;
    }
    users(ctx, store, 0)?;
    if chaos.strikes("crash", options.crash, &[]) {
        chaos.crash("between the pages");
    }
    users(ctx, store, 1)?;
    let id = ctx.workflow_id().to_string();
    Ok(ctx.step("count", |_| store.users(|users| users.count_latest(Some(&id))))?)
}

/// One page, generated and inserted in one step. A crash inside it would insert the rows again as new versions. Each
/// user is counted once.
fn users(ctx: &mut Context, store: &Store, page: u64) -> Result<()> {
    let id = ctx.workflow_id().to_string();
    ctx.step("users", |_| {
        let list = model::fake_users(page, 10);
        store.users(|users| users.insert_page(&list, &id, demos::now()))
    })
}

const EXAMPLE: Example = Example {
    name: "ex3",
    teaches: "a crash between two steps: the next start goes on after the last recorded step",
    key: Key::Append,
    batches: None,
    lesson: None,
};

#[derive(Args)]
struct Options {
    /// How likely the process crashes between the pages
    #[arg(long, default_value_t = 0.5, value_parser = demos::probability, allow_negative_numbers = true)]
    crash: f64,
    /// Empty the table in the workflow's body and not in a step: a recovered run loses the first page
    #[arg(long)]
    truncate_in_body: bool,
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
