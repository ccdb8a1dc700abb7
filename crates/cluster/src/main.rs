//! `cargo xtask pg -- CMD`: runs a command beside a server that is made for it and ends with it.

use std::process::{Command, ExitCode};

#[cfg(not(unix))]
fn main() -> ExitCode {
    eprintln!("pg: the server listens on a unix socket, and this system has none");
    ExitCode::from(3)
}

#[cfg(unix)]
fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let Some((program, rest)) = args.split_first() else {
        eprintln!("pg: name a command; it finds the URL of the server in DBOS_DATABASE_URL and DATABASE_URL");
        return ExitCode::from(2);
    };
    let cluster = match cluster::Cluster::start(&cluster::Settings::default()) {
        Ok(cluster) => cluster,
        Err(error) => {
            eprintln!("pg: {error}");
            return ExitCode::from(3);
        }
    };
    let url = cluster.url("postgres");
    let mut command = Command::new(program);
    command.args(rest).env("DBOS_DATABASE_URL", &url).env("DATABASE_URL", &url);
    // For programs of PostgreSQL, which know no URL.
    command.env("PGHOST", cluster.socket()).env("PGUSER", "postgres").env("PGDATABASE", "postgres");
    match command.status() {
        Ok(status) => {
            status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Err(error) => {
            eprintln!("pg: {} cannot be started: {error}", program.display());
            ExitCode::from(3)
        }
    }
}
