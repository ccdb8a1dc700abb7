//! Statements of a program in a transaction step.

use std::sync::Arc;

use rusqlite::ffi::{
    SQLITE_CONSTRAINT_CHECK, SQLITE_CONSTRAINT_FOREIGNKEY, SQLITE_CONSTRAINT_NOTNULL,
    SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE,
};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Statement, ToSql, Transaction};

use crate::pure::sql::{Row, SqlError, Value, Violation};

pub(crate) fn execute(transaction: &Transaction<'_>, sql: &str, values: &[Value]) -> Result<u64, SqlError> {
    let before = transaction.total_changes();
    let mut statement = prepared(transaction, sql, values)?;
    if statement.column_count() == 0 {
        statement.raw_execute()?;
    } else {
        let mut returned = 0;
        let mut rows = statement.raw_query();
        while rows.next()?.is_some() {
            returned += 1;
        }
        drop(rows);
        if statement.readonly() {
            return Ok(returned);
        }
    }
    // SQLite keeps the count of the last statement that changed rows.
    Ok(if transaction.total_changes() == before { 0 } else { transaction.changes() })
}

pub(crate) fn query(
    transaction: &Transaction<'_>,
    sql: &str,
    values: &[Value],
) -> Result<Vec<Row>, SqlError> {
    let mut statement = prepared(transaction, sql, values)?;
    #[expect(
        clippy::useless_conversion,
        reason = "a list in some versions of rusqlite, an iterator in others"
    )]
    let columns: Arc<[String]> = statement.column_names().into_iter().map(str::to_owned).collect();
    let mut rows = statement.raw_query();
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let read = |column| {
            row.get_ref(column).map_err(SqlError::from).and_then(|found| value(&columns, column, found))
        };
        all.push(Row::new(&columns, (0..columns.len()).map(read).collect::<Result<_, _>>()?));
    }
    Ok(all)
}

/// With its parameters bound by their names: by their places, `SELECT $2, $1` would get them in the wrong order.
fn prepared<'t>(
    transaction: &'t Transaction<'_>,
    sql: &str,
    values: &[Value],
) -> Result<CachedStatement<'t>, SqlError> {
    let mut statement = transaction.prepare_cached(sql)?;
    for (index, value) in values.iter().enumerate() {
        let name = format!("${}", index + 1);
        let Some(place) = statement.parameter_index(&name)? else {
            return Err(SqlError::value(
                format!("parameter {name}"),
                "the statement has no such placeholder",
            ));
        };
        statement.raw_bind_parameter(place, Bound(value))?;
    }
    refuse_unbound(&statement, values.len())?;
    Ok(statement)
}

fn refuse_unbound(statement: &Statement<'_>, given: usize) -> Result<(), SqlError> {
    for place in 1..=statement.parameter_count() {
        let name = statement.parameter_name(place).unwrap_or("?");
        let number = name.strip_prefix('$').and_then(|number| number.parse::<usize>().ok());
        if !number.is_some_and(|number| (1..=given).contains(&number)) {
            let reason =
                format!("no value was given for it; placeholders are $1 to $n, and {given} were given");
            return Err(SqlError::value(format!("placeholder {name}"), reason));
        }
    }
    Ok(())
}

struct Bound<'v>(&'v Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let text = |text: String| ToSqlOutput::Owned(text.into());
        Ok(match self.0 {
            Value::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            Value::Bool(value) => ToSqlOutput::Borrowed(ValueRef::Integer(i64::from(*value))),
            Value::Integer(number) => ToSqlOutput::Borrowed(ValueRef::Integer(*number)),
            Value::Real(number) => ToSqlOutput::Borrowed(ValueRef::Real(*number)),
            Value::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Value::Bytes(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
            Value::Uuid(uuid) => text(uuid.to_string()),
            Value::Time(time) => text(Value::time_as_text(time)),
            Value::Json(json) => text(json.to_string()),
        })
    }
}

fn value(columns: &[String], column: usize, found: ValueRef<'_>) -> Result<Value, SqlError> {
    Ok(match found {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
        ValueRef::Text(bytes) => match str::from_utf8(bytes) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(error) => {
                let what = format!("column `{}`", columns[column]);
                return Err(SqlError::value(what, format!("its text is not UTF-8: {error}")));
            }
        },
    })
}

impl From<rusqlite::Error> for SqlError {
    fn from(error: rusqlite::Error) -> Self {
        let violation = error.sqlite_error().and_then(|error| match error.extended_code {
            SQLITE_CONSTRAINT_PRIMARYKEY | SQLITE_CONSTRAINT_UNIQUE => Some(Violation::Unique),
            SQLITE_CONSTRAINT_FOREIGNKEY => Some(Violation::ForeignKey),
            SQLITE_CONSTRAINT_NOTNULL => Some(Violation::NotNull),
            SQLITE_CONSTRAINT_CHECK => Some(Violation::Check),
            _ => None,
        });
        Self::Database { violation, message: error.to_string(), source: error.into() }
    }
}
