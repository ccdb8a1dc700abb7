//! An async workflow that does several things at once: steps by `tokio::join!`, and any number of children.
//!
//! Each operation takes its place in the workflow when it is called, not when it is awaited or ends. So a replay finds
//! each in its place, in any order of their ends. Await each to its end; `select!` and `try_join!` would drop some.
//!
//! Run it: `cargo run --bin async_fan_out -p examples`

#![expect(clippy::pedantic, clippy::print_stdout, reason = "an example is plain code, and prints")]

use std::time::Duration;

use engine::{AsyncContext, BoxError, Engine, Result, Workflow, WorkflowFilter};
use futures_util::future::join_all;
use tokio::sync::Barrier;

/// Asks three shops at once. Each step waits until all three have asked, so none would end if they ran one after the
/// other.
async fn cheapest(mut ctx: AsyncContext, item: String) -> Result<u32> {
    let all_have_asked = Barrier::new(3);
    let ask = async |price: u32| {
        all_have_asked.wait().await;
        engine::ok(price * item.len() as u32)
    };
    let north = ctx.step("ask north", async |_| ask(30).await);
    let south = ctx.step("ask south", async |_| ask(20).await);
    let west = ctx.step("ask west", async |_| ask(25).await);
    let (north, south, west) = tokio::join!(north, south, west);
    Ok(north?.min(south?).min(west?))
}

/// A child for each item: a workflow with an id, a record and a recovery of its own.
async fn shopping(mut ctx: AsyncContext, cheapest: Workflow<String, u32>, items: Vec<String>) -> Result<u32> {
    let starts: Vec<_> = items.into_iter().map(|item| ctx.start(&cheapest, item)).collect();
    let children = join_all(starts).await.into_iter().collect::<Result<Vec<_>>>()?;

    let prices: Vec<_> = children.iter().map(|child| child.result(&mut ctx)).collect();
    join_all(prices).await.into_iter().sum()
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let dir = tempfile::tempdir()?;
    let url = format!("sqlite:{}", dir.path().join("prices.db").display());

    let engine = Engine::options().open_async(&url).await?;
    let child = engine.register("cheapest", cheapest)?;
    let shopping =
        engine.register("shopping", move |ctx: AsyncContext, items| shopping(ctx, child.clone(), items))?;
    engine.launch().await?;

    let items = ["pen", "ink", "paper"].map(str::to_owned).to_vec();
    let trip = engine.start_as(&shopping, "monday", items).await?;
    let id = trip.id().clone();
    println!("{id}: {} cents", trip.await?);

    for child in engine.list(&WorkflowFilter::new().parent(id)).await? {
        println!("{} {}: {}", child.name, child.id, child.output.unwrap_or_default());
        for step in engine.steps(&child.id).await? {
            println!("  {} {}: {}", step.step_id, step.name, step.output.unwrap_or_default());
        }
    }
    engine.shutdown(Duration::from_secs(10)).await;
    Ok(())
}

// Output:
// monday: 220 cents
// cheapest monday-1: 60
//   1 ask north: 90
//   2 ask south: 60
//   3 ask west: 75
// cheapest monday-2: 60
//   1 ask north: 90
//   2 ask south: 60
//   3 ask west: 75
// cheapest monday-3: 100
//   1 ask north: 150
//   2 ask south: 100
//   3 ask west: 125
