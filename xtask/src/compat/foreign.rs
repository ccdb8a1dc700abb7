//! Programs in Rust and in Python that do work for each other on one database, each under its own application name.

use serde_json::json;

use super::{Bench, seen};

pub(super) fn check(bench: &Bench) -> anyhow::Result<()> {
    let url = bench.server.fresh_database();
    let _rust = bench.rust(&url)?;
    let _python = bench.python.worker(&url)?;
    for (what, args, result) in
        [("positional arguments", "[2, 3]", 5), ("named arguments", r#"{"y": 3, "x": 2, "scale": 10}"#, 50)]
    {
        let args = ["--application", "python", "--args", args, "add", "python-work"];
        let answer = bench.ask(&url, &args)?;
        seen::same(&format!("Rust enqueues for Python, {what}"), &answer["result"], &json!(result))?;
    }
    let args = ["--application", "python", "--args", r#"["no tea"]"#, "refuse-in-python", "python-work"];
    let error = &bench.ask(&url, &args)?["error"];
    let expected = json!({ "name": "PythonRefusal", "message": "no tea", "code": 418 });
    seen::same("Rust enqueues for Python, which fails", error, &expected)?;

    let args = ["--application", "rust", "--args", "[[4, 5]]", "add-in-python", "rust-orders"];
    let answer = bench.ask(&url, &args)?;
    seen::same("a Rust workflow with a child in Python", &answer["result"], &json!(9))?;
    let args = ["price-in-rust", "python-work", "--args", r#"["book", 2]"#, "--app", "python"];
    let answer = bench.python.enqueue(&url, &args)?;
    let priced = json!({ "item": "book", "express": false, "total": 20 });
    seen::same("a Python workflow with a child in Rust", &answer["result"], &priced)?;
    each_ran_its_own(
        bench,
        &url,
        &json!([
            ["python", "add", "python-1"],
            ["python", "price-in-rust", "python-1"],
            ["python", "refuse-in-python", "python-1"],
            ["rust", "add-in-python", "piton"],
            ["rust", "price", "piton"]
        ]),
    )
}

/// Checks which executor ran each workflow: an executor of ours is named `piton-...`.
pub(super) fn each_ran_its_own(bench: &Bench, url: &str, expected: &serde_json::Value) -> anyhow::Result<()> {
    const WHO_RAN_WHAT: &str = "
        SELECT DISTINCT application_name, name,
                        CASE WHEN executor_id LIKE 'piton-%' THEN 'piton' ELSE executor_id END
          FROM dbos.workflow_status ORDER BY 1, 2, 3";
    let rows = bench.python.sql(url, WHO_RAN_WHAT)?;
    seen::same("application, workflow and executor of all rows", &rows, expected)
}
