//! Who tells whom: what this process committed is told to the others by NOTIFY, and theirs is heard.
//!
//! NOTIFY takes a lock of the whole server when its transaction commits, so it is never part of one of ours: what was
//! committed within a few milliseconds is told at once, by a thread of its own. Nothing depends on it: an executor's
//! beat and the fleet's sweep find the same, within a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use uuid::Uuid;

use super::IDENTIFIER_BYTES_MAX;
use super::connection::{Statement, failed, trouble};
use super::connector::Connector;
use super::pool::Pool;
use crate::clock::block_for;
use crate::error::{Error, Result};
use crate::sync::{Signal, contained, lock, say};
use crate::sysdb::{DbResult, Verdict, Write};

/// What is committed within this time is told together.
const GAP: Duration = Duration::from_millis(5);
/// How long a thread that hears waits before it sees whether the engine has ended.
const HEARING: Duration = Duration::from_millis(500);
/// How long the first word of our own may take before it is believed that none comes.
const TEST_WITHIN: Duration = Duration::from_secs(3);
const RECONNECT_MIN: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// The channel of messages to workflows; a trigger of the DBOS schema tells there.
const MESSAGES: &str = "dbos_notifications_channel";

/// $1 channel, $2 what is told
const TELL: Statement = Statement { name: "notify", sql: "SELECT pg_notify($1, $2)" };

/// What one engine tells and has heard.
pub(super) struct News {
    /// Ours among all words.
    us: String,
    channel: String,
    told: Mutex<Told>,
    to_tell: Signal,
    heard: AtomicBool,
    ended: AtomicBool,
    /// Raised when something was heard.
    fleet: Arc<Signal>,
}

/// What waits to be told.
#[derive(Default)]
struct Told {
    something: bool,
}

impl News {
    pub(super) fn new(schema: &str, fleet: Arc<Signal>) -> Arc<Self> {
        Arc::new(Self {
            us: Uuid::now_v7().to_string(),
            channel: channel(schema),
            told: Mutex::default(),
            to_tell: Signal::default(),
            heard: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            fleet,
        })
    }

    /// The thread that tells, and if `listen` is set the one that hears.
    pub(super) fn spawn(
        self: &Arc<Self>,
        pool: &Arc<Pool>,
        connector: &Connector,
        listen: bool,
    ) -> Result<()> {
        if !listen {
            return Ok(());
        }
        let (news, pool) = (self.clone(), pool.clone());
        spawn("piton-tell", move || news.tell_on(&pool))?;
        let (news, connector) = (self.clone(), connector.clone());
        spawn("piton-hear", move || news.hear_on(&connector))
    }

    /// Others may want to know of this batch.
    pub(super) fn tell(&self, batch: &[Write], verdicts: &[Verdict]) {
        let interesting = batch.iter().zip(verdicts).any(|(write, verdict)| {
            write.leaves_work(verdict) || matches!((write, verdict), (Write::Settle { .. }, Verdict::Done))
        });
        if interesting {
            lock(&self.told).something = true;
            self.to_tell.raise();
        }
    }

    /// Whether anything was since the last question.
    pub(super) fn were_heard(&self) -> bool {
        self.heard.swap(false, Ordering::SeqCst)
    }

    /// The fleet should look.
    pub(super) fn hear(&self) {
        self.heard.store(true, Ordering::SeqCst);
        self.fleet.raise();
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.to_tell.raise();
    }

    fn have_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn tell_on(&self, pool: &Pool) {
        while !self.have_ended() {
            let seen = self.to_tell.now();
            if !std::mem::take(&mut lock(&self.told).something) {
                self.to_tell.wait_at_most(seen, HEARING);
                continue;
            }
            // What is not told is found by those whom it concerns.
            let _ = pool.with(|connection| connection.execute(&TELL, &[&self.channel, &self.us]));
            block_for(GAP);
        }
    }

    fn hear_on(&self, connector: &Connector) {
        let mut pause = RECONNECT_MIN;
        let mut silent = false;
        while !self.have_ended() {
            match self.hear_until_it_breaks(connector, &mut pause) {
                Ok(Heard::Nothing) => {
                    if !std::mem::replace(&mut silent, true) {
                        say!(
                            warn,
                            "NOTIFY does not arrive (behind a pooler?); changes by other processes are found within a second"
                        );
                    }
                    pause = TEST_WITHIN * 10;
                }
                Ok(Heard::Ended) => return,
                // Those who read and write say why.
                Err(error) => say!(debug, "{error}; listening again"),
            }
            // What was told meanwhile was not heard.
            self.hear();
            let nap = Duration::from_millis(50);
            for _ in 0..pause.as_millis().div_ceil(nap.as_millis()) {
                if self.have_ended() {
                    return;
                }
                block_for(nap);
            }
            pause = (pause * 2).min(RECONNECT_MAX);
        }
    }

    fn hear_until_it_breaks(&self, connector: &Connector, pause: &mut Duration) -> DbResult<Heard> {
        const NAME: &str = "listen";
        let mut client = connector.client().map_err(|e| failed(NAME, e))?;
        let listen = format!("LISTEN {}; LISTEN {MESSAGES}", super::connection::quoted(&self.channel));
        client.batch_execute(&listen).map_err(|e| failed(NAME, e))?;
        *pause = RECONNECT_MIN;
        // Behind a pooler a word is told to another session than the one that listens.
        let test = format!("test {}", self.us);
        let test_on = connector.client().map_err(|e| failed(NAME, e));
        test_on?.query(TELL.sql, &[&self.channel, &test]).map_err(|e| failed(NAME, e))?;
        let mut tested = false;
        while !self.have_ended() {
            use postgres::fallible_iterator::FallibleIterator;
            let within = if tested { HEARING } else { TEST_WITHIN };
            let word = client.notifications().timeout_iter(within).next().map_err(|e| failed(NAME, e))?;
            match word {
                None if !tested => return Ok(Heard::Nothing),
                None if client.is_closed() => return Err(trouble(NAME, "the connection is gone")),
                None => {}
                Some(word) if word.payload() == test => tested = true,
                Some(word) if word.channel() == self.channel && word.payload() == self.us => {}
                Some(_) => self.hear(),
            }
        }
        Ok(Heard::Ended)
    }
}

/// Why hearing ended.
enum Heard {
    /// Not even the test.
    Nothing,
    /// The engine did.
    Ended,
}

/// One for each schema.
fn channel(schema: &str) -> String {
    let channel = format!("piton_{schema}");
    if channel.len() <= IDENTIFIER_BYTES_MAX {
        channel
    } else {
        format!("piton_{}", Uuid::new_v5(&Uuid::NAMESPACE_OID, schema.as_bytes()))
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(move || contained(body));
    let refuse =
        |e: std::io::Error| Error::InvalidOption { what: format!("thread {name}"), reason: e.to_string() };
    spawned.map(drop).map_err(refuse)
}
