//! A process that forks between `open` and a call.

use std::time::{Duration, Instant};

use engine::{Context, Engine, Error, WorkflowFilter};
use fork::{Fork, fork, waitpid};

use crate::process::{end_after, errand, path_of_the_errand, run, say, this_program};

#[test]
fn fork_and_call() {
    let Some(path) = path_of_the_errand() else { return };
    let launched = std::env::var_os("PITON_TEST_LAUNCH").is_some();
    let engine = Engine::options().app("test").open_file(&path).unwrap();
    let workflow = engine.register("w", |_: &mut Context, (): ()| Ok::<_, Error>(7)).unwrap();
    let handle = launched.then(|| {
        engine.launch().unwrap();
        let handle = workflow.start_as(&engine, "one", ()).unwrap();
        assert_eq!(handle.result().unwrap(), 7);
        handle
    });
    match fork().unwrap() {
        Fork::Child => {
            end_after(Duration::from_secs(60));
            let watch = Instant::now();
            let mut answers =
                vec![engine.launch().map(|()| 0), engine.list(&WorkflowFilter::new()).map(|_| 0)];
            if let Some(handle) = handle {
                answers.push(workflow.start(&engine, ()).map(|_| 0));
                answers.push(handle.result());
                answers.push(engine.cancel(handle.id()).map(|_| 0));
            }
            engine.shutdown(Duration::from_secs(60));
            drop(engine);
            for answer in answers {
                say(&answer.map_or_else(|e| e.to_string(), |value| format!("value {value}")));
            }
            say(&format!("slow: {}", watch.elapsed() > Duration::from_secs(5)));
            // Nothing of the test program is this process's.
            std::process::abort();
        }
        Fork::Parent(child) => {
            let _ = waitpid(child);
            if !launched {
                engine.launch().unwrap();
            }
            assert_eq!(workflow.start_as(&engine, "two", ()).unwrap().result().unwrap(), 7);
            say("the parent goes on");
        }
    }
}

#[test]
fn a_call_in_a_fork_is_refused_at_once_and_leaves_the_parent_alone() {
    for (launch, calls) in [(false, 2), (true, 5)] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = errand(&this_program(), "forks::fork_and_call", &dir.path().join("x.db"));
        if launch {
            command.env("PITON_TEST_LAUNCH", "1");
        }
        let said = run(&mut command);
        let refused = said.iter().filter(|line| line.contains("a fork of it; open an engine after the fork"));
        assert_eq!(refused.count(), calls, "{said:?}");
        assert!(said.contains(&"slow: false".to_owned()), "{said:?}");
        assert!(said.contains(&"the parent goes on".to_owned()), "{said:?}");
        let locks = std::fs::read_dir(dir.path().join("x.db-executors")).unwrap().count();
        assert_eq!(locks, 0, "the parent has taken leave");
    }
}
