//! Connections that fall silent: nothing is closed, and no answer comes.

use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cluster::{Moment, Proxy};
use engine::sql::SqlError;
use engine::testing::{Fate, Moment as When};
use engine::{Context, Engine, EngineOptions, Workflow, WorkflowFilter};

use crate::support::{Ground, Log, eventually, listen_to_the_log, options, pass, sql, steps};

/// How long a statement may take here. A look at a silent step comes after a third of it.
const ANSWERS: Duration = Duration::from_secs(3);
/// Much longer than any limit here, much shorter than for ever: machines are busy.
const BOUND: Duration = Duration::from_secs(40);

/// On a busy machine a beat may be late; here it may be for some seconds.
fn hurried() -> EngineOptions {
    options().answers_within(ANSWERS).takeover_within(Duration::from_secs(20))
}

struct Silence {
    ground: Ground,
    proxy: Proxy,
    log: Log,
}

impl Silence {
    fn new() -> Self {
        let ground = Ground::new();
        let proxy = Proxy::before(ground.cluster).unwrap();
        // The tables are there before anything falls silent.
        drop(ground.open());
        Self { proxy, log: listen_to_the_log(), ground }
    }

    fn url(&self) -> String {
        format!("{}&connect_timeout=2", self.proxy.url(&self.ground.database))
    }

    /// An engine that has run something, so that all of its connections are there.
    fn engine(&self) -> (Engine, Workflow<u32, u32>) {
        let engine = hurried().open(&self.url()).unwrap();
        let workflow = steps(&engine);
        engine.launch().unwrap();
        assert_eq!(workflow.start(&engine, 2).unwrap().result().unwrap(), 2);
        engine.count(&WorkflowFilter::new()).unwrap();
        let names = "SELECT count(DISTINCT application_name) FROM pg_stat_activity
                      WHERE datname = current_database() AND application_name LIKE 'piton-%'";
        eventually("all connections are there", || self.ground.count(names) == 4);
        (engine, workflow)
    }

    /// How often the log says that this database does not answer, and for want of an answer.
    fn said(&self) -> (usize, usize) {
        let begin = format!("/{} does not answer as it should", self.ground.database);
        let lines = self.log.lines(&begin);
        (lines.len(), lines.iter().filter(|line| line.contains("did not answer within")).count())
    }

    fn ended(&self) -> usize {
        self.log.lines(&format!("/{} answers again", self.ground.database)).len()
    }
}

fn within_bound<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let watch = Instant::now();
    let done = work();
    assert!(watch.elapsed() < BOUND, "{what} took {:?}", watch.elapsed());
    done
}

#[test]
fn a_server_that_accepts_and_never_answers_is_given_up_within_connect_timeout() {
    listen_to_the_log();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgresql://me@{}/shop?connect_timeout=1", listener.local_addr().unwrap());
    let error = within_bound("open", || options().open(&url).map(drop).unwrap_err().to_string());
    assert!(error.contains("the server did not answer within 1.0 s"), "{error}");
    let connector = engine::PgConnector::new(&url).unwrap();
    let error = within_bound("connect", || connector.connect().map(drop).unwrap_err().to_string());
    assert!(error.contains("the server did not answer within 1.0 s"), "{error}");
}

#[test]
fn a_server_that_falls_silent_at_a_login_or_after_it_is_given_up() {
    let silence = Silence::new();
    for moment in [Moment::Login, Moment::AfterLogin] {
        silence.proxy.silence_new("", Some(moment));
        let opened = within_bound("open", || hurried().open(&silence.url()).map(drop));
        let error = opened.unwrap_err().to_string();
        assert!(error.contains("the server did not answer within 2.0 s"), "{moment:?}: {error}");
    }
    silence.proxy.silence_new("", None);
    drop(silence.engine());
}

/// Each of the engine's own, between two answers and within one. The others go on, so does the work.
#[test]
fn a_connection_that_falls_silent_is_replaced_and_said_once() {
    for name in ["piton-writer", "piton-reader", "piton-lease", "piton-listener"] {
        for within_an_answer in [false, true] {
            let silence = Silence::new();
            let (engine, workflow) = silence.engine();
            let fall_silent = || {
                if within_an_answer {
                    silence.proxy.silence_within_answers(name)
                } else {
                    silence.proxy.silence(name)
                }
            };
            assert!(fall_silent() > 0, "{name}");
            let what = format!("{name}, within an answer: {within_an_answer}");
            within_bound(&what, || {
                assert_eq!(workflow.start(&engine, 3).unwrap().result().unwrap(), 3);
                assert_eq!(engine.count(&WorkflowFilter::new()).unwrap(), 2);
            });
            let watch = Instant::now();
            eventually(&format!("{what}: said"), || {
                // On a busy machine the engine may just have replaced one whose login took too long.
                if silence.said().0 == 0 && watch.elapsed() > BOUND / 2 {
                    fall_silent();
                }
                silence.said().0 > 0
            });
            eventually(&format!("{what}: over"), || silence.ended() > 0);
            assert_eq!((silence.said(), silence.ended()), ((1, 1), 1), "{what}");
            if name == "piton-writer" {
                // What the silent one was asked shall not happen later.
                eventually(&format!("{what}: nobody is left behind"), || served(&silence.ground, name) == 1);
            }
            assert_eq!(within_bound("shutdown", || engine.shutdown(Duration::from_secs(60))), []);
        }
    }
}

fn served(ground: &Ground, name: &str) -> i64 {
    let served = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name = $1";
    ground.sql().query_one(served, &[&name]).unwrap().get(0)
}

#[test]
fn work_goes_on_as_soon_as_new_connections_answer_again() {
    let silence = Silence::new();
    let (engine, workflow) = silence.engine();
    silence.proxy.silence_new("", Some(Moment::Login));
    for name in ["piton-writer", "piton-reader", "piton-lease", "piton-listener"] {
        silence.proxy.silence(name);
    }
    std::thread::scope(|scope| {
        let started = scope.spawn(|| workflow.start(&engine, 3).unwrap().result().unwrap());
        eventually("said", || silence.said() == (1, 1));
        silence.proxy.silence_new("", None);
        within_bound("the work", || assert_eq!(started.join().unwrap(), 3));
    });
    eventually("over", || silence.ended() > 0);
    // The one that hears has found out by then, too.
    pass(ANSWERS * 2);
    let lines = silence.log.lines(&silence.ground.database);
    assert_eq!((silence.said(), silence.ended()), ((1, 1), 1), "{lines:?}");
}

#[test]
fn a_shutdown_does_not_wait_for_a_server_that_fell_silent() {
    let silence = Silence::new();
    // The limits of a program: nothing here may take as long as they are.
    let engine = options().open(&silence.proxy.url(&silence.ground.database)).unwrap();
    let workflow = steps(&engine);
    engine.launch().unwrap();
    assert_eq!(workflow.start(&engine, 2).unwrap().result().unwrap(), 2);
    silence.proxy.be_silent(true);
    let watch = Instant::now();
    engine.shutdown(Duration::from_secs(1));
    drop((workflow, engine));
    assert!(watch.elapsed() < Duration::from_secs(20), "{:?}", watch.elapsed());
}

/// Sends a signal to the process of the server behind a connection of this name.
fn signal(ground: &Ground, name: &str, signal: &str) -> String {
    let pids = "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = $1";
    let pids: String = ground.sql().query_one(pids, &[&name]).unwrap().get(0);
    send(&pids, signal);
    pids
}

fn send(pids: &str, signal: &str) {
    let sent = Command::new("kill").arg(signal).args(pids.split(' ')).status().unwrap();
    assert!(sent.success(), "kill {signal} {pids}");
}

/// Lets stopped processes go on, also when an assertion has failed: the server is everybody's.
struct Stopped(String);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg("-CONT").args(self.0.split(' ')).status();
    }
}

#[test]
fn a_stopped_process_of_the_server_holds_nothing_up() {
    let silence = Silence::new();
    let (engine, workflow) = silence.engine();
    let _stopped = Stopped(signal(&silence.ground, "piton-writer", "-STOP"));
    within_bound("a start", || assert_eq!(workflow.start(&engine, 3).unwrap().result().unwrap(), 3));
    assert_eq!(silence.said(), (1, 1));
}

/// Counts its runs, and in the first one waits between two statements until the test has done something to its session.
fn deposits(engine: &Engine, act: impl Fn() + Send + Sync + 'static) -> (Workflow<(), u32>, Arc<AtomicU32>) {
    let runs = Arc::new(AtomicU32::new(0));
    let counted = runs.clone();
    let workflow = engine.register("deposit", move |ctx: &mut Context, (): ()| -> engine::Result<u32> {
        ctx.transaction("deposit", |tx| -> Result<u32, SqlError> {
            tx.execute("INSERT INTO public.effect VALUES (1)", ())?;
            let run = counted.fetch_add(1, Ordering::SeqCst);
            if run == 0 {
                act();
            }
            tx.execute("INSERT INTO public.effect VALUES (2)", ())?;
            Ok(run)
        })
    });
    (workflow.unwrap(), runs)
}

impl Silence {
    fn with_effects() -> Self {
        let silence = Self::new();
        silence.ground.sql().batch_execute("CREATE TABLE public.effect (n int)").unwrap();
        silence
    }

    fn effects(&self) -> i64 {
        self.ground.count("SELECT count(*) FROM public.effect")
    }
}

#[test]
fn a_transaction_step_whose_session_falls_silent_runs_again_over_another() {
    let silence = Silence::with_effects();
    let proxy = Arc::new(Proxy::before(silence.ground.cluster).unwrap());
    let url = format!("{}&connect_timeout=2", proxy.url(&silence.ground.database));
    let engine = hurried().open(&url).unwrap();
    let within = proxy.clone();
    let which = Arc::new(AtomicU32::new(0));
    let what = which.clone();
    let (workflow, runs) = deposits(&engine, move || {
        if what.load(Ordering::SeqCst) == 0 {
            assert_eq!(within.silence("piton-steps"), 1);
        } else {
            assert_eq!(within.silence_within_answers("piton-steps"), 1);
        }
    });
    engine.launch().unwrap();
    for turn in 0..2 {
        which.store(turn, Ordering::SeqCst);
        runs.store(0, Ordering::SeqCst);
        let run = within_bound("the step", || workflow.start(&engine, ()).unwrap().result().unwrap());
        assert_eq!((run, silence.effects()), (1, 2 * (i64::from(turn) + 1)));
        eventually("over", || silence.ended() > turn as usize);
        let turns = turn as usize + 1;
        assert_eq!((silence.said(), silence.ended()), ((turns, turns), turns));
    }
    assert_eq!(within_bound("shutdown", || engine.shutdown(Duration::from_secs(60))), []);
}

/// It was made, and is found by its record.
#[test]
fn a_commit_whose_answer_never_comes_is_not_made_twice() {
    let silence = Silence::with_effects();
    let proxy = Arc::new(Proxy::before(silence.ground.cluster).unwrap());
    let url = format!("{}&connect_timeout=2", proxy.url(&silence.ground.database));
    let (within, once) = (proxy.clone(), AtomicU32::new(0));
    let engine = hurried().commit_hook(Arc::new(move |point| {
        if point.kinds == ["transaction_step"]
            && point.moment == When::Before
            && once.fetch_add(1, Ordering::SeqCst) == 0
        {
            assert_eq!(within.silence_within_answers("piton-steps"), 1);
        }
        Fate::Go
    }));
    let engine = engine.open(&url).unwrap();
    let (workflow, runs) = deposits(&engine, || {});
    engine.launch().unwrap();
    let run = within_bound("the step", || workflow.start(&engine, ()).unwrap().result().unwrap());
    assert_eq!((run, runs.load(Ordering::SeqCst), silence.effects()), (0, 1, 2));
    assert_eq!(proxy.silenced(), 1);
    assert_eq!(silence.said(), (1, 1));
}

#[test]
fn a_long_statement_of_a_body_is_no_silence() {
    let silence = Silence::with_effects();
    let engine = hurried().open(&silence.url()).unwrap();
    let runs = Arc::new(AtomicU32::new(0));
    let counted = runs.clone();
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| -> engine::Result<u32> {
        ctx.transaction("long", |tx| -> Result<u32, engine::postgres::Error> {
            let tx = tx.postgres().unwrap();
            tx.execute("SELECT pg_sleep(5)", &[])?;
            let mut copy = tx.copy_in("COPY public.effect FROM STDIN")?;
            std::io::Write::write_all(&mut copy, b"1\n2\n").unwrap();
            copy.finish()?;
            // It does something else for a while: nothing is asked, so no answer is missing.
            pass(ANSWERS);
            tx.execute("SELECT 1", &[])?;
            Ok(counted.fetch_add(1, Ordering::SeqCst))
        })
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    assert_eq!(workflow.start(&engine, ()).unwrap().result().unwrap(), 0);
    assert_eq!((runs.load(Ordering::SeqCst), silence.effects(), silence.said()), (1, 2, (0, 0)));
}

#[test]
fn a_stopped_process_of_the_server_does_not_hold_up_a_transaction_step() {
    let silence = Silence::with_effects();
    let engine = hurried().open(&silence.url()).unwrap();
    let stopped = Arc::new(Mutex::new(None));
    let (stops, url) = (stopped.clone(), silence.ground.url());
    let (workflow, _) = deposits(&engine, move || {
        let pid = "SELECT pid::text FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name = 'piton-steps'";
        let pid: String = sql(&url).query_one(pid, &[]).unwrap().get(0);
        send(&pid, "-STOP");
        *stops.lock().unwrap() = Some(Stopped(pid));
    });
    engine.launch().unwrap();
    let run = within_bound("the step", || workflow.start(&engine, ()).unwrap().result().unwrap());
    stopped.lock().unwrap().take();
    assert_eq!((run, silence.effects(), silence.said()), (1, 2, (1, 1)));
}

/// A role may have the server close what is idle: the next use takes another connection, and there is nothing to say.
#[test]
fn connections_that_were_closed_while_idle_are_no_outage() {
    let silence = Silence::new();
    let role = format!("idle_{}", silence.ground.database);
    silence
        .ground
        .sql()
        .batch_execute(&format!(
            "CREATE ROLE {role} SUPERUSER LOGIN; ALTER ROLE {role} SET idle_session_timeout = '300ms'"
        ))
        .unwrap();
    let engine = options().open(&silence.ground.url().replace("postgres@", &format!("{role}@"))).unwrap();
    let workflow = steps(&engine);
    let step = engine
        .register("t", |ctx: &mut Context, (): ()| ctx.transaction("t", |_| Ok::<_, engine::Error>(())));
    let step = step.unwrap();
    engine.launch().unwrap();
    let run = || {
        workflow.start(&engine, 1).unwrap().result().unwrap();
        step.start(&engine, ()).unwrap().result().unwrap();
        engine.count(&WorkflowFilter::new()).unwrap();
    };
    run();
    pass(Duration::from_secs(2));
    run();
    // The same where somebody else closes them. One that is in use now and then would be lost in use.
    let ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name IN ('piton-writer', 'piton-reader')
                   AND state = 'idle' AND state_change < clock_timestamp() - INTERVAL '1 second'";
    eventually("an idle connection is closed", || silence.ground.sql().execute(ours, &[]).unwrap() > 0);
    pass(Duration::from_secs(2));
    run();
    assert_eq!(silence.said(), (0, 0));
    assert_eq!(silence.log.lines(&silence.ground.database).len(), 0, "nothing to say");
}
