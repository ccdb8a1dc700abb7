//! SQL under names, and how it is sent: prepared where the session stays, whole where each transaction has another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use postgres::types::{ToSql, Type};
use postgres::{GenericClient, Row, SimpleQueryMessage};
use uuid::Uuid;

use super::trouble::{failed, trouble};
use crate::pure::sync::lock;
use crate::sysdb::DbResult;

/// SQL text under a name, for the schema `dbos`; another schema's name is put in its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Statement {
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
}

pub(super) type Params<'p> = &'p [&'p (dyn ToSql + Sync)];

/// Parameters with the types that the server expects.
pub(super) type Typed<'p> = Vec<(&'p (dyn ToSql + Sync), Type)>;

/// A place to run statements: a connection of the engine's, or the transaction of a step.
pub(super) trait Session {
    fn query(&mut self, statement: &Statement, params: Params<'_>) -> DbResult<Vec<Row>>;

    /// Runs it and says how many rows changed.
    fn execute(&mut self, statement: &Statement, params: Params<'_>) -> DbResult<u64>;
}

/// The schema that DBOS uses unless told otherwise, and that our SQL names.
pub(super) const SCHEMA: &str = "dbos";

/// The SQL for another schema.
pub(super) fn in_schema(sql: &str, schema: &str) -> String {
    if schema == SCHEMA { sql.to_owned() } else { sql.replace("dbos.", &format!("{}.", quoted(schema))) }
}

/// A name as an SQL identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The types of the parameters of statements that are sent whole. The server is asked once for each.
#[derive(Default)]
pub(super) struct Types(Mutex<HashMap<&'static str, Arc<[Type]>>>);

impl Types {
    /// Those of a statement, if they are known.
    pub(super) fn get(&self, statement: &Statement) -> Option<Arc<[Type]>> {
        lock(&self.0).get(statement.name).cloned()
    }

    pub(super) fn keep(&self, statement: &Statement, types: &Arc<[Type]>) {
        lock(&self.0).insert(statement.name, types.clone());
    }
}

/// Asks for the types of a statement's parameters in one request, which is one transaction and so one session. It leaves
/// no prepared statement behind there.
pub(super) fn ask_for_types(sql: &str) -> String {
    let name = format!("piton_{}", Uuid::now_v7().simple());
    format!(
        "PREPARE {name} AS {sql};
         SELECT array_to_string(parameter_types::oid[], ' ') FROM pg_prepared_statements WHERE name = '{name}';
         DEALLOCATE {name}"
    )
}

/// The server's answer to [`ask_for_types`].
pub(super) fn types_told(name: &'static str, told: &[SimpleQueryMessage]) -> DbResult<Arc<[Type]>> {
    let row = told.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let types: Option<Vec<Type>> =
        row.and_then(|row| row.split_whitespace().map(|oid| Type::from_oid(oid.parse().ok()?)).collect());
    types
        .map(Arc::from)
        .ok_or_else(|| trouble(name, "the server does not say of which types its parameters are"))
}

/// Each parameter with its type.
pub(super) fn typed<'p>(params: Params<'p>, types: &[Type]) -> Typed<'p> {
    params.iter().copied().zip(types.iter().cloned()).collect()
}

/// How the statements of one connection are sent.
pub(super) enum Manner {
    /// Prepared once.
    Prepared(HashMap<&'static str, postgres::Statement>),
    /// Whole each time.
    Whole(Arc<Types>),
}

impl Manner {
    pub(super) fn prepared() -> Self {
        Self::Prepared(HashMap::new())
    }
}

/// A blocking client, or its transaction, with its statements.
pub(super) struct Blocking<'s, C> {
    pub(super) client: &'s mut C,
    pub(super) manner: &'s mut Manner,
    pub(super) schema: &'s str,
}

impl<C: GenericClient> Blocking<'_, C> {
    fn prepared(&mut self, statement: &Statement) -> DbResult<Option<postgres::Statement>> {
        let Manner::Prepared(known) = self.manner else { return Ok(None) };
        if let Some(prepared) = known.get(statement.name) {
            return Ok(Some(prepared.clone()));
        }
        let sql = in_schema(statement.sql, self.schema);
        let prepared = self.client.prepare(&sql).map_err(|e| failed(statement.name, e))?;
        known.insert(statement.name, prepared.clone());
        Ok(Some(prepared))
    }

    fn whole(&mut self, statement: &Statement) -> DbResult<(String, Arc<[Type]>)> {
        let sql = in_schema(statement.sql, self.schema);
        let Manner::Whole(types) = self.manner else { return Ok((sql, Arc::default())) };
        if let Some(types) = types.get(statement) {
            return Ok((sql, types));
        }
        let told = self.client.simple_query(&ask_for_types(&sql)).map_err(|e| failed(statement.name, e))?;
        let told = types_told(statement.name, &told)?;
        types.keep(statement, &told);
        Ok((sql, told))
    }
}

impl<C: GenericClient> Session for Blocking<'_, C> {
    fn query(&mut self, statement: &Statement, params: Params<'_>) -> DbResult<Vec<Row>> {
        let done = if let Some(prepared) = self.prepared(statement)? {
            self.client.query(&prepared, params)
        } else {
            let (sql, types) = self.whole(statement)?;
            self.client.query_typed(&sql, &typed(params, &types))
        };
        done.map_err(|e| failed(statement.name, e))
    }

    fn execute(&mut self, statement: &Statement, params: Params<'_>) -> DbResult<u64> {
        let done = if let Some(prepared) = self.prepared(statement)? {
            self.client.execute(&prepared, params)
        } else {
            let (sql, types) = self.whole(statement)?;
            self.client.execute_typed(&sql, &typed(params, &types))
        };
        done.map_err(|e| failed(statement.name, e))
    }
}
