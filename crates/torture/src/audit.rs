//! The audit: the rules for the tables and the ledgers after any accident.
//!
//! Before the torture it puts triggers beside the engine's tables. They write down every change of a status and every
//! recorded step, in the order of the commits.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use engine::{Engine, WorkflowStatus};

use crate::database::{Database, Row};
use crate::ledger::{Entry, Ledger};
use crate::records::{Outcomes, Records};
use crate::worker::ledger;

/// How often a body of the workload may run for each time that its workflow is taken up.
const ATTEMPTS_MAX: u64 = 3;

/// The kind of promise that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Breach {
    /// An acknowledged workflow, value or effect is missing.
    Lost,
    /// A row or an effect is there, or a body ran, more often than it may.
    Duplicated,
    /// A workflow did not end.
    Stuck,
    /// The tables contradict each other, or the engine's own rules.
    Broken,
}

/// Broken promises, each with its evidence.
pub type Breaches = Vec<(Breach, String)>;

/// Creates the engine's tables, the application's table, and the triggers of the audit.
///
/// # Errors
/// The error of the engine or the database.
pub fn prepare(database: &Database) -> anyhow::Result<()> {
    drop(database.open(Engine::options())?);
    database.run(match database {
        Database::Sqlite(_) => SQLITE_TRIGGERS,
        Database::Postgres(_) => POSTGRES_TRIGGERS,
    })
}

const SQLITE_TRIGGERS: &str = "
    CREATE TABLE effect (workflow TEXT, step TEXT, value TEXT);
    CREATE TABLE audit_status (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, old TEXT, new TEXT, token TEXT, attempts INTEGER);
    CREATE TRIGGER audit_insert AFTER INSERT ON workflow_status BEGIN
        INSERT INTO audit_status (id, new, token, attempts)
        VALUES (NEW.workflow_uuid, NEW.status, NEW.owner_xid, NEW.recovery_attempts);
    END;
    CREATE TRIGGER audit_update AFTER UPDATE ON workflow_status
      WHEN OLD.status IS NOT NEW.status OR OLD.owner_xid IS NOT NEW.owner_xid BEGIN
        INSERT INTO audit_status (id, old, new, token, attempts)
        VALUES (NEW.workflow_uuid, OLD.status, NEW.status, NEW.owner_xid, NEW.recovery_attempts);
    END;
    CREATE TABLE audit_steps (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, step INTEGER, status TEXT, token TEXT, claim TEXT);
    CREATE TRIGGER audit_step AFTER INSERT ON operation_outputs BEGIN
        INSERT INTO audit_steps (id, step, status, token, claim)
        SELECT NEW.workflow_uuid, NEW.function_id, s.status, s.owner_xid,
               (SELECT token FROM audit_status WHERE id = NEW.workflow_uuid AND new = 'PENDING'
                 ORDER BY seq DESC LIMIT 1)
          FROM workflow_status s WHERE s.workflow_uuid = NEW.workflow_uuid;
    END;";

/// The triggers on PostgreSQL, with the functions of SQLite that the rules use. The changes of one workflow are in the
/// order of their commits, because each of them locks its row.
const POSTGRES_TRIGGERS: &str = "
    SET search_path = public, dbos;
    CREATE FUNCTION instr(text, text) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT strpos($1, $2)';
    CREATE FUNCTION json_quote(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT to_json($1)::text';
    CREATE FUNCTION printf(text, int) RETURNS text LANGUAGE sql IMMUTABLE
        AS 'SELECT ''-'' || lpad($2::text, 10, ''0'')';
    CREATE TABLE effect (workflow text, step text, value text);
    CREATE TABLE audit_status (seq bigserial PRIMARY KEY, id text, old text, new text, token text, attempts bigint);
    CREATE INDEX ON audit_status (id);
    CREATE FUNCTION audit_status() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO public.audit_status (id, new, token, attempts)
            VALUES (NEW.workflow_uuid, NEW.status, NEW.owner_xid, NEW.recovery_attempts);
        ELSIF OLD.status IS DISTINCT FROM NEW.status OR OLD.owner_xid IS DISTINCT FROM NEW.owner_xid THEN
            INSERT INTO public.audit_status (id, old, new, token, attempts)
            VALUES (NEW.workflow_uuid, OLD.status, NEW.status, NEW.owner_xid, NEW.recovery_attempts);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER audit_status AFTER INSERT OR UPDATE ON dbos.workflow_status
        FOR EACH ROW EXECUTE FUNCTION audit_status();
    CREATE TABLE audit_steps (seq bigserial PRIMARY KEY, id text, step int, status text, token text, claim text);
    CREATE FUNCTION audit_steps() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO public.audit_steps (id, step, status, token, claim)
        SELECT NEW.workflow_uuid, NEW.function_id, s.status, s.owner_xid,
               (SELECT a.token FROM public.audit_status a WHERE a.id = NEW.workflow_uuid AND a.new = 'PENDING'
                 ORDER BY seq DESC LIMIT 1)
          FROM dbos.workflow_status s WHERE s.workflow_uuid = NEW.workflow_uuid;
        RETURN NULL;
    END $$;
    CREATE TRIGGER audit_steps AFTER INSERT ON dbos.operation_outputs
        FOR EACH ROW EXECUTE FUNCTION audit_steps();";

/// Rules in SQL: each query returns the rows that break it.
const RULES: [(Breach, &str, &str); 13] = [
    (
        Breach::Stuck,
        "a workflow did not end",
        "SELECT workflow_uuid || ' is ' || status FROM workflow_status
          WHERE status IN ('PENDING', 'ENQUEUED', 'DELAYED')",
    ),
    (
        Breach::Broken,
        "a workflow ended badly",
        "SELECT workflow_uuid || ' is ' || status || ': ' || COALESCE(o.error, '')
           FROM workflow_status LEFT JOIN workflow_output o USING (workflow_uuid)
          WHERE status IN ('ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')",
    ),
    (
        Breach::Broken,
        "a success without an output, with an error, with an owner, or without a time",
        "SELECT workflow_uuid FROM workflow_status LEFT JOIN workflow_output o USING (workflow_uuid)
          WHERE status = 'SUCCESS'
            AND (o.output IS NULL OR o.error IS NOT NULL OR owner_xid IS NOT NULL OR completed_at IS NULL)",
    ),
    (
        Breach::Lost,
        "a row without its input",
        "SELECT workflow_uuid FROM workflow_status s
          WHERE NOT EXISTS (SELECT 1 FROM workflow_input i WHERE i.workflow_uuid = s.workflow_uuid)",
    ),
    (
        Breach::Lost,
        "a recorded transaction step without its effect",
        "SELECT workflow_uuid || ' ' || function_name FROM operation_outputs o
          WHERE function_name LIKE 'tx%'
            AND NOT EXISTS (SELECT 1 FROM effect e WHERE e.workflow = workflow_uuid AND e.step = function_name
                               AND json_quote(e.value) = o.output)",
    ),
    (
        Breach::Duplicated,
        "an effect that is there twice, or without its record",
        "SELECT workflow || ' ' || step FROM effect e GROUP BY workflow, step
         HAVING count(*) <> 1
             OR NOT EXISTS (SELECT 1 FROM operation_outputs o
                             WHERE o.workflow_uuid = e.workflow AND o.function_name = e.step)",
    ),
    (
        Breach::Lost,
        "a record of a child that is not there",
        "SELECT workflow_uuid || ' step ' || function_id FROM operation_outputs o
          WHERE child_workflow_id IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM workflow_status s WHERE s.workflow_uuid = o.child_workflow_id)",
    ),
    (
        Breach::Duplicated,
        "a child that its parent does not know",
        "SELECT workflow_uuid FROM workflow_status s
          WHERE parent_workflow_id IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM operation_outputs o
                             WHERE o.workflow_uuid = s.parent_workflow_id AND o.child_workflow_id = s.workflow_uuid
                               AND o.function_name = s.name)",
    ),
    (
        Breach::Broken,
        "a message that was consumed without a record, or not consumed",
        "SELECT message_uuid FROM notifications n
          WHERE NOT consumed
             OR NOT EXISTS (SELECT 1 FROM operation_outputs o
                             WHERE o.workflow_uuid = n.destination_uuid AND o.function_id = n.consumed_by_function_id
                               AND o.output = n.message)",
    ),
    (
        Breach::Duplicated,
        "a message that was received without being consumed by that step",
        "SELECT workflow_uuid || ' step ' || function_id FROM operation_outputs o
          WHERE function_name = 'DBOS.recv' AND output IS NOT NULL AND output <> 'null'
            AND NOT EXISTS (SELECT 1 FROM notifications n
                             WHERE n.destination_uuid = o.workflow_uuid AND n.message = o.output
                               AND n.consumed_by_function_id = o.function_id)",
    ),
    (
        Breach::Duplicated,
        "a send that is there twice, or not at all",
        "WITH sent AS MATERIALIZED (
              SELECT substr(message_uuid, 1, instr(message_uuid, '::') - 1) AS sender, count(*) AS messages
                FROM notifications WHERE instr(message_uuid, '::') > 0 GROUP BY sender)
         SELECT o.workflow_uuid || ' step ' || o.function_id FROM operation_outputs o
           LEFT JOIN sent ON sent.sender = o.workflow_uuid || printf('-%010d', o.function_id)
          WHERE function_name = 'DBOS.send' AND COALESCE(sent.messages, 0) <> 1",
    ),
    (
        Breach::Broken,
        "a step that was recorded by somebody who did not own the workflow",
        "SELECT id || ' step ' || step FROM audit_steps
          WHERE status <> 'PENDING' OR token IS NULL OR token IS DISTINCT FROM claim",
    ),
    (
        Breach::Duplicated,
        "more than one outcome",
        "SELECT id FROM audit_status WHERE new IN ('SUCCESS', 'ERROR') GROUP BY id HAVING count(*) > 1",
    ),
];

/// Checks all rules. `acknowledged` has the ids whose start returned.
///
/// # Errors
/// The error of the database or the file system. An audit that cannot be made is no breach.
pub fn audit(database: &Database, dir: &Path, acknowledged: &BTreeSet<String>) -> anyhow::Result<Breaches> {
    let mut breaches = Breaches::new();
    if let Database::Sqlite(_) = database {
        let integrity = database.value("PRAGMA integrity_check")?;
        if integrity != "ok" {
            breaches.push((Breach::Broken, format!("the file is damaged: {integrity}")));
        }
    }
    for (breach, what, sql) in RULES {
        for found in first_column(database.rows(sql)?) {
            breaches.push((breach, format!("{what}: {found}")));
        }
    }
    let ids: BTreeSet<String> =
        first_column(database.rows("SELECT workflow_uuid FROM workflow_status")?).collect();
    for lost in acknowledged.difference(&ids) {
        breaches.push((Breach::Lost, format!("a start that was acknowledged is not there: {lost}")));
    }
    check_transitions(database, &mut breaches)?;
    let records = Records::read(database)?;
    records.check_places(&mut breaches);
    check_ledger(database, &records.outcomes(), &Ledger::read(&ledger(dir))?, &mut breaches)?;
    Ok(breaches)
}

fn first_column(rows: Vec<Row>) -> impl Iterator<Item = String> {
    rows.into_iter().filter_map(|row| row.into_iter().next().flatten())
}

/// The texts of a row. NULL becomes an empty text.
fn texts<const N: usize>(row: Row) -> [String; N] {
    let mut columns = row.into_iter().map(Option::unwrap_or_default);
    std::array::from_fn(|_| columns.next().unwrap_or_default())
}

/// Checks that every change of a status is allowed by the engine's states.
fn check_transitions(database: &Database, breaches: &mut Breaches) -> anyhow::Result<()> {
    let sql = "SELECT id, old, new FROM audit_status WHERE old IS NOT NULL AND old <> new ORDER BY seq";
    for row in database.rows(sql)? {
        let [id, old, new] = texts(row);
        let legal = matches!(
            (WorkflowStatus::parse(&old), WorkflowStatus::parse(&new)),
            (Some(old), Some(new)) if old.may_become(new)
        );
        if !legal {
            breaches.push((Breach::Broken, format!("{id} went from {old} to {new}")));
        }
    }
    Ok(())
}

/// Checks the bodies that ran and the values that workflows saw, against the records.
fn check_ledger(
    database: &Database,
    recorded: &Outcomes,
    entries: &[Entry],
    breaches: &mut Breaches,
) -> anyhow::Result<()> {
    let claims: BTreeMap<String, u64> = database
        .rows(
            "SELECT id, count(*) FROM audit_status WHERE new = 'PENDING' AND token IS NOT NULL GROUP BY id",
        )?
        .into_iter()
        .map(|row| {
            let [id, count] = texts(row);
            (id, count.parse().unwrap_or_default())
        })
        .collect();

    let may_be_stale = matches!(database, Database::Postgres(_));
    let mut seen: BTreeMap<(String, String), (u32, String)> = BTreeMap::new();
    let mut bodies: BTreeMap<(String, String), u64> = BTreeMap::new();
    for entry in entries {
        match entry {
            Entry::Body { workflow, step, run } => {
                let key = (workflow.clone(), step.clone());
                // Where leases tell which executors live, an executor that was stopped as its body began finds out
                // after the body.
                let is_stale = |seen_by: u32| may_be_stale && *run < seen_by;
                if seen.get(&key).is_some_and(|(seen_by, _)| !is_stale(*seen_by)) {
                    breaches.push((
                        Breach::Duplicated,
                        format!("the body of {workflow} {step} ran after its record"),
                    ));
                }
                *bodies.entry(key).or_default() += 1;
            }
            Entry::Saw { workflow, step, run, value } => {
                let key = (workflow.clone(), step.clone());
                let (_, first) = seen.entry(key).or_insert_with(|| (*run, value.clone()));
                if first != value {
                    breaches
                        .push((Breach::Broken, format!("{workflow} {step} was {first} and later {value}")));
                }
            }
        }
    }
    for ((workflow, step), (_, value)) in &seen {
        // A value that a parent saw of its children is not a step of its own.
        let Some(output) = recorded.get(&(workflow.clone(), step.clone())) else {
            if !step.starts_with("seen-") {
                breaches.push((Breach::Lost, format!("{workflow} saw {step}, and it is not recorded")));
            }
            continue;
        };
        if output.as_deref() != Some(&serde_json::json!(value).to_string()) {
            breaches.push((Breach::Broken, format!("{workflow} {step} was {value}, recorded is {output:?}")));
        }
    }
    for ((workflow, step), count) in &bodies {
        let most = claims.get(workflow).copied().unwrap_or_default() * ATTEMPTS_MAX;
        if *count > most {
            breaches.push((
                Breach::Duplicated,
                format!("the body of {workflow} {step} ran {count} times, at most {most}"),
            ));
        }
    }
    Ok(())
}

/// Counts of a finished torture.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// The seed of the random choices.
    pub seed: u64,
    /// How many processes were killed.
    pub kills: u64,
    /// How many processes were stopped for a while, and went on.
    pub stops: u64,
    /// How often the server crashed and came back.
    pub server_crashes: u64,
    /// How many connections of the server were killed.
    pub cut_connections: u64,
    /// How many starts were acknowledged.
    pub acks: usize,
    /// How many workflows there are, children included.
    pub workflows: u64,
    /// How many step bodies ran.
    pub bodies: usize,
    /// How often a workflow was taken up after its executor had died.
    pub recoveries: u64,
    /// The broken promises.
    pub breaches: Breaches,
}

impl Verdict {
    /// Whether no promise was broken.
    pub fn is_clean(&self) -> bool {
        self.breaches.is_empty()
    }

    /// Adds the counts of the tables and the ledger.
    ///
    /// # Errors
    /// The error of the database or the file system.
    pub fn count(&mut self, database: &Database, dir: &Path) -> anyhow::Result<()> {
        self.workflows = database.number("SELECT count(*) FROM workflow_status")?;
        self.recoveries =
            database.number("SELECT COALESCE(sum(recovery_attempts - 1), 0) FROM workflow_status")?;
        let entries = Ledger::read(&ledger(dir))?;
        self.bodies = entries.iter().filter(|entry| matches!(entry, Entry::Body { .. })).count();
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |breach| self.breaches.iter().filter(|(b, _)| *b == breach).count();
        for (breach, what) in self.breaches.iter().take(50) {
            writeln!(f, "{breach:?}: {what}")?;
        }
        writeln!(
            f,
            "seed {}: {} kills, {} stops, {} server crashes, {} connections cut; {} starts acknowledged, {} workflows, \
             {} step bodies, {} recoveries",
            self.seed,
            self.kills,
            self.stops,
            self.server_crashes,
            self.cut_connections,
            self.acks,
            self.workflows,
            self.bodies,
            self.recoveries
        )?;
        write!(
            f,
            "{} lost, {} duplicated, {} stuck, {} broken",
            count(Breach::Lost),
            count(Breach::Duplicated),
            count(Breach::Stuck),
            count(Breach::Broken)
        )
    }
}
