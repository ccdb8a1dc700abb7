//! A database on the server of this test process, and a connection beside the engine's.

use engine::BoxError;
use engine::postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use engine::postgres::{self, Client, GenericClient, NoTls, Row};

use crate::value::{FromValue, Value};

pub(crate) struct Database {
    name: String,
}

/// How a transaction of the engine begins.
pub(crate) const BEGIN: &str = "BEGIN ISOLATION LEVEL SERIALIZABLE";

/// How a transaction step names the table of workflows.
pub(crate) const WORKFLOW_STATUS: &str = "dbos.workflow_status";

/// Attributes that are no JSON object.
pub(crate) const ODD_ATTRIBUTES: &[&str] = &["null", "[1]", "\"text\""];

/// Whether a column holds values of any type.
pub(crate) const ANY_TYPE: bool = false;

impl Database {
    pub(crate) fn new() -> Self {
        Self { name: cluster::shared().fresh_database() }
    }

    pub(crate) fn url(&self) -> String {
        cluster::shared().url(&self.name)
    }

    /// How the log calls it, at its end.
    pub(crate) fn label(&self) -> String {
        format!("/{}", self.name)
    }

    /// With everybody who is connected to it.
    pub(crate) fn drop_for_all(&self) {
        let mut client = Client::connect(&cluster::shared().url("postgres"), NoTls).unwrap();
        client.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name)).unwrap();
    }

    /// New tables are the application's.
    pub(crate) fn client(&self) -> Client {
        let mut client = Client::connect(&self.url(), NoTls).unwrap();
        client.batch_execute("SET search_path = public, dbos").unwrap();
        client
    }

    pub(crate) fn batch(&self, sql: &str) {
        self.client().batch_execute(sql).unwrap();
    }

    pub(crate) fn execute(&self, sql: &str, params: &[Value]) -> usize {
        execute(&mut self.client(), sql, params).unwrap()
    }

    pub(crate) fn column(&self, sql: &str, params: &[Value]) -> Vec<Value> {
        query(&mut self.client(), sql, params).unwrap().iter().map(value).collect()
    }

    pub(crate) fn exists(&self) -> bool {
        let mut client = Client::connect(&cluster::shared().url("postgres"), NoTls).unwrap();
        let found = client.query("SELECT 1 FROM pg_database WHERE datname = $1", &[&self.name]);
        !found.unwrap().is_empty()
    }

    fn count(&self, sql: &str) -> usize {
        usize::try_from(i64::from_value(self.column(sql, &[]).remove(0))).unwrap()
    }

    /// All messages get one time, as those of one millisecond do. For tables that are there.
    pub(crate) fn let_the_clock_of_messages_stand(&self) {
        drop(engine::Engine::options().open(&self.url()).unwrap());
        self.batch(
            "CREATE FUNCTION stand() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN NEW.created_at_epoch_ms := 1; RETURN NEW; END $$;
             CREATE TRIGGER stands BEFORE INSERT ON notifications FOR EACH ROW EXECUTE FUNCTION stand()",
        );
    }

    /// How many executors live or have died without leave.
    pub(crate) fn traces(&self) -> usize {
        self.count("SELECT count(*) FROM piton_executors")
    }

    pub(crate) fn living(&self) -> usize {
        self.count("SELECT count(*) FROM piton_executors WHERE lease_until >= clock_timestamp()")
    }

    pub(crate) fn remove_traces(&self) {
        self.batch("DELETE FROM piton_executors");
    }

    /// A lease that has run out.
    pub(crate) fn leave_the_trace_of_a_dead_one(&self, executor: &str) {
        self.execute(
            "INSERT INTO piton_executors
                    (executor_id, application_name, application_version, workflows, queues, lease_until)
             VALUES (?1, 'test', '1', '[]', '[]', '-infinity') ON CONFLICT DO NOTHING",
            &[executor.into()],
        );
    }
}

fn dollars(sql: &str) -> String {
    (1..=9).fold(sql.to_owned(), |sql, n| sql.replace(&format!("?{n}"), &format!("${n}")))
}

fn references(params: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    params.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
}

fn execute(client: &mut impl GenericClient, sql: &str, params: &[Value]) -> Result<usize, postgres::Error> {
    let changed = client.execute(&dollars(sql), &references(params))?;
    Ok(usize::try_from(changed).unwrap())
}

fn query(client: &mut impl GenericClient, sql: &str, params: &[Value]) -> Result<Vec<Row>, postgres::Error> {
    client.query(&dollars(sql), &references(params))
}

/// The first column of a row.
fn value(row: &Row) -> Value {
    match *row.columns()[0].type_() {
        Type::INT4 => row.get::<_, Option<i32>>(0).map(i64::from).into(),
        Type::INT8 => row.get::<_, Option<i64>>(0).into(),
        _ => row.get::<_, Option<String>>(0).into(),
    }
}

impl ToSql for Value {
    fn to_sql(&self, ty: &Type, out: &mut postgres::types::private::BytesMut) -> Result<IsNull, BoxError> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(number) if *ty == Type::INT4 => i32::try_from(*number)?.to_sql(ty, out),
            Self::Int(number) => number.to_sql(ty, out),
            Self::Text(text) if *ty == Type::JSONB => {
                // The version of its binary form.
                out.extend_from_slice(&[1]);
                text.to_sql(&Type::TEXT, out)
            }
            Self::Text(text) => text.to_sql(ty, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}
