//! Finds the programs of PostgreSQL.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the directory, for servers in unusual places.
const VARIABLE: &str = "PITON_PG_BIN";

/// Where distributions put one directory for each version.
const VERSIONED: [&str; 3] = ["/usr/lib/postgresql", "/usr/local/lib/postgresql", "/opt/postgresql"];
const PLAIN: [&str; 3] = ["/usr/local/pgsql/bin", "/usr/local/bin", "/opt/homebrew/bin"];

/// The directory that holds the programs.
#[derive(Debug, Clone)]
pub(crate) struct Binaries(PathBuf);

impl Binaries {
    /// Finds the directory: by the environment, by `pg_config`, by the newest version of a distribution, or by the
    /// search path.
    pub(crate) fn find() -> io::Result<Self> {
        let has_all =
            |dir: &PathBuf| ["initdb", "pg_ctl", "postgres"].iter().all(|name| dir.join(name).is_file());
        if let Some(named) = std::env::var_os(VARIABLE) {
            let dir = PathBuf::from(named);
            let missing = || not_found(&format!("{VARIABLE} names {}, which has no initdb", dir.display()));
            return if has_all(&dir) { Ok(Self(dir)) } else { Err(missing()) };
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let candidates = versions().into_iter().chain(configured()).chain(PLAIN.map(PathBuf::from));
        let found = candidates.chain(std::env::split_paths(&path)).find(has_all);
        found.map(Self).ok_or_else(|| {
            not_found(&format!(
                "no PostgreSQL server was found (install one, or name its programs by {VARIABLE})"
            ))
        })
    }

    pub(crate) fn path(&self, program: &str) -> PathBuf {
        self.0.join(program)
    }
}

fn not_found(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, reason)
}

/// The versions, newest first.
fn versions() -> Vec<PathBuf> {
    let entries = VERSIONED.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
    let numbered = |path: PathBuf| {
        let version = path.file_name().and_then(OsStr::to_str)?.split('.').next()?.parse::<u32>().ok()?;
        Some((version, path.join("bin")))
    };
    let mut found: Vec<_> = entries.filter_map(|entry| numbered(entry.path())).collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

fn configured() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| Path::new(text.trim()).to_owned())
}
