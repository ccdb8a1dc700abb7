//! The system database on SQLite: one file, one writer connection, readers beside it.
//!
//! Durable means WAL and `synchronous=FULL`: acknowledged commits survive power loss. Both are read back, since SQLite
//! answers a setting it does not know with silence. Every writing transaction is `BEGIN IMMEDIATE`: a transaction that
//! starts by reading fails at once when another process wrote in between.
//!
//! Several processes may share the file on a local disk. Network file systems are not supported.

mod census;
mod claims;
mod column;
mod executor_lock;
mod file_identity;
mod manage;
mod messages;
mod open;
mod overwriting;
mod path;
mod queues;
mod races;
mod reader;
mod schema;
mod statement;
mod steps;
mod transaction;
pub(crate) mod tx;
mod workflows;
mod writer;

pub(crate) use open::open;
pub(crate) use transaction::{TransactionSteps, tries_max};

/// A list as one parameter, for `IN (SELECT value FROM json_each(?))`.
fn json_array(texts: &[impl AsRef<str>]) -> String {
    let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
    serde_json::json!(texts).to_string()
}

/// The condition of rows that programs of version ?3 of application ?2 may take: rows of their version and, if it is
/// the newest, rows without a version.
macro_rules! served_version {
    () => {
        "(application_version = ?3
             OR (application_version IS NULL
                 AND ?3 = COALESCE((SELECT version_name FROM application_versions
                                     WHERE application_name = ?2 AND typeof(version_name) = 'text'
                                       AND typeof(version_timestamp) = 'integer'
                                     ORDER BY version_timestamp DESC LIMIT 1), ?3)))"
    };
}
use served_version;

/// The count of attempts, for any value in its place: at least 0, and less than the largest readable count.
macro_rules! attempts {
    () => {
        "max(0, min(CAST(COALESCE(recovery_attempts, 0) AS INTEGER), 4294967294))"
    };
}
use attempts;

/// The path in `workflow_status.attributes` of the mark of a wait without a thread.
const AWAITS_PATH: &str = "$.\"piton.awaits\"";

/// Where a resume leaves its token, to know itself again.
const RESUMED_PATH: &str = "$.\"piton.resumed\"";
