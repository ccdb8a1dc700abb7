//! A lease that runs out although its process lives: nobody dies of it.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use cluster::{Cluster, Settings};
use engine::{Context, Engine, Error, WorkflowStatus};

use crate::support::{Ground, at_some_scale, eventually, options, pass, sql, steps};

/// Short, for tests that wait until it has passed. Where nobody may be late, see [`at_some_scale`].
const TAKEOVER: Duration = Duration::from_secs(1);

const LEASES: &str = "SELECT count(*) FROM dbos.piton_executors WHERE lease_until >= clock_timestamp()";

fn open(url: &str) -> Engine {
    open_with(TAKEOVER, url)
}

fn open_with(takeover: Duration, url: &str) -> Engine {
    options().takeover_within(takeover).open(url).unwrap()
}

/// All leases run out while the server is away. Whoever is back first takes nobody for dead.
#[test]
fn an_outage_is_nobodys_death() {
    if cluster::try_shared().is_some() {
        at_some_scale(TAKEOVER, outages);
    }
}

/// Says whether somebody was taken over although all live.
fn outages(takeover: Duration) -> Result<(), String> {
    const EXECUTORS: i64 = 6;
    let cluster = Cluster::start(&Settings::default()).unwrap();
    let url = cluster.url("leases");
    let gate = Arc::new(RwLock::new(()));
    let shut = gate.write().unwrap();
    let executor = |n: i64| {
        let (engine, gate) = (open_with(takeover, &url), gate.clone());
        let workflow = engine.register("held", move |ctx: &mut Context, (): ()| {
            ctx.step("s", |_| {
                drop(gate.read());
                Ok::<_, Error>(())
            })
        });
        let workflow = workflow.unwrap();
        engine.launch().unwrap();
        let handle = workflow.start_as(&engine, &format!("w{n}"), ()).unwrap();
        (engine, handle)
    };
    let mut executors: Vec<_> = (0..EXECUTORS).map(executor).collect();
    let have_leases = |executors: i64| {
        let mut client = sql(&url);
        eventually("renewed", || client.query_one(LEASES, &[]).unwrap().get::<_, i64>(0) == executors);
        pass(takeover * 2);
    };
    for n in 0..3 {
        cluster.crash().unwrap();
        pass(takeover);
        cluster.resume().unwrap();
        // Nor does one take anybody for dead that has just come.
        executors.push(executor(EXECUTORS + n));
        have_leases(EXECUTORS + n + 1);
    }
    // The same where all but the leases goes on.
    let mut client = sql(&url);
    let mut nobody_beats = client.transaction().unwrap();
    nobody_beats.batch_execute("LOCK TABLE dbos.piton_executors IN SHARE MODE").unwrap();
    pass(takeover * 2);
    nobody_beats.commit().unwrap();
    have_leases(EXECUTORS + 3);
    drop(shut);
    for (_, handle) in &executors {
        handle.result().unwrap();
    }
    let claims = "SELECT max(recovery_attempts) FROM dbos.workflow_status";
    match sql(&url).query_one(claims, &[]).unwrap().get(0) {
        1_i64 => Ok(()),
        more => Err(format!("a workflow was taken up {more} times")),
    }
}

/// The server has no connection to spare for the lease, and the executor has others.
#[test]
fn a_lease_is_renewed_over_another_connection_when_its_own_is_lost() {
    at_some_scale(TAKEOVER, loses_its_own_connection);
}

/// Says whether the lease ran out.
fn loses_its_own_connection(takeover: Duration) -> Result<(), String> {
    let ground = Ground::new();
    let admin = |statement: &str| sql(&ground.cluster.url("postgres")).batch_execute(statement).unwrap();
    let role = format!("limited_{}", ground.database);
    admin(&format!("CREATE ROLE {role} LOGIN"));
    admin(&format!("CREATE DATABASE {} OWNER {role}", ground.database));
    let engine = open_with(takeover, &ground.url().replace("postgres@", &format!("{role}@")));
    let workflow = steps(&engine);
    engine.launch().unwrap();
    workflow.start(&engine, 3).unwrap().result().unwrap();
    let beats =
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%WITH beat AS%'
                    AND pid <> pg_backend_pid()";
    let mut beside = ground.sql();
    let mut own = 0_i32;
    eventually("only the lease beats", || {
        let found = beside.query(beats, &[]).unwrap();
        if let [row] = &found[..] {
            own = row.get(0);
        }
        found.len() == 1
    });
    admin(&format!("ALTER ROLE {role} CONNECTION LIMIT 0"));
    beside.execute("SELECT pg_terminate_backend($1)", &[&own]).unwrap();
    for look in 0..30 {
        pass(takeover / 10);
        if beside.query_one(LEASES, &[]).unwrap().get::<_, i64>(0) != 1 {
            return Err(format!("it has run out at look {look}"));
        }
    }
    Ok(())
}

/// What it took up others would take over at once.
#[test]
fn an_executor_without_a_lease_takes_nothing_up() {
    let ground = Ground::new();
    let engine = open(&ground.url());
    let workflow = steps(&engine);
    engine.launch().unwrap();
    let mut client = ground.sql();
    let mut nobody_beats = client.transaction().unwrap();
    nobody_beats.batch_execute("LOCK TABLE dbos.piton_executors IN SHARE MODE").unwrap();
    eventually("run out", || ground.count(LEASES) == 0);
    let handle = workflow.start(&engine, 2).unwrap();
    pass(TAKEOVER);
    assert_eq!(handle.status().unwrap(), WorkflowStatus::Enqueued);
    nobody_beats.commit().unwrap();
    assert_eq!(handle.result().unwrap(), 2);
}

/// The others had refused it, because nobody alive knew its name.
#[test]
fn an_executor_that_was_taken_for_dead_revives_what_only_it_can_run() {
    let ground = Ground::new();
    let engine = open(&ground.url());
    let workflow = steps(&engine);
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", 2).unwrap();
    handle.result().unwrap();
    let refused = "
        UPDATE dbos.workflow_status SET status = 'ERROR';
        DELETE FROM dbos.operation_outputs;
        UPDATE dbos.workflow_output SET output = NULL, error = '{\"name\":\"PitonWorkflowNotRegistered\",\"message\":\"\"}'";
    ground.sql().batch_execute(refused).unwrap();
    eventually("revived", || {
        let status = engine.retrieve::<u32>("w").unwrap().status().unwrap();
        if status == WorkflowStatus::Error {
            // Once may be too little: a beat that is under way does not see this, and writes over it.
            ground.sql().batch_execute("UPDATE dbos.piton_executors SET lease_until = '-infinity'").unwrap();
        }
        status == WorkflowStatus::Success
    });
}

/// A statement about all of them would take longer than the server lets it.
#[test]
fn many_thousands_that_are_due_or_left_behind_or_refused_all_go_on() {
    const MANY: u64 = 2_500;
    let ground = Ground::new();
    let engine = open(&ground.url());
    let workflow = steps(&engine);
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", 0).unwrap().result().unwrap();
    engine.shutdown(Duration::from_secs(60));
    let rows = "
        INSERT INTO dbos.workflow_status
               (workflow_uuid, status, name, application_name, application_version, created_at, updated_at, executor_id,
                owner_xid, queue_name, delay_until_epoch_ms, recovery_attempts, serialization)
        SELECT kind || n, kind, name, application_name, application_version, created_at, updated_at,
               'piton-dead', 't', queue_name, CASE WHEN kind = 'DELAYED' THEN 1 END, 1, serialization
          FROM dbos.workflow_status, generate_series(1, 2500) n, unnest('{DELAYED,PENDING,ERROR}'::text[]) AS a (kind)
         WHERE workflow_uuid = 'w';
        UPDATE dbos.workflow_status SET queue_name = '_dbos_internal_queue' WHERE status = 'DELAYED';
        INSERT INTO dbos.workflow_input (workflow_uuid, inputs, retention_timestamp)
        SELECT s.workflow_uuid, i.inputs, 1 FROM dbos.workflow_status s, dbos.workflow_input i
         WHERE s.workflow_uuid <> 'w' AND i.workflow_uuid = 'w';
        INSERT INTO dbos.workflow_output (workflow_uuid, error, retention_timestamp)
        SELECT workflow_uuid, '{\"name\":\"PitonWorkflowNotRegistered\",\"message\":\"\"}', 1
          FROM dbos.workflow_status WHERE status = 'ERROR';
        INSERT INTO dbos.piton_executors
               (executor_id, application_name, application_version, workflows, queues, pid, lease_until)
        VALUES ('piton-dead', 'fleet', '1', '[]', '[]', 1, '-infinity')";
    ground.sql().batch_execute(rows).unwrap();
    let engine = open(&ground.url());
    steps(&engine);
    engine.launch().unwrap();
    let all = engine::WorkflowFilter::new().status(WorkflowStatus::Success);
    let mut ended = 0;
    while ended < 3 * MANY + 1 {
        let before = ended;
        eventually("more have ended", || {
            ended = engine.count(&all).unwrap();
            ended > before
        });
    }
}
