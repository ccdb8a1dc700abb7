//! A file, and a connection beside the engine's.

use std::path::PathBuf;
use std::time::Duration;

use engine::rusqlite::types::{ToSqlOutput, Value as SqlValue};
use engine::rusqlite::{self, Connection, ToSql, params_from_iter};
use engine::{BoxError, Context, Result, StepInfo, StepOptions};
use serde::{Serialize, de::DeserializeOwned};

use crate::value::{FromValue, Params, Value};

pub(crate) struct Database {
    dir: tempfile::TempDir,
}

/// How a transaction of the engine begins.
pub(crate) const BEGIN: &str = "BEGIN IMMEDIATE";

/// Attributes that are no JSON object.
pub(crate) const ODD_ATTRIBUTES: &[&str] = &["no json", "null", "[1]", "\"text\""];

/// Whether a column holds values of any type.
pub(crate) const ANY_TYPE: bool = true;

/// What the driver says.
pub(crate) type SqlError = rusqlite::Error;

impl Database {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("system.db")
    }

    pub(crate) fn url(&self) -> String {
        format!("sqlite:{}", self.path().display())
    }

    /// How the log calls it.
    pub(crate) fn label(&self) -> String {
        self.path().display().to_string()
    }

    fn connection(&self) -> Connection {
        let connection = Connection::open(self.path()).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        connection
    }

    pub(crate) fn batch(&self, sql: &str) {
        self.connection().execute_batch(sql).unwrap();
    }

    pub(crate) fn execute(&self, sql: &str, params: &[Value]) -> usize {
        self.connection().execute(sql, params_from_iter(params)).unwrap()
    }

    pub(crate) fn column(&self, sql: &str, params: &[Value]) -> Vec<Value> {
        let connection = self.connection();
        let mut statement = connection.prepare(sql).unwrap();
        let rows = statement.query_map(params_from_iter(params), |row| row.get(0).map(value)).unwrap();
        rows.map(std::result::Result::unwrap).collect()
    }

    fn locks(&self) -> PathBuf {
        self.dir.path().join("system.db-executors")
    }

    pub(crate) fn exists(&self) -> bool {
        self.path().exists()
    }

    /// How many executors live or have died without leave.
    pub(crate) fn traces(&self) -> usize {
        std::fs::read_dir(self.locks()).unwrap().count()
    }

    pub(crate) fn living(&self) -> usize {
        let files = std::fs::read_dir(self.locks()).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| std::fs::File::open(path).unwrap().try_lock_shared().is_err()).count()
    }

    pub(crate) fn remove_traces(&self) {
        std::fs::remove_dir_all(self.locks()).unwrap();
    }

    /// Its lock file, which nobody locks.
    pub(crate) fn leave_the_trace_of_a_dead_one(&self, executor: &str) {
        std::fs::create_dir_all(self.locks()).unwrap();
        std::fs::write(self.locks().join(format!("{executor}.lock")), "").unwrap();
    }
}

fn value(value: SqlValue) -> Value {
    match value {
        SqlValue::Null => Value::Null,
        SqlValue::Integer(number) => Value::Int(number),
        SqlValue::Text(text) => Value::Text(text),
        other => panic!("no value of the tests: {other:?}"),
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::Owned(SqlValue::Null),
            Self::Int(number) => (*number).into(),
            Self::Text(text) => text.as_str().into(),
        })
    }
}

/// The transaction of a step.
pub(crate) struct Tx<'t>(&'t rusqlite::Transaction<'t>);

impl Tx<'_> {
    pub(crate) fn batch(&mut self, sql: &str) -> Result<(), SqlError> {
        self.0.execute_batch(sql)
    }

    pub(crate) fn execute(&mut self, sql: &str, params: impl Params) -> Result<usize, SqlError> {
        self.0.execute(sql, params_from_iter(params.values()))
    }

    pub(crate) fn value<T: FromValue>(&mut self, sql: &str, params: impl Params) -> Result<T, SqlError> {
        let found = self.0.query_row(sql, params_from_iter(params.values()), |row| row.get(0).map(value))?;
        Ok(T::from_value(found))
    }
}

pub(crate) fn transaction<T, E>(
    ctx: &mut Context,
    name: &str,
    mut body: impl FnMut(&mut Tx<'_>) -> Result<T, E>,
) -> Result<T>
where
    T: Serialize + DeserializeOwned,
    E: Into<BoxError>,
{
    ctx.transaction(name, |tx| body(&mut Tx(tx)))
}

pub(crate) fn transaction_with<T, E>(
    ctx: &mut Context,
    name: &str,
    options: &StepOptions,
    mut body: impl FnMut(&mut Tx<'_>, &StepInfo<'_>) -> Result<T, E>,
) -> Result<T>
where
    T: Serialize + DeserializeOwned,
    E: Into<BoxError>,
{
    ctx.transaction_with(name, options, |tx, step| body(&mut Tx(tx), step))
}
