//! Kills on PostgreSQL, and the purpose of its leases.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod crash_points;
mod leases;
mod processes;
mod support;

use std::path::Path;

use torture::database::Database;

/// The database of a ground.
fn database(_: &Path) -> Database {
    let cluster = cluster::shared();
    Database::Postgres(cluster.url(&cluster.fresh_database()))
}

/// How many grounds are tried at once: most of the time goes to leases that run out.
const AT_ONCE: u64 = 8;

/// Every commit where there is time, else a sample: SQLite runs the same statements of the engine.
fn every_nth_commit() -> usize {
    if std::env::var_os("PITON_LONG_TESTS").is_some() { 1 } else { 5 }
}
