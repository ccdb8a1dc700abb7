//! What makes writes durable, runs workflows on threads, and wakes who waits.

pub(crate) mod committer;
pub(crate) mod waiter;
pub(crate) mod worker;
