//! Kills on PostgreSQL, and the purpose of its leases.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod crash_points;
mod leases;
mod maps;
mod processes;
mod races;
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
fn every_nth_commit() -> u64 {
    support::all_or_every(5)
}

/// Each n-th case, on a file and on a server. Where there is time, three times as many: on a server a case takes seconds.
fn every_nth(_: u64, on_a_server: u64) -> u64 {
    support::all_or_every(on_a_server).max(on_a_server.div_ceil(3))
}
