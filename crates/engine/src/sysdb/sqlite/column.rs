//! Values of columns as other programs may have left them. SQLite keeps a value of any type in a column of any type, so
//! no value fails to be read here. A value of another type is shown, or read as the nearest value of the expected type.

use std::borrow::Cow;
use std::fmt::Write as _;

use rusqlite::types::ValueRef;
use rusqlite::{Result, Row};

use crate::pure::clock::Timestamp;
use crate::pure::id::WorkflowId;
use crate::pure::status::WorkflowStatus;

/// A text. A value that is no text is shown as an SQL literal, which no codec decodes and no name equals.
pub(super) fn text(row: &Row<'_>, column: usize) -> Result<Option<String>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => None,
        ValueRef::Text(bytes) => Some(match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => blob(bytes),
        }),
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Blob(bytes) => Some(blob(bytes)),
    })
}

/// The text, or `None` for a value of another type: for texts that are compared or written again.
pub(super) fn sound_text(row: &Row<'_>, column: usize) -> Result<Option<String>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) => std::str::from_utf8(bytes).ok().map(str::to_owned),
        _ => None,
    })
}

/// The id of a row, if a statement can name it.
pub(super) fn id(row: &Row<'_>, column: usize) -> Result<StoredId> {
    Ok(match sound_text(row, column)? {
        Some(id) => StoredId::Sound(id),
        None => StoredId::Unreadable(text(row, column)?.unwrap_or_else(|| "NULL".to_owned())),
    })
}

/// The id of a row.
#[derive(Debug)]
pub(super) enum StoredId {
    Sound(String),
    /// The value in place of a text, for people.
    Unreadable(String),
}

impl StoredId {
    /// The id for people, and for rows that were found by it.
    pub(super) fn shown(self) -> WorkflowId {
        let (Self::Sound(id) | Self::Unreadable(id)) = self;
        WorkflowId::stored(id)
    }
}

/// A number, as far as there is one.
pub(super) fn number(row: &Row<'_>, column: usize) -> Result<Option<i64>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Integer(number) => Some(number),
        #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
        ValueRef::Real(number) => Some(number as i64),
        ValueRef::Null | ValueRef::Text(_) | ValueRef::Blob(_) => None,
    })
}

/// A count: a number that is no count reads as the nearest one.
pub(super) fn count(row: &Row<'_>, column: usize) -> Result<u32> {
    let count = number(row, column)?.unwrap_or_default();
    Ok(u32::try_from(count.max(0)).unwrap_or(u32::MAX))
}

pub(super) fn time(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>> {
    Ok(number(row, column)?.map(Timestamp::from_millis))
}

pub(super) fn status(row: &Row<'_>, column: usize) -> Result<WorkflowStatus> {
    Ok(text(row, column)?.as_deref().and_then(WorkflowStatus::parse).unwrap_or(WorkflowStatus::Unknown))
}

pub(super) fn serialization(row: &Row<'_>, column: usize) -> Result<Option<Cow<'static, str>>> {
    Ok(text(row, column)?.map(Cow::Owned))
}

/// The expected type of the column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Status,
}

/// The fault of a column's value, if there is one; `null` says whether the value may be missing.
pub(super) fn fault(row: &Row<'_>, column: usize, kind: Kind, null: bool) -> Result<Option<String>> {
    let held = row.get_ref(column)?;
    let sound = match (kind, held) {
        (_, ValueRef::Null) => null,
        (Kind::Text, ValueRef::Text(bytes)) => std::str::from_utf8(bytes).is_ok(),
        (Kind::Number, ValueRef::Integer(_)) => true,
        (Kind::Status, ValueRef::Text(_)) => status(row, column)? != WorkflowStatus::Unknown,
        _ => false,
    };
    if sound {
        return Ok(None);
    }
    let name = row.as_ref().column_name(column)?;
    let held = text(row, column)?.unwrap_or_else(|| "NULL".to_owned());
    Ok(Some(crate::pure::listing::held(name, &held)))
}

/// The first bytes, as SQL writes them.
fn blob(bytes: &[u8]) -> String {
    const SHOWN: usize = 32;
    let mut shown = "x'".to_owned();
    for byte in bytes.iter().take(SHOWN) {
        // Writing to a String cannot fail.
        let _ = write!(shown, "{byte:02x}");
    }
    shown.push_str(if bytes.len() > SHOWN { "..'" } else { "'" });
    shown
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    fn with<T>(value: &str, read: impl FnOnce(&Row<'_>) -> Result<T>) -> T {
        let connection = Connection::open_in_memory().unwrap();
        connection.query_row(&format!("SELECT {value} AS c"), [], read).unwrap()
    }

    #[test]
    fn every_value_reads_as_a_text_and_as_a_number() {
        let values = [
            ("NULL", None, None),
            ("'text'", Some("text"), None),
            ("7", Some("7"), Some(7)),
            ("-1.5", Some("-1.5"), Some(-1)),
            ("9e999", Some("inf"), Some(i64::MAX)),
            ("x'ff00'", Some("x'ff00'"), None),
            ("CAST(x'22ff22' AS TEXT)", Some("x'22ff22'"), None),
        ];
        for (sql, as_text, as_number) in values {
            assert_eq!(with(sql, |row| text(row, 0)).as_deref(), as_text, "{sql}");
            assert_eq!(with(sql, |row| number(row, 0)), as_number, "{sql}");
        }
        assert_eq!(with("zeroblob(40)", |row| text(row, 0)).unwrap().len(), 2 + 64 + 3);
        assert_eq!(with("-5", |row| count(row, 0)), 0);
        assert_eq!(with("9223372036854775807", |row| count(row, 0)), u32::MAX);
    }

    #[test]
    fn a_fault_names_the_column_and_what_it_holds() {
        let fault = |sql: &str, kind, null| with(sql, |row| fault(row, 0, kind, null));
        assert_eq!(fault("'x'", Kind::Text, false), None);
        assert_eq!(fault("NULL", Kind::Text, true), None);
        assert_eq!(fault("NULL", Kind::Text, false).as_deref(), Some("c holds NULL"));
        assert_eq!(fault("'x'", Kind::Number, true).as_deref(), Some("c holds x"));
        assert_eq!(fault("'PAUSED'", Kind::Status, false).as_deref(), Some("c holds PAUSED"));
        assert_eq!(fault("'PENDING'", Kind::Status, false), None);
    }
}
