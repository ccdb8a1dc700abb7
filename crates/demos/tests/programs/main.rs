//! The examples as their users meet them: real processes, real crashes, real signals.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

mod chaos;
mod mistakes;
mod outcomes;
mod output;
mod profile;
mod restarts;
mod servers;
mod signals;
