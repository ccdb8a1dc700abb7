//! The examples on PostgreSQL. Skipped, and said loudly, where it is not installed.

use crate::support::Demo;

/// The URL of a fresh database.
fn url() -> Option<String> {
    let cluster = cluster::try_shared()?;
    Some(cluster.url(&cluster.fresh_database()))
}

#[test]
fn the_first_workflow_runs_on_a_server() {
    let Some(url) = url() else { return };
    let found = Demo::new("ex1").run(&["--json", "--database-url", &url]).exits(0).json();
    assert_eq!((&found["unique_users"], &found["rows"]), (&20.into(), &20.into()));
}

/// The restarted program adopts its own run once the lease of the dead program has run out.
#[test]
fn crashes_on_a_server_lose_and_double_no_user() {
    for (name, rows) in [("ex6", None), ("ex7", Some(1_000_u64))] {
        let Some(url) = url() else { return };
        let runs = Demo::new(name).run_until_it_ends(&["--json", "--database-url", &url]);
        assert!(runs.iter().any(crate::support::Ended::crashed), "nothing crashed");
        let found = runs.last().unwrap().json();
        assert_eq!((&found["status"], &found["unique_users"]), (&"SUCCESS".into(), &1_000.into()));
        assert!(rows.is_none_or(|rows| found["rows"] == rows), "{found}");
    }
}

/// Its lease is still there then.
#[test]
fn the_next_start_after_a_kill_on_a_server_does_not_say_that_the_dead_one_runs() {
    let Some(url) = url() else { return };
    let demo = Demo::new("ex3");
    let crashed = demo.crash(&["--json", "--crash", "1", "--database-url", &url]);
    let next = demo.run(&["--json", "--crash", "0", "--database-url", &url]).exits(0);
    assert_eq!(next.workflow(), crashed.workflow());
    assert!(!next.stderr.contains("in another process; waiting"), "{next:?}");
}

/// It deletes no rows but its own.
#[test]
fn fresh_on_a_server_cancels_what_is_unfinished_and_empties_the_users() {
    let Some(url) = url() else { return };
    let demo = Demo::new("ex3");
    let crashed = demo.crash(&["--json", "--crash", "1", "--database-url", &url]);
    let mut client = engine::PgConnector::new(&url).unwrap().connect().unwrap();
    let mut lives = |until: &str| {
        client.execute(&format!("UPDATE dbos.piton_executors SET lease_until = '{until}'"), &[]).unwrap();
    };
    let fresh = ["--json", "--fresh", "--crash", "0", "--database-url", &url];
    lives("infinity");
    let refused = demo.run(&fresh).exits(3);
    assert!(refused.stderr.contains("another process is at workflow"), "{refused:?}");
    lives("-infinity");
    let found = demo.run(&fresh).exits(0).json();
    assert_ne!(found["workflow_id"], crashed.workflow());
    assert_eq!(found["rows"], 20);
    let status: String = client
        .query_one("SELECT status FROM dbos.workflow_status WHERE workflow_uuid = $1", &[&crashed.workflow()])
        .unwrap()
        .get(0);
    assert_eq!(status, "CANCELLED");
}

/// Programs of others may give their runs no application at all.
#[test]
fn fresh_on_a_server_leaves_the_runs_of_others_alone() {
    const STRANGERS: &str = "
        INSERT INTO dbos.workflow_status (workflow_uuid, status, name, application_name, created_at, updated_at)
        VALUES ('nameless', 'ENQUEUED', 'pay', NULL, 1, 1), ('named', 'ENQUEUED', 'pay', 'shop', 1, 1)";
    const ENQUEUED: &str = "SELECT count(*) FROM dbos.workflow_status WHERE status = 'ENQUEUED'";
    let Some(url) = url() else { return };
    let demo = Demo::new("ex1");
    demo.run(&["--json", "--database-url", &url]).exits(0);
    let mut client = engine::PgConnector::new(&url).unwrap().connect().unwrap();
    client.execute(STRANGERS, &[]).unwrap();
    demo.run(&["--json", "--fresh", "--database-url", &url]).exits(0);
    let enqueued: i64 = client.query_one(ENQUEUED, &[]).unwrap().get(0);
    assert_eq!(enqueued, 2);
}

#[test]
fn fresh_with_a_url_that_cannot_be_read_deletes_nothing() {
    let demo = Demo::new("ex1");
    demo.run(&["--json"]).exits(0);
    for url in [
        "postgresql://shop@localhost/shop?sslmod=require",
        "postgres:/shop",
        "mysql://localhost/shop",
        "shop",
    ] {
        let refused = demo.run(&["--json", "--fresh", "--database-url", url]).exits(3);
        assert!(refused.stderr.starts_with("ex1: database URL "), "{refused:?}");
        assert_eq!(demo.users(), (20, 20), "{url}");
    }
}

/// Each creates what the other may be creating: the database, the schema, the users table. The users are not counted:
/// the first step of either empties the table that both fill.
#[test]
fn two_may_begin_on_a_new_database_at_once() {
    let Some(url) = url() else { return };
    let demos = [Demo::new("ex1"), Demo::new("ex1")];
    let args = ["--database-url", url.as_str()];
    for running in demos.iter().map(|demo| demo.start(&args)).collect::<Vec<_>>() {
        assert_eq!(running.end().exits(0).json()["status"], "SUCCESS");
    }
}

#[test]
fn a_server_that_cannot_be_reached_is_named_without_its_password() {
    let url = "postgresql://shop:hunter2@127.0.0.1:9/shop";
    let ended = Demo::new("ex1").run(&["--json", "--database-url", url]).exits(3);
    assert!(ended.stderr.contains("127.0.0.1:9") && ended.stderr.contains("refused"), "{ended:?}");
    assert!(!format!("{ended:?}").contains("hunter2"));
}

#[test]
fn a_wrong_password_is_refused_without_being_told() {
    if cluster::try_shared().is_none() {
        return;
    }
    let settings = cluster::Settings {
        files: vec![("pg_hba.conf".to_owned(), "local all all scram-sha-256\n".to_owned())],
        ..cluster::Settings::default()
    };
    // Such a server refuses every client, so it cannot be asked whether it is up.
    let cluster = cluster::Cluster::start(&settings).unwrap();
    let url = cluster.url("shop").replace("postgres@", "postgres:hunter2@");
    let ended = Demo::new("ex1").run(&["--json", "--database-url", &url]).exits(3);
    assert!(ended.stderr.contains("password authentication failed"), "{ended:?}");
    assert!(!format!("{ended:?}").contains("hunter2"));
}
