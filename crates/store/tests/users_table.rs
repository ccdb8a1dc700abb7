//! The two shapes of the `users` table on a real file, through the public API.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod shapes;

use std::error::Error as _;
use std::path::Path;
use std::sync::Barrier;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use store::{Key, Store, Users};

/// SQLite's answer to a row that is there already.
const REFUSED: &str = "UNIQUE constraint failed: users.id, users.workflow_id, users.analyzed_at";

fn at(second: u32) -> DateTime<Utc> {
    format!("2026-01-02T03:04:{second:02}.000007Z").parse().unwrap()
}

/// A fresh file with an empty table.
fn store(key: Key) -> (tempfile::TempDir, Store) {
    watch::test(watch::LIMIT);
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("users.db"), key).unwrap();
    store.users(|users| users.create()).unwrap();
    (dir, store)
}

#[test]
fn inside_an_open_transaction_a_failed_page_leaves_the_rest_of_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut connection = Connection::open(dir.path().join("users.db")).unwrap();
    Users::new(&connection, Key::Strict).create().unwrap();

    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    {
        let users = Users::new(&transaction, Key::Strict);
        users.insert_page(&model::fake_users(1, 3), "w", at(1)).unwrap();
        users.insert_page(&model::fake_users(1, 5), "w", at(1)).unwrap_err();
    }
    transaction.commit().unwrap();

    assert_eq!(Users::new(&connection, Key::Strict).count().unwrap(), 3);
}

#[test]
fn a_transaction_that_is_rolled_back_takes_its_pages_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let connection = Connection::open(dir.path().join("users.db")).unwrap();
    let users = Users::new(&connection, Key::Append);
    users.create().unwrap();

    let transaction = Transaction::new_unchecked(&connection, TransactionBehavior::Immediate).unwrap();
    users.insert_page(&model::fake_users(1, 3), "w", at(1)).unwrap();
    transaction.rollback().unwrap();

    assert_eq!(users.count().unwrap(), 0);
}

#[test]
fn a_table_with_the_other_key_is_refused_by_name() {
    let (dir, _append) = store(Key::Append);
    let strict = Store::open(&dir.path().join("users.db"), Key::Strict).unwrap();
    let error = strict.users(|users| users.create()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "table users in {} has the key (id, workflow_id, analyzed_at, created_at), but this program needs (id, \
             workflow_id, analyzed_at); use another database or drop the table",
            dir.path().canonicalize().unwrap().join("users.db").display()
        )
    );
}

#[test]
fn a_file_that_is_no_database_is_refused_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("letter.txt");
    for length in [1, 15, 100, 511, 512, 4_096, 100_000] {
        let text = &"Dear reader, ".repeat(8_000)[..length];
        std::fs::write(&path, text).unwrap();
        let expected = format!(
            "cannot open the application database {}: it is not an SQLite database, or it is encrypted; name \
             another file",
            path.display()
        );
        assert_eq!(refusal(&path), expected, "{length}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}

/// With all its sources, as `anyhow` shows it.
fn refusal(path: &Path) -> String {
    let error = Store::open(path, Key::Strict).unwrap_err();
    assert!(error.source().is_none(), "its text says all: {error:?}");
    error.to_string()
}

#[test]
fn a_path_that_cannot_be_a_file_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.db");
    let refused = |path: &Path, reason: &str| {
        let expected = format!("cannot open the application database {}: {reason}", path.display());
        assert_eq!(refusal(path), expected);
    };
    refused(&path.join("users.db"), "its directory is not there; create it first");
    std::fs::create_dir(&path).unwrap();
    refused(&path, "it is a directory; name a file");
}

#[cfg(unix)]
#[test]
fn what_sqlite_cannot_use_is_refused_with_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (pipe, link) = (dir.path().join("pipe.db"), dir.path().join("link.db"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::os::unix::fs::symlink(dir.path().join("away.db"), &link).unwrap();
    let long = dir.path().join("n".repeat(252));
    for (path, words) in [
        (pipe.as_path(), "it is a pipe, a socket or a device; name a file"),
        (&link, "away.db, which does not exist; name the target itself"),
        (&long, "ends with `-wal`, is not possible: File name too long"),
    ] {
        let refused = refusal(path);
        assert!(refused.contains(words), "{refused}");
    }
}

#[test]
fn a_store_can_leave_one_file_and_go_on() {
    let (dir, store) = store(Key::Append);
    let (log, copy) = (dir.path().join("users.db-wal"), dir.path().join("copy.db"));
    let insert = || store.users(|users| users.insert_page(&model::fake_users(0, 2), "w", at(1))).unwrap();
    insert();
    assert!(log.exists());
    store.leave_one_file();
    assert!(!log.exists());
    std::fs::copy(dir.path().join("users.db"), &copy).unwrap();
    assert_eq!(Store::open(&copy, Key::Append).unwrap().users(|users| users.count()).unwrap(), 2);
    insert();
    assert_eq!(store.users(|users| users.count()).unwrap(), 4);
    let mode = store_mode(&dir.path().join("users.db"));
    assert_eq!(mode, "wal");
}

fn store_mode(path: &Path) -> String {
    Connection::open(path).unwrap().pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap()
}

#[test]
fn a_path_is_no_url() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["file:users.db?mode=memory", "with space;%20#", ":memory:"] {
        let path = dir.path().join(name);
        Store::open(&path, Key::Append).unwrap().users(|users| users.create()).unwrap();
        assert!(path.exists(), "{name}");
    }
}

#[cfg(unix)]
#[test]
fn a_new_file_and_its_companions_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let (dir, _store) = store(Key::Append);
    for name in ["users.db", "users.db-wal", "users.db-shm"] {
        let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn many_may_open_a_new_file_at_once() {
    watch::test(watch::LIMIT);
    for _ in 0..40 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.db");
        let together = Barrier::new(16);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    together.wait();
                    let store = Store::open(&path, Key::Append).unwrap();
                    store.users(|users| users.create()).unwrap();
                });
            }
        });
    }
}

#[test]
fn two_connections_may_write_at_the_same_time() {
    let (dir, first) = store(Key::Append);
    let path = dir.path().join("users.db");
    let second = Store::open(&path, Key::Append).unwrap();
    std::thread::scope(|scope| {
        for (name, store) in [("first", &first), ("second", &second)] {
            scope.spawn(move || {
                for page in 0..50 {
                    store.users(|users| users.insert_page(&model::fake_users(page, 2), name, at(1))).unwrap();
                }
            });
        }
    });
    assert_eq!(first.users(|users| users.count()).unwrap(), 200);
}
