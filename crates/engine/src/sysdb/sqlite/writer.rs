//! The one connection that writes: a batch is a transaction.

use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, TransactionBehavior};

use super::file_identity::FileIdentity;
use super::open::{fold_the_log, still_durable};
use super::statement::failed;
use super::{claims, manage, messages, queues, races, steps, workflows};
use crate::sysdb::{DbError, DbResult, Verdict, Write, Writer};

pub(super) struct SqliteWriter {
    /// `None` once it is closed.
    connection: Option<Connection>,
    file: Arc<FileIdentity>,
    data_version: Option<i64>,
}

impl SqliteWriter {
    pub(super) fn new(connection: Connection, file: Arc<FileIdentity>) -> Self {
        Self { connection: Some(connection), file, data_version: None }
    }
}

impl Writer for SqliteWriter {
    fn commit(&mut self, batch: &[Write]) -> DbResult<Vec<Verdict>> {
        let connection = self.connection.as_mut().ok_or_else(closed)?;
        self.file.check_content(connection)?;
        still_durable(connection)?;
        let verdicts = self.file.note_damage(commit(connection, batch))?;
        let started = |(write, verdict): (&Write, &Verdict)| match (write, verdict) {
            (Write::StartWorkflow(new), Verdict::Done) => Some(new.id.clone()),
            _ => None,
        };
        if let Some(workflow) = batch.iter().zip(&verdicts).rev().find_map(started) {
            self.file.note_start(&workflow);
        }
        Ok(verdicts)
    }

    /// `PRAGMA data_version` changes with the commits of all connections but its own. It costs about two
    /// microseconds and reads no table.
    fn others_committed(&mut self) -> DbResult<bool> {
        const NAME: &str = "data_version";
        let Some(connection) = &self.connection else { return Ok(false) };
        let mut pragma = connection.prepare_cached("PRAGMA data_version").map_err(|e| failed(NAME, e))?;
        let version = pragma.query_row([], |row| row.get(0)).map_err(|e| failed(NAME, e))?;
        Ok(self.data_version.replace(version) != Some(version))
    }

    fn close(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if self.file.check().is_ok() {
            fold_the_log(&connection);
        } else {
            // The contents of the log belong to another file.
            let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
    }
}

fn commit(connection: &mut Connection, batch: &[Write]) -> DbResult<Vec<Verdict>> {
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|e| failed("begin", e))?;
    let verdicts = batch.iter().map(|write| apply(&transaction, write)).collect::<DbResult<_>>()?;
    transaction.commit().map_err(|e| failed("commit", e))?;
    Ok(verdicts)
}

fn closed() -> DbError {
    DbError::lasting("commit", "the engine has shut down")
}

/// One write inside the transaction. Conflicts are verdicts; an error fails the whole batch.
fn apply(connection: &Connection, write: &Write) -> DbResult<Verdict> {
    match write {
        Write::StartWorkflow(new) => workflows::start(connection, new),
        Write::StartChild { parent, step, child } => workflows::start_child(connection, parent, step, child),
        Write::RecordStep { owner, step } => steps::record(connection, owner, step),
        Write::Settle { owner, outcome, at } => workflows::settle(connection, owner, outcome, *at),
        Write::Suspend { owner, until, at } => workflows::suspend(connection, owner, until, *at),
        Write::Decide { owner, verdict, winner } => races::decide(connection, owner, verdict, winner),
        Write::Release { owner, attempt, again_at, at } => {
            workflows::release(connection, owner, *attempt, *again_at, *at)
        }
        Write::Claim(claim) => queues::claim(connection, claim),
        Write::WakeDue { identity, now } => claims::wake_due(connection, &identity.app, *now),
        Write::WakeFulfilled { waiting, now } => claims::wake_fulfilled(connection, waiting, *now),
        Write::Requeue { executor, at } => claims::requeue(connection, executor, *at),
        Write::RefuseUnknown(unknown) => claims::refuse_unknown(connection, unknown),
        Write::Revive { identity, known, at } => claims::revive(connection, identity, known, *at),
        Write::RegisterVersion { identity, at } => claims::register_version(connection, identity, *at),
        Write::RegisterQueue { identity, queue, options, at } => {
            queues::register(connection, identity, queue, *options, *at)
        }
        Write::CancelChild { owner, step, child, at } => {
            manage::cancel_child(connection, owner, step, child, *at)
        }
        Write::Cancel { workflow, children, at } => manage::cancel(connection, workflow, *children, *at),
        Write::Resume { workflow, token, at } => manage::resume(connection, workflow, token, *at),
        Write::Send { message, sender } => messages::send(connection, message, sender.as_ref()),
        Write::Receive { owner, topic, step } => messages::receive(connection, owner, topic, step),
    }
}
