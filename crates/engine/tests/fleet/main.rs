//! What PostgreSQL alone is asked for: how often, what happens when it does not answer, who tells whom, and how its tables
//! come to be there.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod bring_up;
mod heard;
mod in_flight;
mod leases;
mod lost_answers;
mod outages;
mod own_connections;
mod pooled;
mod round_trips;
mod silence;
mod support;
mod transactions;
mod waking;
