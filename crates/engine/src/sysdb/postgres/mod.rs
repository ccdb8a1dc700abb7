//! The system database on PostgreSQL: one connection that writes, a few that read, one that renews the lease, one that
//! hears what others did.
//!
//! A lone write is one round trip; what gathers meanwhile is one statement for each kind of write. Statements are
//! prepared once on each connection. A driver call blocks, so none is made inside an async runtime.

mod claims;
mod config;
mod connection;
mod connector;
mod lease;
mod manage;
mod messages;
mod news;
mod open;
mod pool;
mod reader;
mod schema;
mod steps;
mod transaction;
mod workflows;
mod writer;

pub(crate) use open::{Settings, open};
pub(crate) use transaction::{TransactionSteps, tries_max};
