//! Piton beside other crates that link SQLite, and with the oldest `rusqlite` that its manifest allows.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::cargo::{cargo, root};
use crate::check::run;

/// The lower end of the range in the manifest of the workspace.
const RUSQLITE_MIN: &str = "0.39.0";

/// Builds and runs a program that uses sqlx as well. Its lock file has the oldest `rusqlite`, because sqlx needs it.
pub(crate) fn sqlx() -> anyhow::Result<()> {
    let manifest = root().join("xtask/beside/sqlx/Cargo.toml");
    let mut command = cargo();
    command.args(["run", "--quiet", "--manifest-path"]).arg(manifest);
    run(command.arg("--target-dir").arg(root().join("target/beside-sqlx")))
}

/// Runs the tests that touch SQLite with the oldest `rusqlite`, in a copy of the workspace with a lock file of its own.
pub(crate) fn oldest_rusqlite() -> anyhow::Result<()> {
    let copy = root().join("target/oldest-rusqlite/workspace");
    if copy.exists() {
        fs::remove_dir_all(&copy)?;
    }
    copy_sources(&root(), &copy)?;
    let in_copy = |args: &[&str]| {
        let mut command = cargo();
        command.current_dir(&copy).env("CARGO_TARGET_DIR", root().join("target/oldest-rusqlite"));
        run(command.args(args))
    };
    in_copy(&["update", "--package", "rusqlite", "--precise", RUSQLITE_MIN])?;
    in_copy(&["test", "--package", "store", "--package", "engine", "--lib", "--test", "conformance"])?;
    in_copy(&["test", "--package", "torture", "--test", "kills"])
}

/// Copies the sources: all files but built and hidden ones.
fn copy_sources(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "target" || name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy_sources(&entry.path(), &to.join(&name))?;
        } else {
            fs::copy(entry.path(), to.join(&name))?;
        }
    }
    Ok(())
}
