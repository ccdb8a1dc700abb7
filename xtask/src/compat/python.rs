//! The official package: its environment, the scripts in `xtask/compat`, its command line.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::program::Program;
use super::seen;
use crate::cargo;

/// The version whose schema the engine writes.
pub(super) const PACKAGE: &str = "dbos==3.4.0";
/// The last version of the package with an older schema, 108.
pub(super) const OLDER_PACKAGE: &str = "dbos==2.31.1";
/// The package's driver for PostgreSQL, with the client library of PostgreSQL in it.
const DRIVER: &str = "psycopg[binary]";

/// A virtual environment.
pub(super) struct Python {
    bin: PathBuf,
}

impl Python {
    /// An environment with the package, made once.
    pub(super) fn environment(python: &Path, venv: &Path, package: &str) -> anyhow::Result<Self> {
        let this = Self { bin: venv.join("bin") };
        let version = package.rsplit('=').next().unwrap_or_default();
        let probe = format!(
            "import psycopg, importlib.metadata as m; assert m.version('dbos') == '{version}', m.version('dbos')"
        );
        let has_it =
            || this.command("python").args(["-c", &probe]).output().is_ok_and(|o| o.status.success());
        if !has_it() {
            println!("making a virtual environment with {package} in {}", venv.display());
            succeed(Command::new(python).args(["-m", "venv"]).arg(venv))?;
            succeed(this.command("python").args(["-m", "pip", "install", "--quiet", package, DRIVER]))?;
        }
        Ok(this)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        // The output is read by this program: no colours, no warnings of versions.
        command.env_remove("DBOS_DATABASE_URL").env("NO_COLOR", "1");
        command
    }

    fn script_command(&self, name: &str, url: &str, args: &[&str]) -> Command {
        let mut command = self.command("python");
        command.arg(cargo::root().join("xtask/compat").join(name)).arg(url).args(args);
        command
    }

    /// The output of a script in `xtask/compat`.
    pub(super) fn script(&self, name: &str, url: &str, args: &[&str]) -> anyhow::Result<String> {
        succeed(&mut self.script_command(name, url, args))
    }

    /// The rows of a statement.
    pub(super) fn sql(&self, url: &str, statement: &str) -> anyhow::Result<Value> {
        seen::json(&self.script("sql.py", url, &[statement])?)
    }

    /// Waits until a statement returns these rows. Returns them, or an error if it does not come to that.
    pub(super) fn rows_become(
        &self,
        what: &str,
        url: &str,
        statement: &str,
        expected: &Value,
    ) -> anyhow::Result<()> {
        let until = expected.to_string();
        let rows = self.script("sql.py", url, &[statement, "--until", &until])?;
        seen::same(what, &seen::json(&rows)?, expected)
    }

    /// A worker of the official package, ready to run workflows.
    pub(super) fn worker(&self, url: &str) -> anyhow::Result<Program> {
        Program::start(&mut self.script_command("python_worker.py", url, &["--app", "python"]))
    }

    /// `enqueue_portable.py`: enqueues a workflow, waits for it, prints its outcome.
    pub(super) fn enqueue(&self, url: &str, args: &[&str]) -> anyhow::Result<Value> {
        seen::json(&self.script("enqueue_portable.py", url, args)?)
    }

    /// `dbos workflow ...`, whose output is JSON, or empty.
    pub(super) fn dbos_workflow(&self, url: &str, args: &[&str]) -> anyhow::Result<Value> {
        let said = succeed(self.command("dbos").arg("workflow").args(args).args(["-s", url]))?;
        // Some of its warnings go to standard output, before the result.
        match said.lines().rev().find(|line| line.starts_with(['[', '{'])) {
            Some(line) => seen::json(line),
            None => Ok(Value::Null),
        }
    }

    /// `dbos migrate`: creates the tables, or brings them up.
    pub(super) fn migrate(&self, url: &str) -> anyhow::Result<()> {
        succeed(self.command("dbos").args(["migrate", "-s", url])).map(drop)
    }
}

/// The standard output of a command, or an error with all its output.
pub(super) fn succeed(command: &mut Command) -> anyhow::Result<String> {
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("{} cannot be started", command.get_program().display()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !status.success() {
        bail!("{command:?} failed:\n{}{}", text(&stdout), text(&stderr));
    }
    Ok(text(&stdout))
}

/// The standard error of a command that refuses.
pub(super) fn refuse(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output()?;
    ensure!(!output.status.success(), "expected {command:?} to be refused, but it succeeded");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}
