//! The workflows of the torture that do several things at once: a map, a join and a race. Their async twins are in the
//! module `async_at_once`.

use std::thread;
use std::time::Duration;

use engine::{BoxError, Context, Error, Operation, Result, StepInfo, StepOptions, Workflow, WorkflowId};

use crate::points::Point;
use crate::workload::{EVERYTHINGS_NAP, PATIENCE, SHORT_NAP, Seen, Workload, or_nothing, unique};

/// The name of the steps of a map.
pub(crate) const ITEM: &str = "item";

pub(crate) const ITEMS_AT_ONCE: usize = 20;

/// The topic of the messages to a race or a join.
pub(crate) const LATE: &str = "late";

/// The topic of the message that lets a runner end.
pub(crate) const END: &str = "end";

/// The branches of a race, in their order: the name under which one that wins is recorded, and how many places it has.
/// A race without a step has only the first three.
pub(crate) const BRANCHES: [(&str, u64); 4] =
    [("DBOS.recv", 2), ("DBOS.getResult", 1), ("DBOS.sleep", 1), (RACED, 1)];

/// The step of a race.
pub(crate) const RACED: &str = "raced";

/// How many items the map of this number has.
pub(crate) fn items_of(number: u64) -> u64 {
    if number % 10 == 9 { 100 } else { number % 10 }
}

/// The name of an item in the ledger.
pub(crate) fn item_name(item: u64) -> String {
    format!("{ITEM}-{item}")
}

/// The value of an item, which says who made it.
pub(crate) fn value_of(item: u64) -> String {
    format!("{item}:{}", unique())
}

/// Items end in another order than they begin, so that a killed process leaves holes in the records.
pub(crate) fn time_of(item: u64) -> Duration {
    Duration::from_millis(item * 7 % 17)
}

/// The operation of a race that is to end first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Favourite {
    Message,
    Child,
    Sleep,
    Step,
    /// All of them end at about the same time.
    All,
}

impl Favourite {
    pub(crate) fn of(number: u64) -> Self {
        match number % 5 {
            0 => Self::Message,
            1 => Self::Child,
            2 => Self::Sleep,
            3 => Self::Step,
            _ => Self::All,
        }
    }

    /// Whether a step is among the branches of the race of this number. A race without one can leave memory.
    pub(crate) fn has_a_step(self, number: u64) -> bool {
        matches!(self, Self::Step | Self::All) || number % 10 >= 5
    }

    pub(crate) fn lets_the_child_end(self) -> bool {
        matches!(self, Self::Child | Self::All)
    }

    pub(crate) fn gets_a_message(self) -> bool {
        matches!(self, Self::Message | Self::All)
    }

    pub(crate) fn nap(self) -> Duration {
        if matches!(self, Self::Sleep | Self::All) { EVERYTHINGS_NAP } else { PATIENCE }
    }

    /// The step of a race tries again until it has lost, if it is not to end.
    pub(crate) fn step_options(self) -> StepOptions {
        let interval = if self == Self::All { EVERYTHINGS_NAP } else { PATIENCE };
        StepOptions::new().attempts_max(1_000).interval(interval)
    }

    /// An attempt of the step of a race.
    pub(crate) fn attempt(self, step: &StepInfo) -> Result<String, BoxError> {
        let ends = match self {
            Self::Step => true,
            Self::All => step.attempt() > 1,
            Self::Message | Self::Child | Self::Sleep => false,
        };
        if ends { Ok(unique()) } else { Err("not yet".into()) }
    }
}

/// The parent of a runner, by the id that the engine gave the runner.
pub(crate) fn parent_of(runner: &WorkflowId) -> Result<WorkflowId> {
    let parent = runner.as_str().rsplit_once('-').map_or(runner.as_str(), |(parent, _)| parent);
    WorkflowId::new(parent)
}

/// A message that ends the messages of a topic.
pub(crate) fn last_message(me: &WorkflowId) -> String {
    format!("{me} is done")
}

impl Workload {
    pub(crate) fn map(&self, ctx: &mut Context, number: u64) -> Result<Seen> {
        let run = ctx.attempt();
        let mut seen = vec![self.step(ctx, "before")?];
        let values = ctx.map(ITEM, ITEMS_AT_ONCE, 0..items_of(number), |step, item: u64| {
            self.killer.at(Point::BeforeEffect);
            self.ledger.body(step.workflow_id().as_str(), &item_name(item), run);
            thread::park_timeout(time_of(item));
            self.killer.at(Point::AfterEffect);
            Ok::<_, Error>(value_of(item))
        })?;
        self.saw_items(ctx.workflow_id(), run, &values);
        seen.extend(values);
        seen.push(self.step(ctx, "after")?);
        Ok(seen)
    }

    /// Notes the values of a map's items.
    pub(crate) fn saw_items(&self, workflow: &WorkflowId, run: u32, values: &Seen) {
        for (item, value) in (0..).zip(values) {
            self.ledger.saw(workflow.as_str(), &item_name(item), run, value);
        }
    }

    pub(crate) fn join(&self, ctx: &mut Context, runner: &Workflow<u64, Seen>) -> Result<Seen> {
        let (me, run) = (ctx.workflow_id().clone(), ctx.attempt());
        let child = ctx.start(runner, 0)?;
        ctx.send(&child.id().clone(), END, format!("{me} lets its child end"))?;
        let (value, message, mut seen, ()) = ctx.join((
            Operation::step("joined", |step: &StepInfo| {
                self.ledger.body(step.workflow_id().as_str(), "joined", run);
                Ok::<_, Error>(unique())
            }),
            Operation::recv(LATE, PATIENCE).map(or_nothing),
            Operation::result(&child),
            Operation::sleep(SHORT_NAP),
        ))?;
        self.ledger.saw(me.as_str(), "joined", run, &value);
        seen.extend([value, message]);
        self.saw_of_children(&me, run, &seen);
        Ok(seen)
    }

    /// A child that may send a message, and ends after it has got one.
    pub(crate) fn runner(&self, ctx: &mut Context, number: u64) -> Result<Seen> {
        let me = ctx.workflow_id().clone();
        if Favourite::of(number).gets_a_message() {
            ctx.sleep(EVERYTHINGS_NAP)?;
            ctx.send(&parent_of(&me)?, LATE, format!("{me} to its parent"))?;
        }
        Ok(vec![or_nothing(ctx.recv(END, PATIENCE)?), self.step(ctx, "ran")?])
    }

    /// A race of a message, a child, a sleep and perhaps a step. Messages that were not received in the race are
    /// received after it.
    pub(crate) fn race(&self, ctx: &mut Context, runner: &Workflow<u64, Seen>, number: u64) -> Result<Seen> {
        let (me, run, favourite) = (ctx.workflow_id().clone(), ctx.attempt(), Favourite::of(number));
        let child = ctx.start(runner, number)?;
        let (childs_id, end) = (child.id().clone(), format!("{me} lets its child end"));
        if favourite.lets_the_child_end() {
            ctx.send(&childs_id, END, end.clone())?;
        }
        let mut branches = vec![
            Operation::recv(LATE, PATIENCE).map(|message| format!("message {}", or_nothing(message))),
            Operation::result(&child).map(|seen: Seen| format!("child {}", seen.join(","))),
            Operation::sleep(favourite.nap()).map(|()| "sleep".to_owned()),
        ];
        if favourite.has_a_step(number) {
            let step = Operation::step_with(RACED, &favourite.step_options(), |step: &StepInfo| {
                self.ledger.body(step.workflow_id().as_str(), RACED, run);
                favourite.attempt(step)
            });
            branches.push(step.map(|value| format!("step {value}")));
        }
        let first = ctx.race(branches)?;
        self.saw_first(&me, run, &first);
        if !favourite.lets_the_child_end() {
            ctx.send(&childs_id, END, end)?;
        }
        let mut seen = vec![first];
        seen.extend(child.result(ctx)?);
        let last = last_message(&me);
        ctx.send(&me, LATE, last.clone())?;
        loop {
            let message = or_nothing(ctx.recv(LATE, PATIENCE)?);
            seen.push(message);
            if seen.last() == Some(&last) || seen.last().is_some_and(|message| message == "nothing") {
                break;
            }
        }
        self.saw_of_children(&me, run, &seen);
        Ok(seen)
    }

    /// Notes what a race returned.
    pub(crate) fn saw_first(&self, race: &WorkflowId, run: u32, first: &str) {
        self.ledger.saw(race.as_str(), "seen-first", run, first);
        if let Some(value) = first.strip_prefix("step ") {
            self.ledger.saw(race.as_str(), RACED, run, value);
        }
    }
}
