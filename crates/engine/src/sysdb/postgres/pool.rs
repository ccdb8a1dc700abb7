//! A few connections, taken for one piece of work at a time.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::connection::{Connection, gone, outside_async, trouble};
use super::connector::{Connector, Purpose};
use super::trouble::is_silence;
use crate::pure::clock::{Stopwatch, block_for};
use crate::pure::sync::{lock, wait_for};
use crate::sysdb::outage::{Outage, Part};
use crate::sysdb::{DbError, DbResult};

/// How long a look at the database waits for a server that is away.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The connections that a pool lends.
pub(super) trait Pooled: Sized {
    /// This connection, if it can be used again.
    fn if_sound(self) -> Option<Self>;

    /// Whether it is known that it cannot.
    fn is_spent(&self) -> bool;
}

pub(super) struct Pool<C = Connection> {
    make: Box<dyn Fn() -> DbResult<C> + Send + Sync>,
    max: usize,
    /// How long a request may take, or the wait for a connection.
    answer: Duration,
    state: Mutex<State<C>>,
    returned: Condvar,
    outage: Arc<Outage>,
}

struct State<C> {
    idle: Vec<C>,
    open: usize,
}

impl Pooled for Connection {
    fn if_sound(self) -> Option<Self> {
        Self::if_sound(self)
    }

    fn is_spent(&self) -> bool {
        Self::is_spent(self)
    }
}

impl Pool<Connection> {
    /// One for looks.
    pub(super) fn of_readers(connector: Connector, max: usize, outage: Arc<Outage>) -> Self {
        let answer = connector.limits.answer(Purpose::Reader);
        Self::new(move || connector.connect(Purpose::Reader), max, answer, outage)
    }

    /// Looks something up. A server that restarts is waited for, within a bound: the look is made again. After a
    /// silence it is made once more at least: the connection may have fallen silent, and not the server.
    pub(super) fn read<T: Send>(
        &self,
        mut look: impl FnMut(&mut Connection) -> DbResult<T> + Send,
    ) -> DbResult<T> {
        let watch = Stopwatch::start();
        let mut pause = PAUSE_MIN;
        let mut silences = 0;
        loop {
            match self.with(&mut look) {
                Err(error) if error.may_pass => {
                    self.outage.failed(Part::Reads, &error);
                    silences += u32::from(is_silence(&error));
                    if watch.elapsed() >= PATIENCE && silences != 1 {
                        return Err(error);
                    }
                }
                done => {
                    self.outage.passed(Part::Reads);
                    return done;
                }
            }
            block_for(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Runs `work` on a connection, once.
    pub(super) fn with<T: Send>(
        &self,
        work: impl FnOnce(&mut Connection) -> DbResult<T> + Send,
    ) -> DbResult<T> {
        self.with_within(self.answer, work)
    }

    /// Makes a call of the pool in which no request and no wait for a connection may take longer than `limit`.
    pub(super) fn with_within<T: Send>(
        &self,
        limit: Duration,
        work: impl FnOnce(&mut Connection) -> DbResult<T> + Send,
    ) -> DbResult<T> {
        outside_async("pool", || {
            let mut lent = self.take_within(limit)?.ok_or_else(|| self.all_are_taken(limit))?;
            lent.connection()?.within(limit, |connection| connection.watched(work))
        })
    }

    fn all_are_taken(&self, within: Duration) -> DbError {
        let reason = format!(
            "all {} connections are in use, and none was free within {:.1} s",
            self.max,
            within.as_secs_f64()
        );
        trouble("pool", &reason)
    }
}

impl<C: Pooled> Pool<C> {
    pub(super) fn new(
        make: impl Fn() -> DbResult<C> + Send + Sync + 'static,
        max: usize,
        answer: Duration,
        outage: Arc<Outage>,
    ) -> Self {
        let state = Mutex::new(State { idle: Vec::new(), open: 0 });
        Self { make: Box::new(make), max: max.max(1), answer, state, returned: Condvar::new(), outage }
    }

    pub(super) fn outage(&self) -> &Outage {
        &self.outage
    }

    /// A connection, if one is free or can be made within this time. The driver blocks: not inside an async runtime.
    pub(super) fn take_within(&self, time: Duration) -> DbResult<Option<Lent<'_, C>>> {
        let watch = Stopwatch::start();
        let mut state = lock(&self.state);
        loop {
            let idle = state.idle.pop();
            if idle.is_some() || state.open < self.max {
                state.open += usize::from(idle.is_none());
                drop(state);
                let permit = Permit(self);
                let connection = match idle.map(C::if_sound) {
                    None => (self.make)()?,
                    Some(Some(connection)) => connection,
                    Some(None) => {
                        drop(permit);
                        state = lock(&self.state);
                        continue;
                    }
                };
                std::mem::forget(permit);
                return Ok(Some(Lent { pool: self, connection: Some(connection) }));
            }
            let Some(left) = time.checked_sub(watch.elapsed()).filter(|left| !left.is_zero()) else {
                return Ok(None);
            };
            state = wait_for(&self.returned, state, left);
        }
    }

    fn take_back(&self, connection: C) {
        if connection.is_spent() {
            drop(connection);
            lock(&self.state).open -= 1;
        } else {
            lock(&self.state).idle.push(connection);
        }
        self.returned.notify_one();
    }
}

/// The permit of a connection that is being made. It is given back when that fails, also by a panic.
struct Permit<'p, C: Pooled>(&'p Pool<C>);

impl<C: Pooled> Drop for Permit<'_, C> {
    fn drop(&mut self) {
        lock(&self.0.state).open -= 1;
        self.0.returned.notify_one();
    }
}

/// Goes back to the pool when dropped, also after a panic of the work.
pub(super) struct Lent<'p, C: Pooled> {
    pool: &'p Pool<C>,
    connection: Option<C>,
}

impl<C: Pooled> Lent<'_, C> {
    pub(super) fn connection(&mut self) -> DbResult<&mut C> {
        self.connection.as_mut().ok_or_else(|| gone("pool"))
    }
}

impl<C: Pooled> Drop for Lent<'_, C> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.take_back(connection);
        }
    }
}
