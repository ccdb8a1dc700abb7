//! Many steps at once: one body over many items.
//!
//! A map takes one place for the count of its items and one for each item, in order, before any of them runs. So a
//! replay finds each outcome in its place, in any order of the records.
//!
//! Does not know: SQL, queues.

use std::sync::Mutex;
use std::thread;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::flow::attempts::{self, StepInfo};
use crate::flow::context::Context;
use crate::flow::drive::{self, Flow};
use crate::flow::operation::Entry;
use crate::flow::options::StepOptions;
use crate::machines::worker;
use crate::pure::codec::Codec;
use crate::pure::error::{BoxError, Error, Result};
use crate::pure::sync::lock;

/// The name under which the count of a map's items is recorded.
const NAME: &str = "Piton.map";

/// The effect of a failed item on items that have not begun.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// None of them begins.
    EndsAll,
    /// Nothing.
    IsAResult,
}

/// A map that has begun.
pub(crate) struct BegunMap {
    pub(crate) codec: Codec,
    header: Entry,
    pub(crate) items: Vec<Entry>,
    pub(crate) at_once: usize,
}

impl Context {
    /// Runs `body` as a step for each item, at most `at_once` of them at the same time, each on a thread. Returns their
    /// values, in the order of the items.
    ///
    /// Each outcome is recorded when it is there, so after a crash only the others run again. Bodies may borrow from
    /// the workflow's function. All of them run in the slot of this workflow. Takes one step id and one commit for the
    /// map, and one step id and a share of a commit for each item.
    ///
    /// When an item fails, no further item begins. Items that have begun come to their end. Then the error of the first
    /// failed item, in their order, is returned.
    ///
    /// # Errors
    /// As [`Context::step`]; [`Error::InvalidOption`] when `at_once` is zero; [`Error::NonDeterminism`] when an earlier run
    /// had another number of items.
    ///
    /// # Example
    /// ```
    /// # use engine::{Context, Result};
    /// fn thumbnails(ctx: &mut Context, pictures: Vec<String>) -> Result<u64> {
    ///     let folder = "small".to_owned();
    ///     let sizes = ctx.map("shrink", 8, pictures, |_, picture| image::shrink(&picture, &folder))?;
    ///     Ok(sizes.iter().sum())
    /// }
    /// # mod image { pub fn shrink(_: &str, _: &str) -> Result<u64, std::fmt::Error> { Ok(7) } }
    /// ```
    pub fn map<A, T, E>(
        &mut self,
        name: &str,
        at_once: usize,
        items: impl IntoIterator<Item = A>,
        body: impl Fn(&StepInfo, A) -> Result<T, E> + Sync,
    ) -> Result<Vec<T>>
    where
        A: Send,
        T: Serialize + DeserializeOwned + Send,
        E: Into<BoxError> + 'static,
    {
        let items: Vec<A> = items.into_iter().collect();
        let begun = self.flow.begin_map::<T>(name, at_once, items.len())?;
        let ended = self.map_on_threads(begun, items, Failed::EndsAll, &body)?;
        first_failure(ended)
    }

    /// Runs `body` as a step for each item, as [`Context::map`] does, and gives a result for each: after a failed item
    /// the others still begin.
    ///
    /// # Errors
    /// As [`Context::map`], but for errors of the bodies, which are among the results.
    pub fn map_each<A, T, E>(
        &mut self,
        name: &str,
        at_once: usize,
        items: impl IntoIterator<Item = A>,
        body: impl Fn(&StepInfo, A) -> Result<T, E> + Sync,
    ) -> Result<Vec<Result<T>>>
    where
        A: Send,
        T: Serialize + DeserializeOwned + Send,
        E: Into<BoxError> + 'static,
    {
        let items: Vec<A> = items.into_iter().collect();
        let begun = self.flow.begin_map::<T>(name, at_once, items.len())?;
        let ended = self.map_on_threads(begun, items, Failed::IsAResult, &body)?;
        Ok(ended.into_iter().flatten().collect())
    }

    fn map_on_threads<A, T, E>(
        &mut self,
        begun: BegunMap,
        items: Vec<A>,
        failed: Failed,
        body: &(impl Fn(&StepInfo, A) -> Result<T, E> + Sync),
    ) -> Result<Vec<Option<Result<T>>>>
    where
        A: Send,
        T: Serialize + DeserializeOwned + Send,
        E: Into<BoxError> + 'static,
    {
        let flow = &self.flow;
        let (codec, threads) = (begun.codec, begun.at_once.min(items.len()));
        let entries = drive::now(flow.record_map(begun))?;
        let ended: Vec<_> = entries.iter().map(|_| Mutex::new(None)).collect();
        let waiting = Mutex::new(entries.into_iter().zip(items).enumerate());
        let work = || {
            worker::holding(flow.slot(), || {
                loop {
                    let Some((number, (entry, item))) = lock(&waiting).next() else { break };
                    let result = flow.run_item(codec, entry, item, body);
                    let ends_all = result.is_err() && failed == Failed::EndsAll;
                    *lock(&ended[number]) = Some(result);
                    if ends_all {
                        lock(&waiting).by_ref().for_each(drop);
                    }
                }
            });
        };
        thread::scope(|scope| {
            for _ in 1..threads {
                // With fewer threads it takes longer.
                let _ = thread::Builder::new().name("piton-step".to_owned()).spawn_scoped(scope, work);
            }
            work();
        });
        flow.execution.refuse_if_ended()?;
        Ok(ended.into_iter().map(|result| lock(&result).take()).collect())
    }
}

impl Flow {
    /// Takes the places of a map and of all its items.
    pub(crate) fn begin_map<T: DeserializeOwned>(
        &self,
        name: &str,
        at_once: usize,
        count: usize,
    ) -> Result<BegunMap> {
        if at_once == 0 {
            let (what, reason) = (
                format!("at_once of map {name}"),
                "with 0 no item would ever run; set at least 1".to_owned(),
            );
            return Err(Error::InvalidOption { what, reason });
        }
        let options = StepOptions::new();
        let codec = self.check_step::<T>(name, &options)?;
        let header = self.begin(NAME)?;
        if let Entry::Replayed(recorded) = &header {
            let before: usize = recorded.outcome()?;
            if before != count {
                let many = |count: usize| format!("a map of {count} items");
                return Err(recorded.misfit(&many(before), &many(count)));
            }
        }
        let items = (0..count).map(|_| self.begin(name.to_owned())).collect::<Result<_>>()?;
        Ok(BegunMap { codec, header, items, at_once })
    }

    /// The count is recorded before any item runs, so that a list which has changed is noticed.
    pub(crate) async fn record_map(&self, map: BegunMap) -> Result<Vec<Entry>> {
        if let Entry::Fresh(begun) = map.header {
            let row = begun.success(map.items.len().to_string(), Codec::PortableJson.name());
            self.record(begun.end(row)).await?;
        }
        Ok(map.items)
    }

    fn run_item<A, T, E>(
        &self,
        codec: Codec,
        entry: Entry,
        item: A,
        body: &(impl Fn(&StepInfo, A) -> Result<T, E> + Sync),
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
    {
        let mut item = Some(item);
        let options = StepOptions::new();
        drive::now(self.finish_step(codec, entry, &options, |info| {
            let tried = match item.take() {
                Some(item) => attempts::caught(&self.core().registry.errors, || body(&info, item)),
                None => Err(attempts::Tried::without_a_body()),
            };
            std::future::ready(tried)
        }))
    }
}

/// The values of all, or the error of the first that failed.
pub(crate) fn first_failure<T>(ended: Vec<Option<Result<T>>>) -> Result<Vec<T>> {
    ended.into_iter().flatten().collect()
}
