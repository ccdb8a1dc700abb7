//! Two processes, one file: when one dies, the other goes on with its work.
//!
//! This process runs. Another process starts a workflow and is killed (SIGKILL) in the middle of its second step. This
//! process notices and takes the workflow over; no restart is needed. The recorded step does not run again, the other
//! does.
//!
//! Run it: `cargo run --bin two_processes -p examples`

#![expect(clippy::pedantic, clippy::print_stdout, reason = "an example is plain code, and prints")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::{env, thread};

use engine::{BoxError, Context, Engine, Result, Workflow};

fn import(ctx: &mut Context, file: String) -> Result<String> {
    let rows = ctx.step("download", |_| download(&file))?;
    let first_run = ctx.attempt() == 1;
    ctx.step("store", |_| store(rows, first_run))
}

fn download(file: &str) -> Result<u32> {
    println!("downloading {file}");
    Ok(3)
}

fn store(rows: u32, hangs: bool) -> Result<String> {
    println!("storing {rows} rows");
    if hangs {
        loop {
            thread::park(); // until the process is killed
        }
    }
    Ok(format!("{rows} rows stored"))
}

/// Every process does this: it opens the same file and registers the same workflows.
fn launch(url: &str) -> Result<(Engine, Workflow<String, String>)> {
    let engine = Engine::options().open(url)?;
    let import = engine.register("import", import)?;
    engine.launch()?;
    Ok((engine, import))
}

fn main() -> Result<(), BoxError> {
    if let Some(url) = env::args().nth(1) {
        let (engine, import) = launch(&url)?;
        import.start_as(&engine, "import-1", "users.csv".to_owned())?.result()?;
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let url = format!("sqlite:{}", dir.path().join("import.db").display());
    let (engine, _) = launch(&url)?;

    let mut other = Command::new(env::current_exe()?).arg(&url).stdout(Stdio::piped()).spawn()?;
    for line in BufReader::new(other.stdout.take().ok_or("no pipe")?).lines().take(2) {
        println!("other process: {}", line?);
    }
    other.kill()?;
    other.wait()?;
    println!("other process: killed");

    println!("{}", engine.retrieve::<String>("import-1")?.result()?);
    Ok(())
}

// Output:
// other process: downloading users.csv
// other process: storing 3 rows
// other process: killed
// storing 3 rows
// 3 rows stored
