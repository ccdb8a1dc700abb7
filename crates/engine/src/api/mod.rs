//! The calls of a program: open, register, launch, start, wait, send, manage.

#[cfg(feature = "tokio")]
pub(crate) mod async_engine;
pub(crate) mod engine;
pub(crate) mod handle;
pub(crate) mod manage;
pub(crate) mod open;
pub(crate) mod send;
pub(crate) mod start;
