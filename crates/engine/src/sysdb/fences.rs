//! An execution that lost its workflow writes nothing, on either database, whatever it writes and whatever is committed
//! together with it.

use std::sync::Arc;

use super::write::{self, Attempt, NewMessage, NewWorkflow, Wake};
use super::{Outcome, Owner, StepRow, SystemDatabase, Url, Verdict, Write};
use crate::clock::Timestamp;
use crate::id::{ExecutorId, OwnerToken, StepId, WorkflowId};
use crate::status::WorkflowStatus;

const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// A database and a side door to its tables.
trait Side {
    fn run(&mut self, sql: &str);
    /// What all tables hold of a workflow: the rows with its id in them.
    fn rows_of(&mut self, id: &str) -> Vec<String>;
}

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
}

fn on_a_file() -> (SystemDatabase, Box<dyn Side>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("system.db");
    let database = super::sqlite::open(&path, false).unwrap();
    let side = rusqlite::Connection::open(&path).unwrap();
    (database, Box::new(File(side)), dir)
}

/// `None` where PostgreSQL is not installed.
fn on_a_server() -> Option<(SystemDatabase, Box<dyn Side>)> {
    let cluster = cluster::try_shared()?;
    let url = cluster.url(&cluster.fresh_database());
    let Url::Postgres(parsed) = Url::parse(&url).unwrap() else { return None };
    let settings = crate::Engine::options().postgres_settings();
    let database = super::postgres::open(&parsed, &settings).unwrap();
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

/// The writes of one kind that an execution may make, by what they are about. The workflow has a message of topic `t`.
fn writes(kind: &str, owner: &Owner) -> Vec<(&'static str, Write)> {
    let (me, later) = (&owner.workflow, Timestamp::from_millis(NOW.as_millis() + 1));
    let settle = |status| Write::Settle { owner: owner.clone(), outcome: outcome(owner, status), at: NOW };
    let suspend = |until| Write::Suspend { owner: owner.clone(), until, at: NOW };
    let release = |attempt, again_at| Write::Release { owner: owner.clone(), attempt, again_at, at: NOW };
    match kind {
        "start_child" => [("inline", true), ("beside", false)]
            .map(|(what, claimed)| {
                let child = new_workflow(&format!("{me}-1"), &OwnerToken::generate(), claimed);
                let step = StepRow { child: Some(child.id.clone()), ..step("child") };
                (what, Write::StartChild { parent: owner.clone(), step, child })
            })
            .into(),
        "record_step" => vec![("a step", Write::RecordStep { owner: owner.clone(), step: step("s") })],
        "settle" => vec![
            ("a success", settle(WorkflowStatus::Success)),
            ("an error", settle(WorkflowStatus::Error)),
            ("parked", settle(WorkflowStatus::MaxRecoveryAttemptsExceeded)),
        ],
        "suspend" => vec![
            ("a sleep", suspend(Wake::At(later))),
            ("a child", suspend(Wake::WhenSettled(WorkflowId::new("nobody").unwrap()))),
            ("a message", suspend(Wake::WhenMessage { topic: "another".to_owned(), deadline: later })),
        ],
        "release" => vec![
            ("at once", release(Attempt::GivenBack, None)),
            ("later", release(Attempt::Counted, Some(later))),
        ],
        "send" => {
            let sender = Some((owner.clone(), step("DBOS.send")));
            vec![("to itself", Write::Send { message: message(&format!("{me}::sent"), me), sender })]
        }
        "receive" => {
            let step = StepRow { output: None, ..step("DBOS.recv") };
            vec![("a message", Write::Receive { owner: owner.clone(), topic: "t".to_owned(), step })]
        }
        _ => panic!("no rows for {kind}: what an execution writes is fenced, and that is tested here"),
    }
}

/// Ways in which an execution loses its workflow.
const LOSSES: [&str; 2] = ["owner_xid = 'another'", "status = 'CANCELLED'"];

/// What is committed in the same batch, which decides how.
#[derive(Debug, Clone, Copy)]
enum Company {
    Nothing,
    /// A write of the same kind.
    Alike,
    /// A start, a step and an end of others.
    Mixed,
}

impl Company {
    fn writes(self, kind: &str, other: &Owner, third: &Owner) -> Vec<Write> {
        let outcome = outcome(third, WorkflowStatus::Success);
        match self {
            Self::Nothing => vec![],
            Self::Alike => vec![writes(kind, other).remove(0).1],
            Self::Mixed => vec![
                Write::StartWorkflow(new_workflow(&format!("{}-new", third.workflow), &third.token, true)),
                Write::RecordStep { owner: other.clone(), step: step("s") },
                Write::Settle { owner: third.clone(), outcome, at: NOW },
            ],
        }
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

    /// Commits a write of `owner` in company, and says what became of it and whether anything changed.
    fn commit(&mut self, owner: &Owner, write: &Write, company: &[Write]) -> (Verdict, bool) {
        let before = self.side.rows_of(owner.workflow.as_str());
        let mut batch = company.to_vec();
        batch.insert(company.len() / 2, write.clone());
        let mut verdicts = self.database.writer.commit(&batch).unwrap();
        let verdict = verdicts.remove(company.len() / 2);
        let well =
            |verdict: &Verdict| matches!(verdict, Verdict::Done | Verdict::Woke | Verdict::Received { .. });
        assert!(verdicts.iter().all(well), "the others are not concerned: {verdicts:?}");
        (verdict, self.side.rows_of(owner.workflow.as_str()) != before)
    }

    fn every_fenced_write_is_refused_to_a_former_owner(&mut self) {
        for kind in write::fenced() {
            for row in 0..writes(kind, &self.running()).len() {
                for company in [Company::Nothing, Company::Alike, Company::Mixed] {
                    self.is_refused(kind, row, company);
                }
            }
        }
    }

    fn is_refused(&mut self, kind: &str, row: usize, company: Company) {
        for loss in [None].into_iter().chain(LOSSES.map(Some)) {
            let owner = self.running();
            let (what, write) = writes(kind, &owner).remove(row);
            assert_eq!(write.kind(), kind);
            let others = company.writes(kind, &self.running(), &self.running());
            let Some(loss) = loss else {
                let (verdict, changed) = self.commit(&owner, &write, &others);
                assert!(changed && verdict != Verdict::NotOwner, "{kind}, {what}: {verdict:?} for the owner");
                continue;
            };
            let id = &owner.workflow;
            self.side.run(&format!("UPDATE workflow_status SET {loss} WHERE workflow_uuid = '{id}'"));
            let done = self.commit(&owner, &write, &others);
            assert_eq!(done, (Verdict::NotOwner, false), "{kind}, {what}, {loss}, beside {company:?}");
        }
    }
}

#[test]
fn an_execution_that_lost_its_workflow_writes_nothing_into_a_file() {
    let (mut database, mut side, _dir) = on_a_file();
    let mut ground = Ground { database: &mut database, side: side.as_mut(), started: 0 };
    ground.every_fenced_write_is_refused_to_a_former_owner();
}

#[test]
fn an_execution_that_lost_its_workflow_writes_nothing_on_a_server() {
    let Some((mut database, mut side)) = on_a_server() else { return };
    let mut ground = Ground { database: &mut database, side: side.as_mut(), started: 0 };
    ground.every_fenced_write_is_refused_to_a_former_owner();
}
