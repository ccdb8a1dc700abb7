//! The system database on PostgreSQL: one connection for writes, a few for reads, one for the lease, one for news of
//! other processes.
//!
//! Rows are found by their keys. A condition on the status beside a key is written `(...) IS TRUE`. No partial index
//! matches that, so no plan reads all running or waiting rows to find one.
//!
//! A lone write is one round trip. Writes that gather meanwhile are one statement for each kind. Statements are
//! prepared once on each connection, or sent whole where a pooler keeps no session. A driver call blocks, so none is
//! made inside an async runtime, and none waits longer for the server than its limit.

mod batch;
mod census;
mod claims;
mod config;
mod connection;
mod connector;
mod lease;
mod line;
mod link;
mod manage;
mod messages;
mod news;
mod open;
mod own;
mod part;
mod pool;
mod pooler;
mod queues;
mod races;
mod reader;
mod schema;
mod statements;
mod step_session;
mod steps;
mod tls;
mod transaction;
mod trouble;
pub(crate) mod tx;
mod workflows;
mod writer;

/// The condition of rows that programs of version $3 of application $2 may take: rows of their version. If it is the
/// newest, rows without a version, too.
macro_rules! served_version {
    () => {
        "(application_version = $3
             OR (application_version IS NULL
                 AND $3 = COALESCE((SELECT version_name FROM dbos.application_versions WHERE application_name = $2
                                     ORDER BY version_timestamp DESC LIMIT 1), $3)))"
    };
}
use served_version;

/// Longer names are cut by the server, some of them silently.
const IDENTIFIER_BYTES_MAX: usize = 63;

pub(crate) use open::{Settings, open};
pub use own::PgConnector;
pub(crate) use transaction::{TransactionSteps, tries_max};

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::connection::{Connection, Statement};
    use super::connector::{Connector, Purpose};
    use super::*;
    use crate::sysdb::Url;

    const TABLES: [&str; 5] =
        ["workflow_status", "workflow_input", "workflow_output", "operation_outputs", "notifications"];

    /// Statements that are about all workflows that run, or all that wait.
    const LOOK_AT_ALL: [&str; 12] = [
        "adopt_begun",
        "beat",
        "busy_executors",
        "census",
        "executors_of_others",
        "forget_executor",
        "outlook", // when the next of those that wait is due
        "owned_by",
        "requeue",
        "fulfilled_waits",
        "waits",
        "wake_due",
    ];

    /// A fresh database with the tables, and all statements; `None` where PostgreSQL is not installed.
    fn every_statement() -> Option<(Connection, Vec<&'static Statement>)> {
        let cluster = cluster::try_shared()?;
        let url = cluster.url(&cluster.fresh_database());
        drop(crate::Engine::options().open(&url).unwrap());
        let Url::Postgres(url) = Url::parse(&url).unwrap() else { return None };
        let connection =
            Connector::new(&url, connection::SCHEMA, None).unwrap().connect(Purpose::Reader).unwrap();
        let topics = [
            census::ALL,
            claims::ALL,
            lease::ALL,
            manage::ALL,
            messages::ALL,
            queues::ALL,
            reader::ALL,
            step_session::ALL,
            steps::ALL,
            transaction::ALL,
            workflows::ALL,
        ];
        Some((connection, topics.into_iter().flatten().chain(batch::all()).collect()))
    }

    /// The plan for parameters of which nothing is known, while the tables are empty.
    fn plan(connection: &mut Connection, statement: &Statement) -> String {
        let told = connection.ask_simply(statement.name, &statements::ask_for_types(statement.sql));
        let types = told.and_then(|told| statements::types_told(statement.name, &told));
        let types = types.unwrap_or_else(|e| panic!("{e}"));
        let nulls = vec!["NULL"; types.len()].join(", ");
        let arguments = if nulls.is_empty() { nulls } else { format!("({nulls})") };
        let name = statement.name;
        connection.run(name, &format!("PREPARE p_{name} AS {}", statement.sql)).unwrap();
        let rows = connection.ask_simply(name, &format!("EXPLAIN EXECUTE p_{name}{arguments}")).unwrap();
        let line = |message: &postgres::SimpleQueryMessage| match message {
            postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        };
        rows.iter().filter_map(line).collect::<Vec<_>>().join("\n")
    }

    /// A statement with a wrong column fails here and not in the field. Its cost may depend on the number of running
    /// workflows, never on the number of all.
    #[test]
    fn every_statement_prepares_and_none_reads_a_whole_table() {
        let Some((mut connection, statements)) = every_statement() else { return };
        for statement in statements {
            let plan = plan(&mut connection, statement);
            let lines: Vec<&str> = plan.lines().collect();
            for (line, next) in lines.iter().zip(lines.iter().skip(1).chain(&[""])) {
                let whole_table =
                    line.contains("Seq Scan on") && TABLES.iter().any(|table| line.contains(table));
                // An index of all rows must be asked for some of them; a partial one has few.
                let whole_index = line.contains("_pkey on") && !next.contains("Index Cond");
                let all_active = ["_pending on", "_delayed on"].iter().any(|index| line.contains(index))
                    && !LOOK_AT_ALL.contains(&statement.name);
                assert!(!whole_table && !whole_index && !all_active, "{}: {line}\n{plan}", statement.name);
            }
        }
    }
}
