//! On PostgreSQL: a lone write is one statement and one round trip, a batch one statement for each kind of its writes.

use std::collections::HashMap;

use engine::PgConnector;
use engine::postgres::types::ToSql;
use engine::postgres::{Client, Statement};

use super::{ByHand, NOW, Write, id};

/// One step, as it would be written by hand: $1 workflow, $2 step, $3 output, $4 now
const STEP: &str = "
    INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, output, started_at_epoch_ms,
        completed_at_epoch_ms, serialization, application_name, retention_timestamp)
    VALUES ($1, $2, 'step', $3, $4, $4, 'portable_json', 'bench', $4)";
/// $1 workflows, $2 payload, $3 now
const STARTS: &str = "
    WITH started AS (
         INSERT INTO dbos.workflow_status (workflow_uuid, status, name, executor_id, created_at, updated_at,
             application_version, recovery_attempts, owner_xid, application_name, creator_xid, serialization)
         SELECT id, 'PENDING', 'three', 'floor', $3::int8, $3, '1', 1, id, 'bench', id, 'portable_json'
           FROM unnest($1::text[]) AS a (id)
         RETURNING workflow_uuid)
    INSERT INTO dbos.workflow_input (workflow_uuid, inputs, retention_timestamp)
    SELECT workflow_uuid, $2::text, $3 FROM started";
/// $1 workflows, $2 steps, $3 payload, $4 now
const STEPS: &str = "
    INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, output, started_at_epoch_ms,
        completed_at_epoch_ms, serialization, application_name, retention_timestamp)
    SELECT id, step, 'step', $3::text, $4::int8, $4, 'portable_json', 'bench', $4
      FROM unnest($1::text[], $2::int4[]) AS a (id, step)";
/// $1 workflows, $2 payload, $3 now
const SETTLES: &str = "
    WITH settled AS (
         UPDATE dbos.workflow_status s
            SET status = 'SUCCESS', updated_at = $3::int8, completed_at = $3, owner_xid = NULL
           FROM unnest($1::text[]) AS a (id) WHERE s.workflow_uuid = a.id
         RETURNING s.workflow_uuid)
    INSERT INTO dbos.workflow_output (workflow_uuid, output, retention_timestamp)
    SELECT workflow_uuid, $2::text, $3 FROM settled";
const INPUTS: &str = "SELECT inputs FROM dbos.workflow_input WHERE workflow_uuid = ANY ($1)";
const RECORDED: &str = "
    SELECT workflow_uuid, function_id, function_name, output, error, child_workflow_id, started_at_epoch_ms,
           completed_at_epoch_ms, serialization
      FROM dbos.operation_outputs WHERE workflow_uuid = ANY ($1) ORDER BY workflow_uuid, function_id";

/// A connection to a database with the engine's tables.
pub(crate) struct ByHandOnPostgres {
    client: Client,
    prepared: HashMap<&'static str, Statement>,
}

/// The ids of the starts, the steps and the ends of a batch.
#[derive(Default)]
struct Sorted {
    starts: Vec<String>,
    steps: (Vec<String>, Vec<i32>),
    settles: Vec<String>,
}

impl ByHandOnPostgres {
    pub(crate) fn open(url: &str) -> anyhow::Result<Self> {
        Ok(Self { client: PgConnector::new(url)?.connect()?, prepared: HashMap::new() })
    }

    fn prepared(&mut self, sql: &'static str) -> anyhow::Result<Statement> {
        if let Some(statement) = self.prepared.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql)?;
        self.prepared.insert(sql, statement.clone());
        Ok(statement)
    }

    fn execute(&mut self, sql: &'static str, params: &[&(dyn ToSql + Sync)]) -> anyhow::Result<()> {
        let statement = self.prepared(sql)?;
        self.client.execute(&statement, params)?;
        Ok(())
    }
}

impl ByHand for ByHandOnPostgres {
    fn commit(&mut self, writes: &[Write], payload: &str) -> anyhow::Result<()> {
        if let [Write::Step(n, step)] = *writes {
            return self.execute(STEP, &[&id(n), &i32::try_from(step)?, &payload, &NOW]);
        }
        let mut sorted = Sorted::default();
        for write in writes {
            match *write {
                Write::Start(n) => sorted.starts.push(id(n)),
                Write::Step(n, step) => {
                    sorted.steps.0.push(id(n));
                    sorted.steps.1.push(i32::try_from(step)?);
                }
                Write::Settle(n) => sorted.settles.push(id(n)),
            }
        }
        let Sorted { starts, steps, settles } = sorted;
        let kinds = [starts.is_empty(), steps.0.is_empty(), settles.is_empty()];
        let several = kinds.iter().filter(|none| !**none).count() > 1;
        if several {
            self.client.batch_execute("BEGIN")?;
        }
        if !starts.is_empty() {
            self.execute(STARTS, &[&starts, &payload, &NOW])?;
        }
        if !steps.0.is_empty() {
            self.execute(STEPS, &[&steps.0, &steps.1, &payload, &NOW])?;
        }
        if !settles.is_empty() {
            self.execute(SETTLES, &[&settles, &payload, &NOW])?;
        }
        if several {
            self.client.batch_execute("COMMIT")?;
        }
        Ok(())
    }

    fn read(&mut self, workflows: &[usize]) -> anyhow::Result<usize> {
        let ids: Vec<String> = workflows.iter().map(|&n| id(n)).collect();
        let inputs = self.prepared(INPUTS)?;
        for row in self.client.query(&inputs, &[&ids])? {
            let _input: String = row.try_get(0)?;
        }
        let recorded = self.prepared(RECORDED)?;
        let rows = self.client.query(&recorded, &[&ids])?;
        for row in &rows {
            let _value: u64 = serde_json::from_str(row.try_get(3)?)?;
        }
        Ok(rows.len())
    }
}
