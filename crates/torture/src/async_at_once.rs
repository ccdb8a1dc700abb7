//! A map, a join and a race as async functions. Their steps have the names and numbers of the plain ones.

use std::sync::Arc;

use engine::{AsyncContext, AsyncOperation, Error, Result, StepInfo, Workflow};
use futures_util::future::join4;
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::async_workload::step;
use crate::at_once::{
    END, Favourite, ITEM, ITEMS_AT_ONCE, LATE, RACED, item_name, items_of, last_message, parent_of, time_of,
    value_of,
};
use crate::points::Point;
use crate::workload::{EVERYTHINGS_NAP, PATIENCE, SHORT_NAP, Seen, Workload, or_nothing, unique};

pub(crate) async fn map(workload: Arc<Workload>, mut ctx: AsyncContext, number: u64) -> Result<Seen> {
    let (me, run) = (ctx.workflow_id().clone(), ctx.attempt());
    let mut seen = vec![step(&workload, &mut ctx, "before").await?];
    let Workload { ledger, killer } = &*workload;
    let values = ctx.map(ITEM, ITEMS_AT_ONCE, 0..items_of(number), async |step: StepInfo, item: u64| {
        killer.at(Point::BeforeEffect);
        ledger.body(step.workflow_id().as_str(), &item_name(item), run);
        sleep(time_of(item)).await;
        killer.at(Point::AfterEffect);
        Ok::<_, Error>(value_of(item))
    });
    let values = values.await?;
    workload.saw_items(&me, run, &values);
    seen.extend(values);
    seen.push(step(&workload, &mut ctx, "after").await?);
    Ok(seen)
}

pub(crate) async fn join(
    workload: Arc<Workload>,
    mut ctx: AsyncContext,
    runner: Workflow<u64, Seen>,
) -> Result<Seen> {
    let (me, run) = (ctx.workflow_id().clone(), ctx.attempt());
    let ledger = &workload.ledger;
    let child = ctx.start(&runner, 0).await?;
    ctx.send(&child.id().clone(), END, format!("{me} lets its child end")).await?;
    let value = ctx.step("joined", async |step: StepInfo| {
        ledger.body(step.workflow_id().as_str(), "joined", run);
        yield_now().await;
        Ok::<_, Error>(unique())
    });
    let message = ctx.recv(LATE, PATIENCE);
    let end = child.result(&mut ctx);
    let nap = ctx.sleep(SHORT_NAP);
    let (value, message, seen, nap) = join4(value, message, end, nap).await;
    let (value, message, mut seen) = (value?, or_nothing(message?), seen?);
    nap?;
    ledger.saw(me.as_str(), "joined", run, &value);
    seen.extend([value, message]);
    workload.saw_of_children(&me, run, &seen);
    Ok(seen)
}

pub(crate) async fn runner(workload: Arc<Workload>, mut ctx: AsyncContext, number: u64) -> Result<Seen> {
    let me = ctx.workflow_id().clone();
    if Favourite::of(number).gets_a_message() {
        ctx.sleep(EVERYTHINGS_NAP).await?;
        ctx.send(&parent_of(&me)?, LATE, format!("{me} to its parent")).await?;
    }
    let end = or_nothing(ctx.recv(END, PATIENCE).await?);
    Ok(vec![end, step(&workload, &mut ctx, "ran").await?])
}

pub(crate) async fn race(
    workload: Arc<Workload>,
    mut ctx: AsyncContext,
    runner: Workflow<u64, Seen>,
    number: u64,
) -> Result<Seen> {
    let (me, run, favourite) = (ctx.workflow_id().clone(), ctx.attempt(), Favourite::of(number));
    let child = ctx.start(&runner, number).await?;
    let (childs_id, end) = (child.id().clone(), format!("{me} lets its child end"));
    if favourite.lets_the_child_end() {
        ctx.send(&childs_id, END, end.clone()).await?;
    }
    let mut branches = vec![
        AsyncOperation::recv(LATE, PATIENCE).map(|message| format!("message {}", or_nothing(message))),
        AsyncOperation::result(&child).map(|seen: Seen| format!("child {}", seen.join(","))),
        AsyncOperation::sleep(favourite.nap()).map(|()| "sleep".to_owned()),
    ];
    if favourite.has_a_step(number) {
        let ledger = &workload.ledger;
        let body = move |step: StepInfo| async move {
            ledger.body(step.workflow_id().as_str(), RACED, run);
            yield_now().await;
            favourite.attempt(&step)
        };
        let step = AsyncOperation::step_with(RACED, &favourite.step_options(), body);
        branches.push(step.map(|value| format!("step {value}")));
    }
    let first = ctx.race(branches).await?;
    workload.saw_first(&me, run, &first);
    if !favourite.lets_the_child_end() {
        ctx.send(&childs_id, END, end).await?;
    }
    let mut seen = vec![first];
    seen.extend(child.result(&mut ctx).await?);
    let last = last_message(&me);
    ctx.send(&me, LATE, last.clone()).await?;
    loop {
        let message = or_nothing(ctx.recv(LATE, PATIENCE).await?);
        seen.push(message);
        if seen.last() == Some(&last) || seen.last().is_some_and(|message| message == "nothing") {
            break;
        }
    }
    workload.saw_of_children(&me, run, &seen);
    Ok(seen)
}
