//! Both databases through the wall: the verdict of each write, without an engine above.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod fences;
mod verdicts;

use std::sync::Arc;

use super::write::{Awaited, NewMessage, NewWorkflow, Wake};
use super::{Outcome, Owner, StepRow, SystemDatabase, Url, Verdict, Write};
use crate::pure::clock::Timestamp;
use crate::pure::id::{ExecutorId, OwnerToken, StepId, WorkflowId};
use crate::pure::status::WorkflowStatus;

const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// A database and a side door to its tables.
trait Side {
    fn run(&mut self, sql: &str);
    /// The rows of all tables that have the id of a workflow.
    fn rows_of(&mut self, id: &str) -> Vec<String>;
    fn attempts(&mut self, id: &str) -> i64;
    /// So many records of so many bytes.
    fn fill(&mut self, id: &str, steps: usize, bytes: usize);
}

const ATTEMPTS: &str = "SELECT recovery_attempts FROM workflow_status WHERE workflow_uuid = ";

const TABLES: [&str; 5] =
    ["workflow_status", "workflow_input", "workflow_output", "operation_outputs", "notifications"];

struct File(rusqlite::Connection);

impl Side for File {
    fn run(&mut self, sql: &str) {
        self.0.execute_batch(sql).unwrap();
    }

    fn rows_of(&mut self, id: &str) -> Vec<String> {
        let mut found = Vec::new();
        for table in TABLES {
            let mut statement = self.0.prepare(&format!("SELECT * FROM {table}")).unwrap();
            let columns = statement.column_count();
            let mut rows = statement.query([]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let values = (0..columns).map(|n| row.get::<_, rusqlite::types::Value>(n).unwrap());
                found.push(format!("{table} {:?}", values.collect::<Vec<_>>()));
            }
        }
        found.retain(|row| row.contains(id));
        found.sort();
        found
    }

    fn attempts(&mut self, id: &str) -> i64 {
        self.0.query_row(&format!("{ATTEMPTS}'{id}'"), [], |row| row.get(0)).unwrap()
    }

    fn fill(&mut self, id: &str, steps: usize, bytes: usize) {
        self.run(&format!(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {steps})
             INSERT INTO operation_outputs (workflow_uuid, function_id, function_name, output, serialization)
             SELECT '{id}', n, 's', printf('%.*c', {bytes}, '7'), 'portable_json' FROM n"
        ));
    }
}

struct Server(::postgres::Client);

impl Side for Server {
    fn run(&mut self, sql: &str) {
        self.0.batch_execute(sql).unwrap();
    }

    fn rows_of(&mut self, id: &str) -> Vec<String> {
        let mut found = Vec::new();
        for table in TABLES {
            let sql = format!("SELECT t::text FROM dbos.{table} t WHERE strpos(t::text, $1) > 0 ORDER BY 1");
            let rows = self.0.query(&sql, &[&id]).unwrap();
            found.extend(rows.iter().map(|row| format!("{table} {}", row.get::<_, String>(0))));
        }
        found
    }

    fn attempts(&mut self, id: &str) -> i64 {
        self.0.query_one(&format!("{ATTEMPTS}'{id}'"), &[]).unwrap().get(0)
    }

    fn fill(&mut self, id: &str, steps: usize, bytes: usize) {
        self.run(&format!(
            "INSERT INTO operation_outputs (workflow_uuid, function_id, function_name, output, serialization)
             SELECT '{id}', n, 's', repeat('7', {bytes}), 'portable_json' FROM generate_series(1, {steps}) AS n"
        ));
    }
}

fn on_a_file() -> (SystemDatabase, Box<dyn Side>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("system.db");
    let database = crate::sysdb::sqlite::open(&path, false).unwrap();
    let side = rusqlite::Connection::open(&path).unwrap();
    (database, Box::new(File(side)), dir)
}

/// `None` where PostgreSQL is not installed.
fn on_a_server() -> Option<(SystemDatabase, Box<dyn Side>)> {
    let cluster = cluster::try_shared()?;
    let url = cluster.url(&cluster.fresh_database());
    let Url::Postgres(parsed) = Url::parse(&url).unwrap() else { return None };
    let settings = crate::Engine::options().postgres_settings();
    let database = crate::sysdb::postgres::open(&parsed, &settings).unwrap();
    let mut client = ::postgres::Client::connect(&url, ::postgres::NoTls).unwrap();
    client.batch_execute("SET search_path = dbos").unwrap();
    Some((database, Box::new(Server(client))))
}

fn new_workflow(id: &str, token: &OwnerToken, claimed: bool) -> NewWorkflow {
    NewWorkflow {
        id: WorkflowId::new(id).unwrap(),
        name: Arc::from("w"),
        input: "null".to_owned(),
        parent: None,
        app: Arc::from("test"),
        version: Some(Arc::from("1")),
        token: token.clone(),
        claimed_by: claimed.then(|| ExecutorId::generate(None)),
        queue: None,
        priority: 0,
        at: NOW,
    }
}

fn message(id: &str, to: &WorkflowId) -> NewMessage {
    let text = "\"hello\"".to_owned();
    NewMessage { id: id.to_owned(), destination: to.clone(), topic: "t".to_owned(), text, at: NOW }
}

/// A wait for the end of a workflow.
fn settled(workflow: &WorkflowId) -> Wake {
    Wake { awaited: vec![Awaited::Settled(workflow.clone())], ..Wake::default() }
}

/// A wait of this workflow for a message.
fn message_of(owner: &Owner, topic: &str) -> Wake {
    let awaited = vec![Awaited::Message(owner.workflow.clone(), topic.to_owned())];
    Wake { awaited, ..Wake::default() }
}

/// A race of these waits.
fn any<const N: usize>(waits: [Wake; N]) -> Wake {
    Wake { awaited: waits.into_iter().flat_map(|wait| wait.awaited).collect(), any: true, at: None }
}

fn step(name: &'static str) -> StepRow {
    StepRow {
        step_id: StepId(1),
        name: name.into(),
        output: Some("7".to_owned()),
        error: None,
        child: None,
        started_at: Some(NOW),
        completed_at: Some(NOW),
        serialization: Some("portable_json".into()),
    }
}

fn outcome(owner: &Owner, status: WorkflowStatus) -> Outcome {
    let is_success = status == WorkflowStatus::Success;
    let error = "{\"name\":\"E\",\"message\":\"\"}";
    Outcome {
        workflow: owner.workflow.clone(),
        status,
        output: is_success.then(|| "8".to_owned()),
        error: (!is_success).then(|| error.to_owned()),
        serialization: Some("portable_json".into()),
    }
}

struct Ground<'d> {
    database: &'d mut SystemDatabase,
    side: &'d mut dyn Side,
    started: usize,
}

impl Ground<'_> {
    /// A workflow that runs, with a message.
    fn running(&mut self) -> Owner {
        self.started += 1;
        let id = format!("w{:05}", self.started);
        let token = OwnerToken::generate();
        let start = new_workflow(&id, &token, true);
        let owner = Owner { workflow: start.id.clone(), token };
        let message = message(&format!("{id}::there"), &owner.workflow);
        let batch = [Write::StartWorkflow(start), Write::Send { message, sender: None }];
        assert_eq!(self.database.writer.commit(&batch).unwrap(), [Verdict::Done, Verdict::Done]);
        owner
    }

    /// The verdict of one write that is committed alone.
    fn verdict(&mut self, write: Write) -> Verdict {
        self.database.writer.commit(&[write]).unwrap().remove(0)
    }
}

/// Does the same on both databases.
fn on_both(test: impl Fn(&mut Ground<'_>)) {
    let (mut database, mut side, _dir) = on_a_file();
    test(&mut Ground { database: &mut database, side: side.as_mut(), started: 0 });
    if let Some((mut database, mut side)) = on_a_server() {
        test(&mut Ground { database: &mut database, side: side.as_mut(), started: 0 });
    }
}
