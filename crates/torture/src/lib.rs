//! Torture: real processes, killed for real, and an audit of the rows they leave.
//!
//! A **worker** is a process that runs workflows of every kind. It writes two ledgers outside the database. Its
//! standard output has the acknowledged starts. A file to which all workers append has the step bodies that ran and the
//! outcomes that workflows saw.
//!
//! The **judge** starts workers, kills them, and lets the last one finish. Then the **audit** compares the ledgers with
//! the tables.

mod async_at_once;
mod async_workload;
mod at_once;
pub mod audit;
pub mod database;
pub mod judge;
pub mod kinds;
pub mod ledger;
pub mod points;
pub mod records;
pub mod worker;
pub mod workload;
