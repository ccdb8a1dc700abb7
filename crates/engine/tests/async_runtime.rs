//! Calls that block, made in the middle of an async task, say so: once for each engine, and not where blocking is allowed.
//! One test in a process, because the logger belongs to all of it.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::sync::Mutex;
use std::time::Duration;

use engine::{Context, Engine, Error, Workflow, WorkflowFilter};

static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = record.args().to_string();
        if text.contains("async runtime") {
            WARNINGS.lock().unwrap().push(text);
        }
    }

    fn flush(&self) {}
}

fn taken() -> Vec<String> {
    std::mem::take(&mut *WARNINGS.lock().unwrap())
}

fn launched(url: &str) -> (Engine, Workflow<(), u32>) {
    let engine = Engine::options().open(url).unwrap();
    let workflow = engine.register("w", |_: &mut Context, (): ()| Ok::<_, Error>(7)).unwrap();
    engine.launch().unwrap();
    (engine, workflow)
}

fn use_it(engine: &Engine, workflow: &Workflow<(), u32>) {
    let handle = workflow.start(engine, ()).unwrap();
    assert_eq!(handle.result().unwrap(), 7);
    engine.send(handle.id(), "t", 1).unwrap();
    engine.cancel(handle.id()).unwrap();
    engine.list(&WorkflowFilter::new()).unwrap();
}

#[test]
fn a_call_that_blocks_an_async_task_says_so_once_for_each_engine() {
    log::set_logger(&Logger).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let dir = tempfile::tempdir().unwrap();
    let mut urls = vec![format!("sqlite:{}", dir.path().join("x.db").display())];
    // Where PostgreSQL is not installed the file alone is tried.
    urls.extend(cluster::try_shared().map(|cluster| cluster.url(&cluster.fresh_database())));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    for url in urls {
        let (engine, workflow) = launched(&url);
        use_it(&engine, &workflow);
        let allowed = (engine.clone(), workflow.clone());
        runtime.block_on(async {
            tokio::task::spawn_blocking(move || use_it(&allowed.0, &allowed.1)).await.unwrap();
        });
        assert_eq!(taken(), Vec::<String>::new(), "a thread for blocking calls: {url}");
        let in_task = (engine.clone(), workflow.clone());
        runtime.block_on(async {
            let task = tokio::spawn(async move { use_it(&in_task.0, &in_task.1) });
            task.await.unwrap();
            use_it(&engine, &workflow);
        });
        let said = taken();
        assert_eq!(said.len(), 1, "{said:?}");
        for part in ["Workflow::start blocks", "spawn_blocking"] {
            assert!(said[0].contains(part), "{said:?}");
        }
        engine.shutdown(Duration::from_secs(10));
    }
}
