//! A step: run once, remember the outcome for good. The heart of the engine.
//!
//! [`Context::step`] looks for a recorded outcome. If there is one, the body does not run. If there is none, the
//! body runs, its outcome is recorded, and only then does the workflow see it.
//!
//! A crash after the body and before the record runs the body again: a step is **at-least-once**.
//! [`Context::transaction`] closes that gap for writes to the same database.
//!
//! Does not know: SQL, threads, queues.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::attempts::{self, StepInfo, Tried};
use crate::codec;
use crate::context::{Context, Ended, Place};
use crate::error::{BoxError, Error, Failure, Result};
use crate::options::StepOptions;
use crate::sysdb::StepRow;

impl Context {
    /// Runs `body` unless its outcome is recorded, and returns the outcome either way.
    ///
    /// The name is part of the record: a replay that finds another one in this place refuses to go on. Takes one
    /// step id and, on the first run, one commit.
    ///
    /// # Errors
    /// - [`Error::StepFailed`] when the body failed or panicked, or its output cannot be recorded.
    /// - [`Error::Stopped`] when the engine ends this execution; hand it on.
    /// - [`Error::NonDeterminism`] or [`Error::Undecodable`] when what is recorded here does not fit; the workflow ends.
    /// - [`Error::InvalidName`], and [`Error::Unencodable`] for a type that no codec can read back: refused before the
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
    pub fn step<T, E>(&mut self, name: &str, body: impl FnOnce(&StepInfo<'_>) -> Result<T, E>) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
    {
        let mut body = Some(body);
        self.step_with(name, &StepOptions::new(), |step| {
            body.take().expect("a step without retries runs its body once")(step)
        })
    }

    /// The same with retries: the body runs until it succeeds, or its attempts are used up. Waits between them
    /// take no worker. Nothing is recorded before the last attempt, so a crash in between starts them anew.
    ///
    /// # Errors
    /// As [`Context::step`], [`Error::RetriesExhausted`] with what the attempts said, and [`Error::InvalidOption`].
    pub fn step_with<T, E>(
        &mut self,
        name: &str,
        options: &StepOptions,
        mut body: impl FnMut(&StepInfo<'_>) -> Result<T, E>,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
    {
        let codec = options.codec.unwrap_or(self.core.options.codec);
        options.retry.check(name)?;
        codec.check_type::<T>(&what(name))?;

        let place = self.place(name)?;
        if let Some(recorded) = self.replayed(&place)? {
            return self.replay(&place, &recorded);
        }
        let outcome = attempts::run(self, &place, options, |ctx, step| {
            let value = attempts::caught(&ctx.core.registry.errors, || body(step))?;
            codec::encode(codec, &what(name), value).map_err(|error| Tried::unencodable(&error))
        })?;
        let (row, result) = match outcome {
            Ok(encoded) => (self.success(&place, encoded.text, codec.name()), Ok(encoded.value)),
            Err(failure) => {
                let (row, error) = self.failure(&place, failure);
                (row, Err(error))
            }
        };
        self.record(row)?;
        result
    }

    /// What a step returned when it ran: the same value, the same error.
    pub(crate) fn replay<T: DeserializeOwned>(&mut self, place: &Place<'_>, recorded: &StepRow) -> Result<T> {
        if let Some(failure) = recorded.failure() {
            return Err(failure.into_step_error(place.name));
        }
        codec::decode(
            &format!("recorded output of step {} ({})", place.step_id, place.name),
            recorded.serialization.as_deref(),
            recorded.output.as_deref(),
        )
        .map_err(|error: Error| self.end(Ended::Faulty(error)))
    }

    pub(crate) fn success(&self, place: &Place<'_>, output: String, codec: &'static str) -> StepRow {
        StepRow { output: Some(output), serialization: Some(codec.into()), ..place.row(self.now()) }
    }

    /// The record of a failed step, and its error as a replay returns it: what is cut is cut for both.
    pub(crate) fn failure(&self, place: &Place<'_>, failure: Failure) -> (StepRow, Error) {
        let row = StepRow {
            error: Some(codec::encode_failure(&failure)),
            serialization: Some(codec::Codec::PortableJson.name().into()),
            ..place.row(self.now())
        };
        let error = row.failure().unwrap_or(failure).into_step_error(place.name);
        (row, error)
    }
}

/// How errors speak of a step's output.
pub(crate) fn what(step: &str) -> String {
    format!("output of step {step}")
}
