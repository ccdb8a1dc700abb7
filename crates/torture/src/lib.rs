//! Torture: real processes, killed for real, and an audit of what they leave.
//!
//! A **worker** is a process that runs workflows of every kind. It writes two ledgers outside the database: which
//! starts were acknowledged to it (on its standard output), and which step bodies ran and which outcomes the
//! workflows saw (in a file that all workers append to). The **judge** starts workers, kills them, lets the last
//! one finish, and has the **audit** compare the ledgers with the tables.

mod async_workload;
pub mod audit;
pub mod database;
pub mod judge;
pub mod kinds;
pub mod ledger;
pub mod points;
pub mod worker;
pub mod workload;
