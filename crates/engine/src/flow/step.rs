//! A step: run once, remember the outcome for good. The heart of the engine.
//!
//! [`Context::step`] looks for a recorded outcome. If there is one, the body does not run. If there is none, the
//! body runs, its outcome is recorded, and only then does the workflow see it.
//!
//! A crash after the body and before the record runs the body again: a step is **at-least-once**.
//! [`Context::transaction`] closes that gap for writes to the same database.
//!
//! Does not know: SQL, threads, queues.

use std::future::ready;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::flow::attempts::{self, Attempts, StepInfo, Tried};
use crate::flow::context::Context;
use crate::flow::drive::{self, Flow};
use crate::flow::operation::{Begun, Entry};
use crate::flow::options::StepOptions;
use crate::pure::clock::Stopwatch;
use crate::pure::codec::{self, Codec, Encoded};
use crate::pure::error::{BoxError, Result};
use crate::pure::id::check_name;

impl Context {
    /// Runs `body` unless its outcome is recorded, and returns the outcome either way.
    ///
    /// The name is part of the record: a replay that finds another one in this place refuses to go on. Takes one
    /// step id and, on the first run, one commit.
    ///
    /// # Errors
    /// - [`Error::StepFailed`](crate::Error::StepFailed) when the body failed or panicked, or its output cannot be recorded.
    /// - [`Error::Stopped`](crate::Error::Stopped) when the engine ends this execution; hand it on.
    /// - [`Error::NonDeterminism`](crate::Error::NonDeterminism) or [`Error::Undecodable`](crate::Error::Undecodable)
    ///   when the record in this place does not fit; the workflow ends.
    /// - [`Error::InvalidName`](crate::Error::InvalidName), and [`Error::Unencodable`](crate::Error::Unencodable) for a type that no codec can read back: refused before the
    ///   step begins.
    ///
    /// # Example
    /// ```
    /// # use engine::{Context, Result};
    /// fn order(ctx: &mut Context, item: String) -> Result<u32> {
    ///     let hold = ctx.step("reserve", |_| stock::reserve(&item))?;
    ///     ctx.step("charge", |_| pay::charge(hold))
    /// }
    /// # mod stock { pub fn reserve(_: &str) -> Result<u32, std::fmt::Error> { Ok(7) } }
    /// # mod pay { pub fn charge(n: u32) -> Result<u32, std::fmt::Error> { Ok(n) } }
    /// ```
    #[expect(clippy::missing_panics_doc, reason = "one attempt takes the body once")]
    pub fn step<T, E>(&mut self, name: &str, body: impl FnOnce(&StepInfo) -> Result<T, E>) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
    {
        let mut body = Some(body);
        self.step_with(name, &StepOptions::new(), |step| {
            body.take().expect("a step without retries runs its body once")(step)
        })
    }

    /// Runs `body` as a step with retries, until it succeeds or its attempts are used up. Waits between them take no
    /// worker. Nothing is recorded before the last attempt, so a crash in between starts them anew.
    ///
    /// # Errors
    /// As [`Context::step`], [`Error::RetriesExhausted`](crate::Error::RetriesExhausted) with the failures of the
    /// attempts, and [`Error::InvalidOption`](crate::Error::InvalidOption).
    pub fn step_with<T, E>(
        &mut self,
        name: &str,
        options: &StepOptions,
        mut body: impl FnMut(&StepInfo) -> Result<T, E>,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
    {
        let errors = self.flow.core().clone();
        drive::now(
            self.flow
                .step(name, options, |info| ready(attempts::caught(&errors.registry.errors, || body(&info)))),
        )
    }
}

impl Flow {
    /// A step whose attempts are these futures.
    pub(crate) fn step<T, F, A>(
        &self,
        name: &str,
        options: &StepOptions,
        try_once: F,
    ) -> impl Future<Output = Result<T>> + use<T, F, A>
    where
        T: Serialize + DeserializeOwned,
        F: FnMut(StepInfo) -> A,
        A: Future<Output = Result<T, Tried>>,
    {
        let begun = self.begin_step::<T>(name, options);
        let (flow, options) = (self.clone(), options.clone());
        async move {
            let (codec, entry) = begun?;
            flow.finish_step(codec, entry, &options, try_once).await
        }
    }

    /// The attempts of a step that has begun, until its outcome is recorded; the recorded outcome where there is one.
    pub(crate) async fn finish_step<T, F, A>(
        &self,
        codec: Codec,
        entry: Entry,
        options: &StepOptions,
        mut try_once: F,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        F: FnMut(StepInfo) -> A,
        A: Future<Output = Result<T, Tried>>,
    {
        let begun = match entry {
            Entry::Replayed(recorded) => return recorded.outcome(),
            Entry::Fresh(begun) => begun,
        };
        let mut attempts = Attempts::new(&begun, self.branch(), options);
        let outcome = loop {
            self.refuse_if_superseded().await?;
            let watch = Stopwatch::start();
            let tried = try_once(attempts.begin()).await;
            let tried = tried.and_then(|value| attempts.in_time(value));
            let tried = tried.and_then(|value| encoded(codec, &begun, value));
            if let Some(outcome) = self.after_attempt(&mut attempts, tried, watch.elapsed()).await? {
                break outcome;
            }
        };
        let (recording, result) = match outcome {
            Ok(encoded) => {
                let row = begun.success(encoded.text, codec.name());
                (begun.end(row), Ok(encoded.value))
            }
            Err(failure) => {
                let (recording, error) = begun.fail(failure);
                (recording, Err(error))
            }
        };
        self.record(recording).await?;
        result
    }

    /// Begins a step. A type that cannot be recorded, or options that contradict each other, are refused before the
    /// body runs.
    pub(crate) fn begin_step<T: DeserializeOwned>(
        &self,
        name: &str,
        options: &StepOptions,
    ) -> Result<(Codec, Entry)> {
        let codec = self.check_step::<T>(name, options)?;
        Ok((codec, self.begin(name.to_owned())?))
    }

    pub(crate) fn check_step<T: DeserializeOwned>(&self, name: &str, options: &StepOptions) -> Result<Codec> {
        let codec = options.codec.unwrap_or(self.core().options.codec);
        options.check(name)?;
        codec.check_type::<T>(&what(name))?;
        check_name("step name", name)?;
        Ok(codec)
    }
}

/// The output of a step as it is recorded.
pub(crate) fn encoded<T: Serialize + DeserializeOwned>(
    codec: Codec,
    begun: &Begun,
    value: T,
) -> Result<Encoded<T>, Tried> {
    codec::encode(codec, &what(&begun.place.name), value).map_err(|error| Tried::unencodable(&error))
}

/// How errors speak of a step's output.
fn what(step: &str) -> String {
    format!("output of step {step}")
}
