//! One run of a workflow, and its durable operations: one operation a file.

#[cfg(feature = "tokio")]
pub(crate) mod async_context;
#[cfg(feature = "tokio")]
pub(crate) mod async_race;
pub(crate) mod attempts;
pub(crate) mod cancel;
pub(crate) mod child;
pub(crate) mod child_result;
pub(crate) mod context;
pub(crate) mod core;
pub(crate) mod drive;
pub(crate) mod execution;
pub(crate) mod history;
pub(crate) mod join;
pub(crate) mod known_errors;
pub(crate) mod map;
pub(crate) mod message;
pub(crate) mod operation;
pub(crate) mod options;
pub(crate) mod race;
pub(crate) mod registry;
pub(crate) mod sequence;
pub(crate) mod sleep;
pub(crate) mod start_child;
pub(crate) mod step;
#[cfg(feature = "tokio")]
pub(crate) mod task;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) mod transaction;
pub(crate) mod waits;
pub(crate) mod workflow;
