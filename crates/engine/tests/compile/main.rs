//! What users write compiles, and runs; what they must not write is refused by the compiler in words that help.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod asynchronous;
mod plain;
mod refused;

use engine::{Engine, Workflow};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A file of a test alone.
struct App {
    dir: tempfile::TempDir,
}

/// What `?` of users meets.
#[derive(Debug, thiserror::Error)]
#[error("{0} is odd")]
struct Odd(u32);

fn half(n: u32) -> Result<u32, Odd> {
    if n.is_multiple_of(2) { Ok(n / 2) } else { Err(Odd(n)) }
}

fn number(text: &str) -> anyhow::Result<u32> {
    anyhow::ensure!(!text.is_empty(), "no number");
    Ok(text.parse()?)
}

impl App {
    fn new() -> Self {
        watch::test(watch::LIMIT);
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn open(&self) -> Engine {
        Engine::options().open_file(self.dir.path().join("compile.db")).unwrap()
    }
}

/// What a run of it returns.
fn result<I, O>(engine: &Engine, workflow: &Workflow<I, O>, input: I) -> engine::Result<O>
where
    I: Serialize + DeserializeOwned,
    O: DeserializeOwned,
{
    workflow.start(engine, input).unwrap().result()
}

/// What it says when it fails.
fn failure<I, O>(engine: &Engine, workflow: &Workflow<I, O>, input: I) -> String
where
    I: Serialize + DeserializeOwned,
    O: DeserializeOwned,
{
    result(engine, workflow, input).map(drop).unwrap_err().to_string()
}
