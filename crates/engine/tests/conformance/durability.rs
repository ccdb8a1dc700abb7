//! That what is acknowledged is on the disk: each acknowledgement comes after a sync of SQLite's log. The syncs are
//! counted by a library that stands before the C library's own functions.

use std::cell::Cell;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use engine::testing::{CommitPoint, Fate, Moment};
use engine::{Context, Engine, Error};

use crate::process::{errand, path_of_the_errand, run, say, this_program};

const SYNCS: &str = "PITON_TEST_SYNCS";

fn syncs() -> usize {
    let counter = std::env::var_os(SYNCS).unwrap();
    usize::try_from(std::fs::metadata(counter).map_or(0, |counted| counted.len())).unwrap()
}

/// Commits with writes that are acknowledged and change rows: one without a sync is a lie. A claim that finds nothing
/// changes nothing, and SQLite has nothing to sync.
const ACKNOWLEDGED: [&str; 3] = ["start_workflow", "record_step", "settle"];

#[derive(Default)]
struct Commits {
    synced: AtomicUsize,
    unsynced: AtomicUsize,
}

thread_local! {
    static SYNCS_BEFORE: Cell<usize> = const { Cell::new(0) };
}

impl Commits {
    /// Around each commit, on its thread, and before anybody is told of it.
    fn look(&self, commit: &CommitPoint<'_>) -> Fate {
        if commit.moment == Moment::Before {
            SYNCS_BEFORE.set(syncs());
        } else if commit.kinds.iter().any(|kind| ACKNOWLEDGED.contains(kind)) {
            let count = if syncs() > SYNCS_BEFORE.get() { &self.synced } else { &self.unsynced };
            count.fetch_add(1, Ordering::SeqCst);
        }
        Fate::Go
    }
}

/// Says how many syncs there were since the last acknowledgement, each time.
fn acknowledged(what: &str, before: usize) -> usize {
    let now = syncs();
    say(&format!("{what} {}", now - before));
    now
}

#[test]
fn count_the_syncs_of_each_acknowledgement() {
    let Some(path) = path_of_the_errand() else { return };
    let commits = Arc::new(Commits::default());
    let hook = commits.clone();
    let hook = Arc::new(move |commit: &CommitPoint<'_>| hook.look(commit));
    let engine = Engine::options().app("test").commit_hook(hook).open_file(path).unwrap();
    let alone = engine.register("alone", |ctx: &mut Context, (): ()| {
        let mut seen = syncs();
        for _ in 0..5 {
            ctx.step("step", |_| Ok::<_, Error>(7))?;
            seen = acknowledged("step", seen);
            ctx.transaction("transaction", |tx| tx.query_one("SELECT 7", ())?.get::<u32>(0))?;
            seen = acknowledged("transaction", seen);
        }
        Ok::<_, Error>(seen)
    });
    let many = engine.register("many", |ctx: &mut Context, n: u32| ctx.step("step", |_| Ok::<_, Error>(n)));
    let (alone, many) = (alone.unwrap(), many.unwrap());
    engine.launch().unwrap();
    for _ in 0..5 {
        let before = syncs();
        let handle = alone.start(&engine, ()).unwrap();
        acknowledged("start", before);
        let last_step = handle.result().unwrap();
        acknowledged("end", last_step);
    }
    // Of a batch all are acknowledged by one sync.
    let before = commits.synced.load(Ordering::SeqCst);
    std::thread::scope(|scope| {
        for n in 0..32 {
            let (engine, many) = (&engine, &many);
            scope.spawn(move || assert_eq!(many.start(engine, n).unwrap().result().unwrap(), n));
        }
    });
    let (synced, unsynced) =
        (commits.synced.load(Ordering::SeqCst) - before, commits.unsynced.load(Ordering::SeqCst));
    say(&format!("batches {}", usize::from(unsynced == 0 && synced > 0)));
}

fn build_the_counter(dir: &Path) -> std::path::PathBuf {
    let library = dir.join("syncs.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/syncs.c");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let built = Command::new(compiler).args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    assert!(built.unwrap().success());
    library
}

#[test]
fn every_acknowledgement_comes_after_a_sync_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let library = build_the_counter(dir.path());
    let name = "durability::count_the_syncs_of_each_acknowledgement";
    let mut command = errand(&this_program(), name, &dir.path().join("x.db"));
    let said = run(command.env("LD_PRELOAD", library).env(SYNCS, dir.path().join("counted")));
    for (what, count) in [("start", 5), ("step", 25), ("transaction", 25), ("end", 5), ("batches", 1)] {
        let counts: Vec<usize> =
            said.iter().filter_map(|line| line.strip_prefix(what)?.trim().parse().ok()).collect();
        assert_eq!(counts.len(), count, "{what}: {said:?}");
        assert!(counts.iter().all(|count| *count >= 1), "{what} acknowledged without a sync: {said:?}");
    }
}
