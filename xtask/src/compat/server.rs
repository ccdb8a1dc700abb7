//! A PostgreSQL server for the checks alone, made by the program `cluster` and gone with this process.

use std::cell::Cell;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, ensure};

use crate::cargo;

pub(super) struct Server {
    /// Lives as long as its standard input.
    keeper: Child,
    /// Of the database `postgres`.
    url: String,
    databases: Cell<u32>,
}

impl Server {
    pub(super) fn start() -> anyhow::Result<Self> {
        const KEEP: &str = "echo \"$DBOS_DATABASE_URL\"; exec cat";
        let cluster = cargo::build("cluster", "cluster", false)?;
        let mut keeper = Command::new(cluster)
            .args(["sh", "-c", KEEP])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the program cluster cannot be started")?;
        let mut url = String::new();
        if let Some(stdout) = keeper.stdout.take() {
            BufReader::new(stdout).read_line(&mut url)?;
        }
        ensure!(!url.is_empty(), "there is no PostgreSQL server for the checks; see above");
        Ok(Self { keeper, url: url.trim().to_owned(), databases: Cell::new(0) })
    }

    /// The URL of a database that is not there yet.
    pub(super) fn fresh_database(&self) -> String {
        let number = self.databases.get();
        self.databases.set(number + 1);
        self.url.replacen("/postgres?", &format!("/compat{number}?"), 1)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
