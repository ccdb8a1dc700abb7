//! The limits of the engine, by name. Crossing a limit is a clear error, never a panic or a cut value. Only the texts
//! of errors are cut.

use std::time::Duration;

/// The longest workflow id, workflow name or step name, in bytes. The shortest is one byte; NUL is refused.
pub const NAME_BYTES_MAX: usize = 255;

/// The largest encoded input, output, error or message, in bytes (16 MiB).
pub const PAYLOAD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How many levels a recorded value may have. Each list, map, struct, tuple, variant with contents, `Some` and newtype
/// is a level. Writing and reading recurse, so a deeper value could use up the stack.
pub const VALUE_DEPTH_MAX: usize = 256;

/// The longest text of an error with its causes, in bytes. Below it, how many causes are looked at: their chain may be
/// a ring.
pub(crate) const ERROR_TEXT_BYTES_MAX: usize = 1024 * 1024;
pub(crate) const CAUSES_MAX: usize = 64;

/// How many different failures of one step are kept while it is tried, and the most characters of their texts together.
pub(crate) const ATTEMPT_KINDS_MAX: usize = 8;
pub(crate) const ATTEMPTS_CHARS_MAX: usize = 1 << 20;

/// How many writes one commit takes at most.
pub(crate) const BATCH_WRITES_MAX: usize = 512;

/// How many recorded steps one query of a history reads.
pub(crate) const HISTORY_PAGE_ROWS: u32 = 1000;

/// How many plain workflows run at once, unless [`crate::EngineOptions::workers_max`] says otherwise.
pub(crate) const WORKERS_MAX: usize = 256;

/// How many async workflows run at once unless [`crate::EngineOptions::tasks_max`] says otherwise.
#[cfg(feature = "tokio")]
pub(crate) const TASKS_MAX: usize = 10_000;

/// How many threads make the blocking calls of tasks.
#[cfg(feature = "tokio")]
pub(crate) const ERRANDS_MAX: usize = 16;

/// How many workflows one claim takes at most: several processes share a backlog.
pub(crate) const CLAIM_MAX: usize = 128;

/// How much of the pasts of one claim is read at once, in rows and in bytes. A workflow whose past lies beyond reads it
/// by itself, page by page.
pub(crate) const PASTS_ROWS_MAX: usize = 20_000;
pub(crate) const PASTS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Stack of a workflow's thread unless [`crate::EngineOptions::stack_bytes`] says otherwise. Only touched pages
/// take memory.
pub(crate) const STACK_BYTES: usize = 2 * 1024 * 1024;

/// How long an idle worker thread lives.
pub(crate) const WORKER_KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How long a workflow may wait on its thread before it leaves the thread.
pub(crate) const SUSPEND_AFTER: Duration = Duration::from_secs(5);

/// How often a workflow is recovered, unless [`crate::WorkflowOptions`] says otherwise.
pub(crate) const RECOVERY_ATTEMPTS_MAX: u32 = 100;

/// How long a workflow waits for a program that knows its name, before it ends with an error that says so. A program
/// that is started again, or replaced by a new build, is away for a while.
pub(crate) const UNKNOWN_AFTER: Duration = Duration::from_secs(30);

/// How often the fleet looks for executors that have work but no trace. An executor counts as dead after two such looks
/// in a row, because a living one puts its trace back.
pub(crate) const TRACELESS_EVERY: Duration = Duration::from_secs(1);

/// The time within which the workflows of a dead executor go on elsewhere, where leases tell which executors live.
pub(crate) const TAKEOVER_WITHIN: Duration = Duration::from_secs(5);
pub(crate) const TAKEOVER_WITHIN_MIN: Duration = Duration::from_secs(1);

/// How often the fleet looks for dead executors, where it looks at files.
#[cfg(feature = "sqlite")]
pub(crate) const SWEEP_EVERY: Duration = Duration::from_millis(250);

/// How many workflows whose wait ended unnoticed are woken in one commit.
pub(crate) const FULFILLED_AT_ONCE: usize = 1000;

/// How many workflows that wait until a time are noted by the steady clock, in the process that suspended them.
pub(crate) const DUE_NOTES_MAX: usize = 100_000;

/// How far the wall clock may be behind the steady clock before it counts as set back.
pub(crate) const WALL_CLOCK_LAG: Duration = Duration::from_millis(200);

/// The shortest time between two questions whether a wait without a thread has ended unnoticed.
pub(crate) const FULFILLED_EVERY_MIN: Duration = Duration::from_secs(1);

/// The shortest time between two looks at all waiting workflows: for workflows that no executor can take up, and for
/// circles. Below it, how soon the log repeats itself when only a count has changed.
pub(crate) const CENSUS_EVERY: Duration = Duration::from_secs(10);
pub(crate) const SAID_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How many waits for other workflows a look for circles reads.
pub(crate) const WAITS_MAX: u32 = 10_000;

/// How often the fleet looks for changes of other processes: at the shorter time after a change, else at the longer.
pub(crate) const POLL_MIN: Duration = Duration::from_millis(2);
pub(crate) const POLL_MAX: Duration = Duration::from_millis(25);

/// The waits between two tries of a commit that may yet succeed (a busy, full or failing disk).
pub(crate) const COMMIT_RETRY_MIN: Duration = Duration::from_millis(2);
pub(crate) const COMMIT_RETRY_MAX: Duration = Duration::from_secs(1);

/// After a pause as long as this, a batch that has failed every time is tried in halves.
pub(crate) const WHOLE_BATCH_PAUSE: Duration = Duration::from_millis(64);

/// How long a call from outside waits for a database that does not answer. It goes by the engine's steady clock, which
/// a test moves. Workflows wait without a limit.
pub(crate) const CALL_WITHIN: Duration = Duration::from_secs(30);

/// How often the body of a transaction step runs at most in one attempt, when its own disk or connection may be at
/// fault:
/// - the body says that the disk is full or fails, or that a connection is gone;
/// - the body took longer than its transaction may;
/// - the body panicked when the transaction was lost.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) const BODY_TRIES_MAX: u32 = 10;

/// The waits before a workflow is tried again whose writes the database refused for good, or that found no thread.
pub(crate) const REFUSED_RETRY_MIN: Duration = Duration::from_secs(1);
pub(crate) const REFUSED_RETRY_MAX: Duration = Duration::from_secs(60);

/// How long [`crate::Engine`] waits for running steps when it is dropped without a shutdown.
pub(crate) const DROP_DEADLINE: Duration = Duration::from_secs(5);

/// How long a shutdown waits at least for each thread of the engine's own.
pub(crate) const SERVICE_GRACE: Duration = Duration::from_millis(250);

/// For how many things at once a workflow can wait without memory. A workflow with more waits stays in memory.
pub(crate) const WAITS_MARKED_MAX: usize = 16;

/// How many waits of workflows for others are followed to find a circle.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) const WAITS_LOOKED_AT: i64 = 1000;

/// How often ids in a line of children may be hashed. Each time they begin anew with a hash. So children with ids of
/// the engine are at most this many times about 100 levels deep, or 20 where step ids have ten digits.
pub(crate) const HASHED_IDS_MAX: u32 = 100;

/// How long a shutdown waits at most until the other executors know that this process leaves.
pub(crate) const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// How many children deep one thread runs workflows inline: each level takes stack.
pub(crate) const INLINE_DEPTH_MAX: usize = 64;

/// How long the engine tries to open a database that other processes bring up or hold.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) const BRING_UP_WITHIN: Duration = Duration::from_secs(10);

/// How long the opening of a database on a server takes at most, from the login on.
#[cfg(feature = "postgres")]
pub(crate) const OPEN_WITHIN: Duration = Duration::from_secs(120);

/// How long the engine waits for a program that migrates a database of many rows.
#[cfg(feature = "postgres")]
pub(crate) const MIGRATION_WITHIN: Duration = Duration::from_secs(60);

/// The largest file that is checked whole for damage when it is opened. In a larger file only one row of each table is
/// read, because a full check reads every page.
#[cfg(feature = "sqlite")]
pub(crate) const FULL_CHECK_BYTES_MAX: u64 = 16 * 1024 * 1024;
