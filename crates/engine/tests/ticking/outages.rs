//! A PostgreSQL server that is gone, stands still, or cannot be heard.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cluster::{Cluster, Proxy, Settings};
use engine::postgres::{Client, NoTls};
use tokio::task::spawn_blocking;

use crate::ticks::never_blocked;
use crate::work::{Work, all_calls};
use crate::{BLOCK, MINUTE, options};

/// How long an outage lasts.
const OUTAGE: Duration = BLOCK.saturating_mul(2);

/// A server of a test alone, and what becomes of it.
enum Outage {
    /// It ends and is started again.
    Gone(Cluster),
    /// Its processes are stopped where they are: connections are open, and new ones are taken by the system.
    StandsStill(Cluster, Mutex<Option<Stopped>>),
    /// Nothing comes through.
    Silent { proxy: Proxy, _before: Cluster },
}

impl Outage {
    fn url(&self) -> String {
        match self {
            Self::Gone(cluster) | Self::StandsStill(cluster, _) => cluster.url("ticking"),
            Self::Silent { proxy, .. } => proxy.url("ticking"),
        }
    }

    fn begin(&self) {
        match self {
            Self::Gone(cluster) => cluster.crash().unwrap(),
            Self::StandsStill(cluster, stopped) => {
                *stopped.lock().unwrap() = Some(Stopped::processes_of(cluster, &self.url()));
            }
            Self::Silent { proxy, .. } => proxy.be_silent(true),
        }
    }

    fn end(&self) {
        match self {
            Self::Gone(cluster) => cluster.resume().unwrap(),
            Self::StandsStill(_, stopped) => drop(stopped.lock().unwrap().take()),
            Self::Silent { proxy, .. } => proxy.be_silent(false),
        }
    }
}

/// Processes that go on when this is dropped, or when the process of the test is gone: a server that stands cannot end.
struct Stopped {
    continues: Child,
    /// The connection that named them is to one of them.
    _named_by: Box<Client>,
}

impl Stopped {
    fn processes_of(cluster: &Cluster, url: &str) -> Self {
        let mut named_by = Box::new(Client::connect(url, NoTls).unwrap());
        let first = fs::read_to_string(cluster.socket().join("data/postmaster.pid")).unwrap();
        let first = first.lines().next().unwrap().to_owned();
        // Without the first one there are no new ones.
        let others = "SELECT pid::text FROM pg_stat_activity";
        let stopped = Command::new("kill").args(["-STOP", &first]).status().unwrap();
        assert!(stopped.success());
        let mut pids: Vec<String> =
            named_by.query(others, &[]).unwrap().iter().map(|row| row.get(0)).collect();
        pids.push(first);
        let continues = Command::new("/bin/sh")
            .args(["-c", "read -r _; kill -CONT \"$@\"", "continues"])
            .args(&pids)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        // One may have ended meanwhile.
        Command::new("kill").arg("-STOP").args(&pids).output().unwrap();
        Self { continues: continues.unwrap(), _named_by: named_by }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        drop(self.continues.stdin.take());
        let _ = self.continues.wait();
    }
}

/// Work is under way when the outage begins, and is asked for in the middle of it.
fn blocks_nobody(what: &str, outage: impl Fn(Cluster) -> Outage) {
    watch::test(watch::LIMIT * 2);
    if cluster::try_shared().is_none() {
        return;
    }
    let outage = Arc::new(outage(Cluster::start(&Settings::default()).unwrap()));
    // With time enough for the tables.
    drop(options().open(&outage.url()).unwrap());
    never_blocked(what, OUTAGE, async || {
        // Shorter than the outage: connections are given up and made again in it.
        let engine = options().answers_within(OUTAGE / 2).open_async(&outage.url()).await.unwrap();
        let work = Work::register(&engine);
        engine.launch().await.unwrap();
        work.run_once(&engine).await;
        let before = all_calls(&engine, &work);
        let (begins, ends) = (outage.clone(), outage.clone());
        spawn_blocking(move || begins.begin()).await.unwrap();
        let within = all_calls(&engine, &work);
        tokio::time::sleep(OUTAGE).await;
        spawn_blocking(move || ends.end()).await.unwrap();
        before.all_end().await;
        within.all_end().await;
        work.run_once(&engine).await;
        engine.shutdown(MINUTE).await;
    });
}

#[test]
fn a_server_that_is_gone_blocks_no_runtime() {
    blocks_nobody("a server that is gone", Outage::Gone);
}

#[test]
fn a_server_that_stands_still_blocks_no_runtime() {
    blocks_nobody("a server that stands still", |cluster| Outage::StandsStill(cluster, Mutex::default()));
}

#[test]
fn a_server_that_is_not_heard_blocks_no_runtime() {
    blocks_nobody("a silent server", |cluster| {
        let proxy = Proxy::before(&cluster).unwrap();
        Outage::Silent { proxy, _before: cluster }
    });
}

#[test]
fn an_open_that_waits_for_a_silent_server_blocks_no_runtime() {
    watch::test(watch::LIMIT);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("postgresql://me@{address}/shop?connect_timeout={}", BLOCK.as_secs());
    never_blocked("an open", BLOCK, async || {
        let error = options().open_async(&url).await.map(drop).unwrap_err().to_string();
        assert!(error.contains("the server did not answer within 2.0 s"), "{error}");
    });
}

/// Its body waits for nothing that comes, and the database cannot take the workflow back.
#[test]
fn a_shutdown_without_a_server_blocks_no_runtime() {
    watch::test(watch::LIMIT * 2);
    if cluster::try_shared().is_none() {
        return;
    }
    let cluster = Cluster::start(&Settings::default()).unwrap();
    let proxy = Proxy::before(&cluster).unwrap();
    never_blocked("a shutdown", BLOCK, async || {
        let engine = options().open_async(&proxy.url("ticking")).await.unwrap();
        let work = Work::register(&engine);
        engine.launch().await.unwrap();
        let waits = engine.start(&work.long, false).await.unwrap();
        while work.at_their_last_steps() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        proxy.be_silent(true);
        let calls = all_calls(&engine, &work);
        let watch = Instant::now();
        // They come to wait for an answer.
        tokio::time::sleep(BLOCK / 100).await;
        engine.shutdown(BLOCK).await;
        drop((calls, waits, engine));
        tokio::time::sleep(BLOCK.saturating_sub(watch.elapsed())).await;
        proxy.be_silent(false);
    });
}
