//! Workflows of ours, put into our queue by programs that are not ours: the Python client, and SQL alone.

use serde_json::{Value, json};

use super::python::Python;
use super::{Bench, seen};

const PRICED: [&str; 2] = ["result", "status"];

pub(super) fn by_the_client(bench: &Bench) -> anyhow::Result<()> {
    let url = bench.server.fresh_database();
    let _worker = bench.rust(&url)?;
    let priced = |express| json!({ "result": { "item": "book", "express": express, "total": 20 }, "status": "SUCCESS" });
    for (what, args, kwargs, express) in [
        ("positional arguments", r#"["book", 2, true]"#, "{}", true),
        ("named arguments", "[]", r#"{"count": 2, "item": "book"}"#, false),
        ("positional and named arguments", r#"["book"]"#, r#"{"express": true, "count": 2}"#, true),
    ] {
        let args = ["price", "rust-orders", "--args", args, "--kwargs", kwargs];
        let answer = bench.python.enqueue(&url, &args)?;
        let what = format!("enqueue_portable.py, {what}");
        seen::same(&what, &seen::fields(&answer, &PRICED), &priced(express))?;
        let steps: Value = answer["steps"].as_array().into_iter().flatten().map(named_output).collect();
        seen::same("its steps", &steps, &json!([["look up", 10], ["multiply", 20]]))?;
    }
    with_options(bench, &url)?;
    let args = ["refuse", "rust-orders", "--args", r#"["books"]"#, "--expect-error", "--app", "rust"];
    let error = bench.python.enqueue(&url, &args)?["raised"].clone();
    let expected = json!({ "error": "PortableWorkflowError", "message": "0 of books left", "name": "OutOfStock",
                           "code": 409, "data": { "item": "books" } });
    seen::same("enqueue_portable.py, the error of a workflow", &error, &expected)?;
    let args = ["price", "rust-orders", "--args", r#"["book"]"#, "--expect-error"];
    let error = bench.python.enqueue(&url, &args)?["raised"].clone();
    let said = error["message"].as_str().unwrap_or_default();
    seen::contains("enqueue_portable.py, arguments that do not fit", said, "missing field `count`")
}

fn with_options(bench: &Bench, url: &str) -> anyhow::Result<()> {
    for (what, options) in [
        ("a deduplication id", ["--dedup", "one at a time"]),
        ("the same deduplication id, when that one has ended", ["--dedup", "one at a time"]),
        ("a priority", ["--priority", "7"]),
        ("a delay", ["--delay", "0.5"]),
        ("our version", ["--version", "1"]),
        ("our application", ["--app", "rust"]),
    ] {
        let args = [&["price", "rust-orders", "--args", r#"["pen", 1]"#], options.as_slice()].concat();
        let answer = bench.python.enqueue(url, &args)?;
        let seen = seen::fields(&answer, &["status", "owner", "app_version"]);
        let expected = json!({ "status": "SUCCESS", "owner": "rust", "app_version": "1" });
        seen::same(&format!("enqueue_portable.py with {what}"), &seen, &expected)?;
    }
    Ok(())
}

fn named_output(step: &Value) -> Value {
    json!([step["function_name"], step["output"]])
}

pub(super) fn by_sql(bench: &Bench) -> anyhow::Result<()> {
    let url = bench.server.fresh_database();
    let _worker = bench.rust(&url)?;
    let sql = Sql { python: &bench.python, url: &url };
    sql.enqueue(
        "positional arguments",
        "sql-1",
        r#"'price', 'rust-orders', ARRAY['"book"'::json, '2'::json]"#,
    )?;
    sql.ends("sql-1", &json!(["SUCCESS", { "item": "book", "express": false, "total": 20 }, null]))?;
    sql.enqueue(
        "named arguments, for our application and version, later",
        "sql-2",
        r#"'price', 'rust-orders', named_args => '{"item": "pen", "count": 3}', application_name => 'rust',
           app_version => '1', priority => 5,
           delay_until_epoch_ms => (extract(epoch FROM now()) * 1000)::bigint + 500"#,
    )?;
    sql.ends("sql-2", &json!(["SUCCESS", { "item": "pen", "express": false, "total": 30 }, null]))?;
    sql.enqueue("one that fails", "sql-3", r#"'refuse', 'rust-orders', ARRAY['"pens"'::json]"#)?;
    let error =
        json!({ "name": "OutOfStock", "message": "0 of pens left", "code": 409, "data": { "item": "pens" } });
    sql.ends("sql-3", &json!(["ERROR", null, error]))?;
    message(&sql)
}

fn message(sql: &Sql<'_>) -> anyhow::Result<()> {
    sql.enqueue(
        "one that waits for a message",
        "sql-4",
        r#"'greet', 'rust-orders', ARRAY['"Hello"'::json]"#,
    )?;
    let status = "SELECT status FROM dbos.workflow_status WHERE workflow_uuid = 'sql-4'";
    sql.python.rows_become("it has left its thread to wait", sql.url, status, &json!([["DELAYED"]]))?;
    let send = r#"SELECT dbos.send_message('sql-4', '"Ada"'::json, 'name', 'once')::text"#;
    sql.python.sql(sql.url, send)?;
    println!("SELECT dbos.send_message(...), and the same again: sent");
    sql.python.sql(sql.url, send)?;
    sql.ends("sql-4", &json!(["SUCCESS", "Hello, Ada", null]))?;
    let messages = "SELECT consumed FROM dbos.notifications WHERE destination_uuid = 'sql-4'";
    seen::same("its messages, consumed or not", &sql.python.sql(sql.url, messages)?, &json!([[true]]))
}

/// A database that is spoken to in SQL.
struct Sql<'b> {
    python: &'b Python,
    url: &'b str,
}

impl Sql<'_> {
    fn enqueue(&self, what: &str, id: &str, arguments: &str) -> anyhow::Result<()> {
        let statement = format!("SELECT dbos.enqueue_workflow({arguments}, workflow_id => '{id}')");
        let rows = self.python.sql(self.url, &statement)?;
        seen::same(&format!("SELECT dbos.enqueue_workflow(...), {what}"), &rows, &json!([[id]]))
    }

    fn ends(&self, id: &str, outcome: &Value) -> anyhow::Result<()> {
        let statement = format!(
            "SELECT status, o.output::json, o.error::json
               FROM dbos.workflow_status LEFT JOIN dbos.workflow_output o USING (workflow_uuid)
              WHERE workflow_uuid = '{id}'"
        );
        self.python.rows_become(&format!("{id} ends"), self.url, &statement, &json!([outcome]))
    }
}
