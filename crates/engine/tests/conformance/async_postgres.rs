//! The suite of `postgres.rs` with async functions as its workflows: on PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

#[path = "backend/postgres.rs"]
mod backend;
mod support;
mod value;
#[path = "way/task.rs"]
mod way;

mod accidents;
mod children;
mod codecs;
mod commits;
mod deleted;
mod endings;
mod fences;
mod hostile_rows;
mod lasting_trouble;
mod listing;
mod manage;
mod messages;
mod outcomes;
mod ownership;
mod queues;
mod races;
mod recovery;
mod retries;
mod shapes;
mod shutdown;
mod sleeping;
mod sql;
mod starting;
mod steps;
mod stranded;
mod transactions;

mod server;
