//! A transaction step writes to your own table, in the engine's file, exactly once.
//!
//! The writes of the body and the record of the step are one commit. The process is killed twice: before that commit
//! there is no row, after it there is one, and there will never be two.
//!
//! Run it: `cargo run --bin transaction_step -p examples`

#![expect(clippy::pedantic, clippy::print_stdout, reason = "an example is plain code, and prints")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, thread};

use engine::rusqlite::Connection;
use engine::sql::SqlError;
use engine::{BoxError, Context, Engine, Result, Tx};

fn order(ctx: &mut Context, item: String) -> Result<i64> {
    let run = ctx.attempt();
    let id = ctx.transaction("insert", |tx| {
        let id = insert(tx, &item);
        die_if(run == 1, "row written, not committed");
        id
    })?;
    die_if(run == 2, "row and step committed");
    Ok(id)
}

fn insert(tx: &mut Tx<'_>, item: &str) -> Result<i64, SqlError> {
    tx.query_one("INSERT INTO orders (item) VALUES ($1) RETURNING id", [item])?.get("id")
}

/// Asks the other process to kill this one, and gets no further. Not part of a real program.
fn die_if(unlucky: bool, last_words: &str) {
    if unlucky {
        println!("{last_words}");
        loop {
            thread::park();
        }
    }
}

/// Every start of the program does this. A file with other tables is refused unless it is said to be shared.
fn place_order(file: &Path) -> Result<i64> {
    let engine = Engine::options().shared_with_application().open_file(file)?;
    let order = engine.register("order", order)?;
    engine.launch()?;
    order.start_as(&engine, "order-1", "book".to_owned())?.result()
}

fn main() -> Result<(), BoxError> {
    if let Some(file) = env::args().nth(1) {
        place_order(Path::new(&file))?;
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("shop.db");
    let table = Connection::open(&file)?;
    table.execute_batch("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT NOT NULL)")?;
    let rows = || table.query_row("SELECT count(*) FROM orders", [], |row| row.get::<_, u32>(0));

    for run in 1..=2 {
        let mut process = Command::new(env::current_exe()?).arg(&file).stdout(Stdio::piped()).spawn()?;
        let mut last_words = String::new();
        BufReader::new(process.stdout.take().ok_or("no pipe")?).read_line(&mut last_words)?;
        process.kill()?;
        process.wait()?;
        println!("run {run} killed: {}; rows: {}", last_words.trim_end(), rows()?);
    }
    println!("run 3 ended: order {}; rows: {}", place_order(&file)?, rows()?);
    Ok(())
}

// Output:
// run 1 killed: row written, not committed; rows: 0
// run 2 killed: row and step committed; rows: 1
// run 3 ended: order 1; rows: 1
