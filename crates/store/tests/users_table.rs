//! The two shapes of the `users` table on a real file, through the public API.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::error::Error as _;
use std::path::Path;
use std::sync::Barrier;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use store::{Error, Key, Store, Users};

fn at(second: u32) -> DateTime<Utc> {
    format!("2026-01-02T03:04:{second:02}.000007Z").parse().unwrap()
}

/// A fresh file with an empty table.
fn store(key: Key) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("users.db"), key).unwrap();
    store.users(|users| users.create()).unwrap();
    (dir, store)
}

#[test]
fn the_strict_key_refuses_the_same_page_of_the_same_analysis_with_sqlites_own_words() {
    let (_dir, store) = store(Key::Strict);
    store.users(|users| {
        let page = model::fake_users(1, 10);
        users.insert_page(&page, "w", at(1)).unwrap();
        let error = users.insert_page(&page, "w", at(1)).unwrap_err();
        assert!(matches!(error, Error::UniqueViolation { .. }), "{error:?}");
        assert_eq!(
            error.to_string(),
            "UNIQUE constraint failed: users.id, users.workflow_id, users.analyzed_at"
        );
        users.insert_page(&page, "w", at(2)).unwrap();
        users.insert_page(&page, "v", at(1)).unwrap();
        assert_eq!(users.count().unwrap(), 30);
    });
}

#[test]
fn a_page_that_fails_half_way_stores_nothing() {
    let (_dir, store) = store(Key::Strict);
    store.users(|users| {
        let page = model::fake_users(1, 10);
        users.insert_page(&page[9..], "w", at(1)).unwrap();
        users.insert_page(&page, "w", at(1)).unwrap_err();
        assert_eq!(users.count().unwrap(), 1);
    });
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
fn the_append_key_keeps_every_version_and_counts_each_user_once() {
    let (_dir, store) = store(Key::Append);
    store.users(|users| {
        let page = model::fake_users(1, 10);
        for _ in 0..200 {
            users.insert_page(&page, "w", at(1)).unwrap(); // a fast retry: the same millisecond
        }
        users.insert_page(&page, "w", at(2)).unwrap(); // a run that went on after a crash
        users.insert_page(&model::fake_users(2, 4), "v", at(3)).unwrap();
        assert_eq!(users.count().unwrap(), 2014);
        assert_eq!(users.count_of_workflow("w").unwrap(), 2010);
        assert_eq!(users.count_latest(Some("w")).unwrap(), 10);
        assert_eq!(users.count_latest(None).unwrap(), 4, "the workflow that wrote last");
        assert_eq!(users.count_latest(Some("nobody")).unwrap(), 0);
    });
}

#[test]
fn an_empty_table_counts_to_zero_and_lists_nothing() {
    let (_dir, store) = store(Key::Append);
    store.users(|users| {
        assert_eq!(users.count_latest(None).unwrap(), 0);
        assert_eq!(users.list().unwrap(), []);
        assert_eq!(users.truncate().unwrap(), 0);
    });
}

#[test]
fn a_row_lists_as_it_was_stored_with_microseconds_and_offset() {
    let (_dir, store) = store(Key::Append);
    store.users(|users| {
        let page = model::fake_users(3, 2);
        users.insert_page(&page, "w", at(1)).unwrap();
        let rows = users.list().unwrap();
        assert_eq!(rows.iter().map(|row| row.user.clone()).collect::<Vec<_>>(), page);
        assert!(rows.iter().all(|row| row.workflow_id == "w"));
        assert!(rows.iter().all(|row| row.analyzed_at == "2026-01-02T03:04:01.000007+00:00"));
        assert!(rows[0].created_at < rows[1].created_at, "strictly increasing within a page");
        assert_eq!(rows[0].created_at.len(), "2026-01-02 03:04:05.000001".len());
    });
}

#[test]
fn truncate_empties_the_table_and_says_how_much() {
    let (_dir, store) = store(Key::Append);
    store.users(|users| {
        users.insert_page(&model::fake_users(3, 7), "w", at(1)).unwrap();
        assert_eq!(users.truncate().unwrap(), 7);
        assert_eq!(users.count().unwrap(), 0);
    });
}

#[test]
fn a_table_with_the_other_key_is_refused_by_name() {
    let (dir, _append) = store(Key::Append);
    let strict = Store::open(&dir.path().join("users.db"), Key::Strict).unwrap();
    let error = strict.users(|users| users.create()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "table users in {} has the key (id, workflow_id, analyzed_at, created_at), but (id, workflow_id, \
             analyzed_at) is wanted; use another database or drop the table",
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
