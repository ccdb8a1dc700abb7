//! Who lives, told by leases on the server's clock: each executor renews a row of its own.
//!
//! A lease says when others may take over. The token of each claim keeps the two from both writing. So a process that
//! was stopped for longer than its lease loses its workflows and nothing else.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use postgres::Row;

use super::claims;
use super::connection::{Connection, Params, Statement, column, gone, trouble};
use super::connector::{Connector, Purpose};
use super::news::News;
use super::pool::Pool;
use super::trouble::is_silence;
use crate::pure::clock::Stopwatch;
use crate::pure::error::{Error, Result};
use crate::pure::id::ExecutorId;
use crate::pure::limits::CENSUS_EVERY;
use crate::pure::sync::{Signal, contained, lock, say};
use crate::sysdb::outage::{Outage, Part};
use crate::sysdb::{DbResult, Liveness, Membership};

/// Renews the lease, looks whether there is anything to do, and whether the lease had run out: the one statement of an
/// idle executor.
///
/// $1 executor, $2 application, $3 version, $4 workflows it can run, $5 host, $6 process, $7 seconds that the lease
/// lasts, $8 queues
const BEAT: Statement = Statement {
    name: "beat",
    sql: "
        WITH beat AS (
             INSERT INTO dbos.piton_executors
                    (executor_id, application_name, application_version, workflows, queues, host, pid, lease_until)
             VALUES ($1, $2, $3, to_jsonb($4::text[]), to_jsonb($8::text[]), $5, $6,
                     clock_timestamp() + make_interval(secs => $7))
                 ON CONFLICT (executor_id) DO UPDATE SET lease_until = excluded.lease_until)
        SELECT EXISTS (SELECT 1 FROM dbos.workflow_status
                        WHERE status = 'ENQUEUED' AND status IN ('ENQUEUED', 'PENDING') AND queue_name = ANY ($8)
                          AND (application_name = $2 OR application_name IS NULL)
                          AND (application_version = $3 OR application_version IS NULL)),
               EXISTS (SELECT 1 FROM dbos.piton_executors
                        WHERE lease_until < clock_timestamp() AND executor_id <> $1)
            OR EXISTS (SELECT 1 FROM dbos.workflow_status WHERE status = 'DELAYED')
            OR EXISTS (SELECT 1 FROM dbos.workflow_status s
                        WHERE status = 'PENDING' AND starts_with(executor_id, 'piton-')
                          AND (executor_id = $1
                               OR NOT EXISTS (SELECT 1 FROM dbos.piton_executors e
                                               WHERE e.executor_id = s.executor_id))),
               NOT EXISTS (SELECT 1 FROM dbos.piton_executors
                            WHERE executor_id = $1 AND lease_until >= clock_timestamp()),
               EXISTS (SELECT 1 FROM dbos.workflow_status
                        WHERE status = 'ENQUEUED' AND status IN ('ENQUEUED', 'PENDING'))",
};

/// None while the server has just started: leases ran out while it was away. $1 seconds
const DEAD: Statement = Statement {
    name: "dead_executors",
    sql: "
        SELECT executor_id FROM dbos.piton_executors
         WHERE lease_until < clock_timestamp()
           AND pg_postmaster_start_time() < clock_timestamp() - make_interval(secs => $1)",
};

/// $1 executors
const WITHOUT_TRACE: Statement = Statement {
    name: "executors_without_trace",
    sql: "
        SELECT id FROM unnest($1::text[]) AS a (id)
         WHERE NOT EXISTS (SELECT 1 FROM dbos.piton_executors WHERE executor_id = id)",
};

/// Not while a workflow is left to take over, and not an executor that lives again. $1 executor
const FORGET: Statement = Statement {
    name: "forget_executor",
    sql: "
        DELETE FROM dbos.piton_executors
         WHERE executor_id = $1 AND lease_until < clock_timestamp()
           AND NOT EXISTS (SELECT 1 FROM dbos.workflow_status WHERE status = 'PENDING' AND executor_id = $1)",
};

/// $1 executor
const LEAVE: Statement =
    Statement { name: "leave", sql: "DELETE FROM dbos.piton_executors WHERE executor_id = $1" };

/// $1 executor
const EXPIRE: Statement = Statement {
    name: "expire",
    sql: "UPDATE dbos.piton_executors SET lease_until = '-infinity' WHERE executor_id = $1",
};

const MEMBERS: Statement = Statement {
    name: "members",
    sql: "
        SELECT application_name, application_version,
               ARRAY (SELECT jsonb_array_elements_text(workflows)), ARRAY (SELECT jsonb_array_elements_text(queues))
          FROM dbos.piton_executors
         WHERE lease_until >= clock_timestamp()
           AND jsonb_typeof(workflows) = 'array' AND jsonb_typeof(queues) = 'array'",
};

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[BEAT, DEAD, WITHOUT_TRACE, FORGET, LEAVE, EXPIRE, MEMBERS];

/// How often a lease is renewed, and how long one lasts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    every: Duration,
    lasts: Duration,
}

impl Terms {
    /// A dead executor's workflows go on elsewhere within `takeover`. Its lease has run out, another's next beat has
    /// seen that, and there is time left to take them up.
    pub(super) fn within(takeover: Duration) -> Self {
        let every = (takeover / 5).min(Duration::from_secs(1));
        Self { every, lasts: takeover.saturating_sub(every * 2) }
    }

    /// How long the lease's own connection waits for the answer to a beat. If none comes, there is time left for a beat
    /// over another connection.
    fn answer(self) -> Duration {
        self.lasts / 2
    }

    /// From this age on the last beat of an executor is late. A lease that was renewed one beat earlier holds longer.
    fn late(self) -> Duration {
        (self.every * 3 / 2).min(self.lasts)
    }

    /// After an outage all who live have renewed their leases by then.
    fn grace(self) -> Duration {
        self.lasts + self.every
    }
}

/// The leases of one database.
pub(super) struct Leases {
    terms: Terms,
    held: Mutex<HashMap<ExecutorId, Arc<Lease>>>,
    around: Arc<Surroundings>,
}

/// The state of a lease's thread, and the results of its beats.
struct Surroundings {
    pool: Arc<Pool>,
    connector: Connector,
    news: Arc<News>,
    outage: Arc<Outage>,
    /// The reasons for a sweep.
    odd: AtomicBool,
    /// The own lease had run out.
    returned: AtomicBool,
}

/// The lease of an executor of this process.
struct Lease {
    executor: ExecutorId,
    about: Membership,
    terms: Terms,
    /// False when it was given up. Held during a beat, so that none comes after the end.
    kept: Mutex<bool>,
    given_up: Signal,
    held: Mutex<Option<Held>>,
}

/// How long the lease was held without a gap, by this process's own clock. A beat counts from before it was sent, so
/// others wait longer.
#[derive(Clone, Copy)]
struct Held {
    since: Stopwatch,
    renewed: Stopwatch,
    /// It had run out before.
    returned: bool,
}

/// The result of a beat.
struct Beat {
    /// Something to claim, or something that calls for a sweep.
    odd: bool,
    /// The lease had run out.
    returned: bool,
    /// Something waits, if only for others.
    waits: bool,
}

impl Leases {
    pub(super) fn new(
        pool: Arc<Pool>,
        connector: &Connector,
        news: Arc<News>,
        terms: Terms,
        outage: Arc<Outage>,
    ) -> Self {
        let (odd, returned) = (AtomicBool::default(), AtomicBool::default());
        let connector = connector.hurried(terms.lasts);
        let around = Arc::new(Surroundings { pool, connector, news, outage, odd, returned });
        Self { terms, held: Mutex::default(), around }
    }

    /// When the database was away, or this process stood still, the leases of the living have run out too. The
    /// executors renew them before long. Until then the living cannot be told from the dead. An executor whose own beat is
    /// late cannot tell either: whatever holds it up may hold up the beats of the others, whose leases run out before its
    /// own.
    fn cannot_tell(&self) -> bool {
        lock(&self.held).values().any(|lease| {
            let held = *lock(&lease.held);
            held.is_none_or(|held| {
                held.renewed.elapsed() >= self.terms.late()
                    || (held.returned && held.since.elapsed() < self.terms.grace())
            })
        })
    }

    fn ids(&self, statement: &Statement, params: Params<'_>) -> DbResult<Vec<ExecutorId>> {
        self.around.pool.read(|connection| {
            let read = |row: &Row| Ok(ExecutorId::stored(column(statement, row, 0)?));
            connection.query(statement, params)?.iter().map(read).collect()
        })
    }
}

impl Lease {
    /// Renews the lease and says which work there is.
    fn beat(&self, connection: &mut Connection) -> DbResult<Beat> {
        let sent = Stopwatch::start();
        let Membership { app, version, workflows, queues } = &self.about;
        let pid = i32::try_from(std::process::id()).unwrap_or_default();
        let (host, lasts) = (host(), self.terms.lasts.as_secs_f64());
        let row = connection
            .first(&BEAT, &[&self.executor.as_str(), app, version, workflows, &host, &pid, &lasts, queues])?;
        let Some(row) = row else { return Err(trouble(BEAT.name, "no answer")) };
        let flag = |index| column::<bool>(&BEAT, &row, index);
        // The server's clock goes on while a suspended machine's stands.
        let ran_out = flag(2)?;
        let mut held = lock(&self.held);
        let before = *held;
        let unbroken = before.filter(|held| !ran_out && held.renewed.elapsed() < self.terms.lasts);
        let next =
            unbroken.unwrap_or_else(|| Held { since: sent, renewed: sent, returned: before.is_some() });
        *held = Some(Held { renewed: sent, ..next });
        let returned = before.is_some() && unbroken.is_none();
        Ok(Beat { odd: flag(0)? || flag(1)? || returned, returned, waits: flag(3)? })
    }

    /// The body of its thread, until it is given up.
    fn keep(&self, around: &Surroundings) {
        let Surroundings { pool, connector, news, outage, .. } = around;
        let (answer, lasts) = (self.terms.answer(), self.terms.lasts);
        let over = |own: &mut Connection| own.within(answer, |own| self.beat(own));
        let mut connection: Option<Connection> = None;
        let mut troubled = false;
        // The time since waiting workflows called for a sweep: perhaps no executor can take them up.
        let mut called: Option<Stopwatch> = None;
        loop {
            // A renewal that failed is tried again soon: others wait for no more than the lease.
            let pause = if troubled { self.terms.every / 4 } else { self.terms.every };
            self.given_up.wait_at_most(0, pause);
            let kept = lock(&self.kept);
            if !*kept {
                return;
            }
            let own = connection.take().and_then(Connection::if_sound);
            let mut beat = match own {
                Some(mut own) => over(&mut own).inspect(|_| connection = Some(own)),
                None => Err(gone(BEAT.name)),
            };
            // That another connection works does not make it heard that this one fell silent.
            if let Err(error) = &beat
                && is_silence(error)
            {
                outage.failed(Part::Lease, error);
            }
            // The server may take no more connections, or take long to, and have others of this process.
            if beat.is_err() {
                beat = pool.with_within(lasts, |connection| self.beat(connection));
            }
            if connection.is_none() {
                match connector.connect(Purpose::Lease) {
                    Ok(mut own) if beat.is_err() => {
                        beat = over(&mut own).inspect(|_| connection = Some(own));
                    }
                    Ok(own) => connection = Some(own),
                    Err(error) => beat = beat.map_err(|_| error),
                }
            }
            drop(kept);
            match beat {
                Ok(Beat { odd, returned, waits }) => {
                    troubled = false;
                    let calls = waits && called.is_none_or(|called| called.elapsed() >= CENSUS_EVERY);
                    if calls {
                        called = Some(Stopwatch::start());
                    }
                    let odd = odd || calls;
                    outage.passed(Part::Lease);
                    // Workflows that stay claimable may be workflows that no executor can run. Only a sweep says so.
                    around.returned.fetch_or(returned, Ordering::SeqCst);
                    around.odd.fetch_or(odd, Ordering::SeqCst);
                    if odd {
                        news.hear();
                    }
                }
                Err(error) => {
                    troubled = true;
                    outage.failed(Part::Lease, &error);
                }
            }
        }
    }

    fn give_up(&self) {
        *lock(&self.kept) = false;
        self.given_up.raise();
    }
}

impl Liveness for Leases {
    fn join(&self, label: Option<&str>, about: &Membership) -> Result<ExecutorId> {
        let executor = ExecutorId::generate(label);
        let lease = Arc::new(Lease {
            executor: executor.clone(),
            about: about.clone(),
            terms: self.terms,
            kept: Mutex::new(true),
            given_up: Signal::default(),
            held: Mutex::default(),
        });
        self.around.pool.read(|connection| lease.beat(connection))?;
        let thread = {
            let (lease, around) = (lease.clone(), self.around.clone());
            let builder = thread::Builder::new().name("piton-lease".to_owned());
            builder.spawn(move || {
                // After a panic, as of a driver that finds no thread, it goes on.
                while *lock(&lease.kept) {
                    contained(|| lease.keep(&around));
                }
            })
        };
        lock(&self.held).insert(executor.clone(), lease);
        if let Err(error) = thread {
            self.leave(&executor, true);
            let what = "thread piton-lease".to_owned();
            return Err(Error::InvalidOption { what, reason: error.to_string() });
        }
        Ok(executor)
    }

    fn covers(&self, executor: &ExecutorId, since: Stopwatch) -> bool {
        let Some(lease) = lock(&self.held).get(executor).cloned() else { return false };
        let held = *lock(&lease.held);
        held.is_some_and(|held| {
            held.renewed.elapsed() < self.terms.lasts && held.since.elapsed() >= since.elapsed()
        })
    }

    /// Each beat puts the row back if it was removed.
    fn uphold(&self, _executor: &ExecutorId) -> io::Result<()> {
        Ok(())
    }

    fn leave(&self, executor: &ExecutorId, without_trace: bool) {
        let Some(lease) = lock(&self.held).remove(executor) else { return };
        lease.give_up();
        let statement = if without_trace { &LEAVE } else { &EXPIRE };
        // If it fails, the lease runs out.
        let left = self
            .around
            .pool
            .with_within(self.terms.lasts, |connection| connection.execute(statement, &[&executor.as_str()]));
        if let Err(error) = left {
            say!(debug, "{error}");
        }
    }

    fn calls_for_a_sweep(&self) -> bool {
        self.around.odd.swap(false, Ordering::SeqCst)
    }

    /// It is a look at all errors, so it is not for the one connection that writes.
    fn was_refused(&self) -> bool {
        if !self.around.returned.swap(false, Ordering::SeqCst) {
            return false;
        }
        let about: Vec<Membership> = lock(&self.held).values().map(|lease| lease.about.clone()).collect();
        about.iter().any(|about| {
            self.around.pool.read(|connection| claims::any_refused(connection, about)).unwrap_or(false)
        })
    }

    fn dead(&self) -> Vec<ExecutorId> {
        if self.cannot_tell() {
            return Vec::new();
        }
        // Executors that cannot be seen now are seen by the next sweep.
        let grace = self.terms.grace().as_secs_f64();
        let mut dead = self.ids(&DEAD, &[&grace]).unwrap_or_default();
        dead.retain(|executor| !lock(&self.held).contains_key(executor));
        dead
    }

    fn without_trace(&self, executors: Vec<ExecutorId>) -> Vec<ExecutorId> {
        if executors.is_empty() || self.cannot_tell() {
            return Vec::new();
        }
        let asked: Vec<&str> = executors.iter().map(ExecutorId::as_str).collect();
        let mut gone = self.ids(&WITHOUT_TRACE, &[&asked]).unwrap_or_default();
        gone.retain(|executor| !lock(&self.held).contains_key(executor));
        gone
    }

    fn forget(&self, executor: &ExecutorId) {
        let _ = self.around.pool.with(|connection| connection.execute(&FORGET, &[&executor.as_str()]));
    }

    fn members(&self) -> io::Result<Vec<Membership>> {
        let read = |row: &Row| {
            Ok(Membership {
                app: column(&MEMBERS, row, 0)?,
                version: column(&MEMBERS, row, 1)?,
                workflows: column(&MEMBERS, row, 2)?,
                queues: column(&MEMBERS, row, 3)?,
            })
        };
        let members =
            self.around.pool.read(|connection| connection.query(&MEMBERS, &[])?.iter().map(read).collect());
        members.map_err(|error| io::Error::other(error.to_string()))
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        for lease in lock(&self.held).values() {
            lease.give_up();
        }
    }
}

/// For people who read the table.
fn host() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    name.map(|name| name.trim().to_owned()).or_else(|| std::env::var("HOSTNAME").ok())
}
