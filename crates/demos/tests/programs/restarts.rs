//! A run goes by the runs before it.

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
fn a_variable_that_is_set_to_nothing_names_no_database() {
    let demo = Demo::new("ex1");
    super::support::Ended::of(demo.command(&[]).env("DBOS_DATABASE_URL", "")).exits(0);
    assert!(demo.path("system.db").exists());
}

#[test]
fn fresh_is_refused_while_another_process_works_in_the_directory() {
    let demo = Demo::new("ex6");
    demo.crash(&["--json", "--crash", "1"]);
    let held = demo.lock("users.db");
    let mut first = demo.start(&["--crash", "0"]);
    first.wait_for("were replayed");
    let second = demo.run(&["--json", "--crash", "0", "--fresh"]).exits(3);
    let dir = demo.path("").display().to_string();
    assert!(
        second.stderr.contains("another process works in ") && second.stderr.contains(&dir),
        "{second:#?}"
    );
    drop(held);
    assert_eq!(first.end().exits(0).json()["unique_users"], 1_000);
    assert_eq!(demo.run(&["--json", "--crash", "0", "--fresh"]).exits(0).json()["runs"], 1);
}

#[test]
fn children_are_told_as_the_two_steps_that_they_are() {
    let demo = Demo::new("ex6");
    demo.crash(&["--json", "--crash", "1"]);
    let run = demo.run(&["--json", "--crash", "0"]).exits(0);
    let told = "was interrupted and goes on: 12 steps are recorded (each child workflow counts as two steps: its start and its result); 6 of 6 child workflows have ended";
    assert!(run.stderr.contains(told), "{run:#?}");
}

/// Two of them go on in one process, which waits for the newer one.
#[test]
fn the_batches_of_two_workflows_are_counted_apart() {
    let demo = Demo::new("ex6");
    let first = demo.crash(&["--json", "--crash", "1"]);
    let set = |status: &str| {
        let sql = "UPDATE workflow_status SET status = ?1, queue_name = '_dbos_internal_queue' \
                   WHERE workflow_uuid = ?2";
        assert_eq!(demo.sql("system.db").execute(sql, [status, first.workflow()]).unwrap(), 1);
    };
    set("CANCELLED");
    let second = demo.crash(&["--json", "--crash", "1", "--seed", "2"]);
    assert_ne!(first.workflow(), second.workflow());
    set("ENQUEUED");
    let run = demo.run(&["--json", "--crash", "0"]).exits(0);
    assert_eq!(run.json()["workflow_id"], second.workflow());
    let batches: Vec<_> = (7..=10).map(|n| format!("+ batch {n} of 10 done")).collect();
    let told = run.lines("+ batch ");
    let (followed, others): (Vec<_>, Vec<_>) = told.into_iter().partition(|line| line.ends_with("done"));
    assert_eq!(followed, batches, "{run:#?}");
    assert!(!others.is_empty(), "the other one went on, too: {run:#?}");
    for (line, batch) in others.iter().zip(&batches) {
        assert_eq!(*line, format!("{batch}, of workflow {}", first.workflow()));
    }
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
    second.wait_for("is running in another process; waiting for it");
    drop(held);
    let [first, second] = [first, second].map(|running| running.end().exits(0).json());
    assert_eq!(first["workflow_id"], second["workflow_id"]);
    assert_eq!((&first["unique_users"], &second["unique_users"]), (&1_000.into(), &1_000.into()));
    assert_eq!(first["rows"], second["rows"]);
}

#[test]
fn a_second_process_waits_for_the_run_of_the_first_in_a_database_that_was_named() {
    let demo = Demo::new("ex6");
    let url = format!("sqlite:///{}", demo.home().join("named.db").display());
    let args = |crash| ["--database-url", url.as_str(), "--crash", crash];
    demo.crash(&[&args("1")[..], &["--json"]].concat());
    let held = demo.lock("users.db");
    let mut first = demo.start(&args("0"));
    first.wait_for("was interrupted and goes on");
    first.wait_for("were replayed");
    let mut second = demo.start(&args("0"));
    second.wait_for("is running in another process; waiting for it");
    drop(held);
    let [first, second] = [first, second].map(|running| running.end().exits(0).json());
    assert_eq!(first["workflow_id"], second["workflow_id"]);
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
