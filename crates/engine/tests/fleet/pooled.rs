//! Behind PgBouncer: processes that share sessions of the server, or have one each.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cluster::{Mode, Pooler, try_pooler};
use engine::{Context, Engine, EngineOptions, Queue, QueueOptions, Workflow, WorkflowFilter, WorkflowStatus};

use crate::support::{Ground, eventually, listen_to_the_log, options, pass};

/// Names the database to a process that this program starts of itself.
const URL: &str = "PITON_TEST_POOLED_URL";
const QUEUE: &str = "pooled";

/// A database with what the workflows here write to, and a pooler of so many sessions before it.
fn pooled(mode: Mode, sessions: u32) -> Option<(Ground, Pooler)> {
    let ground = Ground::new();
    drop(ground.open());
    let tables = "
        CREATE TABLE public.effect (id text);
        CREATE TYPE public.mood AS ENUM ('calm', 'busy')";
    ground.sql().batch_execute(tables).unwrap();
    let pooler = try_pooler(ground.cluster, mode, sessions)?;
    Some((ground, pooler))
}

fn quick() -> EngineOptions {
    options().suspend_after(Duration::ZERO).takeover_within(Duration::from_secs(2))
}

/// Each kind of write. The driver that a body writes with looks a type of the application up by itself.
fn everything(engine: &Engine) -> Workflow<u32, u32> {
    let child =
        engine.register("child", |ctx: &mut Context, n: u32| ctx.step("s", |_| Ok::<_, engine::Error>(n)));
    let child = child.unwrap();
    let workflow = engine.register("everything", move |ctx: &mut Context, n: u32| -> engine::Result<u32> {
        let me = ctx.workflow_id().clone();
        ctx.send(&me, "self", n)?;
        let step = ctx.step("step", |_| Ok::<_, engine::Error>(n + 1))?;
        let id = me.to_string();
        let moods = ctx.transaction("insert", |tx| -> Result<usize, engine::postgres::Error> {
            let tx = tx.postgres().unwrap();
            tx.execute("INSERT INTO public.effect VALUES ($1)", &[&id])?;
            tx.batch_execute("SET search_path = public; SET TIME ZONE 'Asia/Tokyo'")?;
            Ok(tx.query("SELECT unnest(enum_range(NULL::mood))", &[])?.len())
        })?;
        let inline = ctx.run(&child, 2)?;
        let beside = ctx.start(&child, 3)?;
        ctx.sleep(Duration::from_millis(1))?;
        let message: Option<u32> = ctx.recv("self", Duration::from_secs(60))?;
        Ok(step + inline + beside.result(ctx)? + message.unwrap_or(1000) + u32::try_from(moods).unwrap())
    });
    workflow.unwrap()
}

fn result_of(n: u32) -> u32 {
    n + 1 + 2 + 3 + n + 2
}

/// All of them have ended well, each effect is there once, and nothing is left in the sessions that others use, too.
fn assert_all_done(ground: &Ground, engine: &Engine, many: u32) {
    let done = WorkflowFilter::new().status(WorkflowStatus::Success);
    assert_eq!(engine.count(&done).unwrap(), u64::from(many) * 3);
    assert_eq!(ground.count("SELECT count(*) FROM public.effect"), i64::from(many));
    assert_eq!(ground.count("SELECT count(DISTINCT id) FROM public.effect"), i64::from(many));
}

#[test]
fn several_processes_share_the_sessions_of_a_pooler_in_transaction_mode() {
    const PROCESSES: u32 = 4;
    const EACH: u32 = 12;
    let log = listen_to_the_log();
    // Fewer sessions than there are connections: each is used by all.
    let Some((ground, pooler)) = pooled(Mode::Transaction, 3) else { return };
    let url = pooler.url(&ground.database);
    let engines: Vec<Engine> = (0..PROCESSES).map(|_| quick().open(&url).unwrap()).collect();
    let workflows: Vec<_> = engines.iter().map(everything).collect();
    for engine in &engines {
        engine.launch().unwrap();
    }
    std::thread::scope(|scope| {
        for (engine, workflow) in engines.iter().zip(&workflows) {
            scope.spawn(move || {
                let start = |n| (n, workflow.start(engine, n).unwrap());
                let handles: Vec<_> = (0..EACH).map(start).collect();
                for (n, handle) in handles {
                    assert_eq!(handle.result().unwrap(), result_of(n));
                }
                assert!(engine.list(&WorkflowFilter::new().limit(3)).unwrap().len() == 3);
            });
        }
    });
    assert_all_done(&ground, &engines[0], PROCESSES * EACH);
    let about_it = log.lines(&ground.database);
    let told = |line: &String| line.contains("gives each transaction another session");
    assert_eq!(about_it.iter().filter(|line| told(line)).count(), 4, "{about_it:?}");
    // On a busy machine an answer may be late, which is said and passes.
    let late = |line: &String| line.contains("did not answer within") || line.contains("answers again");
    assert!(about_it.iter().all(|line| told(line) || late(line)), "{about_it:?}");
    for engine in &engines {
        assert_eq!(engine.shutdown(Duration::from_secs(60)), []);
    }

    // What another program finds in one of the sessions.
    let found = crate::support::sql(&url)
        .simple_query(
            "SELECT current_setting('statement_timeout'), current_setting('enable_seqscan'),
                    (SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'piton%')",
        )
        .unwrap();
    let engine::postgres::SimpleQueryMessage::Row(row) = &found[1] else { panic!("{found:?}") };
    assert_eq!([row.get(0), row.get(1), row.get(2)], [Some("0"), Some("on"), Some("0")]);
}

/// A statement of a workflow is prepared, and words arrive, as without it.
#[test]
fn a_pooler_in_session_mode_is_as_good_as_none() {
    let log = listen_to_the_log();
    let Some((ground, pooler)) = pooled(Mode::Session, 60) else { return };
    let url = pooler.url(&ground.database);
    let engines: Vec<Engine> = (0..3).map(|_| quick().open(&url).unwrap()).collect();
    let workflows: Vec<_> = engines.iter().map(everything).collect();
    for engine in &engines {
        engine.launch().unwrap();
    }
    for (engine, workflow) in engines.iter().zip(&workflows) {
        let handles: Vec<_> = (0..5).map(|n| (n, workflow.start(engine, n).unwrap())).collect();
        for (n, handle) in handles {
            assert_eq!(handle.result().unwrap(), result_of(n));
        }
    }
    assert_all_done(&ground, &engines[0], 15);
    let listen = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND query LIKE 'LISTEN%dbos_notifications_channel%'";
    eventually("all listen", || ground.count(listen) == 3);
    pass(Duration::from_secs(4));
    assert_eq!(log.lines(&ground.database), Vec::<String>::new());
}

/// The body of a process that is killed: serves the queue until then.
#[test]
#[ignore = "is run by other tests, as a process of its own"]
fn a_process_that_serves() {
    let Ok(url) = std::env::var(URL) else { return };
    let engine = quick().open(&url).unwrap();
    let _workflow = everything(&engine);
    engine.register_queue(QUEUE, QueueOptions::new()).unwrap();
    engine.launch().unwrap();
    // Until standard input ends, with the process that started this one.
    let _ = std::io::Read::read(&mut std::io::stdin(), &mut [0]);
}

struct Process(Child);

impl Process {
    fn start(url: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "pooled::a_process_that_serves", "--ignored", "--nocapture"]);
        command.env(URL, url).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn kill(mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Processes are killed while they work, and so is the pooler: in the end each workflow has ended once.
fn survive(mode: Mode, sessions: u32) {
    const MANY: u32 = 60;
    let Some((ground, mut pooler)) = pooled(mode, sessions) else { return };
    let url = pooler.url(&ground.database);
    let caller = quick().open(&url).unwrap();
    let workflow = everything(&caller);
    let handles: Vec<_> =
        (0..MANY).map(|n| (n, workflow.enqueue(&caller, &Queue::named(QUEUE), n).unwrap())).collect();
    let ended = |many: i64| {
        let ended =
            "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS' AND name = 'everything'";
        eventually("some have ended", || ground.count(ended) >= many);
    };
    let mut processes: Vec<_> = (0..3).map(|_| Process::start(&url)).collect();
    for turn in 1..=4 {
        ended(turn * 5);
        if turn % 2 == 0 {
            pooler.crash();
            pass(Duration::from_millis(500));
            pooler.start().unwrap();
        } else {
            processes.remove(0).kill();
            processes.push(Process::start(&url));
        }
    }
    for (n, handle) in handles {
        let ended = (0..120).find_map(|_| handle.wait(Duration::from_secs(1)).unwrap());
        assert_eq!(ended, Some(result_of(n)));
    }
    assert_all_done(&ground, &caller, MANY);
}

#[test]
fn kills_and_a_restart_of_a_pooler_in_transaction_mode_lose_nothing() {
    survive(Mode::Transaction, 4);
}

#[test]
fn kills_and_a_restart_of_a_pooler_in_session_mode_lose_nothing() {
    survive(Mode::Session, 80);
}
