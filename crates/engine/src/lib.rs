//! **Piton**: durable execution for Rust, embedded on SQLite, and on PostgreSQL for a fleet.
//!
//! Write plain functions. Each step's outcome is recorded in a database before the function goes on. Kill the
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
//! - A call that returned survives a kill, and power loss: WAL and `synchronous=FULL`, or `fsync` and
//!   `synchronous_commit`, read back at open.
//! - A **step**'s body runs at least once, its outcome is recorded at most once, and after the record the body
//!   never runs again. A **transaction step** ([`Context::transaction`]) has its effect exactly once.
//! - A workflow has one owner. An execution that lost it records nothing more.
//! - A first run and a replay see the same values: what a step returns is read back from its record.
//! - Every bad ending is a state with a readable reason: a panic, an input that cannot be decoded, an output that
//!   cannot be recorded, steps in another order, a name nobody registers, too many crashes.
//!
//! # Rules for workflow functions
//!
//! Between steps be deterministic: no clock, no random numbers, no input or output outside of a step. Hand errors
//! on with `?`; [`Error::Stopped`] means that the engine ends this execution, and nothing recorded is lost.
//!
//! Do not `fork` a process with a launched engine, unless to `exec`: the child would keep it alive in the eyes of the
//! others after its death.
//!
//! # Map
//!
//! | to | see |
//! |---|---|
//! | open, register, launch, shut down | [`Engine`], [`EngineOptions`] |
//! | start, attach, wait | [`Workflow`], [`Handle`] |
//! | steps, retries | [`Context::step`], [`Context::step_with`], [`StepOptions`] |
//! | exactly-once writes | [`Context::transaction`], on PostgreSQL `Context::pg_transaction` |
//! | queues | [`Engine::register_queue`], [`Workflow::enqueue`], [`Context::enqueue`], [`QueueOptions`] |
//! | children | [`Context::run`], [`Context::start`], [`Child`] |
//! | time and messages | [`Context::sleep`], [`Context::send`], [`Context::recv`], [`Engine::send`] |
//! | look, cancel, resume | [`Engine::list`], [`Engine::steps`], [`Engine::cancel`], [`Engine::resume`] |
//! | watch | [`Observer`] |
//!
//! Calls block their thread. From async code, make them where blocking is allowed; nothing here needs a runtime.
//!
//! # Features
//!
//! - `sqlite` (default): the SQLite backend, bundled; [`rusqlite`] is re-exported for transaction steps.
//! - `postgres`: the PostgreSQL backend, on the blocking driver, which is re-exported. The same program, another URL:
//!   `postgresql://USER@HOST/DATABASE`.
//! - `tls`: encrypted connections to PostgreSQL, with rustls and the system's certificates.
//! - `testing`: a clock that tests move, and a hook around every commit. Not for production.
//!
//! # Not supported yet
//!
//! Events, streams, schedules, rate limits and deduplication of queues, parallel steps in one workflow, forks.

#![cfg_attr(not(feature = "sqlite"), expect(dead_code, reason = "some parts serve one backend alone"))]

mod attempts;
mod child;
mod clock;
mod codec;
mod committer;
mod context;
mod core;
mod engine;
mod error;
mod fleet;
mod handle;
mod history;
mod id;
mod inside;
mod limits;
mod listing;
mod manage;
mod message;
mod notices;
mod observer;
mod options;
mod outage;
mod queue;
mod recovery;
mod registry;
mod retry;
mod sleep;
mod start;
mod status;
mod step;
mod sync;
mod sysdb;
pub mod testing;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod transaction;
mod waiter;
mod worker;
mod workflow;

pub use attempts::StepInfo;
pub use child::Child;
pub use clock::Timestamp;
pub use codec::Codec;
pub use context::Context;
pub use engine::Engine;
pub use error::{BoxError, Error, Failure, Result, Stop};
pub use handle::Handle;
pub use id::{StepId, WorkflowId};
pub use limits::{NAME_BYTES_MAX, PAYLOAD_BYTES_MAX};
pub use listing::{Progress, StepRecord, WorkflowFilter, WorkflowInfo};
pub use observer::{Event, Observer};
pub use options::{EngineOptions, ShouldRetry, StepOptions, WorkflowOptions};
pub use queue::{EnqueueOptions, Queue, QueueOptions};
pub use registry::Workflow;
pub use status::WorkflowStatus;

#[cfg(feature = "postgres")]
pub use postgres;
#[cfg(feature = "sqlite")]
pub use rusqlite;
#[cfg(feature = "postgres")]
pub use sysdb::postgres::PgConnector;

/// The program on the front page compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct FrontPage;
