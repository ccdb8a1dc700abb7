//! The way between this process and the server: direct, a pooler with a session for each client, or a pooler with
//! another session for each transaction.
//!
//! The key that a client is given at its login, with which it could cancel its statements, names the process that
//! serves it. A pooler gives out keys of its own, because many clients share a session: then the process that answers is
//! another one. Nothing about that depends on how busy the pooler is.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use postgres::SimpleQueryMessage;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Client;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use uuid::Uuid;

use super::connection::Connection;
use super::statements::Types;
use super::trouble::code;
use crate::pure::sync::{lock, say};
use crate::sysdb::DbResult;

/// Who answers, in a request that is its own transaction.
const WHO: &str = "
    SELECT pg_backend_pid(),
           (SELECT (extract(epoch FROM backend_start) * 1000000)::int8 FROM pg_stat_get_activity(pg_backend_pid()))";

/// How long a word may take that one session tells another.
const WORD_WITHIN: Duration = Duration::from_secs(1);

/// A process of the server, which has its number from then on, in microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    number: i32,
    since: i64,
}

/// Who answers on a connection.
pub(super) struct Answering {
    process: Option<Process>,
    /// Whether it is the process that the client was given at its login.
    pub(super) direct: bool,
}

impl Answering {
    /// The process, if it serves no other client.
    pub(super) fn own_process(&self) -> Option<Process> {
        self.process.filter(|_| self.direct)
    }
}

/// The known state of the way to one database, shared by all connections to it.
#[derive(Default)]
pub(super) struct Road {
    /// Whether the last connection was one to the server itself.
    direct: AtomicBool,
    /// Whether a pooler on it was seen to keep sessions.
    pooler_keeps: AtomicBool,
    /// How many connections fell silent.
    silences: AtomicU64,
    /// The processes that served them and may still be at their requests.
    left_behind: Mutex<Vec<Process>>,
    pub(super) types: Arc<Types>,
}

impl Road {
    /// Whether the session of a connection stays, which is one to the server itself or not.
    pub(super) fn stays(&self, direct: bool) -> bool {
        self.direct.store(direct, Ordering::SeqCst);
        self.do_sessions_stay()
    }

    /// The way of the last connection.
    pub(super) fn do_sessions_stay(&self) -> bool {
        self.direct.load(Ordering::SeqCst) || self.pooler_keeps.load(Ordering::SeqCst)
    }

    /// One was seen to change, as after a pooler was set up anew.
    pub(super) fn sessions_do_not_stay(&self) {
        self.pooler_keeps.store(false, Ordering::SeqCst);
    }

    /// A connection fell silent. Connections that were made before it are not to be trusted, either.
    pub(super) fn fell_silent(&self) {
        self.silences.fetch_add(1, Ordering::SeqCst);
    }

    /// This process served a connection that was given up.
    pub(super) fn leave_behind(&self, process: Process) {
        lock(&self.left_behind).push(process);
    }

    /// Ends the sessions that were left behind, over a connection that works. Their requests shall not happen later,
    /// and no transaction shall wait for their locks.
    pub(super) fn end_left_behind(&self, connection: &mut Connection) -> DbResult<()> {
        let left = lock(&self.left_behind).clone();
        if left.is_empty() {
            return Ok(());
        }
        let each = left.iter().map(|Process { number, since }| format!("({number}, {since}::int8)"));
        let end = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
              WHERE (pid, (extract(epoch FROM backend_start) * 1000000)::int8) IN ({})",
            each.collect::<Vec<_>>().join(", ")
        );
        match connection.run("end_left_behind", &end) {
            Err(error) if code(&error).is_none() => return Err(error),
            // The role may not; then they end by the server's own time-outs.
            Err(error) => say!(debug, "{error}"),
            Ok(()) => {}
        }
        lock(&self.left_behind).retain(|process| !left.contains(process));
        Ok(())
    }

    pub(super) fn silences(&self) -> u64 {
        self.silences.load(Ordering::SeqCst)
    }

    /// Whether the pooler keeps sessions: a word reaches a client that asks for nothing only if its session is its own
    /// all the time. `listens` and `tells` are two connections, taken for ones without sessions.
    pub(super) fn test(&self, listens: &mut Connection, tells: &mut Connection) -> DbResult<bool> {
        const NAME: &str = "test_of_sessions";
        let channel = format!("piton_{}", Uuid::now_v7().simple());
        listens.run(NAME, &format!("LISTEN {channel}"))?;
        tells.run(NAME, &format!("NOTIFY {channel}"))?;
        let stay = listens.hear(NAME, WORD_WITHIN)?.is_some_and(|word| word.channel() == channel);
        // Where they do not stay this reaches another session, and no process uses the channel again.
        listens.run(NAME, &format!("UNLISTEN {channel}"))?;
        self.pooler_keeps.store(stay, Ordering::SeqCst);
        Ok(stay)
    }
}

/// Who answers. `None`: it does not say.
pub(super) async fn who_answers(client: &Client) -> Result<Option<Answering>, postgres::Error> {
    let answered = client.simple_query(WHO).await?;
    let row = answered.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let number = row.and_then(|row| row.get(0)).and_then(|number| number.parse::<i32>().ok());
    let since = row.and_then(|row| row.get(1)).and_then(|since| since.parse().ok());
    let process = number.zip(since).map(|(number, since)| Process { number, since });
    let given = process_at_login(client).await;
    Ok(number.zip(given).map(|(number, given)| Answering { process, direct: number == given }))
}

/// The process that a request to cancel would name. The driver shows it nowhere else, so such a request is written to
/// memory and read there.
async fn process_at_login(client: &Client) -> Option<i32> {
    let mut written = Written(Vec::new());
    client.cancel_token().cancel_query_raw(&mut written, Through).await.ok()?;
    // At the end: length and code, the process, its secret.
    let request = written.0.last_chunk::<16>()?;
    let process: [u8; 4] = request[8..12].try_into().ok()?;
    Some(i32::from_be_bytes(process))
}

/// Takes all that is written. Agrees to encryption, which [`Through`] then leaves out.
struct Written(Vec<u8>);

impl AsyncRead for Written {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        buf.put_slice(b"S");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Written {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl TlsStream for &mut Written {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

struct Through;

impl<'w> TlsConnect<&'w mut Written> for Through {
    type Stream = &'w mut Written;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<&'w mut Written>>;

    fn connect(self, stream: &'w mut Written) -> Self::Future {
        std::future::ready(Ok(stream))
    }
}
