//! What is made of a database that is not there, and what is refused.

use std::time::{Duration, Instant};

use cluster::{Cluster, Settings};
use engine::Error;

use crate::support::{Ground, eventually, options, sql, steps};

fn refusal(url: &str) -> String {
    refused(options(), url)
}

fn refused(options: engine::EngineOptions, url: &str) -> String {
    let error = options.open(url).map(drop).unwrap_err();
    assert!(matches!(error, Error::Open { .. }), "{error:?}");
    error.to_string()
}

/// Sixteen at once on a database that is not there: all of them open, launch and run.
#[test]
fn sixteen_cold_starts_at_once_succeed() {
    let alone = {
        let (ground, watch) = (Ground::new(), Instant::now());
        drop(ground.open());
        watch.elapsed()
    };
    for _ in 0..2 {
        let ground = Ground::new();
        let start = |n: u32| {
            let watch = Instant::now();
            let engine = ground.open();
            let took = watch.elapsed();
            let workflow = steps(&engine);
            engine.launch().unwrap();
            assert_eq!(workflow.start(&engine, n).unwrap().result().unwrap(), n);
            assert_eq!(engine.shutdown(Duration::from_secs(60)), []);
            took
        };
        let times: Vec<Duration> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..16).map(|n| scope.spawn(move || start(n))).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        let slowest = times.iter().max().unwrap();
        // As if one after another, and then some.
        assert!(*slowest < alone * 32 + Duration::from_secs(3), "{slowest:?}, and {alone:?} alone");
        assert_eq!(ground.count("SELECT count(*) FROM dbos.dbos_migrations"), 1);
        assert_eq!(ground.count("SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'"), 16);
    }
}

#[test]
fn another_schema_is_another_world() {
    let ground = Ground::new();
    let odd = "my \"schema\" dbos.";
    let long = "s".repeat(63);
    for (schema, input) in [("dbos", 1), (odd, 2), (&long, 3)] {
        let engine = options().schema(schema).open(&ground.url()).unwrap();
        let workflow = steps(&engine);
        engine.launch().unwrap();
        assert_eq!(workflow.start_as(&engine, "w", input).unwrap().result().unwrap(), input);
        engine.shutdown(Duration::from_secs(60));
        engine.resume(&engine::WorkflowId::new("w").unwrap()).unwrap_err();
    }
    let schemas = ground.count(
        "SELECT count(*) FROM information_schema.tables WHERE table_name = 'workflow_status'
            AND (table_schema IN ('dbos', 'my \"schema\" dbos.') OR length(table_schema) = 63)",
    );
    assert_eq!(schemas, 3);
    assert!(refused(options().schema("s".repeat(64)), &ground.url()).contains("more than 63 bytes"));
}

#[test]
fn told_to_create_nothing_it_says_what_is_missing() {
    let ground = Ground::new();
    let verify = || options().migrate(false);
    let missing = refused(verify(), &ground.url());
    assert!(missing.contains("does not exist") && missing.contains("migrate(true)"), "{missing}");
    sql(&ground.cluster.url("postgres"))
        .batch_execute(&format!("CREATE DATABASE {}", ground.database))
        .unwrap();
    let empty = refused(verify(), &ground.url());
    assert!(empty.contains("the DBOS tables are not there in schema dbos"), "{empty}");
    assert_eq!(
        ground.count("SELECT count(*) FROM pg_namespace WHERE nspname = 'dbos'"),
        0,
        "nothing was made"
    );
    drop(ground.open());
    drop(verify().open(&ground.url()).unwrap());
    // As another DBOS program brought it up.
    ground.sql().batch_execute("DROP TABLE dbos.piton_executors").unwrap();
    let own = refused(verify(), &ground.url());
    assert!(own.contains("the tables of this engine (piton_executors"), "{own}");
    drop(ground.open());
}

#[test]
fn older_tables_are_refused_and_newer_ones_used() {
    let ground = Ground::new();
    drop(ground.open());
    for (version, accepted) in [(108, false), (999, true), (125, true)] {
        ground.sql().execute("UPDATE dbos.dbos_migrations SET version = $1", &[&i64::from(version)]).unwrap();
        match options().open(&ground.url()) {
            Ok(_) => assert!(accepted, "{version}"),
            Err(error) => {
                let error = error.to_string();
                assert!(!accepted && error.contains("schema version 108"), "{error}");
                assert!(error.contains("needs 125") && error.contains("dbos migrate"), "{error}");
            }
        }
        let stands = ground.count("SELECT version FROM dbos.dbos_migrations");
        assert_eq!(stands, i64::from(version), "left as it is");
    }
    ground.sql().batch_execute("DROP TABLE dbos.dbos_migrations").unwrap();
    assert!(refusal(&ground.url()).contains("so it is not one of DBOS; name another schema"));
}

/// As `dbos migrate` does it: the lock belongs to its session, each migration is a transaction of its own, and some of
/// them build an index that waits for every statement that began before it.
#[test]
fn a_program_that_brings_the_tables_up_is_waited_for() {
    let ground = Ground::new();
    drop(ground.open());
    let mut other = ground.sql();
    other.batch_execute("SELECT pg_advisory_lock(1234567890)").unwrap();
    other
        .batch_execute("DROP TABLE dbos.piton_executors; UPDATE dbos.dbos_migrations SET version = 60")
        .unwrap();
    let opened = std::thread::spawn({
        let url = ground.url();
        move || options().open(&url).map(drop).map_err(|e| e.to_string())
    });
    eventually("it looks whether the lock is free", || {
        let tries = "SELECT count(*) FROM pg_stat_activity
                      WHERE datname = current_database() AND query LIKE '%advisory%' AND pid <> pg_backend_pid()
                        AND query NOT LIKE 'SELECT pg_advisory_lock%'";
        opened.is_finished() || ground.count(tries) > 0
    });
    other.batch_execute("SET statement_timeout = '20s'").unwrap();
    other
        .batch_execute("CREATE INDEX CONCURRENTLY beside ON dbos.workflow_status (created_at)")
        .expect("nobody stands in the way of the other program");
    assert!(!opened.is_finished(), "what is half made is not judged");
    other.batch_execute("UPDATE dbos.dbos_migrations SET version = 125").unwrap();
    other.batch_execute("SELECT pg_advisory_unlock(1234567890)").unwrap();
    opened.join().unwrap().unwrap();
    assert_eq!(
        ground.count("SELECT count(*) FROM pg_class WHERE oid = to_regclass('dbos.piton_executors')"),
        1
    );
}

#[test]
#[ignore = "takes a minute"]
fn a_lock_that_is_held_for_ever_is_named() {
    let ground = Ground::new();
    let mut other = {
        sql(&ground.cluster.url("postgres"))
            .batch_execute(&format!("CREATE DATABASE {}", ground.database))
            .unwrap();
        ground.sql()
    };
    other.batch_execute("SELECT pg_advisory_lock(1234567890)").unwrap();
    let refusal = refusal(&ground.url());
    assert!(refusal.contains("advisory lock 1234567890"), "{refusal}");
}

#[test]
fn a_database_or_role_that_cannot_serve_is_refused_with_the_reason() {
    let ground = Ground::new();
    drop(ground.open());
    let admin = |statement: &str| sql(&ground.cluster.url("postgres")).batch_execute(statement).unwrap();
    let latin = ground.cluster.fresh_database();
    admin(&format!(
        "CREATE DATABASE {latin} ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    ));
    let encoding = refusal(&ground.cluster.url(&latin));
    assert!(
        encoding.contains("its encoding is LATIN1") && encoding.contains("ENCODING 'UTF8'"),
        "{encoding}"
    );

    let role = format!("guest_{}", ground.database);
    admin(&format!("CREATE ROLE {role} LOGIN"));
    let url = |database: &str| ground.cluster.url(database).replace("postgres@", &format!("{role}@"));
    let rights = refusal(&url(&ground.database));
    assert!(rights.contains("permission denied"), "{rights}");
    let watch = Instant::now();
    let create = refusal(&url("not_there"));
    assert!(watch.elapsed() < Duration::from_secs(30), "at once: {:?}", watch.elapsed());
    assert!(create.contains("cannot be created") && create.contains("permission denied"), "{create}");
    let nobody = refusal(&ground.url().replace("postgres@", "nobody_such@"));
    assert!(nobody.contains("role \"nobody_such\" does not exist"), "{nobody}");
}

#[test]
fn a_server_that_could_lose_commits_is_refused() {
    if cluster::try_shared().is_none() {
        return;
    }
    let with = |option: &str| {
        let settings = Settings { options: vec![option.to_owned()], ..Settings::default() };
        Cluster::start(&settings).unwrap()
    };
    let cluster = with("fsync = off");
    assert!(refusal(&cluster.url("postgres")).contains("fsync is off"));
    drop(cluster);
    let cluster = with("full_page_writes = off");
    assert!(refusal(&cluster.url("postgres")).contains("full_page_writes is off"));
    drop(cluster);
    // What a role or a server has as its default is not what the engine writes with.
    let cluster = with("synchronous_commit = off\ndefault_transaction_isolation = 'serializable'");
    let engine = options().open(&cluster.url("postgres")).unwrap();
    let workflow = steps(&engine);
    engine.launch().unwrap();
    assert_eq!(workflow.start(&engine, 2).unwrap().result().unwrap(), 2);
    drop((engine, cluster));

    let files = vec![("standby.signal".to_owned(), String::new())];
    let cluster = Cluster::start(&Settings { files, ..Settings::default() }).unwrap();
    let standby = refusal(&cluster.url("postgres"));
    assert!(standby.contains("standby and takes no writes"), "{standby}");
}

#[test]
fn a_server_that_is_not_there_is_named_without_its_password() {
    for url in [
        "postgresql://me:s3cret@127.0.0.1:1/shop",
        "postgresql://me:s3cret@/shop?host=/no/such/directory",
        "postgresql://me:s3cret@127.0.0.1:1/shop?application_name=x",
    ] {
        let error = refusal(url);
        assert!(error.contains("/shop") && !error.contains("s3cret"), "{error}");
    }
}
