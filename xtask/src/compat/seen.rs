//! What was seen, and whether that is what is to be seen.

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// Says what was seen; an error if it is something else.
pub(super) fn same(what: &str, seen: &Value, expected: &Value) -> anyhow::Result<()> {
    ensure!(seen == expected, "{what}: expected {expected}, seen {seen}");
    println!("{what}: {seen}");
    Ok(())
}

/// The same for a text that is to contain another.
pub(super) fn contains(what: &str, seen: &str, expected: &str) -> anyhow::Result<()> {
    ensure!(seen.contains(expected), "{what}: expected a text with {expected:?}, seen {seen:?}");
    println!("{what}: {}", seen.trim());
    Ok(())
}

/// These fields of an object, as an object.
pub(super) fn fields(object: &Value, names: &[&str]) -> Value {
    names.iter().map(|name| ((*name).to_owned(), object[*name].clone())).collect()
}

/// What a program printed.
pub(super) fn json(text: &str) -> anyhow::Result<Value> {
    serde_json::from_str(text).with_context(|| format!("expected JSON, seen {text:?}"))
}
