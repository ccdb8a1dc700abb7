//! The workflows of the torture as async functions. Their steps have the names and numbers of the plain ones, so that a
//! run which one kind began goes on in the other.
//!
//! Where the order does not matter, several operations are awaited at once, so that a killed process leaves holes in
//! the records.

use std::sync::Arc;

use engine::sql::SqlError;
use engine::{AsyncContext, BoxError, Error, Result, StepInfo, Workflow, WorkflowId};
use futures_util::future::{join, join_all};
use tokio::task::yield_now;

use crate::points::Point;
use crate::workload::{
    EVERYTHINGS_NAP, FLAKY, FOUR_STEPS, PATIENCE, SHORT_NAP, Seen, Value, Workload, body_ends, or_nothing,
    step_begins, step_ends, unique,
};

/// A step whose body leaves a trace and returns a value that no other execution returns.
pub(crate) fn step<'w>(
    workload: &'w Workload,
    ctx: &mut AsyncContext,
    name: &'w str,
) -> impl Future<Output = Result<String>> + Send + use<'w> {
    let Workload { ledger, killer } = workload;
    let (me, run) = (ctx.workflow_id().clone(), ctx.attempt());
    killer.at(Point::BeforeStep);
    let step = ctx.step(name, async move |step: StepInfo| {
        killer.at(Point::BeforeEffect);
        ledger.body(step.workflow_id().as_str(), name, run);
        yield_now().await;
        killer.at(Point::AfterEffect);
        body_ends(killer);
        Ok::<_, Error>(Value { text: unique() })
    });
    async move {
        step_begins(killer);
        let value = step.await;
        step_ends();
        let value = value?.text;
        ledger.saw(me.as_str(), name, run, &value);
        killer.at(Point::AfterStep);
        Ok(value)
    }
}

/// A step that fails twice before it succeeds.
async fn flaky(workload: &Workload, ctx: &mut AsyncContext, name: &str) -> Result<String> {
    let run = ctx.attempt();
    let value = ctx.step_with(name, &FLAKY, async |step: StepInfo| -> Result<String, BoxError> {
        workload.ledger.body(step.workflow_id().as_str(), name, run);
        yield_now().await;
        if step.attempt() < 3 { Err("not yet".into()) } else { Ok(unique()) }
    });
    let value = value.await?;
    workload.ledger.saw(ctx.workflow_id().as_str(), name, run, &value);
    Ok(value)
}

/// One row of the table `effect`, exactly once.
async fn transaction(workload: &Workload, ctx: &mut AsyncContext, name: &'static str) -> Result<String> {
    let id = ctx.workflow_id().to_string();
    let value = ctx.transaction(name, move |tx| {
        let value = unique();
        tx.execute("INSERT INTO effect VALUES ($1, $2, $3)", (&id, name, &value))?;
        Ok::<_, SqlError>(value)
    });
    let value = value.await?;
    workload.ledger.saw(ctx.workflow_id().as_str(), name, ctx.attempt(), &value);
    Ok(value)
}

/// Runs all steps at once.
pub(crate) async fn steps(workload: Arc<Workload>, mut ctx: AsyncContext) -> Result<Seen> {
    let steps: Vec<_> = FOUR_STEPS.iter().map(|name| step(&workload, &mut ctx, name)).collect();
    join_all(steps).await.into_iter().collect()
}

pub(crate) async fn transactions(workload: Arc<Workload>, mut ctx: AsyncContext) -> Result<Seen> {
    let first = transaction(&workload, &mut ctx, "tx-0").await?;
    let between = step(&workload, &mut ctx, "between").await?;
    Ok(vec![first, between, transaction(&workload, &mut ctx, "tx-1").await?])
}

pub(crate) async fn sleeper(workload: Arc<Workload>, mut ctx: AsyncContext) -> Result<Seen> {
    let first = step(&workload, &mut ctx, "before").await?;
    ctx.sleep(SHORT_NAP).await?;
    Ok(vec![first, flaky(&workload, &mut ctx, "after").await?])
}

pub(crate) async fn leaf(workload: Arc<Workload>, mut ctx: AsyncContext) -> Result<Seen> {
    Ok(vec![step(&workload, &mut ctx, "leaf").await?])
}

/// Children inline and beside; those beside are started at once, and awaited beside a step.
pub(crate) async fn parent(
    workload: Arc<Workload>,
    mut ctx: AsyncContext,
    leaf: Workflow<u64, Seen>,
) -> Result<Seen> {
    let mut seen = ctx.run(&leaf, 0).await?;
    let starts: Vec<_> = (1..3).map(|n| ctx.start(&leaf, n)).collect();
    let beside = join_all(starts).await.into_iter().collect::<Result<Vec<_>>>()?;
    let own = step(&workload, &mut ctx, "while they run");
    let ends: Vec<_> = beside.iter().map(|child| child.result(&mut ctx)).collect();
    let (own, ended) = join(own, join_all(ends)).await;
    seen.push(own?);
    for child in ended {
        seen.extend(child?);
    }
    workload.saw_of_children(ctx.workflow_id(), ctx.attempt(), &seen);
    Ok(seen)
}

/// A message to itself and one to its child.
pub(crate) async fn messenger(mut ctx: AsyncContext, listener: Workflow<u64, Seen>) -> Result<Seen> {
    let me = ctx.workflow_id().clone();
    let to_itself = ctx.send(&me, "self", format!("{me} to itself"));
    let (sent, child) = join(to_itself, ctx.start(&listener, 0)).await;
    sent?;
    let child = child?;
    let id: WorkflowId = child.id().clone();
    ctx.send(&id, "parent", format!("{me} to its child")).await?;
    let result = child.result(&mut ctx);
    let (result, message) = join(result, ctx.recv("self", PATIENCE)).await;
    let mut seen = result?;
    seen.push(or_nothing(message?));
    Ok(seen)
}

pub(crate) async fn listener(_: Arc<Workload>, mut ctx: AsyncContext) -> Result<Seen> {
    Ok(vec![or_nothing(ctx.recv("parent", PATIENCE).await?)])
}

/// Each kind of write once, one after another.
pub(crate) async fn everything(
    workload: Arc<Workload>,
    mut ctx: AsyncContext,
    leaf: Workflow<u64, Seen>,
) -> Result<Seen> {
    let me = ctx.workflow_id().clone();
    let first = step(&workload, &mut ctx, "step").await?;
    let mut seen = vec![first, transaction(&workload, &mut ctx, "tx").await?];
    ctx.send(&me, "self", "hello".to_owned()).await?;
    seen.extend(ctx.run(&leaf, 0).await?);
    let beside = ctx.start(&leaf, 1).await?;
    ctx.sleep(EVERYTHINGS_NAP).await?;
    seen.extend(beside.result(&mut ctx).await?);
    seen.push(or_nothing(ctx.recv("self", PATIENCE).await?));
    seen.push(flaky(&workload, &mut ctx, "flaky").await?);
    Ok(seen)
}
