//! Builds programs of the workspace, and finds them where cargo puts them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Builds one program and returns its path, which `CARGO_TARGET_DIR` and the configuration may change. Cargo's messages
/// go to stderr.
pub(crate) fn build(package: &str, program: &str, release: bool) -> anyhow::Result<PathBuf> {
    let mut command = cargo();
    command.args([
        "build",
        "--package",
        package,
        "--bin",
        program,
        "--message-format=json-render-diagnostics",
    ]);
    if release {
        command.arg("--release");
    }
    let built = command.stderr(Stdio::inherit()).output().context("cargo cannot be started")?;
    if !built.status.success() {
        bail!("{program} cannot be built");
    }
    let messages = String::from_utf8_lossy(&built.stdout);
    let path =
        messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|message| {
            let ours = message["reason"] == "compiler-artifact" && message["target"]["name"] == program;
            message["executable"].as_str().filter(|_| ours).map(PathBuf::from)
        });
    path.with_context(|| format!("cargo does not say where it put {program}"))
}

/// The path of this program. The file that this process runs may be gone: tests build it anew, with other features.
pub(crate) fn xtask() -> anyhow::Result<PathBuf> {
    build("xtask", "xtask", false)
}

/// Builds a program for speed and becomes it, as far as the caller can tell.
pub(crate) fn hand_over(name: &str, first: &[OsString], rest: &[OsString]) -> anyhow::Result<ExitCode> {
    let program = build(name, name, true)?;
    let status = Command::new(program).args(first).args(rest).status()?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
