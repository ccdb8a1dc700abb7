//! The result of each example, in its JSON and in its tables.

use serde_json::{Value, json};
use store::{Key, Store};

use super::support::{Demo, Ended};

/// All but the last died of a real segmentation fault, at least one did, and the last one ended well.
fn crashes_then_succeeds(demo: &Demo, args: &[&str]) -> (Vec<Ended>, Value) {
    let mut runs = demo.run_until_it_ends(args);
    let last = runs.pop().unwrap().exits(0);
    assert_eq!(demo.logs(), [""; 0], "each file is whole by itself");
    assert!(!runs.is_empty(), "the default seed crashes: {last:#?}");
    for run in &runs {
        assert!(run.crashed(), "{run:#?}");
        assert_eq!(run.stdout, "");
        assert_eq!(run.lines("X crash ").len(), 1, "{run:#?}");
    }
    let found = last.json();
    assert_eq!(found["status"], "SUCCESS");
    assert_eq!(found["error"], Value::Null);
    assert_eq!(found["runs"], runs.len() + 1);
    runs.push(last);
    (runs, found)
}

fn number(found: &Value, key: &str) -> u64 {
    found[key].as_u64().unwrap_or_else(|| panic!("no number {key} in {found}"))
}

#[test]
fn ex1_stores_twenty_users() {
    let demo = Demo::new("ex1");
    let found = demo.run(&["--json"]).exits(0).json();
    assert_eq!(found["example"], "ex1");
    assert_eq!(demo.logs(), [""; 0]);
    assert_eq!(found["status"], "SUCCESS");
    assert_eq!(found["output"], 20);
    let counts = ["unique_users", "rows", "duplicates", "runs", "steps_run", "steps_replayed"];
    assert_eq!(counts.map(|key| number(&found, key)), [20, 20, 0, 1, 7, 0]);
    assert_eq!(demo.users(), (20, 20));
    let workflows: String = demo.value("users.db", "SELECT group_concat(DISTINCT workflow_id) FROM users");
    assert_eq!(found["workflow_id"], workflows);
    assert_eq!(demo.workflow_status(&workflows), "SUCCESS");
}

#[test]
fn ex2_fails_by_design_and_names_the_key_that_its_retry_violated() {
    let demo = Demo::new("ex2");
    let run = demo.run(&["--json"]).exits(1);
    let found = run.json();
    assert_eq!(found["status"], "ERROR");
    assert_eq!(found["output"], Value::Null);
    assert_eq!(number(&found, "rows"), 10);
    assert_eq!(demo.users(), (10, 10));
    let error = found["error"].as_str().unwrap();
    let unique = "UNIQUE constraint failed: users.id, users.workflow_id, users.analyzed_at";
    for part in ["step users failed 3 times", "attempt 1: simulated error after the insert"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(error.contains(&format!("insert; 2 times (attempts 2 to 3): {unique}")), "{error}");
    assert_eq!(run.lines("! step users, attempt ").len(), 3, "{run:#?}");
    assert_eq!(run.lines("  to learn: ").len(), 1, "{run:#?}");
    assert_eq!(demo.workflow_status(found["workflow_id"].as_str().unwrap()), "ERROR");
}

#[test]
fn ex3_has_both_pages_after_its_crash() {
    let demo = Demo::new("ex3");
    let (_, found) = crashes_then_succeeds(&demo, &["--json"]);
    assert_eq!(found["output"], 20);
    assert_eq!(demo.users(), (20, 20));
    assert!(number(&found, "steps_replayed") >= 2, "the truncation and a page: {found}");
}

#[test]
fn ex3_loses_the_first_page_when_its_body_truncates() {
    let demo = Demo::new("ex3");
    let (_, found) = crashes_then_succeeds(&demo, &["--json", "--truncate-in-body"]);
    assert_eq!(found["output"], 10, "it succeeds, and is wrong");
    assert_eq!(demo.users(), (10, 10));
    let stored = Store::open(&demo.path("users.db"), Key::Append).unwrap().users(|users| users.list());
    let users: Vec<_> = stored.unwrap().into_iter().map(|row| row.user).collect();
    assert_eq!(users, model::fake_users(1, 10));
}

#[test]
fn ex3_truncates_in_its_body_without_harm_when_nothing_crashes() {
    let demo = Demo::new("ex3");
    demo.run(&["--json", "--truncate-in-body", "--crash", "0"]).exits(0);
    assert_eq!(demo.users(), (20, 20));
}

#[test]
fn ex4_writes_its_rows_again_after_a_crash_with_another_analyzed_at() {
    let analyzed_at = "SELECT group_concat(DISTINCT analyzed_at) FROM users";
    let demo = Demo::new("ex4");
    demo.crash(&["--json", "--crash", "1"]);
    assert_eq!(demo.users(), (10, 10));
    let before: String = demo.value("users.db", analyzed_at);
    let found = demo.run(&["--json", "--crash", "0"]).exits(0).json();
    assert_eq!((&found["output"], &found["steps_replayed"]), (&json!(20), &json!(1)));
    assert_eq!(demo.users(), (20, 20));
    let after: String = demo.value("users.db", analyzed_at);
    assert!(!after.contains(',') && after > before, "one time, and a later one: {before}, then {after}");
}

#[test]
fn ex4_has_twenty_users_after_the_crashes_of_the_default_seed() {
    let demo = Demo::new("ex4");
    let (_, found) = crashes_then_succeeds(&demo, &["--json"]);
    assert_eq!(found["output"], 20);
    assert_eq!(demo.users(), (20, 20));
}

#[test]
fn ex5_stores_a_thousand_users_and_its_profile() {
    let demo = Demo::new("ex5");
    let (_, found) = crashes_then_succeeds(&demo, &["--json"]);
    assert_eq!(found["output"], 1_000);
    assert_eq!(demo.users(), (1_000, 1_000));
    for kind in ["prof", "svg", "folded"] {
        assert!(demo.path(&format!("main_profile.{kind}")).exists(), "{kind}");
    }
}

#[test]
fn ex6_counts_a_thousand_users_among_more_rows() {
    let demo = Demo::new("ex6");
    let (runs, found) = crashes_then_succeeds(&demo, &["--json"]);
    let [unique, rows, duplicates] = ["unique_users", "rows", "duplicates"].map(|key| number(&found, key));
    assert_eq!(found["output"], 1_000);
    assert_eq!(unique, 1_000);
    assert!(rows > 1_000, "{found}");
    assert_eq!(duplicates, rows - 1_000);
    assert!(number(&found, "steps_replayed") > 0, "{found}");
    assert_eq!(demo.users(), (rows, unique));
    let failed_inserts: usize = runs.iter().map(|run| run.lines("! step insert,").len()).sum();
    assert_eq!(duplicates, failed_inserts as u64 * 100, "each failed insert left its hundred rows");
}

#[test]
fn ex7_has_a_thousand_rows_and_no_duplicates() {
    let demo = Demo::new("ex7");
    let (runs, found) = crashes_then_succeeds(&demo, &["--json"]);
    assert_eq!(found["output"], json!({ "rows": 1_000, "unique_users": 1_000 }));
    assert_eq!(["unique_users", "rows", "duplicates"].map(|key| number(&found, key)), [1_000, 1_000, 0]);
    assert!(runs.iter().any(|run| !run.lines("! step insert,").is_empty()), "inserts failed, too");
    let here = "SELECT count(*) || ' ' || count(DISTINCT id) FROM users";
    assert_eq!(demo.value::<String>("system.db", here), "1000 1000");
    assert_eq!(demo.users(), (0, 0), "they are with the records of their steps");
}
