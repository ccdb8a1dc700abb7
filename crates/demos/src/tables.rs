//! The users in the system database, for steps whose effect and record are one commit.

use engine::{BoxError, Context, Result, StepInfo, StepOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{Key, Users};

/// Where that table is.
#[derive(Debug, Clone)]
pub struct SystemTables {
    /// Its name on a server; in a file it is `users`.
    pub(crate) on_server: Option<String>,
    pub(crate) key: Key,
}

impl SystemTables {
    /// A transaction step on the table.
    ///
    /// # Errors
    /// As [`Context::transaction`].
    pub fn transaction<T, E>(
        &self,
        ctx: &mut Context,
        name: &str,
        mut body: impl FnMut(&Users<'_>) -> Result<T, E>,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
    {
        self.transaction_with(ctx, name, &StepOptions::new(), |users, _| body(users))
    }

    /// The same with retries.
    ///
    /// # Errors
    /// As [`Context::transaction_with`].
    pub fn transaction_with<T, E>(
        &self,
        ctx: &mut Context,
        name: &str,
        options: &StepOptions,
        mut body: impl FnMut(&Users<'_>, &StepInfo<'_>) -> Result<T, E>,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
    {
        match &self.on_server {
            Some(table) => ctx.pg_transaction_with(name, options, |tx, step| {
                body(&Users::on_postgres(tx, table, self.key), step)
            }),
            None => ctx.transaction_with(name, options, |tx, step| body(&Users::new(tx, self.key), step)),
        }
    }
}
