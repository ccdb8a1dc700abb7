//! Real processes on one file, killed and stopped for real.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod crash_points;
mod maps;
mod processes;
mod races;
mod stopped;
mod support;

use std::path::Path;

use torture::database::Database;

/// The database of a ground.
fn database(dir: &Path) -> Database {
    Database::in_directory(dir)
}

/// How many grounds are tried at once: the processor is the bottleneck.
const AT_ONCE: u64 = 2;

/// Every commit.
fn every_nth_commit() -> u64 {
    1
}

/// Every case where there is time, else every n-th, on a file and on a server.
fn every_nth(on_a_file: u64, _: u64) -> u64 {
    support::all_or_every(on_a_file)
}
