//! A workflow starts others and waits for them all.
//!
//! Children run beside each other, each on a thread, each with an id, a record and a recovery of its own. One
//! more runs inline, on its parent's thread: less to write, nothing at the same time.
//!
//! Run it: `cargo run --bin child_fan_out -p examples`

#![expect(clippy::pedantic, clippy::print_stdout, reason = "an example is plain code, and prints")]

use engine::{BoxError, Context, Engine, Result, Workflow, WorkflowFilter};

/// The parent. It takes the registered child as an argument; `main` binds it.
fn count_book(ctx: &mut Context, count: &Workflow<String, usize>, pages: Vec<String>) -> Result<usize> {
    // Start all of them before waiting for the first.
    let children = pages.into_iter().map(|page| ctx.start(count, page)).collect::<Result<Vec<_>>>()?;
    let words: usize = children.iter().map(|child| child.result(ctx)).sum::<Result<_>>()?;

    let title = ctx.run(count, "The Raven".to_owned())?;
    Ok(title + words)
}

/// The child.
fn count_page(ctx: &mut Context, page: String) -> Result<usize> {
    ctx.step("count", |_| Ok::<_, BoxError>(page.split_whitespace().count()))
}

fn main() -> Result<(), BoxError> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("books.db");

    let engine = Engine::options().open_file(&file)?;
    let count = engine.register("count_page", count_page)?;
    let count_book =
        engine.register("count_book", move |ctx: &mut Context, pages| count_book(ctx, &count, pages))?;
    engine.launch()?;

    let pages = ["Once upon a midnight dreary,", "while I pondered,", "weak and weary"];
    let book = count_book.start_as(&engine, "raven", pages.map(str::to_owned).to_vec())?;
    println!("{} words", book.result()?);

    // The id of a child says who started it, and in which step.
    for child in engine.list(&WorkflowFilter::new().parent(book.id().clone()))? {
        println!("{} {}: {}", child.name, child.id, child.output.unwrap_or_default());
    }
    Ok(())
}

// Output:
// 13 words
// count_page raven-1: 5
// count_page raven-2: 3
// count_page raven-3: 3
// count_page raven-7: 2
