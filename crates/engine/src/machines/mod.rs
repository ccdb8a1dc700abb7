//! The machines: they make writes durable, run workflows on threads, and wake waiting threads and tasks.

pub(crate) mod committer;
#[cfg(feature = "tokio")]
pub(crate) mod errands;
pub(crate) mod slots;
#[cfg(feature = "tokio")]
pub(crate) mod tasks;
#[cfg(feature = "tokio")]
pub(crate) mod timer;
pub(crate) mod waiter;
pub(crate) mod worker;
