//! A limit for each test, so that no test hangs. Beyond the limit the process says for what the test waits, and fails.
//!
//! ```
//! watch::test(watch::LIMIT); // the test on this thread; the helpers of a suite call it
//! let _waiting = watch::waiting("two bodies at the latch"); // said if the limit passes meanwhile
//! ```
//!
//! A thread cannot be ended from outside, so the whole process ends. Helpers that wait have shorter limits of their own,
//! and fail their test alone.

use std::cell::Cell;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// The limit of a test that takes seconds, on a machine that is busy with other work.
pub const LIMIT: Duration = Duration::from_secs(180);
/// The limit of a helper that waits: it fails long before the process has to end.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often the limits are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a look at the state of a test may take.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);
const UNKNOWN: &str = "  nothing that a helper knows: the end of a workflow, a process or a thread\n";
/// The exit code of the harness when a test has failed.
const FAILED: i32 = 101;

type Show = Arc<dyn Fn() -> String + Send + Sync>;

/// A test that runs.
struct Test {
    thread: ThreadId,
    name: String,
    ends_at: Instant,
    limit: Duration,
    shows: Vec<Show>,
}

/// A wait that has not ended.
struct Wait {
    number: u64,
    thread: ThreadId,
    since: Instant,
    what: String,
}

static TESTS: Mutex<Vec<Test>> = Mutex::new(Vec::new());
static WAITS: Mutex<Vec<Wait>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets the test of a thread when the thread ends: the harness runs each test on one of its own.
struct Leaves(Cell<bool>);

impl Drop for Leaves {
    fn drop(&mut self) {
        if self.0.get() {
            let this = thread::current().id();
            lock(&TESTS).retain(|test| test.thread != this);
        }
    }
}

thread_local! {
    static LEAVES: Leaves = const { Leaves(Cell::new(false)) };
}

/// Gives the test on this thread a limit, from now on. A second call keeps the later end. A thread without a name is no
/// test, and gets no limit.
pub fn test(limit: Duration) {
    static WATCHING: OnceLock<()> = OnceLock::new();
    let this = thread::current();
    let Some(name) = this.name() else { return };
    LEAVES.with(|leaves| leaves.0.set(true));
    let ends_at = Instant::now() + limit;
    let mut tests = lock(&TESTS);
    match tests.iter_mut().find(|test| test.thread == this.id()) {
        Some(test) if test.ends_at >= ends_at => {}
        Some(test) => (test.ends_at, test.limit) = (ends_at, limit),
        None => {
            let (name, shows) = (name.to_owned(), Vec::new());
            tests.push(Test { thread: this.id(), name, ends_at, limit, shows });
        }
    }
    drop(tests);
    WATCHING.get_or_init(|| {
        thread::spawn(watch);
    });
}

/// Sets a function that shows the state of the test on this thread. It is called when the limit has passed.
pub fn shows(show: impl Fn() -> String + Send + Sync + 'static) {
    let this = thread::current().id();
    if let Some(test) = lock(&TESTS).iter_mut().find(|test| test.thread == this) {
        test.shows.push(Arc::new(show));
    }
}

/// Names the wait of this thread, until it is dropped.
#[must_use = "the wait ends with it"]
pub struct Waiting(u64);

/// Names the wait of this thread from now on.
pub fn waiting(what: impl Into<String>) -> Waiting {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let (thread, since) = (thread::current().id(), Instant::now());
    lock(&WAITS).push(Wait { number, thread, since, what: what.into() });
    Waiting(number)
}

impl Drop for Waiting {
    fn drop(&mut self) {
        lock(&WAITS).retain(|wait| wait.number != self.0);
    }
}

/// Waits until `is_so` returns true, and looks every millisecond. Other threads and processes make it true.
///
/// # Panics
/// When it is not true within [`PATIENCE`].
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let _waiting = waiting(what);
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "not so within {PATIENCE:?}: {what}");
        thread::park_timeout(Duration::from_millis(1));
    }
}

/// Gives something the time to happen that must not happen: until `is_so` returns true, or a tenth of a second is over.
/// A test that finds nothing wrong cannot end sooner.
pub fn give_time(what: &str, mut is_so: impl FnMut() -> bool) {
    let _waiting = waiting(what);
    let start = Instant::now();
    while !is_so() && start.elapsed() < Duration::from_millis(100) {
        thread::park_timeout(Duration::from_millis(1));
    }
}

/// The body of the thread that looks at the limits.
fn watch() {
    loop {
        thread::park_timeout(LOOK_EVERY);
        let now = Instant::now();
        let tests = lock(&TESTS);
        let late = tests.iter().find(|test| test.ends_at <= now).map(|late| report(late, &tests));
        drop(tests);
        if let Some((report, shows)) = late {
            let shown: String = shows.into_iter().map(shown).collect();
            end(&format!("\n{report}{shown}"));
        }
    }
}

/// The known state of a test without asking it: its own waits, and the waits of threads without a test.
fn report(test: &Test, all: &[Test]) -> (String, Vec<Show>) {
    let waits: Vec<String> = lock(&WAITS)
        .iter()
        .filter(|wait| wait.thread == test.thread || all.iter().all(|other| other.thread != wait.thread))
        .map(|wait| format!("  {} (since {:.0} s)\n", wait.what, wait.since.elapsed().as_secs_f64()))
        .collect();
    let waits = if waits.is_empty() { UNKNOWN.to_owned() } else { waits.concat() };
    let report = format!(
        "{} did not end within {:?}, so its process ends. It waits for:\n{waits}",
        test.name, test.limit
    );
    (report, test.shows.clone())
}

/// The shown state of a test, if it can be had: the test's function may hang, too.
fn shown(show: Show) -> String {
    let (sender, receiver) = channel();
    thread::spawn(move || sender.send(show()));
    receiver.recv_timeout(SHOWN_WITHIN).unwrap_or_else(|_| "its state cannot be read\n".to_owned())
}

/// This goes past the capture of test output.
#[expect(clippy::disallowed_methods, reason = "a test that hangs has no other end")]
fn end(report: &str) -> ! {
    let _ = std::io::stderr().write_all(report.as_bytes());
    std::process::exit(FAILED)
}
