//! Compares a result with the expected one.

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// Prints the result; an error if it is not the expected one.
pub(super) fn same(what: &str, seen: &Value, expected: &Value) -> anyhow::Result<()> {
    ensure!(seen == expected, "{what}: expected {expected}, seen {seen}");
    println!("{what}: {seen}");
    Ok(())
}

/// Prints a text; an error if it does not contain the expected one.
pub(super) fn contains(what: &str, seen: &str, expected: &str) -> anyhow::Result<()> {
    ensure!(seen.contains(expected), "{what}: expected a text with {expected:?}, seen {seen:?}");
    println!("{what}: {}", seen.trim());
    Ok(())
}

/// These fields of an object, as an object.
pub(super) fn fields(object: &Value, names: &[&str]) -> Value {
    names.iter().map(|name| ((*name).to_owned(), object[*name].clone())).collect()
}

/// The output of a program, as JSON.
pub(super) fn json(text: &str) -> anyhow::Result<Value> {
    serde_json::from_str(text).with_context(|| format!("expected JSON, seen {text:?}"))
}
