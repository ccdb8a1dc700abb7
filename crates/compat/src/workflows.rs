//! The workflows that programs in other languages start, watch, stop, and fork.

use std::time::Duration;

use engine::{
    BoxError, Context, Engine, EnqueueOptions, Error, Failure, Queue, QueueOptions, Result, Workflow,
};
use serde::{Deserialize, Serialize};

use crate::gate::Gate;

/// The queue that this program serves.
const ORDERS: &str = "rust-orders";

/// The input of `price`: the arguments `item`, `count` and `express`, by place or by name.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    item: String,
    count: u32,
    #[serde(default)]
    express: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Priced {
    item: String,
    express: bool,
    total: u32,
}

/// The input of `stages`.
#[derive(Debug, Serialize, Deserialize)]
struct Stages {
    steps: u32,
    /// The step that is held until it is released.
    hold_at: u32,
}

pub(crate) fn register(engine: &Engine, gate: &Gate) -> Result<()> {
    engine.register("price", price)?;
    engine.register("refuse", |ctx: &mut Context, item: String| refuse(ctx, &item))?;
    engine.register("greet", |ctx: &mut Context, greeting: String| greet(ctx, &greeting))?;
    engine.register("add-in-python", add_in_python)?;
    let gate = gate.clone();
    engine.register("stages", move |ctx: &mut Context, stages: Stages| run_stages(ctx, &gate, &stages))?;
    engine.register_queue(ORDERS, QueueOptions::new())?;
    Ok(())
}

fn price(ctx: &mut Context, order: Order) -> Result<Priced> {
    let Order { item, count, express } = order;
    let one = ctx.step("look up", |_| Ok::<_, Error>(10))?;
    let total = ctx.step("multiply", |_| Ok::<_, Error>(one * count))?;
    Ok(Priced { item, express, total })
}

/// Fails with every part that an error can have.
fn refuse(ctx: &mut Context, item: &str) -> Result<(), BoxError> {
    let left = ctx.step("count the stock", |_| Ok::<_, Error>(0_u32))?;
    let failure = Failure::new("OutOfStock", format!("{left} of {item} left")).with_code(409);
    Err(failure.with_data(serde_json::json!({ "item": item })).into())
}

/// Waits for a message that carries a name.
fn greet(ctx: &mut Context, greeting: &str) -> Result<String> {
    let name: Option<String> = ctx.recv("name", Duration::from_secs(120))?;
    Ok(format!("{greeting}, {}", name.as_deref().unwrap_or("nobody")))
}

fn run_stages(ctx: &mut Context, gate: &Gate, stages: &Stages) -> Result<Vec<String>> {
    (1..=stages.steps)
        .map(|stage| {
            ctx.step(&format!("stage {stage}"), |step| {
                println!("ran {} {stage}", step.workflow_id());
                if stage == stages.hold_at {
                    gate.hold(step)?;
                }
                Ok::<_, BoxError>(format!("done {stage}"))
            })
        })
        .collect()
}

/// A child that runs in a program of another language.
fn add_in_python(ctx: &mut Context, (a, b): (i64, i64)) -> Result<i64> {
    let add = Workflow::<(i64, i64), i64>::named("add");
    let options = EnqueueOptions::new().application("python").spread_arguments();
    ctx.enqueue_with(&add, &Queue::named("python-work"), &options, (a, b))?.result(ctx)
}
