//! The same table on PostgreSQL: what it answers is what SQLite answers.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use chrono::{DateTime, Utc};
use store::postgres::{Client, NoTls};
use store::{Error, Key, Store, Users};

fn at(second: u32) -> DateTime<Utc> {
    format!("2026-01-02T03:04:{second:02}.000007Z").parse().unwrap()
}

/// A connection to a database of its own.
fn connect(database: &str) -> Client {
    Client::connect(&cluster::shared().url(database), NoTls).unwrap()
}

/// A fresh database with an empty table.
fn store(key: Key) -> (String, Store) {
    let cluster = cluster::shared();
    let name = cluster.fresh_database();
    connect("postgres").batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
    let url = cluster.url(&name);
    let store = Store::on_postgres("users", key, move || Client::connect(&url, NoTls)).unwrap();
    store.users(|users| users.create()).unwrap();
    (name, store)
}

#[test]
fn the_strict_key_refuses_the_same_page_of_the_same_analysis_with_the_servers_own_words() {
    let (_, store) = store(Key::Strict);
    store.users(|users| {
        let page = model::fake_users(1, 10);
        users.insert_page(&page[9..], "w", at(1)).unwrap();
        let error = users.insert_page(&page, "w", at(1)).unwrap_err();
        assert!(matches!(error, Error::UniqueViolation { .. }), "{error:?}");
        assert_eq!(error.to_string(), "duplicate key value violates unique constraint \"users_pkey\"");
        assert_eq!(users.count().unwrap(), 1, "all or nothing");
        users.insert_page(&page, "w", at(2)).unwrap();
        users.insert_page(&page, "v", at(1)).unwrap();
        assert_eq!(users.count().unwrap(), 21);
    });
}

#[test]
fn the_append_key_keeps_every_version_and_counts_each_user_once() {
    let (_, store) = store(Key::Append);
    store.users(|users| {
        let page = model::fake_users(1, 10);
        assert_eq!(users.count_latest(None).unwrap(), 0);
        for _ in 0..20 {
            users.insert_page(&page, "w", at(1)).unwrap();
        }
        users.insert_page(&page, "w", at(2)).unwrap();
        users.insert_page(&model::fake_users(2, 4), "v", at(3)).unwrap();
        assert_eq!(users.count().unwrap(), 214);
        assert_eq!(users.count_of_workflow("w").unwrap(), 210);
        assert_eq!(users.count_latest(Some("w")).unwrap(), 10);
        assert_eq!(users.count_latest(None).unwrap(), 4, "the workflow that wrote last");
        assert_eq!(users.count_latest(Some("nobody")).unwrap(), 0);
        assert_eq!(users.truncate().unwrap(), 214);
    });
}

#[test]
fn both_databases_list_the_same_rows_in_the_same_order() {
    let (_, there) = store(Key::Append);
    let dir = tempfile::tempdir().unwrap();
    let here = Store::open(&dir.path().join("users.db"), Key::Append).unwrap();
    here.users(|users| users.create()).unwrap();
    let lists = [here, there].map(|store| {
        store.users(|users| {
            users.insert_page(&model::fake_users(3, 30), "w", at(1)).unwrap();
            let rows = users.list().unwrap();
            assert!(rows.is_sorted_by(|a, b| a.created_at < b.created_at));
            rows.into_iter().map(|row| (row.user, row.workflow_id, row.analyzed_at)).collect::<Vec<_>>()
        })
    });
    assert_eq!(lists[0], lists[1]);
}

#[test]
fn inside_an_open_transaction_a_failed_page_leaves_the_rest_of_it_alone() {
    let (name, store) = store(Key::Strict);
    let mut client = connect(&name);
    let mut transaction = client.transaction().unwrap();
    {
        let users = Users::on_postgres(&mut transaction, "users", Key::Strict);
        users.insert_page(&model::fake_users(1, 3), "w", at(1)).unwrap();
        users.insert_page(&model::fake_users(1, 5), "w", at(1)).unwrap_err();
    }
    assert_eq!(store.users(|users| users.count()).unwrap(), 0, "not committed yet");
    transaction.commit().unwrap();
    assert_eq!(store.users(|users| users.count()).unwrap(), 3);
}

#[test]
fn a_table_with_the_other_key_is_refused_by_name() {
    let (name, _append) = store(Key::Append);
    let mut client = connect(&name);
    let error = Users::on_postgres(&mut client, "users", Key::Strict).create().unwrap_err().to_string();
    assert!(error.contains(&name) && error.contains("(id, workflow_id, analyzed_at, created_at)"), "{error}");
}

#[test]
fn a_connection_that_was_lost_is_made_again() {
    let (name, store) = store(Key::Append);
    let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
    connect(&name).query(others, &[]).unwrap();
    assert_eq!(store.users(|users| users.count()).unwrap(), 0);
}
