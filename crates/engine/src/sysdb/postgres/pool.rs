//! A few connections, taken for one piece of work at a time.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::connection::{Connection, is_inside_async, outside_async, trouble};
use super::connector::{Connector, Purpose};
use crate::clock::{Stopwatch, block_for};
use crate::outage::{Outage, Part};
use crate::sync::{lock, wait};
use crate::sysdb::{DbError, DbResult};

/// How long a look at the database waits for a server that is away.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

pub(super) struct Pool {
    connector: Connector,
    purpose: Purpose,
    max: usize,
    state: Mutex<State>,
    returned: Condvar,
    outage: Arc<Outage>,
}

#[derive(Default)]
struct State {
    idle: Vec<Connection>,
    open: usize,
}

impl Pool {
    pub(super) fn new(connector: Connector, purpose: Purpose, max: usize, outage: Arc<Outage>) -> Self {
        let (state, returned) = (Mutex::default(), Condvar::new());
        Self { connector, purpose, max: max.max(1), state, returned, outage }
    }

    /// Looks something up. A server that restarts is waited for, within a bound: the look is made again.
    pub(super) fn read<T: Send>(
        &self,
        mut look: impl FnMut(&mut Connection) -> DbResult<T> + Send,
    ) -> DbResult<T> {
        let watch = Stopwatch::start();
        let mut pause = PAUSE_MIN;
        loop {
            match self.with(&mut look) {
                Err(error) if error.may_pass => {
                    self.outage.failed(Part::Reads, &error);
                    if watch.elapsed() >= PATIENCE {
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
        let mut lent = Lent { pool: self, connection: Some(self.take()?) };
        outside_async("pool", || match &mut lent.connection {
            Some(connection) => connection.watched(work),
            None => Err(gone()),
        })
    }

    /// The same on this very thread, for the work of a user.
    pub(super) fn with_here<T>(&self, work: impl FnOnce(&mut Connection) -> DbResult<T>) -> DbResult<T> {
        if is_inside_async() {
            let reason =
                "it blocks, so it cannot be called inside an async runtime; call it outside of block_on";
            return Err(DbError { may_pass: false, ..trouble("transaction_step", reason) });
        }
        let mut lent = Lent { pool: self, connection: Some(self.take()?) };
        match &mut lent.connection {
            Some(connection) => connection.watched(work),
            None => Err(gone()),
        }
    }

    fn take(&self) -> DbResult<Connection> {
        let mut state = lock(&self.state);
        loop {
            if let Some(connection) = state.idle.pop() {
                if connection.is_sound() {
                    return Ok(connection);
                }
                state.open -= 1;
                drop(state);
                drop(connection);
                state = lock(&self.state);
                continue;
            }
            if state.open < self.max {
                state.open += 1;
                drop(state);
                let place = Place(self);
                return self.connector.connect(self.purpose).inspect(|_| std::mem::forget(place));
            }
            state = wait(&self.returned, state);
        }
    }

    fn take_back(&self, connection: Connection) {
        let sound = connection.is_sound();
        let mut state = lock(&self.state);
        if sound {
            state.idle.push(connection);
        } else {
            state.open -= 1;
            drop(state);
            drop(connection);
        }
        self.returned.notify_one();
    }
}

/// The place of a connection that is being made; free again when that fails, also by a panic.
struct Place<'p>(&'p Pool);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).open -= 1;
        self.0.returned.notify_one();
    }
}

/// Goes back to the pool when dropped, also after a panic of the work.
struct Lent<'p> {
    pool: &'p Pool,
    connection: Option<Connection>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.take_back(connection);
        }
    }
}

fn gone() -> DbError {
    trouble("pool", "the connection is gone")
}
