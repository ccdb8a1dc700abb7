//! An application for tests: its own directory, a clock that stands, and a side door to the tables. A test has a limit
//! from its first application on, and the helpers that wait have shorter ones of their own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use engine::testing::FakeClock;
use engine::{EngineOptions, Timestamp};

pub(crate) use engine::Result;
pub(crate) use watch::eventually;

use crate::backend::Database;
use crate::value::{FromValue, Params};
use crate::way::{self, Engine};

#[derive(Clone)]
pub(crate) struct App {
    pub(crate) database: Arc<Database>,
    pub(crate) clock: FakeClock,
}

/// Panics at every message, as a logger does that prints to a closed pipe. The whole suite runs under it. Without
/// the panic hook, so without noise. What it was told is kept, for [`logged`].
struct BadLogger;

/// What was logged before the panic, but for the details.
static LOGGED: Mutex<Vec<(log::Level, String)>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What was logged that contains this, by all tests of the process together.
pub(crate) fn logged(text: &str) -> Vec<String> {
    lines_with(text).into_iter().map(|(level, message)| format!("{level} {message}")).collect()
}

/// The levels of the same.
pub(crate) fn levels(text: &str) -> Vec<log::Level> {
    lines_with(text).into_iter().map(|(level, _)| level).collect()
}

fn lines_with(text: &str) -> Vec<(log::Level, String)> {
    lock(&LOGGED).iter().filter(|(_, message)| message.contains(text)).cloned().collect()
}

impl log::Log for BadLogger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.target().starts_with("engine") {
            if record.level() <= log::Level::Info {
                lock(&LOGGED).push((record.level(), record.args().to_string()));
            }
            std::panic::resume_unwind(Box::new("the logger panics"));
        }
    }

    fn flush(&self) {}
}

impl App {
    pub(crate) fn new() -> Self {
        if log::set_logger(&BadLogger).is_ok() {
            log::set_max_level(log::LevelFilter::Trace);
        }
        watch::test(watch::LIMIT);
        let clock = FakeClock::at(Timestamp::from_millis(1_767_225_600_000)); // 2026-01-01T00:00:00Z
        let app = Self { database: Arc::new(Database::new()), clock };
        let database = Arc::downgrade(&app.database);
        watch::shows(move || database.upgrade().map(|database| workflows_in(&database)).unwrap_or_default());
        app
    }

    pub(crate) fn url(&self) -> String {
        self.database.url()
    }

    /// With the clock that stands.
    pub(crate) fn options(&self) -> EngineOptions {
        Engine::options().app("test").clock(self.clock.clone())
    }

    pub(crate) fn open(&self) -> Engine {
        self.open_with(self.options())
    }

    pub(crate) fn open_with(&self, options: EngineOptions) -> Engine {
        way::opened(options.open(&self.url()).unwrap())
    }

    /// Statements, beside the engine.
    pub(crate) fn batch(&self, sql: &str) {
        self.database.batch(sql);
    }

    /// One statement with parameters `?1`, `?2`, ...; says how many rows changed.
    pub(crate) fn execute(&self, sql: &str, params: impl Params) -> usize {
        self.database.execute(sql, &params.values())
    }

    /// The first column of the only row.
    pub(crate) fn value<T: FromValue>(&self, sql: &str, params: impl Params) -> T {
        let mut values = self.column(sql, params);
        assert_eq!(values.len(), 1, "one row: {sql}");
        values.remove(0)
    }

    /// The first column of all rows.
    pub(crate) fn column<T: FromValue>(&self, sql: &str, params: impl Params) -> Vec<T> {
        self.database.column(sql, &params.values()).into_iter().map(T::from_value).collect()
    }

    /// What the log has said of this database.
    pub(crate) fn said(&self) -> Vec<String> {
        let label = self.database.label();
        [format!("{label}:"), format!("{label} ")].iter().flat_map(|label| logged(label)).collect()
    }

    pub(crate) fn status(&self, id: &str) -> String {
        self.value("SELECT status FROM workflow_status WHERE workflow_uuid = ?1", [id])
    }

    pub(crate) fn attempts(&self, id: &str) -> u32 {
        self.value("SELECT recovery_attempts FROM workflow_status WHERE workflow_uuid = ?1", [id])
    }

    /// Names of the recorded operations, in order.
    pub(crate) fn recorded(&self, id: &str) -> Vec<String> {
        let sql = "SELECT function_name FROM operation_outputs WHERE workflow_uuid = ?1 ORDER BY function_id";
        self.column(sql, [id])
    }

    /// Removes recorded steps, each of which is there.
    pub(crate) fn forget_steps(&self, id: &str, steps: &[u32]) {
        for step in steps {
            let sql = "DELETE FROM operation_outputs WHERE workflow_uuid = ?1 AND function_id = ?2";
            assert_eq!(self.execute(sql, (id, *step)), 1, "step {step} of {id}");
        }
    }

    /// As if the workflow's executor had died right after it had recorded this step.
    pub(crate) fn interrupt(&self, id: &str, after_step: u32) {
        self.interrupt_under("piton-dead", id, after_step);
    }

    pub(crate) fn interrupt_under(&self, executor: &str, id: &str, after_step: u32) {
        self.interrupt_without_trace(executor, id, after_step);
        self.database.leave_the_trace_of_a_dead_one(executor);
    }

    pub(crate) fn interrupt_without_trace(&self, executor: &str, id: &str, after_step: u32) {
        self.execute(
            "DELETE FROM operation_outputs WHERE workflow_uuid = ?1 AND function_id > ?2",
            (id, after_step),
        );
        self.execute("DELETE FROM workflow_output WHERE workflow_uuid = ?1", [id]);
        let changed = self.execute(
            "UPDATE workflow_status SET status = 'PENDING', executor_id = ?2, owner_xid = 'token-of-the-dead',
                    completed_at = NULL WHERE workflow_uuid = ?1",
            (id, executor),
        );
        assert_eq!(changed, 1);
    }
}

/// What tells why a test hangs.
fn workflows_in(database: &Database) -> String {
    let sql = "SELECT concat_ws(' ', 'workflow', workflow_uuid, name, status, 'of', owner_xid, attributes)
                 FROM workflow_status ORDER BY created_at LIMIT 20";
    let rows = database.column(sql, &[]);
    let lines: Vec<_> = rows.into_iter().map(|row| format!("  {}\n", String::from_value(row))).collect();
    lines.concat()
}

/// Counts the executions of a body.
#[derive(Clone, Default)]
pub(crate) struct Counter(Arc<AtomicUsize>);

impl Counter {
    /// Counts one and says how many there were before.
    pub(crate) fn count(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Where a body waits until the test lets it go.
#[derive(Clone, Default)]
pub(crate) struct Latch(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    arrived: usize,
    open: bool,
}

impl Latch {
    /// In the body: says that it is here and waits.
    pub(crate) fn hold(&self) {
        self.arrive();
        // As long as a test may take: what the test does meanwhile has limits of its own.
        self.wait_until("a latch to be opened", watch::LIMIT, |state| state.open);
    }

    /// Says that it is here, and goes on.
    pub(crate) fn arrive(&self) {
        let (state, changed) = &*self.0;
        state.lock().unwrap().arrived += 1;
        changed.notify_all();
    }

    /// In the test: waits until so many bodies are held or were.
    pub(crate) fn wait_for(&self, bodies: usize) {
        let what = format!("bodies at a latch, {bodies} of them");
        self.wait_until(&what, watch::PATIENCE, |state| state.arrived >= bodies);
    }

    pub(crate) fn open(&self) {
        let (state, changed) = &*self.0;
        state.lock().unwrap().open = true;
        changed.notify_all();
    }

    fn wait_until(&self, what: &str, within: Duration, is_so: impl Fn(&State) -> bool) {
        let _waiting = watch::waiting(what);
        let (state, changed) = &*self.0;
        let start = Instant::now();
        let mut state = state.lock().unwrap();
        while !is_so(&state) {
            let left = within.checked_sub(start.elapsed());
            let left =
                left.unwrap_or_else(|| panic!("waited {within:?} for {what}; {} have come", state.arrived));
            state = changed.wait_timeout(state, left).unwrap().0;
        }
    }
}
