//! Databases that the official package made. A database of our version is used as it is, an older one is refused. A
//! database in the middle of its bring-up is waited for.

use std::process::{Command, Stdio};

use anyhow::ensure;
use serde_json::{Value, json};

use super::python::{OLDER_PACKAGE, Python, refuse};
use super::{Bench, seen};

/// The schema of the older package.
const OLDER_VERSION: u32 = 108;

/// Every column, index, constraint, trigger and function of the schema, but for our own tables.
const FACTS: &str = "
    WITH relations AS (
         SELECT c.oid, c.relname FROM pg_class c
          WHERE relnamespace = 'dbos'::regnamespace AND relkind = 'r' AND relname NOT LIKE 'piton%'),
    facts (fact) AS (
         SELECT concat_ws(' ', relname, attname, format_type(atttypid, atttypmod), attnotnull,
                          pg_get_expr(adbin, adrelid))
           FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid AND attnum > 0 AND NOT attisdropped
           LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
          UNION ALL
         SELECT pg_get_indexdef(indexrelid) FROM pg_index JOIN relations r ON indrelid = r.oid
          UNION ALL
         SELECT concat_ws(' ', relname, conname, pg_get_constraintdef(c.oid))
           FROM pg_constraint c JOIN relations r ON conrelid = r.oid
          UNION ALL
         SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN relations r ON tgrelid = r.oid WHERE NOT tgisinternal
          UNION ALL
         SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'dbos'::regnamespace
          UNION ALL
         SELECT concat('version ', version) FROM dbos.dbos_migrations)
    SELECT count(*), md5(string_agg(fact, E'\\n' ORDER BY fact)) FROM facts";

pub(super) fn check(bench: &Bench) -> anyhow::Result<()> {
    used_as_it_is(bench)?;
    let older = Python::environment(&bench.args.python, &bench.dir.join("venv-older"), OLDER_PACKAGE)?;
    older_is_refused(bench, &older)?;
    migration_is_waited_for(bench, &older)
}

fn used_as_it_is(bench: &Bench) -> anyhow::Result<()> {
    let (python, url) = (&bench.python, bench.server.fresh_database());
    python.migrate(&url)?;
    let said = python.script("check_schema.py", &url, &[])?;
    seen::contains("check_schema.py after dbos migrate", &said, "schema matches v125")?;
    let before = python.sql(&url, FACTS)?;
    println!("facts of the schema and their digest after dbos migrate: {before}");
    both_run(bench, &url)?;
    seen::same("the same after the engine has used it", &python.sql(&url, FACTS)?, &before)?;
    let own = "SELECT count(*) FROM pg_class WHERE oid = to_regclass('dbos.piton_executors')";
    seen::same("tables of our own beside them", &python.sql(&url, own)?, &json!([[1]]))
}

fn both_run(bench: &Bench, url: &str) -> anyhow::Result<()> {
    let _python = bench.python.worker(url)?;
    let _rust = bench.rust(url)?;
    let args = ["price", "rust-orders", "--args", r#"["book", 2]"#];
    let priced = json!({ "item": "book", "express": false, "total": 20 });
    seen::same("a workflow in Rust on it", &bench.python.enqueue(url, &args)?["result"], &priced)?;
    let args = ["add", "python-work", "--args", "[1, 2]"];
    seen::same("a workflow in Python on it", &bench.python.enqueue(url, &args)?["result"], &json!(3))?;
    let args = ["--application", "rust", "--args", "[[4, 5]]", "add-in-python", "rust-orders"];
    seen::same("one in Rust with a child in Python", &bench.ask(url, &args)?["result"], &json!(9))
}

fn older_is_refused(bench: &Bench, older: &Python) -> anyhow::Result<()> {
    let url = bench.server.fresh_database();
    older.migrate(&url)?;
    let version = |what: &str, expected: Value| {
        let rows = bench.python.sql(&url, "SELECT version FROM dbos.dbos_migrations")?;
        seen::same(what, &rows, &expected)
    };
    version(&format!("schema version after dbos migrate of {OLDER_PACKAGE}"), json!([[OLDER_VERSION]]))?;
    let said = refuse(&mut serve_nobody(bench, &url))?;
    let refusal = refused_at(OLDER_VERSION) + " and this engine needs 125; bring it up with `dbos migrate`";
    seen::contains("our program on it", &said, &refusal)?;
    version("and it is as it was", json!([[OLDER_VERSION]]))?;
    bench.python.migrate(&url)?;
    version("schema version after dbos migrate of 3.4.0", json!([[125]]))?;
    both_run(bench, &url)
}

/// The versions between the old and the new one are never used, and the engine does not hold up the migration.
fn migration_is_waited_for(bench: &Bench, older: &Python) -> anyhow::Result<()> {
    let url = bench.server.fresh_database();
    older.migrate(&url)?;
    let refused = std::thread::scope(|scope| {
        let (python, url) = (&bench.python, &url);
        let migration = scope.spawn(move || python.migrate(url));
        let mut refused = 0;
        loop {
            let output = serve_nobody(bench, url).output()?;
            if output.status.success() {
                break;
            }
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(said.contains(&refused_at(OLDER_VERSION)), "expected no other refusal, seen {said}");
            refused += 1;
            ensure!(!migration.is_finished(), "refused after the migration: {said}");
        }
        migration.join().map_err(|_| anyhow::anyhow!("the migration panicked"))??;
        anyhow::Ok(refused)
    })?;
    println!("opened while dbos migrate ran, after {refused} refusals before it had begun");
    let said = bench.python.script("check_schema.py", &url, &[])?;
    seen::contains("check_schema.py after both", &said, "schema matches v125")
}

fn refused_at(version: u32) -> String {
    format!("it is at schema version {version},")
}

/// Our program, which ends as soon as it has opened the database.
fn serve_nobody(bench: &Bench, url: &str) -> Command {
    let mut serve = Command::new(&bench.program);
    serve.arg("serve").env("DBOS_DATABASE_URL", url).stdin(Stdio::null());
    serve
}
