//! Both shapes on a real server, and cases that need a server. Skipped, and said loudly, where PostgreSQL is not
//! installed.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod shapes;

use std::sync::Barrier;

use chrono::{DateTime, Utc};
use postgres::{Client, NoTls};
use store::{Error, Key, Store, Users, postgres};

/// PostgreSQL's answer to a row that is there already.
const REFUSED: &str = "duplicate key value violates unique constraint \"users_pkey\"";

fn at(second: u32) -> DateTime<Utc> {
    format!("2026-01-02T03:04:{second:02}.000007Z").parse().unwrap()
}

fn client(database: &str) -> Client {
    Client::connect(&cluster::shared().url(database), NoTls).unwrap()
}

/// The name of a new and empty one.
fn database() -> String {
    watch::test(watch::LIMIT);
    let name = cluster::shared().fresh_database();
    client("postgres").batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
    name
}

fn open(database: &str, key: Key) -> Store {
    let url = cluster::shared().url(database);
    Store::on_postgres("users", key, move || Client::connect(&url, NoTls)).unwrap()
}

/// A new database with an empty table.
fn store(key: Key) -> (String, Store) {
    let database = database();
    let store = open(&database, key);
    store.users(|users| users.create()).unwrap();
    (database, store)
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
    let (database, store) = store(Key::Strict);
    let mut client = client(&database);
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
fn a_transaction_that_is_rolled_back_takes_its_pages_with_it() {
    let (database, store) = store(Key::Append);
    let mut client = client(&database);
    let mut transaction = client.transaction().unwrap();
    let page = model::fake_users(1, 3);
    Users::on_postgres(&mut transaction, "users", Key::Append).insert_page(&page, "w", at(1)).unwrap();
    transaction.rollback().unwrap();
    assert_eq!(store.users(|users| users.count()).unwrap(), 0);
}

#[test]
fn a_table_on_a_server_with_the_other_key_is_refused_by_name() {
    let (database, _append) = store(Key::Append);
    let error = open(&database, Key::Strict).users(|users| users.create()).unwrap_err();
    assert!(matches!(error, Error::WrongKey { .. }), "{error:?}");
    let expected =
        format!("table \"users\" in {database} has the key (id, workflow_id, analyzed_at, created_at)");
    assert!(error.to_string().starts_with(&expected), "{error}");
}

#[test]
fn a_table_may_have_any_name() {
    let mut client = client(&database());
    for name in ["Users", "two words", "a\"quote", "it's", "select"] {
        let users = Users::on_postgres(&mut client, name, Key::Append);
        users.create().unwrap();
        users.create().unwrap();
        users.insert_page(&model::fake_users(1, 2), "w", at(1)).unwrap();
        assert_eq!(users.count().unwrap(), 2, "{name}");
    }
}

#[test]
fn texts_compare_byte_by_byte_whatever_the_server_speaks() {
    const OTHERWISE: &str = "
        SELECT count(*) FROM information_schema.columns
         WHERE table_name = 'users' AND collation_name IS DISTINCT FROM 'C'";
    let (database, _store) = store(Key::Append);
    let count: i64 = client(&database).query_one(OTHERWISE, &[]).unwrap().get(0);
    assert_eq!(count, 0);
}

#[test]
fn a_connection_that_was_lost_is_replaced() {
    const OTHERS: &str = "
        SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let (database, store) = store(Key::Append);
    let gone: i64 = client(&database).query_one(OTHERS, &[]).unwrap().get(0);
    assert_eq!(gone, 1);
    assert_eq!(store.users(|users| users.count()).unwrap(), 0);
}

#[test]
fn many_may_create_the_table_at_once() {
    for _ in 0..5 {
        let database = database();
        let together = Barrier::new(16);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let store = open(&database, Key::Append);
                    together.wait();
                    store.users(|users| users.create()).unwrap();
                });
            }
        });
    }
}

#[test]
fn another_error_says_what_the_server_says_and_its_code() {
    let store = open(&database(), Key::Append);
    let error = store.users(|users| users.count()).unwrap_err();
    assert_eq!(error.to_string(), "application database: relation \"users\" does not exist [42P01]");
}
