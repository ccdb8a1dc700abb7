//! What the engine promises, through its public API alone, on PostgreSQL. The numbers in the doc lines are those of the
//! behaviours in the DBOS test suites that a test corresponds to.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

#[path = "backend/postgres.rs"]
mod backend;
mod support;
mod value;
#[path = "way/plain.rs"]
mod way;

mod accidents;
mod asynchronous;
mod children;
mod codecs;
mod commits;
mod deleted;
mod endings;
mod fences;
mod hostile_rows;
mod joins;
mod lasting_trouble;
mod listing;
mod manage;
mod maps;
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

// Of plain functions alone.
mod threads;

// Of a server alone; tests/fleet has the rest.
mod server;
