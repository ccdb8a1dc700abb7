//! A file, and a connection beside the engine's.

use std::path::PathBuf;
use std::time::Duration;

use engine::rusqlite::types::{ToSqlOutput, Value as SqlValue};
use engine::rusqlite::{self, Connection, ToSql, params_from_iter};

use crate::value::Value;

pub(crate) struct Database {
    dir: tempfile::TempDir,
}

/// How a transaction of the engine begins.
pub(crate) const BEGIN: &str = "BEGIN IMMEDIATE";

/// How a transaction step names the table of workflows.
pub(crate) const WORKFLOW_STATUS: &str = "workflow_status";

/// Attributes that are no JSON object.
pub(crate) const ODD_ATTRIBUTES: &[&str] = &["no json", "null", "[1]", "\"text\""];

/// Whether a column holds values of any type.
pub(crate) const ANY_TYPE: bool = true;

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

    /// The order of messages is that of their commits, whatever their times say.
    pub(crate) fn let_the_clock_of_messages_stand(&self) {
        let _ = self;
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
