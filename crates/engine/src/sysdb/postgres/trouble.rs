//! Errors of the database, and their meaning: whether the call may work later, or on another connection.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use postgres::error::SqlState;

use super::link::Fault;
use crate::pure::causes;
use crate::sysdb::DbError;
pub(super) use crate::sysdb::outage::Silent;

/// The error of a request to which no answer came within this time.
pub(super) fn silent(statement: &'static str, within: Duration) -> DbError {
    DbError { statement, may_pass: true, source: Arc::new(Silent(within)) }
}

/// Trouble that may pass, in our own words.
pub(super) fn trouble(statement: &'static str, reason: &str) -> DbError {
    DbError { may_pass: true, ..DbError::lasting(statement, reason) }
}

/// The error of a statement, with the verdict whether it may work later.
pub(super) fn failed(statement: &'static str, error: postgres::Error) -> DbError {
    let may_pass = may_pass(&error);
    DbError { statement, may_pass, source: Arc::new(InWords(error)) }
}

/// The error of a request under a limit.
pub(super) fn faulted(statement: &'static str, fault: Fault) -> DbError {
    match fault {
        Fault::Said(error) => failed(statement, error),
        Fault::Silence(limit) => silent(statement, limit),
        Fault::System(error) => DbError { statement, may_pass: true, source: Arc::new(error) },
    }
}

/// Whether nothing was heard, and not even a refusal.
pub(super) fn is_silence(error: &DbError) -> bool {
    source_of::<Silent>(error.source.as_ref()).is_some()
}

/// The server may come back, a conflict may not happen again. A fault of a value or a table stays.
fn may_pass(error: &postgres::Error) -> bool {
    let Some(code) = error.code() else {
        // Without an answer of the server it is the connection, unless it is a value that the driver refuses.
        return is_about_the_connection(error);
    };
    let class = code.code().get(..2).unwrap_or_default();
    matches!(class, "08" | "53" | "57" | "58" | "40" | "55") || STALE.contains(code) || PASSING.contains(code)
}

const PASSING: [SqlState; 2] =
    [SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT, SqlState::IN_FAILED_SQL_TRANSACTION];

/// Trouble that a fresh connection does not have. A prepared statement is gone, as behind a pooler, or no longer fits
/// changed tables. Or the server is a standby by now.
const STALE: [SqlState; 4] = [
    SqlState::INVALID_SQL_STATEMENT_NAME,
    SqlState::DUPLICATE_PSTATEMENT,
    SqlState::FEATURE_NOT_SUPPORTED,
    SqlState::READ_ONLY_SQL_TRANSACTION,
];

/// Whether a fresh connection would not have this error.
pub(super) fn is_stale(error: &DbError) -> bool {
    source_of::<postgres::Error>(error.source.as_ref()).is_some_and(|error| match error.code() {
        Some(code) => STALE.contains(code),
        None => is_about_the_connection(error),
    })
}

/// Whether a prepared statement was not there, or another session's was: this is not the session that prepared it.
pub(super) fn is_of_another_session(error: &DbError) -> bool {
    code(error).is_some_and(|code| {
        code == SqlState::INVALID_SQL_STATEMENT_NAME || code == SqlState::DUPLICATE_PSTATEMENT
    })
}

/// A connection that cannot be made, or that is gone.
fn is_about_the_connection(error: &postgres::Error) -> bool {
    let text = error.to_string();
    error.is_closed()
        || source_of::<std::io::Error>(error).is_some()
        || text.starts_with("error connecting")
        || text.starts_with("timeout")
}

/// The first of that type among the error and its sources.
pub(super) fn source_of<'e, T: std::error::Error + 'static>(
    error: &'e (dyn std::error::Error + 'static),
) -> Option<&'e T> {
    causes::chain(error).find_map(|error| error.downcast_ref::<T>())
}

/// The server's code.
pub(super) fn code(error: &DbError) -> Option<SqlState> {
    source_of::<postgres::Error>(error.source.as_ref()).and_then(|error| error.code().cloned())
}

pub(super) fn words(error: &DbError) -> String {
    source_of::<postgres::Error>(error.source.as_ref()).map_or_else(|| error.source.to_string(), in_words)
}

/// The server's message; the driver's own text is only "db error".
#[derive(Debug)]
struct InWords(postgres::Error);

impl fmt::Display for InWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&in_words(&self.0))
    }
}

impl std::error::Error for InWords {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// The server's message with its code, or the driver's with its causes.
pub(super) fn in_words(error: &postgres::Error) -> String {
    if let Some(told) = error.as_db_error() {
        let detail = told.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
        return format!("{}{detail} [{}]", told.message(), told.code().code());
    }
    causes::chain(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
