//! On SQLite.

use std::path::Path;

use engine::rusqlite::{Connection, TransactionBehavior, params};

use super::{ByHand, NOW, Write, id};

const START: &str = "
    INSERT INTO workflow_status (workflow_uuid, status, name, executor_id, created_at, updated_at,
        application_version, recovery_attempts, owner_xid, application_name, creator_xid, serialization)
    VALUES (?1, 'PENDING', 'three', 'floor', ?2, ?2, '1', 1, ?1, 'bench', ?1, 'portable_json')";
const INPUT: &str =
    "INSERT INTO workflow_input (workflow_uuid, inputs, retention_timestamp) VALUES (?1, ?2, ?3)";
const STEP: &str = "
    INSERT INTO operation_outputs (workflow_uuid, function_id, function_name, output, started_at_epoch_ms,
        completed_at_epoch_ms, serialization, application_name, retention_timestamp)
    VALUES (?1, ?2, 'step', ?3, ?4, ?4, 'portable_json', 'bench', ?4)";
const SETTLE: &str = "
    UPDATE workflow_status SET status = 'SUCCESS', updated_at = ?2, completed_at = ?2, owner_xid = NULL
     WHERE workflow_uuid = ?1";
const OUTPUT: &str =
    "INSERT INTO workflow_output (workflow_uuid, output, retention_timestamp) VALUES (?1, ?2, ?3)";

/// A connection to a file with the engine's tables.
pub(crate) struct ByHandOnSqlite {
    connection: Connection,
}

impl ByHandOnSqlite {
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(Self { connection })
    }

    fn read_one(&self, n: usize) -> anyhow::Result<usize> {
        let mut input =
            self.connection.prepare_cached("SELECT inputs FROM workflow_input WHERE workflow_uuid = ?1")?;
        let _input: String = input.query_row([id(n)], |row| row.get(0))?;
        let mut steps = self.connection.prepare_cached(
            "SELECT function_id, function_name, output, error, child_workflow_id, started_at_epoch_ms,
                    completed_at_epoch_ms, serialization
               FROM operation_outputs WHERE workflow_uuid = ?1 ORDER BY function_id",
        )?;
        let rows = steps.query_map([id(n)], |row| {
            Ok((row.get::<_, u32>(0)?, row.get::<_, String>(1)?, row.get::<_, Option<String>>(2)?))
        })?;
        let mut count = 0;
        for row in rows {
            let (_, _, output) = row?;
            let _value: u64 = serde_json::from_str(&output.unwrap_or_default())?;
            count += 1;
        }
        Ok(count)
    }
}

impl ByHand for ByHandOnSqlite {
    fn commit(&mut self, writes: &[Write], payload: &str) -> anyhow::Result<()> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for write in writes {
            match *write {
                Write::Start(n) => {
                    transaction.prepare_cached(START)?.execute(params![id(n), NOW])?;
                    transaction.prepare_cached(INPUT)?.execute(params![id(n), payload, NOW])?;
                }
                Write::Step(n, step) => {
                    transaction.prepare_cached(STEP)?.execute(params![id(n), step, payload, NOW])?;
                }
                Write::Settle(n) => {
                    transaction.prepare_cached(SETTLE)?.execute(params![id(n), NOW])?;
                    transaction.prepare_cached(OUTPUT)?.execute(params![id(n), payload, NOW])?;
                }
            }
        }
        Ok(transaction.commit()?)
    }

    fn read(&mut self, workflows: &[usize]) -> anyhow::Result<usize> {
        workflows.iter().map(|&n| self.read_one(n)).sum()
    }
}
