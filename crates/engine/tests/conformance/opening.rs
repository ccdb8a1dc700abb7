//! The file: what is made of a new one, and what is refused without touching it.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use engine::rusqlite::Connection;
use engine::{Context, Engine, Error};

use crate::support::{App, Result};

fn open(path: &Path) -> Result<Engine> {
    watch::test(watch::LIMIT);
    Engine::options().open(&format!("sqlite:{}", path.display()))
}

/// Refused with these words, and not a byte is changed.
fn assert_refused(path: &Path, words: &[&str]) {
    let before = std::fs::read(path).unwrap();
    let error = open(path).unwrap_err();
    assert!(matches!(error, Error::Open { .. }), "{error:?}");
    for word in words {
        assert!(error.to_string().contains(word), "{error}");
    }
    assert!(error.to_string().contains(path.file_name().unwrap().to_str().unwrap()), "{error}");
    assert_eq!(std::fs::read(path).unwrap(), before, "{error}");
    let beside = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(beside, 1, "nothing is left beside it");
}

fn sqlite_file(path: &Path, script: &str) {
    Connection::open(path).unwrap().execute_batch(script).unwrap();
}

#[test]
fn a_new_file_is_durable_and_private() {
    let app = App::new();
    let engine = app.open();
    engine.launch().unwrap();
    assert_eq!(app.value::<String>("PRAGMA journal_mode", []), "wal");
    assert_eq!(app.value::<u32>("SELECT version FROM dbos_migrations", []), 125);
    #[cfg(unix)]
    for entry in std::fs::read_dir(app.database.path().parent().unwrap()).unwrap() {
        use std::os::unix::fs::PermissionsExt;
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o077;
        assert_eq!(mode, 0, "{:?} can be read by others", entry.file_name());
    }
}

#[test]
fn the_linked_sqlite_is_free_of_the_wal_reset_bug() {
    assert!(engine::rusqlite::version_number() >= 3_051_003, "{}", engine::rusqlite::version());
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes.txt");
    for content in ["x", "the SQLite format 3 is described elsewhere", &"long ".repeat(5000)] {
        std::fs::write(&path, content).unwrap();
        assert_refused(&path, &["not an SQLite database", "name another file"]);
    }
}

#[test]
fn a_database_of_another_program_is_refused_unless_it_is_to_be_shared() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("places.sqlite");
    sqlite_file(&path, "CREATE TABLE bookmarks (url); INSERT INTO bookmarks VALUES ('x')");
    assert_refused(&path, &["belongs to another program", "`bookmarks`", "shared_with_application()"]);

    let url = format!("sqlite:{}", path.display());
    let engine = Engine::options().shared_with_application().open(&url).unwrap();
    drop(engine);
    drop(open(&path).unwrap());
    let kept: u32 = Connection::open(&path)
        .unwrap()
        .query_row("SELECT count(*) FROM bookmarks", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, 1);
}

#[test]
fn tables_that_only_look_like_ours_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");
    sqlite_file(&path, "CREATE TABLE workflow_status (id)");
    assert_refused(&path, &["`workflow_status` without `dbos_migrations`"]);
    let shared = Engine::options().shared_with_application().open(&format!("sqlite:{}", path.display()));
    assert!(shared.is_err());
}

#[test]
fn an_older_schema_is_refused_with_the_way_to_bring_it_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");
    sqlite_file(
        &path,
        "CREATE TABLE dbos_migrations (version INTEGER); INSERT INTO dbos_migrations VALUES (108)",
    );
    assert_refused(&path, &["schema version 108", "needs 125", "dbos migrate"]);
}

#[test]
fn a_newer_schema_is_accepted_and_left_as_it_is() {
    let app = App::new();
    drop(app.open());
    app.execute("UPDATE dbos_migrations SET version = 999", []);
    app.batch("ALTER TABLE workflow_status ADD COLUMN news TEXT; CREATE TABLE news (x)");
    let schema = "SELECT group_concat(sql, ';') FROM sqlite_schema";
    let before: String = app.value(schema, []);
    let engine = app.open();
    let workflow =
        engine.register("w", |ctx: &mut Context, (): ()| ctx.step("s", |_| Ok::<_, Error>(7))).unwrap();
    engine.launch().unwrap();
    assert_eq!(workflow.start(&engine, ()).unwrap().result().unwrap(), 7);
    assert_eq!(app.value::<String>(schema, []), before);
    assert_eq!(app.value::<u32>("SELECT version FROM dbos_migrations", []), 999);
}

/// A file that was cut short, one with a page of garbage, one with garbage in its header.
#[test]
fn a_damaged_file_is_refused() {
    let app = App::new();
    drop(app.open());
    app.batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE");
    let whole = std::fs::read(app.database.path()).unwrap();
    let cut = whole[..whole.len() / 2].to_vec();
    let mut garbage = whole.clone();
    garbage[4096..8192].fill(0xa5);
    let mut header = whole.clone();
    header[16..100].fill(0xff);
    let mut tail = whole.clone();
    let at = tail.len() - 6000;
    tail[at..].fill(0x5a);
    for damaged in [cut, garbage, header, tail] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        std::fs::write(&path, damaged).unwrap();
        assert_refused(&path, &["x.db"]);
    }
}

#[test]
fn a_path_that_cannot_be_a_file_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let directory = open(dir.path()).unwrap_err().to_string();
    assert!(directory.contains("it is a directory"), "{directory}");
    let missing = open(&dir.path().join("no/such/x.db")).unwrap_err().to_string();
    assert!(missing.contains("no/such: No such file or directory"), "{missing}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_refused_at_once_with_its_kind() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe.db");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let socket = dir.path().join("socket.db");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let cases = [(pipe.as_path(), "a pipe"), (&socket, "a socket"), (Path::new("/dev/null"), "a device")];
    for (path, kind) in cases {
        let error = open(path).unwrap_err().to_string();
        assert!(error.contains(&format!("it is {kind}; name a file")), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn a_link_to_nothing_is_refused_with_its_target() {
    let dir = tempfile::tempdir().unwrap();
    let (link, round) = (dir.path().join("link.db"), dir.path().join("round.db"));
    std::os::unix::fs::symlink(dir.path().join("away/x.db"), &link).unwrap();
    std::os::unix::fs::symlink(&round, &round).unwrap();
    let error = open(&link).unwrap_err().to_string();
    assert!(error.contains("link.db: it is a symbolic link to") && error.contains("away/x.db"), "{error}");
    let error = open(&round).unwrap_err().to_string();
    assert!(error.contains("Too many levels of symbolic links"), "{error}");
}

/// Each name beside the file must be possible, too: the longest ends with `-executors`.
#[test]
fn a_name_that_is_too_long_is_refused_at_open() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(&dir.path().join("n".repeat(245))).unwrap());
    for bytes in [246, 251, 252, 256] {
        let error = open(&dir.path().join("n".repeat(bytes))).unwrap_err().to_string();
        assert!(error.contains("File name too long"), "{bytes}: {error}");
    }
    let deep = dir.path().join("d".repeat(200)).join("d".repeat(200));
    std::fs::create_dir_all(&deep).unwrap();
    let deep = deep.canonicalize().unwrap();
    let name = |bytes: usize| deep.join("n".repeat(bytes - deep.as_os_str().len() - 1));
    drop(open(&name(504)).unwrap());
    let error = open(&name(505)).unwrap_err().to_string();
    assert!(error.contains("its path has 505 bytes, and SQLite takes 504 at most"), "{error}");
}

#[test]
fn urls_without_meaning_are_refused() {
    let refused = |url: &str| Engine::options().open(url).unwrap_err().to_string();
    assert!(refused("sqlite::memory:").contains("dies with the process"));
    let elsewhere = refused("postgresql://u:secret@h.invalid/d");
    // With TLS it may be connected to, and is not there.
    assert_eq!(elsewhere.contains("the server is on another machine"), !cfg!(feature = "tls"), "{elsewhere}");
    assert!(!elsewhere.contains("secret"), "{elsewhere}");
}

/// A file with two names is one database, with one set of executors.
#[cfg(unix)]
#[test]
fn a_symbolic_link_leads_to_the_same_executors() {
    let app = App::new();
    let first = app.open();
    let link = app.database.path().with_file_name("link.db");
    std::os::unix::fs::symlink(app.database.path(), &link).unwrap();
    let second = open(&link).unwrap();
    first.launch().unwrap();
    second.launch().unwrap();
    let locks = |path: &Path| std::fs::read_dir(format!("{}-executors", path.display())).map(Iterator::count);
    assert_eq!(locks(&app.database.path()).unwrap(), 2);
    assert!(locks(&link).is_err());
}

/// Sixteen at once on a file that is not there: all of them open, launch and run.
#[test]
fn sixteen_cold_starts_at_once_succeed() {
    for _ in 0..5 {
        let app = App::new();
        std::thread::scope(|scope| {
            for n in 0..16_u32 {
                let app = &app;
                scope.spawn(move || {
                    let engine = app.open();
                    let workflow = engine
                        .register("w", |ctx: &mut Context, n: u32| ctx.step("s", |_| Ok::<_, Error>(n)))
                        .unwrap();
                    engine.launch().unwrap();
                    assert_eq!(workflow.start(&engine, n).unwrap().result().unwrap(), n);
                    assert_eq!(engine.shutdown(Duration::from_secs(60)), []);
                });
            }
        });
        assert_eq!(app.value::<u32>("SELECT count(*) FROM dbos_migrations", []), 1);
        assert_eq!(app.value::<u32>("SELECT count(*) FROM workflow_status WHERE status = 'SUCCESS'", []), 16);
    }
}

const LOOK_AT: &str = "PITON_TEST_LOOK_AT";

/// The other process of the test below.
#[test]
fn look_at_a_database_and_leave() {
    if let Some(path) = std::env::var_os(LOOK_AT) {
        let connection = Connection::open(path).unwrap();
        let count: u32 =
            connection.query_row("SELECT count(*) FROM workflow_status", [], |row| row.get(0)).unwrap();
        let mut out = std::io::stdout();
        writeln!(out, "saw {count}.").unwrap();
    }
}

/// A handle on the file that is not SQLite's frees, when it is closed, the locks that all connections of this
/// process have. Another process that comes and goes then takes the WAL away under them.
#[test]
fn a_second_engine_in_a_process_leaves_the_locks_of_the_first() {
    let app = App::new();
    let look = || {
        let mut other = std::process::Command::new(std::env::current_exe().unwrap());
        other.args(["--exact", "opening::look_at_a_database_and_leave", "--nocapture"]);
        let output = other.env(LOOK_AT, app.database.path()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let engine = app.open();
    let workflow = engine.register("w", |_: &mut Context, (): ()| Ok::<_, Error>(())).unwrap();
    engine.launch().unwrap();
    workflow.start(&engine, ()).unwrap().result().unwrap();
    let second = app.open();
    assert!(look().contains("saw 1."), "{}", look());
    workflow.start(&engine, ()).unwrap().result().unwrap();
    assert!(look().contains("saw 2."), "an acknowledged workflow is gone: {}", look());
    drop(second);
}

#[test]
fn a_path_that_no_url_can_say_is_opened_as_a_file() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["what?.db", "a:memory:b", "per%20cent", "sp ace"] {
        let path = dir.path().join(name);
        drop(Engine::options().open_file(&path).unwrap());
        assert!(path.exists(), "{name}");
    }
}
