//! **Piton**: durable execution for Rust, embedded on SQLite, and on PostgreSQL for a fleet.
//!
//! Write plain or async functions. Each step's outcome is recorded in a database before the function goes on. Kill the
//! process anywhere, start it again, and every workflow continues after its last recorded step.
//!
//! ```
//! use engine::{Context, Engine, Result};
//! use std::time::Duration;
//!
//! fn checkout(ctx: &mut Context, item: String) -> Result<u32> {
//!     let hold = ctx.step("reserve", |_| stock::reserve(&item))?; // runs, is recorded, never runs again
//!     ctx.sleep(Duration::from_millis(5))?; // across any restart
//!     ctx.step("charge", |step| pay::charge(hold, step.workflow_id()))
//! }
//!
//! # fn main() -> Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! # std::env::set_current_dir(&dir).unwrap();
//! let engine = Engine::options().app("shop").open("sqlite:shop.db")?;
//! let checkout = engine.register("checkout", checkout)?;
//! engine.launch()?; // takes up what was interrupted, too
//! let receipt = checkout.start_as(&engine, "order-1", "book".to_owned())?.result()?;
//! assert_eq!(receipt, 42);
//! # Ok(())
//! # }
//! # mod stock { pub fn reserve(_: &str) -> Result<u32, std::fmt::Error> { Ok(41) } }
//! # mod pay { pub fn charge<T>(n: u32, _: T) -> Result<u32, std::fmt::Error> { Ok(n + 1) } }
//! ```
//!
//! # Promises
//!
//! - A call that returned survives a kill and a power loss. On SQLite by WAL and `synchronous=FULL`, on PostgreSQL by
//!   `fsync` and `synchronous_commit`, all read back at open.
//! - A **step**'s body runs at least once, and its outcome is recorded at most once. After the record the body never
//!   runs again. A **transaction step** ([`Context::transaction`]) has its effect exactly once.
//! - A workflow has one owner. An execution that lost its workflow records nothing more.
//! - A first run and a replay see the same values: the value of a step is read back from its record.
//! - A value that its record cannot hold is refused in the run that made it. Examples: a `Some` that JSON writes as
//!   `null`, a number that is not finite, a field that bincode would not find, more than [`VALUE_DEPTH_MAX`] levels.
//! - Every bad ending is a state with a readable reason: a panic, an undecodable value, changed steps, an unknown name,
//!   too many crashes.
//!
//! # Rules for workflow functions
//!
//! Between steps be deterministic: no clock, no random numbers, no input or output outside of a step. Hand errors on
//! with `?`. [`Error::Stopped`] means that the engine ends this execution; no record is lost.
//!
//! Do not `fork` a process with a launched engine, unless to `exec`. After the parent's death the other processes would
//! take it for living as long as the child lives.
//!
//! # Map
//!
//! | to | see |
//! |---|---|
//! | open, register, launch, shut down | [`Engine`], [`EngineOptions`] |
//! | start, attach, wait | [`Workflow`], [`Handle`] |
//! | async workflows and callers (feature `tokio`) | `Engine::register_async`, `AsyncContext`, `AsyncEngine` |
//! | steps, retries, limits | [`Context::step`], [`Context::step_with`], [`StepOptions`] |
//! | many at once | [`Context::map`], [`Context::map_each`], [`Context::start_all`] |
//! | different operations at once, or the first of several | [`Context::join`], [`Context::race`], [`Operation`] |
//! | errors with a name and data | [`Engine::register_error`], [`Failure`] |
//! | exactly-once writes | [`Context::transaction`], [`Tx`] |
//! | queues | [`Engine::register_queue`], [`Workflow::enqueue`], [`Context::enqueue`], [`QueueOptions`] |
//! | children | [`Context::run`], [`Context::start`], [`Child`] |
//! | time and messages | [`Context::sleep`], [`Context::send`], [`Context::recv`], [`Engine::send`] |
//! | look, cancel, resume | [`Engine::list`], [`Engine::steps`], [`Engine::cancel`], [`Engine::resume`] |
//! | workflows that no program can take up | [`Engine::waiting_for_nobody`] |
//! | watch | [`Observer`] |
//!
//! Calls of [`Engine`] block their thread. From async code use `AsyncEngine` (feature `tokio`), or call where blocking
//! is allowed, as in `tokio::task::spawn_blocking`. With the feature `tokio` or `postgres`, the log warns once of a
//! call that blocks a task.
//!
//! # Features
//!
//! - `sqlite` (default): the SQLite backend, bundled; [`rusqlite`] is re-exported for [`Tx::sqlite`].
//! - `postgres`: the PostgreSQL backend, on the blocking driver, which is re-exported. The same program, another URL:
//!   `postgresql://USER@HOST/DATABASE`.
//! - `tokio`: async workflows, and the calls of the engine as futures.
//! - `tls`: encrypted connections to PostgreSQL, with rustls and the system's certificates.
//! - `anyhow`: an `anyhow::Error` is known by the error that it was made of, for [`Engine::register_error`] and for
//!   [`StepOptions::should_retry`].
//! - `testing`: a clock that tests move, and a hook around every commit. Not for production.
//!
//! # Not supported yet
//!
//! Events, streams, schedules, rate limits and deduplication of queues, races, forks.

#![cfg_attr(
    not(any(feature = "sqlite", feature = "postgres")),
    expect(dead_code, unused_imports, unused_macros, reason = "some parts serve a backend")
)]

mod api;
mod fleet;
mod flow;
mod machines;
mod pure;
mod sysdb;

#[cfg(feature = "tokio")]
pub use api::async_engine::AsyncEngine;
pub use api::engine::Engine;
pub use api::handle::Handle;
#[cfg(feature = "tokio")]
pub use flow::async_context::AsyncContext;
#[cfg(feature = "tokio")]
pub use flow::async_race::AsyncOperation;
pub use flow::attempts::StepInfo;
#[cfg(feature = "tokio")]
pub use flow::child::AsyncChild;
pub use flow::child::Child;
pub use flow::context::Context;
pub use flow::join::{Operation, Operations};
pub use flow::options::{EngineOptions, ShouldRetry, StepOptions, WorkflowOptions};
pub use flow::registry::Workflow;
pub use pure::clock::Timestamp;
pub use pure::codec::Codec;
pub use pure::error::{BoxError, Error, Failure, Result, Stop};
pub use pure::id::{StepId, WorkflowId};
pub use pure::limits::{NAME_BYTES_MAX, PAYLOAD_BYTES_MAX, VALUE_DEPTH_MAX};
pub use pure::listing::{Absent, Progress, StepRecord, Stranded, WorkflowFilter, WorkflowInfo};
pub use pure::observer::{Event, Observer};
pub use pure::queue::{EnqueueOptions, Queue, QueueOptions};
pub use pure::status::WorkflowStatus;
pub use pure::tally::{Alike, FailedAttempts};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use sysdb::Tx;
pub use sysdb::testing;

#[cfg(feature = "postgres")]
pub use postgres;
#[cfg(feature = "sqlite")]
pub use rusqlite;
#[cfg(feature = "postgres")]
pub use sysdb::postgres::PgConnector;

/// `Ok` for a closure that names no error type, such as the body of a step: `?` in it takes any error.
///
/// The error comes back in a box. A boxed error is known by its registered name ([`Engine::register_error`]), or by
/// none. The name of its type, and the error inside an `anyhow::Error`, are not seen through a box. Where they matter,
/// name the type, as by `Ok::<_, MyError>(value)`.
///
/// # Errors
/// None.
///
/// ```
/// # use engine::{Context, Result};
/// fn twice(ctx: &mut Context, n: String) -> Result<u32> {
///     ctx.step("twice", |_| engine::ok(2 * n.parse::<u32>()?))
/// }
/// ```
pub fn ok<T>(value: T) -> Result<T, BoxError> {
    Ok(value)
}

/// SQL of a program in its own tables: values, rows and errors, alike on both databases.
///
/// The body of a transaction step ([`Context::transaction`]) writes with a [`Tx`]. The same calls and the same
/// placeholders `$1`, `$2` work on SQLite and on PostgreSQL. [`Tx::native`] gives the features that only one database
/// has.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub mod sql {
    pub use crate::pure::sql::{Column, FromValue, Params, Row, SqlError, ToValue, Value, Violation};
    pub use crate::sysdb::Native;
}

/// The program on the front page compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct FrontPage;
