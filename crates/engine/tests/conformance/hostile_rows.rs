//! Rows that other programs, operators and restores leave: each harms itself alone.
//!
//! Each line of the tables below is a workflow and what is done to its rows. All of a table lie in one database, beside
//! workflows without a fault, which must end: one that waits, one of a dead executor, one whose time has come.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::testing::{CommitHook, Fate, Moment};
use engine::{Error, QueueOptions, WorkflowFilter, WorkflowId, WorkflowInfo, WorkflowStatus};

use crate::backend::ANY_TYPE;
use crate::support::{App, Counter, Result, eventually, logged};
use crate::way::{Context, Engine};

/// What becomes of a workflow.
#[derive(Debug, Clone, Copy)]
enum Fares {
    /// It ends with its value; what is odd does not matter to it.
    Well,
    /// It ends as `ERROR`; the name of the reason.
    Badly(&'static str),
    /// It is parked as `MAX_RECOVERY_ATTEMPTS_EXCEEDED`.
    Parked,
    /// Nobody runs it: how it is listed.
    Stays(WorkflowStatus),
}

use Fares::{Badly, Parked, Stays, Well};
use WorkflowStatus::{Delayed, Enqueued, Pending, Success, Unknown};

/// Where a line is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    Both,
    /// Where a column holds values of any type.
    AnyType,
}

use On::{AnyType, Both};

/// Name, what is done (`{id}`, and texts of [`done`]), what becomes of it, and what the listing names, if anything.
type Line = (On, &'static str, &'static str, Fares, &'static str);

const UNDECODABLE: Fares = Badly("PitonUndecodable");
const NON_DETERMINISM: Fares = Badly("PitonNonDeterminism");
const NOT_REGISTERED: Fares = Badly("PitonWorkflowNotRegistered");

/// Columns of `workflow_status`; the text is a list of assignments.
#[rustfmt::skip]
const STATUS: &[Line] = &[
    (Both, "status-null", "status = NULL", Stays(Unknown), "status holds NULL"),
    (Both, "status-of-others", "status = 'PAUSED'", Stays(Unknown), "status holds PAUSED"),
    (Both, "status-small", "status = 'enqueued'", Stays(Unknown), "status holds enqueued"),
    (Both, "status-empty", "status = ''", Stays(Unknown), "status holds "),
    (Both, "status-huge", "status = '{huge}'", Stays(Unknown), "status holds xxxx"),
    (AnyType, "status-blob", "status = x'00ff'", Stays(Unknown), "status holds x'00ff'"),
    (Both, "name-null", "name = NULL", NOT_REGISTERED, "name holds NULL"),
    (Both, "name-empty", "name = ''", NOT_REGISTERED, ""),
    (Both, "name-huge", "name = '{huge}'", NOT_REGISTERED, ""),
    (AnyType, "name-blob", "name = x'77'", NOT_REGISTERED, "name holds x'77'"),
    (AnyType, "name-not-utf8", "name = CAST(x'77ff' AS TEXT)", NOT_REGISTERED, "name holds x'77ff'"),
    (AnyType, "name-nul", "name = 'w' || char(0)", NOT_REGISTERED, ""),
    (Both, "attempts-null", "recovery_attempts = NULL", Well, ""),
    (Both, "attempts-max", "recovery_attempts = 9223372036854775807", Parked, ""),
    (Both, "attempts-min", "recovery_attempts = -9223372036854775808", Well, ""),
    (AnyType, "attempts-real", "recovery_attempts = 1.5", Well, ""),
    (AnyType, "attempts-text", "recovery_attempts = 'many'", Well, ""),
    (AnyType, "attempts-blob", "recovery_attempts = x'01'", Well, ""),
    (Both, "executor-null", "executor_id = NULL", Well, ""),
    (Both, "executor-of-nobody", "executor_id = 'piton-nobody', status = 'PENDING'", Well, ""),
    (Both, "executor-path", "executor_id = 'piton-x/../../y', status = 'PENDING'", Well, ""),
    (Both, "executor-huge", "executor_id = 'piton-{huge}', status = 'PENDING'", Well, ""),
    (Both, "pending-of-none", "executor_id = NULL, status = 'PENDING'", Stays(Pending), ""),
    (AnyType, "pending-not-utf8", "executor_id = CAST('piton-' || x'ff' AS TEXT), status = 'PENDING'", Stays(Pending), "executor_id holds x'7069746f6e2dff'"),
    (AnyType, "executor-blob", "executor_id = x'00'", Well, ""),
    (Both, "owner-empty", "owner_xid = '', executor_id = 'piton-dead', status = 'PENDING'", Well, ""),
    (AnyType, "owner-blob", "owner_xid = x'00', executor_id = 'piton-dead', status = 'PENDING'", Well, ""),
    (Both, "min-of-a-dead-one", "recovery_attempts = -9223372036854775808, executor_id = 'piton-dead', status = 'PENDING'", Well, ""),
    (Both, "created-min", "created_at = -9223372036854775808", Well, ""),
    (Both, "created-max", "created_at = 9223372036854775807", Well, ""),
    (AnyType, "created-text", "created_at = 'today'", Well, "created_at holds today"),
    (AnyType, "created-real", "created_at = 1.5", Well, "created_at holds 1.5"),
    (AnyType, "created-blob", "created_at = x'00'", Well, "created_at holds x'00'"),
    (Both, "updated-max", "updated_at = 9223372036854775807", Well, ""),
    (AnyType, "updated-text-unknown", "updated_at = 'today', name = 'nobody'", NOT_REGISTERED, ""),
    (Both, "started-max", "started_at_epoch_ms = 9223372036854775807, completed_at = 9223372036854775807", Well, ""),
    (AnyType, "started-blob", "started_at_epoch_ms = x'00', completed_at = 'never'", Well, ""),
    (Both, "priority-max", "priority = 2147483647", Well, ""),
    (Both, "priority-min", "priority = -2147483648", Well, ""),
    (AnyType, "priority-text", "priority = 'high'", Well, ""),
    (AnyType, "priority-blob", "priority = x'00'", Well, ""),
    (Both, "deadline-min", "workflow_deadline_epoch_ms = -9223372036854775808, workflow_timeout_ms = -1", Well, ""),
    (Both, "roles", "authenticated_roles = '[broken', authenticated_user = '', assumed_role = '{huge}'", Well, ""),
    (AnyType, "roles-blob", "authenticated_roles = x'ff', request = x'ff', class_name = x'ff', config_name = 1", Well, ""),
    (Both, "deduplicated", "deduplication_id = '{huge}'", Well, ""),
    (Both, "parent-of-nobody", "parent_workflow_id = 'nobody'", Well, ""),
    (Both, "parent-empty", "parent_workflow_id = ''", Well, ""),
    (AnyType, "parent-blob", "parent_workflow_id = x'00'", Well, "parent_workflow_id holds x'00'"),
    (AnyType, "parent-not-utf8", "parent_workflow_id = CAST(x'ff' AS TEXT)", Well, "parent_workflow_id holds x'ff'"),
    (Both, "application-null", "application_name = NULL", Well, ""),
    (Both, "version-null", "application_version = NULL", Well, ""),
    (AnyType, "application-blob", "application_name = x'74'", Stays(Enqueued), "application_name holds x'74'"),
    (AnyType, "version-blob", "application_version = x'31'", Stays(Enqueued), "application_version holds x'31'"),
    (Both, "codec-of-others", "serialization = 'py_pickle'", UNDECODABLE, ""),
    (Both, "codec-empty", "serialization = ''", UNDECODABLE, ""),
    (AnyType, "codec-blob", "serialization = x'ff'", UNDECODABLE, ""),
    (Both, "attributes-text", "attributes = '\"text\"'", Well, ""),
    (Both, "attributes-null", "attributes = 'null'", Well, ""),
    (Both, "attributes-deep", "attributes = '{deep}'", Well, ""),
    (AnyType, "attributes-broken", "attributes = '{\"piton.awaits\"'", Well, ""),
    (AnyType, "attributes-blob", "attributes = x'ff00'", Well, ""),
    (AnyType, "attributes-not-utf8", "attributes = CAST(x'22ff22' AS TEXT)", Well, ""),
    (Both, "due-null", "status = 'DELAYED', delay_until_epoch_ms = NULL", Well, ""),
    (Both, "due-min", "status = 'DELAYED', delay_until_epoch_ms = -9223372036854775808", Well, ""),
    (Both, "due-max", "status = 'DELAYED', delay_until_epoch_ms = 9223372036854775807", Stays(Delayed), ""),
    (AnyType, "due-text", "status = 'DELAYED', delay_until_epoch_ms = 'soon'", Well, ""),
    (AnyType, "due-blob", "status = 'DELAYED', delay_until_epoch_ms = x'00'", Well, ""),
    (AnyType, "due-real", "status = 'DELAYED', delay_until_epoch_ms = 1.5", Well, ""),
    (AnyType, "due-with-broken-attributes", "status = 'DELAYED', delay_until_epoch_ms = 'soon', attributes = '{'", Well, ""),
    (Both, "mark-of-nothing", "status = 'DELAYED', attributes = '{\"piton.awaits\":7}'", Well, ""),
    (Both, "mark-of-nobody", "status = 'DELAYED', attributes = '{\"piton.awaits\":\"workflow \"}'", Well, ""),
    (Both, "mark-of-an-odd-one", "status = 'DELAYED', attributes = '{\"piton.awaits\":\"workflow status-null\"}'", Stays(Delayed), ""),
];

/// Ids; the text is one, and the listing shows the last.
#[rustfmt::skip]
const IDS: &[Line] = &[
    (AnyType, "x'626c6f62'", "x'626c6f62'", Badly("PitonUnreadable"), "workflow_uuid holds x'626c6f62'"),
    (AnyType, "NULL", "NULL", Badly("PitonUnreadable"), "workflow_uuid holds NULL"),
    (AnyType, "x'62ff'", "CAST(x'62ff' AS TEXT)", Badly("PitonUnreadable"), "workflow_uuid holds x'62ff'"),
    (AnyType, "nul\0nul", "'nul' || char(0) || 'nul'", Well, ""),
    (Both, "", "''", Well, ""),
    (Both, "'; DROP TABLE workflow_status; --", "'''; DROP TABLE workflow_status; --'", Well, ""),
];

/// Inputs and outcomes; the text is a statement.
#[rustfmt::skip]
const PAYLOADS: &[Line] = &[
    (Both, "input-gone", "DELETE FROM workflow_input WHERE workflow_uuid = '{id}'", UNDECODABLE, ""),
    (Both, "input-null", "UPDATE workflow_input SET inputs = NULL WHERE workflow_uuid = '{id}'", UNDECODABLE, ""),
    (Both, "input-empty", "UPDATE workflow_input SET inputs = '' WHERE workflow_uuid = '{id}'", UNDECODABLE, ""),
    (Both, "input-broken", "UPDATE workflow_input SET inputs = '{' WHERE workflow_uuid = '{id}'", UNDECODABLE, ""),
    (Both, "input-huge", "UPDATE workflow_input SET inputs = '{huge}' WHERE workflow_uuid = '{id}'", UNDECODABLE, ""),
    (Both, "input-deep", "UPDATE workflow_input SET inputs = '{deep}' WHERE workflow_uuid = '{id}'", UNDECODABLE, ""),
    (Both, "input-deep-argument", "UPDATE workflow_input SET inputs = '{\"positionalArgs\":{deep},\"namedArgs\":{}}' WHERE workflow_uuid = '{id}'", UNDECODABLE, ""),
    (Both, "input-of-a-number", "UPDATE workflow_input SET inputs = '{\"positionalArgs\":[1e999],\"namedArgs\":{}}' WHERE workflow_uuid = '{id}'", UNDECODABLE, ""),
    (Both, "input-retained", "UPDATE workflow_input SET retention_timestamp = -9223372036854775808 WHERE workflow_uuid = '{id}'", Well, ""),
    (AnyType, "input-blob", "UPDATE workflow_input SET inputs = x'ff00' WHERE workflow_uuid = '{id}'", UNDECODABLE, "inputs holds x'ff00'"),
    (AnyType, "input-not-utf8", "UPDATE workflow_input SET inputs = CAST(x'22ff22' AS TEXT) WHERE workflow_uuid = '{id}'", UNDECODABLE, "inputs holds x'22ff22'"),
    (Both, "output-too-early", "INSERT INTO workflow_output (workflow_uuid, output, error) VALUES ('{id}', 'junk', 'junk')", Well, ""),
    (Both, "success-of-nothing", "UPDATE workflow_status SET status = 'SUCCESS' WHERE workflow_uuid = '{id}'", Stays(Success), ""),
    (Both, "success-of-junk", "UPDATE workflow_status SET status = 'SUCCESS', output = '{' WHERE workflow_uuid = '{id}'", Stays(Success), ""),
    (Both, "success-too-deep", "UPDATE workflow_status SET status = 'SUCCESS', output = '{deep}' WHERE workflow_uuid = '{id}'", Stays(Success), ""),
    (Both, "success-of-base64", "UPDATE workflow_status SET status = 'SUCCESS', output = '!!', serialization = 'rs_bincode' WHERE workflow_uuid = '{id}'", Stays(Success), ""),
    (AnyType, "success-of-a-blob", "UPDATE workflow_status SET status = 'SUCCESS', output = x'ff' WHERE workflow_uuid = '{id}'", Stays(Success), "output holds x'ff'"),
    (Both, "error-of-nothing", "UPDATE workflow_status SET status = 'ERROR' WHERE workflow_uuid = '{id}'", Badly("Error"), ""),
    (Both, "error-empty", "UPDATE workflow_status SET status = 'ERROR', error = '' WHERE workflow_uuid = '{id}'", Badly(""), ""),
    (Both, "error-broken", "UPDATE workflow_status SET status = 'ERROR', error = '{\"name\":' WHERE workflow_uuid = '{id}'", Badly(""), ""),
    (Both, "error-too-deep", "INSERT INTO workflow_output (workflow_uuid, error) VALUES ('{id}', '{deep}'); UPDATE workflow_status SET status = 'ERROR' WHERE workflow_uuid = '{id}'", Badly(""), ""),
    (AnyType, "error-blob", "INSERT INTO workflow_output (workflow_uuid, error) VALUES ('{id}', x'ff'); UPDATE workflow_status SET status = 'ERROR' WHERE workflow_uuid = '{id}'", Badly(""), "error holds x'ff'"),
];

/// Rows of `operation_outputs`; the text is the values of `function_id, function_name, output, error, serialization`.
#[rustfmt::skip]
const STEPS: &[Line] = &[
    (Both, "step-sound", "1, 's', '7', NULL, 'portable_json'", Well, ""),
    (Both, "step-of-nothing", "1, 's', NULL, NULL, NULL", UNDECODABLE, ""),
    (Both, "step-broken", "1, 's', '{', NULL, NULL", UNDECODABLE, ""),
    (Both, "step-empty", "1, 's', '', NULL, NULL", UNDECODABLE, ""),
    (Both, "step-huge", "1, 's', '{huge}', NULL, NULL", UNDECODABLE, ""),
    (Both, "step-deep", "1, 's', '{deep}', NULL, NULL", UNDECODABLE, ""),
    (Both, "step-codec", "1, 's', '7', NULL, 'py_pickle'", UNDECODABLE, ""),
    (Both, "step-base64", "1, 's', '!!', NULL, 'rs_bincode'", UNDECODABLE, ""),
    (Both, "step-bincode", "1, 's', 'AAAA', NULL, 'rs_bincode'", UNDECODABLE, ""),
    (Both, "step-error", "1, 's', NULL, 'junk', NULL", Badly(""), ""),
    (Both, "step-error-deep", "1, 's', NULL, '{deep}', NULL", Badly(""), ""),
    (Both, "step-nameless", "1, '', '7', NULL, NULL", NON_DETERMINISM, ""),
    (Both, "step-0", "0, 's', '7', NULL, NULL", NON_DETERMINISM, ""),
    (Both, "step-min", "-2147483648, 's', '7', NULL, NULL", NON_DETERMINISM, ""),
    (Both, "step-max", "2147483647, 's', '7', NULL, NULL", NON_DETERMINISM, ""),
    (AnyType, "step-i64-max", "9223372036854775807, 's', '7', NULL, NULL", NON_DETERMINISM, ""),
    (AnyType, "step-i64-min", "-9223372036854775808, 's', '7', NULL, NULL", NON_DETERMINISM, ""),
    (AnyType, "step-text", "'one', 's', '7', NULL, NULL", NON_DETERMINISM, ""),
    (AnyType, "step-blob", "x'01', 's', '7', NULL, NULL", NON_DETERMINISM, ""),
    (AnyType, "step-real", "1.5, 's', '8', NULL, NULL", NON_DETERMINISM, ""),
    (AnyType, "step-name-blob", "1, x'73', '7', NULL, NULL", NON_DETERMINISM, ""),
    (AnyType, "step-name-not-utf8", "1, CAST(x'ff' AS TEXT), '7', NULL, NULL", NON_DETERMINISM, ""),
    (AnyType, "step-output-blob", "1, 's', x'37', NULL, NULL", UNDECODABLE, ""),
    (AnyType, "step-output-not-utf8", "1, 's', CAST(x'22ff22' AS TEXT), NULL, NULL", UNDECODABLE, ""),
    (AnyType, "step-error-blob", "1, 's', NULL, x'ff', NULL", Badly(""), ""),
    (AnyType, "step-codec-blob", "1, 's', '7', NULL, x'ff'", UNDECODABLE, ""),
];

/// Rows of `notifications`; the text is the values of `topic, message, created_at_epoch_ms, serialization`.
#[rustfmt::skip]
const MESSAGES: &[Line] = &[
    (Both, "message-sound", "'t', '7', 0, 'portable_json'", Well, ""),
    (Both, "message-of-no-topic", "NULL, '7', 0, NULL", Well, ""),
    (Both, "message-empty", "'t', '', 0, NULL", UNDECODABLE, ""),
    (Both, "message-broken", "'t', '{', 0, NULL", UNDECODABLE, ""),
    (Both, "message-deep", "'t', '{deep}', 0, NULL", UNDECODABLE, ""),
    (Both, "message-huge", "'t', '{huge}', 0, NULL", UNDECODABLE, ""),
    (Both, "message-codec", "'t', '7', 0, 'py_pickle'", UNDECODABLE, ""),
    (Both, "message-base64", "'t', '!!', 0, 'rs_bincode'", UNDECODABLE, ""),
    (Both, "message-min", "'t', '7', -9223372036854775808, NULL", Well, ""),
    (Both, "message-max", "'t', '7', 9223372036854775807, NULL", Well, ""),
    (AnyType, "message-blob", "'t', x'37', 0, NULL", UNDECODABLE, ""),
    (AnyType, "message-not-utf8", "'t', CAST(x'22ff22' AS TEXT), 0, NULL", UNDECODABLE, ""),
    (AnyType, "message-time-text", "'t', '7', 'now', NULL", Well, ""),
    (AnyType, "message-codec-blob", "'t', '7', 0, x'ff'", UNDECODABLE, ""),
    (AnyType, "message-topic-blob", "x'74', '7', 0, NULL", Well, ""),
];

/// The text with what is too long for a line.
fn done(sql: &str, id: &str) -> String {
    let deep = format!("{}{}", "[".repeat(2000), "]".repeat(2000));
    sql.replace("{id}", id).replace("{huge}", &"x".repeat(200_000)).replace("{deep}", &deep)
}

/// A workflow that waits for an executor, as a program with a pen would write it.
fn waiting(id: &str, name: &str) -> String {
    format!(
        "INSERT INTO workflow_status
                (workflow_uuid, status, name, created_at, updated_at, application_version, application_name,
                 recovery_attempts, queue_name, priority, serialization)
         VALUES ({id}, 'ENQUEUED', '{name}', 1767225600000, 1767225600000, '1', 'test', 0, '_dbos_internal_queue', 0,
                 'portable_json');"
    )
}

fn with_input(id: &str) -> String {
    format!(
        "INSERT INTO workflow_input (workflow_uuid, inputs) VALUES ({id}, '{{\"positionalArgs\":[7],\"namedArgs\":{{}}}}');"
    )
}

const HEALTHY: [&str; 4] = ["healthy-waiting", "healthy-of-a-dead-one", "healthy-due", "healthy-receiver"];

/// Those of a table that this database can hold.
fn lines(table: &'static [Line]) -> impl Iterator<Item = &'static Line> {
    table.iter().filter(|line| line.0 == Both || ANY_TYPE)
}

fn register(engine: &Engine) {
    let steps = |ctx: &mut Context, n: u32| ctx.step("s", |_| Ok::<_, Error>(n));
    engine.register("w", steps).unwrap();
    let receives = |ctx: &mut Context, n: u32| -> Result<u32> {
        Ok(ctx.recv::<u32>("t", Duration::from_secs(60))?.unwrap_or(n))
    };
    engine.register("r", receives).unwrap();
}

/// A database with the healthy ones, and for each line a workflow of that name with what the line does to it. Without a
/// name, the line makes its own.
fn spoiled(table: &'static [Line], name: Option<&str>, spoil: impl Fn(&Line) -> String) -> App {
    let app = App::new();
    drop(app.open());
    let mut rows = String::new();
    for id in HEALTHY {
        let id = format!("'{id}'");
        rows += &waiting(&id, if id == "'healthy-receiver'" { "r" } else { "w" });
        rows += &with_input(&id);
    }
    rows += "UPDATE workflow_status SET status = 'DELAYED', delay_until_epoch_ms = 1
              WHERE workflow_uuid = 'healthy-due';";
    for line in lines(table) {
        if let Some(name) = name {
            let id = format!("'{}'", line.1);
            rows += &waiting(&id, name);
            rows += &with_input(&id);
        }
        rows += &done(&spoil(line), line.1);
        rows += ";";
    }
    app.batch(&rows);
    app.interrupt("healthy-of-a-dead-one", 0);
    app
}

/// The healthy ones end, each odd one fares as its line says and is named once, and then there is nothing to do.
fn all_fare(table: &'static [Line], app: &App) {
    let (commits, hook) = counted_commits();
    let engine = app.open_with(app.options().commit_hook(hook));
    register(&engine);
    engine.launch().unwrap();
    engine.send(&WorkflowId::new("healthy-receiver").unwrap(), "t", 7).unwrap();
    for id in HEALTHY {
        eventually(id, || app.status(id) == "SUCCESS");
    }
    let all = all_as_expected(table, app, &engine);
    for &(_, id, _, fares, named) in lines(table) {
        let seen = &all[id];
        if named.is_empty() {
            assert_eq!(seen.unreadable, Vec::<String>::new(), "{id}");
        } else {
            assert!(
                seen.unreadable.iter().any(|fault| fault.starts_with(named)),
                "{id}: {:?}",
                seen.unreadable
            );
        }
        if let Badly(reason) = fares {
            let failure = seen.failure.as_ref().map(|failure| failure.name().to_owned());
            assert!(
                reason.is_empty() || failure.is_none() || failure.as_deref() == Some(reason),
                "{id}: {failure:?}"
            );
        }
        assert!(seen.unreadable.iter().all(|fault| fault.len() < 200), "{id}");
    }
    nothing_spins(app, &commits);
    for &(_, id, _, fares, named) in lines(table).filter(|line| line.1.len() > 1) {
        let lines = logged(&format!("workflow {id} "));
        let at_most = if named.is_empty() || matches!(fares, Stays(_)) { 1 } else { 2 };
        let at_least = usize::from(!named.is_empty() || ["due-text", "due-blob"].contains(&id));
        assert!((at_least..=at_most).contains(&lines.len()), "{id}: {lines:?}");
        assert!(lines.iter().all(|line| line.len() < 2000), "{id}");
    }
}

/// Waits until each has come to where its line says.
fn all_as_expected(table: &'static [Line], app: &App, engine: &Engine) -> HashMap<String, WorkflowInfo> {
    let start = Instant::now();
    loop {
        app.clock.advance(Duration::from_secs(1));
        let all = engine.list(&WorkflowFilter::new().all_applications()).unwrap();
        let all: HashMap<_, _> = all.into_iter().map(|info| (info.id.to_string(), info)).collect();
        let stands = |id: &str| all.get(id).map(|info| info.status);
        let expected = |fares| match fares {
            Well => Success,
            Badly(_) => WorkflowStatus::Error,
            Parked => WorkflowStatus::MaxRecoveryAttemptsExceeded,
            Stays(status) => status,
        };
        let odd = lines(table).filter(|line| stands(line.1) != Some(expected(line.3)));
        let odd: Vec<_> = odd.map(|line| (line.1, line.3, stands(line.1))).collect();
        if odd.is_empty() {
            return all;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "not as expected within 60 s: {odd:?}");
        std::thread::yield_now();
    }
}

fn counted_commits() -> (Counter, Arc<CommitHook>) {
    let commits = Counter::default();
    let counted = commits.clone();
    let hook: Arc<CommitHook> = Arc::new(move |point| {
        if point.moment == Moment::After {
            counted.count();
        }
        Fate::Go
    });
    (commits, hook)
}

/// Several looks, in which little is committed and nothing is said.
fn nothing_spins(app: &App, commits: &Counter) {
    let (start, said, before) = (Instant::now(), app.said().len(), commits.get());
    eventually("several looks", || start.elapsed() > Duration::from_millis(1500));
    let (more, lines) = (commits.get() - before, app.said());
    assert!(more <= 12, "{more} commits of a process that has nothing to do");
    assert_eq!(lines.len(), said, "{lines:?}");
}

#[test]
fn an_odd_row_of_a_workflow_harms_that_one_alone() {
    let spoil = |line: &Line| format!("UPDATE workflow_status SET {} WHERE workflow_uuid = '{{id}}'", line.2);
    all_fare(STATUS, &spoiled(STATUS, Some("w"), spoil));
}

#[test]
fn an_odd_id_harms_its_workflow_alone() {
    let spoil = |line: &Line| {
        let input = if line.2 == "NULL" { String::new() } else { with_input(line.2) };
        waiting(line.2, "w") + &input
    };
    all_fare(IDS, &spoiled(IDS, None, spoil));
}

/// What has begun of a queue gets its place when the queue is limited.
#[test]
fn an_odd_id_keeps_no_queue_from_being_limited() {
    let app = App::new();
    drop(app.open());
    for id in if ANY_TYPE { &["NULL", "x'62'"][..] } else { &["''"][..] } {
        let begun = "queue_name = 'q', status = 'PENDING', executor_id = 'piton-dead'";
        app.batch(&format!("{} UPDATE workflow_status SET {begun}", waiting(id, "nobody")));
    }
    let engine = app.open();
    let workflow = engine.register("w", |_: &mut Context, n: u32| Ok::<_, Error>(n)).unwrap();
    let queue = engine.register_queue("q", QueueOptions::new().in_flight(10)).unwrap();
    engine.launch().unwrap();
    assert_eq!(workflow.enqueue(&engine, &queue, 7).unwrap().result().unwrap(), 7);
}

#[test]
fn an_odd_payload_harms_its_workflow_alone() {
    let app = spoiled(PAYLOADS, Some("w"), |line| line.2.to_owned());
    all_fare(PAYLOADS, &app);
    let engine = app.open();
    for &(_, id, _, fares, _) in lines(PAYLOADS) {
        let outcome = engine.retrieve::<u32>(id).unwrap().result();
        assert_eq!(outcome.is_ok(), matches!(fares, Well), "{id}: {outcome:?}");
    }
}

#[test]
fn an_odd_step_ends_its_workflow_with_a_reason() {
    let spoil = |line: &Line| {
        format!(
            "INSERT INTO operation_outputs
                    (workflow_uuid, function_id, function_name, output, error, serialization)
             VALUES ('{{id}}', {})",
            line.2
        )
    };
    let app = spoiled(STEPS, Some("w"), spoil);
    all_fare(STEPS, &app);
    let engine = app.open();
    for line in lines(STEPS) {
        assert!(!engine.steps(&WorkflowId::new(line.1).unwrap()).unwrap().is_empty(), "{}", line.1);
    }
}

#[test]
fn an_odd_message_harms_its_receiver_alone() {
    let spoil = |line: &Line| {
        format!(
            "INSERT INTO notifications (message_uuid, destination_uuid, topic, message, created_at_epoch_ms,
                                        serialization)
             VALUES ('{{id}}', '{{id}}', {})",
            line.2
        )
    };
    all_fare(MESSAGES, &spoiled(MESSAGES, Some("r"), spoil));
}

/// Limits that let nothing run keep only what waits in their queue, and a version that is none is nobody's.
#[test]
fn odd_queues_and_versions_stop_nobody_else() {
    let odd = if ANY_TYPE { ["'x'", "x'00'", "-1", "0"] } else { ["-1", "0", "-2147483648", "0"] };
    let app = spoiled(&[], None, |_| String::new());
    if ANY_TYPE {
        app.batch(
            "INSERT INTO application_versions (version_id, version_name, version_timestamp, application_name)
             VALUES ('a', x'ff', 9223372036854775807, 'test'), ('b', 'b', 'tomorrow', 'test')",
        );
    }
    let engine = app.open();
    register(&engine);
    for queue in 0..odd.len() {
        engine.register_queue(&format!("q{queue}"), QueueOptions::new().concurrency(1)).unwrap();
    }
    engine.launch().unwrap();
    for (queue, odd) in odd.iter().enumerate() {
        app.batch(&format!(
            "UPDATE queues SET concurrency = {odd}, worker_concurrency = {odd} WHERE name = 'q{queue}'"
        ));
    }
    for queue in 0..odd.len() {
        let id = format!("'queued-{queue}'");
        let waiting = waiting(&id, "w").replace("_dbos_internal_queue", &format!("q{queue}"));
        app.batch(&(waiting + &with_input(&id)));
    }
    let versionless = waiting("'versionless'", "w").replace("'1'", "NULL");
    app.batch(&(versionless + &with_input("'versionless'")));
    engine.send(&WorkflowId::new("healthy-receiver").unwrap(), "t", 7).unwrap();
    for id in HEALTHY {
        eventually(id, || app.status(id) == "SUCCESS");
    }
    eventually("versionless", || app.status("versionless") == "SUCCESS");
    for (queue, odd) in odd.iter().enumerate() {
        assert_eq!(app.status(&format!("queued-{queue}")), "ENQUEUED", "{odd}");
    }
}

/// A parent neither spins on a child in a state that is not known nor takes it for ended; the child can be freed.
#[test]
fn a_child_of_unknown_status_is_waited_for_quietly() {
    let app = App::new();
    let (commits, hook) = counted_commits();
    let engine = app.open_with(app.options().suspend_after(Duration::ZERO).commit_hook(hook));
    let child =
        engine.register("w", |ctx: &mut Context, n: u32| ctx.step("s", |_| Ok::<_, Error>(n))).unwrap();
    let parent = engine.register("p", move |ctx: &mut Context, n: u32| -> Result<u32> {
        ctx.start_as(&child, "child-of-unknown-status", n)?.result(ctx)
    });
    let parent = parent.unwrap();
    app.batch(&(waiting("'child-of-unknown-status'", "w") + &with_input("'child-of-unknown-status'")));
    app.batch("UPDATE workflow_status SET status = 'PAUSED'");
    engine.launch().unwrap();
    let handle = parent.start_as(&engine, "parent-of-unknown-status", 7).unwrap();
    eventually("suspended", || app.status("parent-of-unknown-status") == "DELAYED");
    nothing_spins(&app, &commits);
    assert_eq!(app.status("parent-of-unknown-status"), "DELAYED");
    assert_eq!(logged("workflow child-of-unknown-status ").len(), 1);
    let id = WorkflowId::new("child-of-unknown-status").unwrap();
    let unknown = WorkflowFilter::new().status(Unknown);
    assert_eq!(engine.count(&unknown).unwrap(), 1);
    assert_eq!(engine.list(&unknown).unwrap()[0].unreadable, ["status holds PAUSED"]);
    assert_eq!(engine.progress(&id).unwrap().status, Unknown);
    assert_eq!(engine.resume(&id).unwrap(), Enqueued);
    assert_eq!(handle.result().unwrap(), 7);
}
