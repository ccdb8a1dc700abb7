//! The smallest durable program: a workflow of two steps.
//!
//! Each step runs, its outcome is recorded, and it never runs again. The workflow is started twice under one id: the
//! second start finds the first one's run.
//!
//! Run it: `cargo run --bin hello -p examples`

#![expect(clippy::pedantic, clippy::print_stdout, reason = "an example is plain code, and prints")]

use engine::{BoxError, Context, Engine, Result};

/// The workflow. Every effect on the world outside is in a step.
fn greet(ctx: &mut Context, name: String) -> Result<String> {
    let greeting = ctx.step("choose", |_| choose_greeting())?;
    ctx.step("say", |_| say(&greeting, &name))
}

fn choose_greeting() -> Result<String> {
    println!("choosing a greeting");
    Ok("Hello".to_owned())
}

fn say(greeting: &str, name: &str) -> Result<String> {
    println!("saying it to {name}");
    Ok(format!("{greeting}, {name}!"))
}

fn main() -> Result<(), BoxError> {
    // Your program keeps its file: `open("sqlite:hello.db")`.
    let dir = tempfile::tempdir()?;
    let engine = Engine::options().open_file(dir.path().join("hello.db"))?;
    let greet = engine.register("greet", greet)?;
    engine.launch()?;

    let first = greet.start_as(&engine, "greet-ada", "Ada".to_owned())?;
    println!("first start:  {}", first.result()?);

    let second = greet.start_as(&engine, "greet-ada", "Ada".to_owned())?;
    println!("second start: {}", second.result()?);
    Ok(())
}

// Output:
// choosing a greeting
// saying it to Ada
// first start:  Hello, Ada!
// second start: Hello, Ada!
