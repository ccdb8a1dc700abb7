//! The floor: the statements that the engine's rows need, by hand, and nothing else.

use std::path::Path;

use engine::rusqlite::{Connection, TransactionBehavior, params};
use model::User;

/// A file with the engine's tables and a connection with the engine's settings.
pub(crate) struct Floor {
    connection: Connection,
    next: usize,
}

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
const NOW: i64 = 1_767_225_600_000;

/// One write of a workflow's life.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Write {
    Start(usize),
    Step(usize, u32),
    Settle(usize),
}

impl Floor {
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        // The engine makes the tables; from here on it is out of the way.
        drop(engine::Engine::options().open(&format!("sqlite:{}", path.display()))?);
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(Self { connection, next: 0 })
    }

    /// A number for a workflow that no other has.
    pub(crate) fn fresh(&mut self) -> usize {
        self.next += 1;
        self.next
    }

    /// The writes as one transaction.
    pub(crate) fn commit(&mut self, writes: &[Write], payload: &str) -> anyhow::Result<()> {
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

    /// The writes in transactions of this size.
    pub(crate) fn commit_in_batches(&mut self, writes: &[Write], size: usize) -> anyhow::Result<()> {
        writes.chunks(size.max(1)).try_for_each(|batch| self.commit(batch, "1"))
    }

    /// Reads the input and the steps of each workflow and settles them in transactions of this size.
    pub(crate) fn recover(&mut self, workflows: &[usize], size: usize) -> anyhow::Result<usize> {
        let mut rows = 0;
        for batch in workflows.chunks(size.max(1)) {
            for &n in batch {
                rows += self.read(n)?;
            }
            let settles: Vec<_> = batch.iter().map(|&n| Write::Settle(n)).collect();
            self.commit(&settles, "1")?;
        }
        Ok(rows)
    }

    fn read(&self, n: usize) -> anyhow::Result<usize> {
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

    /// ex6 without its engine: 10 batches of 10 generated pages and one insert, each recorded with a commit of
    /// its own, and what starts and ends the 11 workflows.
    pub(crate) fn ex6(
        &mut self,
        mut insert: impl FnMut(&[User]) -> anyhow::Result<()>,
    ) -> anyhow::Result<usize> {
        let mut commits = 0;
        let parent = self.fresh();
        let mut record = |floor: &mut Self, write: Write, payload: &str| {
            commits += 1;
            floor.commit(&[write], payload)
        };
        record(self, Write::Start(parent), "null")?;
        for batch in 0..10_u32 {
            let child = self.fresh();
            // The parent's record of its child and the child's row are one commit.
            record(self, Write::Start(child), &batch.to_string())?;
            let mut users = Vec::new();
            for page in 0..10_u32 {
                let generated = model::fake_users(u64::from(batch * 10 + page), 10);
                let text = serde_json::to_string(&generated)?;
                record(self, Write::Step(child, page + 1), &text)?;
                users.extend(serde_json::from_str::<Vec<User>>(&text)?);
            }
            insert(&users)?;
            record(self, Write::Step(child, 11), "100")?;
            record(self, Write::Settle(child), "100")?;
            record(self, Write::Step(parent, batch + 1), "100")?;
        }
        record(self, Write::Settle(parent), "1000")?;
        Ok(commits)
    }
}

fn id(n: usize) -> String {
    // As long as the ids of the engine.
    format!("00000000-0000-7000-8000-{n:012}")
}
