//! What a run makes of the runs before it.

use std::fs;

use super::support::Demo;

#[test]
fn a_run_that_crashed_is_adopted_by_the_next() {
    let demo = Demo::new("ex3");
    let crashed = demo.crash(&["--json", "--crash", "1"]);
    assert_eq!(demo.workflow_status(crashed.workflow()), "PENDING");
    let run = demo.run(&["--json", "--crash", "0"]).exits(0);
    assert!(run.stderr.contains("was interrupted and goes on: 2 steps are recorded"), "{run:#?}");
    assert!(run.stderr.contains("= 2 recorded steps were replayed and not repeated"), "{run:#?}");
    let found = run.json();
    assert_eq!(found["workflow_id"], crashed.workflow());
    assert_eq!(demo.value::<u64>("system.db", "SELECT count(*) FROM workflow_status"), 1);
    // Four steps, the first two of them in the first run.
    assert_eq!((&found["steps_run"], &found["steps_replayed"]), (&4.into(), &2.into()));
}

#[test]
fn after_a_success_a_new_workflow_starts() {
    let demo = Demo::new("ex6");
    let args = ["--json", "--crash", "0"];
    let [first, second] = [(); 2].map(|()| demo.run(&args).exits(0).json());
    assert_ne!(first["workflow_id"], second["workflow_id"]);
    assert_eq!((&second["unique_users"], &second["runs"]), (&1_000.into(), &2.into()));
    let rows = |found: &serde_json::Value| found["rows"].as_u64().unwrap();
    assert_eq!(demo.users(), (rows(&first) + rows(&second), 1_000), "each counted its own rows");
}

#[test]
fn after_an_error_a_new_workflow_starts() {
    let demo = Demo::new("ex2");
    let [first, second] = [(); 2].map(|()| demo.run(&["--json"]).exits(1).json());
    assert_ne!(first["workflow_id"], second["workflow_id"]);
    assert_eq!(second["rows"], 10);
}

#[test]
fn fresh_starts_over() {
    let demo = Demo::new("ex3");
    let crashed = demo.crash(&["--json", "--crash", "1"]);
    fs::write(demo.path("notes.txt"), "mine").unwrap();
    let run = demo.run(&["--json", "--crash", "0", "--fresh"]).exits(0);
    let found = run.json();
    assert_ne!(found["workflow_id"], crashed.workflow());
    assert_eq!(
        (&found["runs"], &found["steps_replayed"], &found["steps_run"]),
        (&1.into(), &0.into(), &4.into())
    );
    assert_eq!(demo.value::<u64>("system.db", "SELECT count(*) FROM workflow_status"), 1);
    assert_eq!(demo.users(), (20, 20));
    assert_eq!(fs::read_to_string(demo.path("notes.txt")).unwrap(), "mine", "files of others stay");
}

#[test]
fn fresh_in_an_empty_directory_is_a_first_run() {
    let demo = Demo::new("ex1");
    assert_eq!(demo.run(&["--json", "--fresh"]).exits(0).json()["runs"], 1);
}

#[test]
fn a_database_that_was_named_outlives_fresh() {
    let demo = Demo::new("ex1");
    let url = format!("sqlite:{}", demo.home().join("named.db").display());
    for _ in 0..2 {
        demo.run(&["--json", "--fresh", "--database-url", &url]).exits(0);
    }
    let named = engine::rusqlite::Connection::open(demo.home().join("named.db")).unwrap();
    let workflows = named.query_row("SELECT count(*) FROM workflow_status", [], |row| row.get::<_, u64>(0));
    assert_eq!(workflows.unwrap(), 2);
    assert!(!demo.path("system.db").exists());
}

#[test]
fn the_database_of_the_environment_is_used_and_the_argument_wins() {
    let demo = Demo::new("ex1");
    let url = |name: &str| format!("sqlite:{}", demo.home().join(name).display());
    let run = |args: &[&str]| {
        let mut command = demo.command(args);
        super::support::Ended::of(command.arg("--json").env("DBOS_DATABASE_URL", url("env.db"))).exits(0)
    };
    run(&[]);
    assert!(demo.home().join("env.db").exists());
    run(&["--database-url", &url("argument.db")]);
    assert!(demo.home().join("argument.db").exists());
}

#[test]
fn a_run_that_crashed_too_often_is_parked_and_a_new_one_starts() {
    let demo = Demo::new("ex3");
    // Its first execution, and the three recoveries that it allows.
    let crashed: Vec<_> = (0..4).map(|_| demo.crash(&["--json", "--crash", "1"])).collect();
    assert!(crashed.iter().all(|run| run.workflow() == crashed[0].workflow()), "{crashed:#?}");
    let run = demo.run(&["--json", "--crash", "0"]).exits(0);
    assert!(run.stderr.contains("was interrupted too often and is parked; a new one starts"), "{run:#?}");
    assert_ne!(run.json()["workflow_id"], crashed[0].workflow());
    assert_eq!(demo.workflow_status(crashed[0].workflow()), "MAX_RECOVERY_ATTEMPTS_EXCEEDED");
    assert_eq!(demo.users(), (20, 20));
}

#[test]
fn a_second_process_waits_for_the_run_of_the_first() {
    let demo = Demo::new("ex6");
    demo.crash(&["--json", "--crash", "1"]);
    let held = demo.lock("users.db");
    let mut first = demo.start(&["--crash", "0"]);
    first.wait_for("were replayed");
    let mut second = demo.start(&["--crash", "0"]);
    second.wait_for("> workflow ");
    drop(held);
    let [first, second] = [first, second].map(|running| running.end().exits(0).json());
    assert_eq!(first["workflow_id"], second["workflow_id"]);
    assert_eq!((&first["unique_users"], &second["unique_users"]), (&1_000.into(), &1_000.into()));
    assert_eq!(first["rows"], second["rows"]);
}

#[test]
fn an_example_leaves_the_interrupted_run_of_another_alone() {
    let ex3 = Demo::new("ex3");
    let crashed = ex3.crash(&["--json", "--crash", "1"]);
    let ex1 = Demo::in_directory_of("ex1", ex3);
    assert_ne!(ex1.run(&["--json"]).exits(0).json()["workflow_id"], crashed.workflow());
    let ex3 = Demo::in_directory_of("ex3", ex1);
    assert_eq!(ex3.run(&["--json", "--crash", "0"]).exits(0).json()["workflow_id"], crashed.workflow());
}
