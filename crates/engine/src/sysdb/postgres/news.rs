//! News between processes: this one tells the others of its commits by NOTIFY, and hears of theirs.
//!
//! NOTIFY takes a lock of the whole server when its transaction commits, so it is never part of a transaction of ours.
//! A thread of its own tells of all commits within a few milliseconds at once. Nothing depends on it: an executor's
//! beat and the fleet's sweep find the same, within a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use uuid::Uuid;

use super::IDENTIFIER_BYTES_MAX;
use super::connection::Statement;
use super::connector::{Connector, Purpose};
use super::pool::Pool;
use super::trouble::{is_silence, silent, trouble};
use crate::pure::clock::{Stopwatch, block_for};
use crate::pure::error::{Error, Result};
use crate::pure::sync::{Signal, contained, lock, say};
use crate::sysdb::outage::Part;
use crate::sysdb::{DbResult, Verdict, Write};

/// Commits within this time are told together.
const GAP: Duration = Duration::from_millis(5);
/// How long a thread that hears waits before it sees whether the engine has ended.
const HEARING: Duration = Duration::from_millis(500);
/// How long the first word of our own may take before it is believed that none comes.
const TEST_WITHIN: Duration = Duration::from_secs(3);
/// How long a later one may take before it is believed that the connection that hears fell silent.
const WORD_WITHIN: Duration = Duration::from_secs(5);
const RECONNECT_MIN: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// The channel of messages to workflows; a trigger of the DBOS schema tells there.
const MESSAGES: &str = "dbos_notifications_channel";

/// $1 channel, $2 the text
const TELL: Statement = Statement { name: "notify", sql: "SELECT pg_notify($1, $2)" };

/// The news that one engine tells and has heard.
pub(super) struct News {
    /// Ours among all words.
    us: String,
    channel: String,
    told: Mutex<Outgoing>,
    to_tell: Signal,
    heard: AtomicBool,
    ended: AtomicBool,
    /// Raised when something was heard.
    fleet: Arc<Signal>,
}

/// News that wait to be told, and news that were told and not heard.
#[derive(Default)]
struct Outgoing {
    something: bool,
    /// Since when a word of our own is on its way.
    word: Option<Stopwatch>,
    /// The server took it.
    taken: bool,
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

    /// If `listen` is set, starts the thread that tells, and the thread that hears where NOTIFY arrives.
    pub(super) fn spawn(
        self: &Arc<Self>,
        pool: &Arc<Pool>,
        connector: &Connector,
        listen: bool,
        hears: bool,
    ) -> Result<()> {
        if !listen {
            return Ok(());
        }
        let (news, told_on) = (self.clone(), pool.clone());
        spawn("piton-tell", move || news.tell_on(&told_on))?;
        if !hears {
            return Ok(());
        }
        let (news, connector, pool) = (self.clone(), connector.clone(), pool.clone());
        spawn("piton-hear", move || news.hear_on(&connector, &pool))
    }

    /// Others may want to know of this batch.
    pub(super) fn tell(&self, batch: &[Write], verdicts: &[Verdict]) {
        let interesting = batch.iter().zip(verdicts).any(|(write, verdict)| {
            let mut interests = write.leaves_work(verdict);
            write.fulfils(verdict, |_, _| interests = true);
            interests
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
            lock(&self.told).word.get_or_insert_with(Stopwatch::start);
            // News that are not told are found by the processes that need them.
            let told = pool.with(|connection| connection.execute(&TELL, &[&self.channel, &self.us]));
            self.was_taken(told.is_ok());
            block_for(GAP);
        }
    }

    /// The server took a word of our own, which may have been heard by now, or did not.
    fn was_taken(&self, taken: bool) {
        let mut told = lock(&self.told);
        if !taken && !told.taken {
            told.word = None;
        } else if taken && !told.taken && told.word.is_some() {
            (told.taken, told.word) = (true, Some(Stopwatch::start()));
        }
    }

    /// Nothing of our own is on its way any more.
    fn forget_word(&self) {
        let mut told = lock(&self.told);
        (told.taken, told.word) = (false, None);
    }

    /// For how long a word has been on its way that the server took.
    fn misses_word(&self) -> Option<Duration> {
        let told = lock(&self.told);
        told.word.filter(|_| told.taken).map(Stopwatch::elapsed)
    }

    fn hear_on(&self, connector: &Connector, pool: &Pool) {
        let mut pause = RECONNECT_MIN;
        let mut deaf = false;
        while !self.have_ended() {
            let heard = self.hear_until_it_breaks(connector, pool, &mut pause);
            match &heard {
                Ok(Heard::Nothing) => {
                    if !std::mem::replace(&mut deaf, true) {
                        say!(
                            warn,
                            "NOTIFY does not arrive in database {} (behind a pooler?); changes by other processes are found within a \
                             second",
                            connector.database()
                        );
                    }
                    pause = TEST_WITHIN * 10;
                }
                Ok(Heard::Ended) => return,
                // For other trouble the reads and writes give the reason.
                Err(error) if is_silence(error) => pool.outage().failed(Part::News, error),
                Err(error) => say!(debug, "{error}; listening again"),
            }
            if !heard.as_ref().is_err_and(is_silence) {
                pool.outage().passed(Part::News);
            }
            // News of the meantime were not heard.
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

    fn hear_until_it_breaks(
        &self,
        connector: &Connector,
        pool: &Pool,
        pause: &mut Duration,
    ) -> DbResult<Heard> {
        const NAME: &str = "listen";
        let mut connection = connector.connect(Purpose::Listener)?;
        if !connection.keeps_its_session() {
            return Ok(Heard::Nothing);
        }
        let listen = format!("LISTEN {}; LISTEN {MESSAGES}", super::connection::quoted(&self.channel));
        connection.run(NAME, &listen)?;
        *pause = RECONNECT_MIN;
        self.forget_word();
        // Behind a pooler a word may reach another session than the listening one.
        let test = format!("test {}", self.us);
        pool.with(|connection| connection.execute(&TELL, &[&self.channel, &test]))?;
        let word_within = connector.limits.answer(Purpose::Listener).min(WORD_WITHIN);
        let mut tested = false;
        while !self.have_ended() {
            let within = if tested { HEARING } else { TEST_WITHIN };
            match connection.hear(NAME, within)? {
                None if !tested => return Ok(Heard::Nothing),
                None => {}
                Some(word) if word.payload() == test => {
                    tested = true;
                    pool.outage().passed(Part::News);
                }
                Some(word) if word.channel() == self.channel && word.payload() == self.us => {
                    self.forget_word();
                }
                Some(_) => self.hear(),
            }
            if connection.is_doubtful() {
                return Err(trouble(NAME, "another connection fell silent, so this one may have, too"));
            }
            if let Some(missed) = self.misses_word().filter(|missed| *missed > word_within) {
                return Err(silent(NAME, missed));
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
