//! The promises of both shapes of the table, on the database that the root of the test program opens.

use store::{Error, Key};

use super::{REFUSED, at, store};

#[test]
fn the_strict_key_refuses_the_same_page_of_the_same_analysis_with_the_databases_own_words() {
    let (_dir, store) = store(Key::Strict);
    store.users(|users| {
        let page = model::fake_users(1, 10);
        users.insert_page(&page, "w", at(1)).unwrap();
        let error = users.insert_page(&page, "w", at(1)).unwrap_err();
        assert!(matches!(error, Error::UniqueViolation { .. }), "{error:?}");
        assert_eq!(error.to_string(), REFUSED);
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
