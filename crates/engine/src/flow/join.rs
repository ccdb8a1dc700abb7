//! Several different operations at once: all of them, or the first that ends.
//!
//! Does not know: SQL, commits, step ids.

use std::future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::flow::attempts::{self, StepInfo, Tried};
use crate::flow::child::Child;
use crate::flow::context::Context;
use crate::flow::drive::{self, Flow};
use crate::flow::execution::Open;
use crate::flow::options::StepOptions;
use crate::flow::race::Branches;
use crate::machines::worker;
use crate::pure::error::{BoxError, Result};
use crate::pure::id::WorkflowId;
use crate::pure::sync::lock;

/// An operation that has begun, and runs when it is polled.
pub(crate) type Running<'o, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'o>>;

/// Takes the places of an operation.
type Begin<'o, T> = Box<dyn FnOnce(&Flow) -> Running<'o, T> + Send + 'o>;

/// The value of an operation, to which the changes of `map` are made when it is called: by the workflow itself, when it
/// is sure that it returns this value.
pub(crate) type Changed<'o, T> = Box<dyn FnOnce() -> T + Send + 'o>;

/// An operation that has not begun.
pub(crate) struct Deferred<'o, T> {
    pub(crate) begin: Begin<'o, Changed<'o, T>>,
    /// What is to be done when it loses a race. Takes its place after those of the operation.
    pub(crate) if_lost: Option<Begin<'o, ()>>,
}

impl<'o, T: 'o> Deferred<'o, T> {
    pub(crate) fn of(begin: impl FnOnce(&Flow) -> Running<'o, T> + Send + 'o) -> Self
    where
        T: Send,
    {
        let begin = move |flow: &Flow| -> Running<'o, Changed<'o, T>> {
            let running = begin(flow);
            Box::pin(async move {
                let value = running.await?;
                Ok(Box::new(move || value) as Changed<'o, T>)
            })
        };
        Self { begin: Box::new(begin), if_lost: None }
    }

    /// The end of a child.
    pub(crate) fn result(child: WorkflowId) -> Self
    where
        T: DeserializeOwned + Send,
    {
        Self::of(move |flow| Box::pin(flow.child_result(&child, None)))
    }

    /// The end of a child that is cancelled when it loses.
    pub(crate) fn result_or_cancel(child: WorkflowId) -> Self
    where
        T: DeserializeOwned + Send,
    {
        let cancelled = child.clone();
        let if_lost: Begin<'o, ()> = Box::new(move |flow| Box::pin(flow.cancel(cancelled)));
        Self { if_lost: Some(if_lost), ..Self::result(child) }
    }

    pub(crate) fn map<U: 'o>(self, change: impl FnOnce(T) -> U + Send + 'o) -> Deferred<'o, U> {
        let begin = self.begin;
        let changed = move |flow: &Flow| -> Running<'o, Changed<'o, U>> {
            let running = begin(flow);
            Box::pin(async move {
                let value = running.await?;
                Ok(Box::new(move || change(value())) as Changed<'o, U>)
            })
        };
        Deferred { begin: Box::new(changed), if_lost: self.if_lost }
    }
}

/// A durable operation that has not begun, for [`Context::join`] and [`Context::race`].
///
/// It does what the method of [`Context`] with its name does, and takes as many step ids.
///
/// ```
/// # use engine::{Context, Operation, Result}; use std::time::Duration;
/// fn approve(ctx: &mut Context, order: u32) -> Result<bool> {
///     ctx.race([
///         Operation::recv("approved", Duration::from_secs(86_400)).map(|by: Option<String>| by.is_some()),
///         Operation::step("score", |_| fraud::score(order)).map(|score| score < 10),
///     ])
/// }
/// # mod fraud { pub fn score(_: u32) -> Result<u32, std::fmt::Error> { Ok(7) } }
/// ```
pub struct Operation<'o, T>(Deferred<'o, T>);

impl<'o, T: 'o> Operation<'o, T> {
    fn of(begin: impl FnOnce(&Flow) -> Running<'o, T> + Send + 'o) -> Self
    where
        T: Send,
    {
        Self(Deferred::of(begin))
    }

    /// A step, as [`Context::step`].
    pub fn step<E>(name: impl Into<String>, body: impl FnOnce(&StepInfo) -> Result<T, E> + Send + 'o) -> Self
    where
        T: Serialize + DeserializeOwned + Send,
        E: Into<BoxError> + 'static,
    {
        let mut body = Some(body);
        Self::attempts(name.into(), StepOptions::new(), move |flow, info| match body.take() {
            Some(body) => attempts::caught(&flow.core().registry.errors, || body(info)),
            None => Err(Tried::without_a_body()),
        })
    }

    /// A step with retries and limits, as [`Context::step_with`].
    pub fn step_with<E>(
        name: impl Into<String>,
        options: &StepOptions,
        mut body: impl FnMut(&StepInfo) -> Result<T, E> + Send + 'o,
    ) -> Self
    where
        T: Serialize + DeserializeOwned + Send,
        E: Into<BoxError> + 'static,
    {
        Self::attempts(name.into(), options.clone(), move |flow, info| {
            attempts::caught(&flow.core().registry.errors, || body(info))
        })
    }

    fn attempts(
        name: String,
        options: StepOptions,
        mut try_once: impl FnMut(&Flow, &StepInfo) -> Result<T, Tried> + Send + 'o,
    ) -> Self
    where
        T: Serialize + DeserializeOwned + Send,
    {
        Self::of(move |flow| {
            let inside = flow.clone();
            Box::pin(flow.step(&name, &options, move |info| std::future::ready(try_once(&inside, &info))))
        })
    }

    /// The end of a child, as [`Child::result`].
    pub fn result(child: &Child<T>) -> Self
    where
        T: DeserializeOwned + Send,
    {
        Self(Deferred::result(child.id().clone()))
    }

    /// The end of a child, as [`Child::result`]. If it loses a race, the child and all workflows below it are cancelled
    /// before the race returns, also after a crash. In a race it takes one step id more, for the cancel.
    ///
    /// A child under an id of your own may have been started by another workflow. It is cancelled all the same.
    ///
    /// ```
    /// # use engine::{Context, Operation, Result, Workflow}; use std::time::Duration;
    /// fn quote(ctx: &mut Context, ask: &Workflow<String, u32>) -> Result<Option<u32>> {
    ///     let (slow, fast) = (ctx.start(ask, "slow".to_owned())?, ctx.start(ask, "fast".to_owned())?);
    ///     ctx.race([
    ///         Operation::result_or_cancel(&slow).map(Some),
    ///         Operation::result_or_cancel(&fast).map(Some),
    ///         Operation::sleep(Duration::from_secs(60)).map(|()| None),
    ///     ])
    /// }
    /// ```
    pub fn result_or_cancel(child: &Child<T>) -> Self
    where
        T: DeserializeOwned + Send,
    {
        Self(Deferred::result_or_cancel(child.id().clone()))
    }

    /// The operation with its value changed by `change`, which runs again in each replay. So it must be deterministic.
    pub fn map<U: 'o>(self, change: impl FnOnce(T) -> U + Send + 'o) -> Operation<'o, U> {
        Operation(self.0.map(change))
    }
}

impl Operation<'_, ()> {
    /// A sleep, as [`Context::sleep`].
    pub fn sleep(duration: Duration) -> Self {
        Self::of(move |flow| Box::pin(flow.sleep(duration)))
    }

    /// The next message of a topic, as [`Context::recv`].
    pub fn recv<'o, T>(topic: impl Into<String>, timeout: Duration) -> Operation<'o, Option<T>>
    where
        T: DeserializeOwned + Send + 'o,
    {
        let topic = topic.into();
        Operation::of(move |flow| Box::pin(flow.recv(&topic, timeout)))
    }
}

impl<T> std::fmt::Debug for Operation<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Operation")
    }
}

impl Context {
    /// Runs two to eight different operations at once, each on a thread, and returns what all of them returned.
    ///
    /// Their step ids are in the order of the tuple, and each outcome is recorded when it is there. Each comes to its end,
    /// whatever becomes of the others. When all of them wait, the workflow leaves its threads as in a single wait.
    ///
    /// # Errors
    /// - The errors of the operations: of several errors the first in the order of the tuple.
    /// - [`Error::Stopped`](crate::Error::Stopped) when the engine ends this execution; hand that on.
    ///
    /// # Example
    /// ```
    /// # use engine::{Context, Operation, Result}; use std::time::Duration;
    /// fn order(ctx: &mut Context, item: String) -> Result<bool> {
    ///     let (price, paid) = ctx.join((
    ///         Operation::step("price", |_| shop::price(&item)),
    ///         Operation::recv::<u32>("paid", Duration::from_secs(3600)),
    ///     ))?;
    ///     Ok(paid == Some(price))
    /// }
    /// # mod shop { pub fn price(_: &str) -> Result<u32, std::fmt::Error> { Ok(7) } }
    /// ```
    pub fn join<O: Operations>(&mut self, operations: O) -> Result<O::Values> {
        let flow = &self.flow;
        let joined = operations.join(Joiner(flow));
        flow.execution.refuse_if_ended()?;
        joined
    }

    /// Runs several operations at once, each on a thread, and returns what the first returned that ended.
    ///
    /// The verdict is recorded together with the outcome of the winner, so a replay has the same winner. A loser records no
    /// outcome and takes no message. A step that loses is told by [`StepInfo::cancelled`], and the race waits until its body
    /// has returned. A child that loses runs on, unless [`Operation::result_or_cancel`] awaits it. When all operations wait,
    /// the workflow leaves its threads as in a single wait.
    ///
    /// An operation that fails, or cannot begin, has ended as well. Takes one step id for the verdict, and then those of the
    /// operations in their order. Until the verdict is recorded, a crash starts all of them anew; a sleep has its rest left.
    ///
    /// # Errors
    /// - The error of the winner.
    /// - [`Error::InvalidOption`](crate::Error::InvalidOption) without an operation.
    /// - [`Error::NonDeterminism`](crate::Error::NonDeterminism) when an earlier run had another number of operations.
    /// - [`Error::Stopped`](crate::Error::Stopped) when the engine ends this execution; hand that on.
    ///
    /// # Example
    /// ```
    /// # use engine::{Context, Operation, Result}; use std::time::Duration;
    /// #[derive(PartialEq)]
    /// enum Answer { Paid(u64), Late }
    ///
    /// fn payment(ctx: &mut Context, order: u32) -> Result<bool> {
    ///     let (day, week) = (Duration::from_secs(86_400), Duration::from_secs(7 * 86_400));
    ///     let answer = ctx.race([
    ///         Operation::recv("paid", week).map(|cents: Option<u64>| Answer::Paid(cents.unwrap_or(0))),
    ///         Operation::sleep(day).map(|()| Answer::Late),
    ///     ])?;
    ///     Ok(answer != Answer::Late)
    /// }
    /// ```
    pub fn race<'o, T: Send>(&mut self, operations: impl IntoIterator<Item = Operation<'o, T>>) -> Result<T> {
        let flow = &self.flow;
        let Branches { race, mut running, losses } =
            flow.begin_branches(operations.into_iter().map(|operation| operation.0))?;
        if let Some(winner) = race.winner() {
            return drive::now(race.after_losses(losses, running.swap_remove(winner)));
        }
        let mut ended = thread::scope(|scope| {
            let branches = running.into_iter().enumerate();
            let works: Vec<_> =
                branches.map(|(number, branch)| work(flow, race.ends(flow, number, branch))).collect();
            let mut threads: Vec<_> = works.into_iter().map(|work| OnThread::run(scope, work)).collect();
            threads.iter_mut().for_each(OnThread::run_here);
            threads.into_iter().map(OnThread::join).collect::<Vec<_>>()
        });
        flow.execution.refuse_if_ended()?;
        drive::now(race.after_losses(losses, future::ready(race.result(flow, &mut ended))))
    }
}

/// Two to eight operations of different types.
pub trait Operations {
    /// What they return.
    type Values;

    /// Runs them.
    #[doc(hidden)]
    fn join(self, by: Joiner<'_>) -> Result<Self::Values>;
}

/// What [`Operations`] run on, which only the engine has.
#[derive(Clone, Copy)]
pub struct Joiner<'f>(&'f Flow);

macro_rules! operations {
    ($($value:ident $operation:ident),*) => {
        impl<'o, $($value: Send + 'o),*> Operations for ($(Operation<'o, $value>,)*) {
            type Values = ($($value,)*);

            fn join(self, Joiner(flow): Joiner<'_>) -> Result<Self::Values> {
                let ($($operation,)*) = self;
                $(let $operation = ($operation.0.begin)(flow);)*
                let ($($operation,)*) = thread::scope(|scope| {
                    $(let $operation = work(flow, $operation);)*
                    $(let mut $operation = OnThread::run(scope, $operation);)*
                    $($operation.run_here();)*
                    ($($operation.join(),)*)
                });
                $(let $operation = $operation?;)*
                Ok(($($operation(),)*))
            }
        }
    };
}

operations!(A a, B b);
operations!(A a, B b, C c);
operations!(A a, B b, C c, D d);
operations!(A a, B b, C c, D d, E e);
operations!(A a, B b, C c, D d, E e, F f);
operations!(A a, B b, C c, D d, E e, F f, G g);
operations!(A a, B b, C c, D d, E e, F f, G g, H h);

/// An operation that runs on a thread of its own. Where the system has none left, it runs on the thread of its workflow,
/// before that waits for the others: they may wait for it.
enum OnThread<'s, T> {
    Thread(ScopedJoinHandle<'s, Option<Result<T>>>),
    Later(Work<'s, T>),
    Ended(Option<Result<T>>),
}

/// Taken by the thread that runs it.
type Work<'s, T> = Arc<Mutex<Option<Box<dyn FnOnce() -> Result<T> + Send + 's>>>>;

impl<'s, T: Send + 's> OnThread<'s, T> {
    fn run(scope: &'s Scope<'s, '_>, work: Work<'s, T>) -> Self {
        let taken = work.clone();
        let builder = thread::Builder::new().name("piton-step".to_owned());
        match builder.spawn_scoped(scope, move || take(&taken)) {
            Ok(thread) => Self::Thread(thread),
            Err(_) => Self::Later(work),
        }
    }

    fn run_here(&mut self) {
        if let Self::Later(work) = self {
            *self = Self::Ended(take(work));
        }
    }

    fn join(self) -> Result<T> {
        let ended = match self {
            Self::Thread(thread) => thread.join().unwrap_or_else(|payload| resume_unwind(payload)),
            Self::Later(work) => take(&work),
            Self::Ended(ended) => ended,
        };
        ended.expect("each work is taken once")
    }
}

/// The run of an operation. It is open from now on: no other one leaves before it begins.
fn work<'s, T>(flow: &'s Flow, operation: impl Future<Output = Result<T>> + Send + 's) -> Work<'s, T> {
    let open = Open::new(&flow.execution);
    Arc::new(Mutex::new(Some(Box::new(move || {
        let _open = open;
        worker::holding(flow.slot(), || drive::now(operation))
    }))))
}

fn take<T>(work: &Work<'_, T>) -> Option<Result<T>> {
    let work = lock(work).take();
    work.map(|work| work())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn one_without_a_thread_runs_before_the_others_are_waited_for() {
        let (tell, told) = mpsc::channel();
        let ended: Vec<_> = thread::scope(|scope| {
            let waits: Work<'_, u32> = Arc::new(Mutex::new(Some(Box::new(move || Ok(told.recv().unwrap())))));
            let tells: Work<'_, u32> = Arc::new(Mutex::new(Some(Box::new(move || {
                tell.send(7).unwrap();
                Ok(8)
            }))));
            let mut both = [OnThread::run(scope, waits), OnThread::Later(tells)];
            both.iter_mut().for_each(OnThread::run_here);
            both.into_iter().map(|one| OnThread::join(one).unwrap()).collect()
        });
        assert_eq!(ended, [7, 8]);
    }
}
