//! Statements of a program in a transaction step: the same calls on both databases.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use engine::Tx;
use engine::sql::{SqlError, Value, Violation};
use uuid::Uuid;

use crate::support::App;
use crate::way::Context;

/// What a body says about a database, through a step of a workflow.
fn in_a_transaction<T>(
    app: &App,
    body: impl Fn(&mut Tx<'_>) -> Result<T, SqlError> + Send + Sync + 'static,
) -> engine::Result<T>
where
    T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
{
    let engine = app.open();
    let body = Arc::new(body);
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| {
        let body = body.clone();
        ctx.transaction("t", move |tx| body(tx))
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    workflow.start(&engine, ()).unwrap().result()
}

fn with_a_table(columns: &str) -> App {
    let app = App::new();
    drop(app.open());
    app.batch(&format!("CREATE TABLE thing ({columns})"));
    app
}

/// By their places, the first one would get the value of the second.
#[test]
fn a_placeholder_gets_the_value_of_its_number_in_any_order_and_twice() {
    let app = with_a_table("a text, b text, c text");
    let seen = in_a_transaction(&app, |tx| {
        tx.execute("INSERT INTO thing (b, a, c) VALUES ($2, $1, $2)", ("one", "two"))?;
        let row = tx.query_one("SELECT b, a, c FROM thing WHERE b = $2 AND a = $1", ("one", "two"))?;
        Ok((row.get::<String>("a")?, row.get::<String>("b")?, row.get::<String>(2)?))
    });
    assert_eq!(seen.unwrap(), ("one".to_owned(), "two".to_owned(), "two".to_owned()));
}

#[test]
fn a_value_of_each_type_comes_back_as_it_was() {
    let time: DateTime<Utc> = "2026-01-02T03:04:05.678901Z".parse().unwrap();
    let uuid = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let app = with_a_table(
        "yes boolean, small smallint, big bigint, real_ double precision, text_ text, bytes bytea, id uuid,
         at timestamptz, doc jsonb, missing text, total numeric",
    );
    let seen = in_a_transaction(&app, move |tx| {
        let doc = serde_json::json!({ "n": [1, null, "x"] });
        let bytes: Vec<u8> = (0..=255).collect();
        let id: Uuid = uuid.parse().unwrap();
        let changed = tx.execute(
            "INSERT INTO thing VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            (
                true,
                -7_i16,
                i64::MIN,
                0.1_f64,
                "\u{1F980} 'quoted' \\ $1",
                &bytes,
                id,
                time,
                &doc,
                None::<String>,
                12_u32,
            ),
        )?;
        let row = tx.query_one("SELECT * FROM thing", ())?;
        assert!(row.get::<bool>("yes")?);
        assert_eq!(row.get::<i16>("small")?, -7);
        assert_eq!(row.get::<i64>("big")?, i64::MIN);
        assert_eq!(row.get::<f64>("real_")?.to_bits(), 0.1_f64.to_bits());
        assert_eq!(row.get::<String>("text_")?, "\u{1F980} 'quoted' \\ $1");
        assert_eq!(row.get::<Vec<u8>>("bytes")?, bytes);
        assert_eq!(row.get::<Uuid>("id")?, id);
        assert_eq!(row.get::<DateTime<Utc>>("at")?, time);
        assert_eq!(row.get::<serde_json::Value>("doc")?, doc);
        assert_eq!(row.get::<Option<String>>("missing")?, None);
        assert_eq!(row.get::<Value>("missing")?, Value::Null);
        assert_eq!(row.get::<u8>("total")?, 12);
        assert_eq!(row.columns().len(), 11);
        Ok(changed)
    });
    assert_eq!(seen.unwrap(), 1);
}

#[test]
fn counts_and_sums_are_whole_numbers() {
    let app = with_a_table("n bigint");
    let seen = in_a_transaction(&app, |tx| {
        for n in [40_i64, 2] {
            tx.execute("INSERT INTO thing VALUES ($1)", [n])?;
        }
        let row = tx.query_one("SELECT count(*) AS count, sum(n) AS sum FROM thing", ())?;
        Ok((row.get::<u64>("count")?, row.get::<i64>("sum")?))
    });
    assert_eq!(seen.unwrap(), (2, 42));
}

#[test]
fn a_statement_says_how_many_rows_it_changed() {
    let app = with_a_table("n bigint");
    let seen = in_a_transaction(&app, |tx| {
        let none = tx.execute("UPDATE thing SET n = 0", ())?;
        let inserted = tx.execute("INSERT INTO thing SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3", ())?;
        let created = tx.execute("CREATE TABLE other (n bigint)", ())?;
        let returned = tx.execute("UPDATE thing SET n = 9 WHERE n > $1 RETURNING n", [1])?;
        let read = tx.execute("SELECT n FROM thing", ())?;
        let rows = tx.query("SELECT n FROM thing WHERE n = $1", [9])?.len();
        Ok(vec![none, inserted, created, returned, read, rows as u64])
    });
    assert_eq!(seen.unwrap(), [0, 3, 0, 2, 3, 2]);
}

#[test]
fn one_row_is_asked_for_and_another_number_is_an_error() {
    let app = with_a_table("n bigint");
    let seen = in_a_transaction(&app, |tx| {
        assert!(tx.query_opt("SELECT n FROM thing", ())?.is_none());
        let none = tx.query_one("SELECT n FROM thing", ()).unwrap_err().to_string();
        tx.execute("INSERT INTO thing SELECT 1 UNION ALL SELECT 2", ())?;
        let two = tx.query_opt("SELECT n FROM thing", ()).unwrap_err().to_string();
        Ok((none, two))
    });
    let (none, two) = seen.unwrap();
    assert_eq!(none, "the query returned 0 rows, where one was expected");
    assert_eq!(two, "the query returned 2 rows, where one was expected");
}

#[test]
fn a_violated_constraint_is_known_by_its_kind() {
    let app =
        with_a_table("n bigint PRIMARY KEY, m bigint NOT NULL CHECK (m > 0), p bigint REFERENCES thing (n)");
    let cases = [
        ("(1, 1, NULL)", Violation::Unique),
        ("(2, NULL, NULL)", Violation::NotNull),
        ("(2, -1, NULL)", Violation::Check),
        ("(2, 1, 404)", Violation::ForeignKey),
    ];
    app.batch("INSERT INTO thing VALUES (1, 1, NULL)");
    for (row, violation) in cases {
        let engine = app.open();
        let sql = format!("INSERT INTO thing VALUES {row}");
        let workflow = engine.register("w", move |ctx: &mut Context, (): ()| {
            let sql = sql.clone();
            ctx.transaction("t", move |tx| -> Result<(), SqlError> {
                let error = tx.execute(&sql, ()).unwrap_err();
                assert_eq!(error.violation(), Some(violation), "{sql}: {error}");
                Err(error)
            })
        });
        let workflow = workflow.unwrap();
        engine.launch().unwrap();
        let error = workflow.start(&engine, ()).unwrap().result().unwrap_err().to_string();
        assert!(error.contains("constraint") && !error.contains("panicked"), "{row}: {error}");
    }
}

#[test]
fn parameters_and_placeholders_that_do_not_match_are_refused() {
    let app = with_a_table("n bigint");
    for (sql, given) in [("SELECT n FROM thing WHERE n = $2", 1), ("SELECT n FROM thing WHERE n = $1", 2)] {
        let error = in_a_transaction(&app, move |tx| tx.query(sql, vec![1; given]).map(|rows| rows.len()));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("$2") || error.contains("parameter"), "{sql}: {error}");
    }
}

#[test]
fn a_column_that_is_not_there_or_of_another_type_is_named() {
    let app = with_a_table("n bigint");
    app.batch("INSERT INTO thing VALUES (300)");
    let seen = in_a_transaction(&app, |tx| {
        let row = tx.query_one("SELECT n FROM thing", ())?;
        let error = |error: SqlError| error.to_string();
        Ok([
            row.get::<i64>("m").map_err(error).unwrap_err(),
            row.get::<i64>(1).map_err(error).unwrap_err(),
            row.get::<u8>("n").map_err(error).unwrap_err(),
            row.get::<String>(0).map_err(error).unwrap_err(),
        ])
    });
    let expected = [
        "column `m`: the query returned no such column, but n",
        "column 1: the query returned no such column, but n",
        "column `n`: 300 is out of the range of u8",
        "column 0: it is a whole number, not a text",
    ];
    assert_eq!(seen.unwrap(), expected);
}

#[test]
fn a_text_from_outside_is_a_value_and_no_part_of_the_statement() {
    let app = with_a_table("a text");
    let hostile = "'); DROP TABLE thing; --";
    let seen = in_a_transaction(&app, move |tx| {
        tx.execute("INSERT INTO thing VALUES ($1)", [hostile])?;
        tx.query_one("SELECT a FROM thing WHERE a = $1", [hostile])?.get::<String>("a")
    });
    assert_eq!(seen.unwrap(), hostile);
}
