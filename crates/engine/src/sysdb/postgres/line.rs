//! The line of a transaction step to the server. The driver of a body blocks and has no limits, so the carrier of its
//! bytes has them. When an answer does not come, it looks whether the session is still at work for it. If not, the
//! driver gets the error that the server did not answer.
//!
//! The driver lets a caller carry its bytes only where encryption would: so this stands in the place of encryption, and
//! encrypts or does not. On a socket of this machine it cannot stand; there is no network in between, either.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{Config, Socket};

use super::tls::{Carrier, Encryption};
use super::trouble::Silent;
use crate::pure::clock::Stopwatch;
use crate::pure::error::BoxError;
use crate::pure::sync::lock;

/// The process of the server and the transaction that a step is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Serving {
    pub(super) process: i32,
    /// When the transaction began, in microseconds since 1970.
    pub(super) since: i64,
}

/// Looks whether the server is at work for a step that waits.
pub(super) trait Look: Send + Sync {
    /// Whether the server has nothing to do for it any more, or is not there.
    fn is_lost(&self, serving: Serving) -> bool;
}

/// The state of one line.
pub(super) struct Line {
    state: Mutex<State>,
    look: Option<Arc<dyn Look>>,
    /// After so long without a byte there is a look.
    silence: Duration,
    /// How long a request of the engine's own may take.
    answer: Duration,
}

struct State {
    /// How long nothing had come when it was given up.
    lost: Option<Duration>,
    /// Requests without their answers.
    unanswered: usize,
    asked: Frames,
    answered: Frames,
    /// When the last byte went either way, or a look found the server at work.
    moved: Stopwatch,
    heard: Stopwatch,
    /// The login, and how long it may take.
    login: Option<(Stopwatch, Duration)>,
    serving: Option<Serving>,
    looking: bool,
    waker: Option<Waker>,
}

impl Line {
    pub(super) fn new(look: Option<Arc<dyn Look>>, silence: Duration, answer: Duration) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State::new()), look, silence, answer })
    }

    /// One without a look, for the login alone.
    pub(super) fn of_a_login() -> Arc<Self> {
        Self::new(None, Duration::MAX, Duration::MAX)
    }

    /// A new connection is made, and has this long.
    pub(super) fn begin_login(&self, limit: Duration) {
        *lock(&self.state) = State { login: Some((Stopwatch::start(), limit)), ..State::new() };
    }

    /// Which transaction it carries from now on. Of none it is not known whether the server works for it.
    pub(super) fn serve(&self, serving: Option<Serving>) {
        lock(&self.state).serving = serving;
    }

    /// How long nothing had come when it was given up.
    pub(super) fn silence(&self) -> Option<Duration> {
        lock(&self.state).lost
    }

    /// Ends all waits on it.
    pub(super) fn give_up(&self) {
        let mut state = lock(&self.state);
        let silent_for = state.moved.elapsed();
        state.give_up(silent_for);
    }

    /// The action while no byte comes: to wait until a time, or to look.
    fn waits(self: &Arc<Self>, waker: &Waker) -> Patience {
        let mut state = lock(&self.state);
        if state.lost.is_some() {
            return Patience::No;
        }
        state.waker = Some(waker.clone());
        if let Some((watch, limit)) = state.login {
            return match limit.checked_sub(watch.elapsed()).filter(|left| !left.is_zero()) {
                Some(left) => Patience::For(left),
                None => state.give_up(limit),
            };
        }
        let Some(look) = self.look.as_ref().filter(|_| state.unanswered > 0 && !state.looking) else {
            return Patience::Quietly;
        };
        let limit = if state.serving.is_some() { self.silence } else { self.answer };
        if let Some(left) = limit.checked_sub(state.moved.elapsed()).filter(|left| !left.is_zero()) {
            return Patience::For(left);
        }
        let Some(serving) = state.serving else { return state.give_up(limit) };
        state.looking = true;
        let (line, look, moved) = (self.clone(), look.clone(), state.moved);
        let looks = move || {
            // A look that panics has seen nothing.
            let lost = catch_unwind(AssertUnwindSafe(|| look.is_lost(serving))).unwrap_or(false);
            line.looked(moved, lost);
        };
        if thread::Builder::new().name("piton-watch".to_owned()).spawn(looks).is_err() {
            state.looking = false;
            state.moved = Stopwatch::start();
            return Patience::For(self.silence);
        }
        Patience::Quietly
    }

    /// After a look.
    fn looked(&self, moved: Stopwatch, lost: bool) {
        let mut state = lock(&self.state);
        state.looking = false;
        // Bytes that came meanwhile show that the answer is not lost.
        if lost && state.moved == moved {
            let silent_for = state.heard.elapsed();
            state.give_up(silent_for);
        } else {
            state.moved = Stopwatch::start();
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        }
    }

    fn lost(&self) -> Option<io::Error> {
        self.silence().map(|time| io::Error::new(io::ErrorKind::TimedOut, Silent(time)))
    }

    fn went(&self, bytes: &[u8]) {
        let mut state = lock(&self.state);
        // Simple queries and the ends of others.
        state.unanswered += state.asked.take(bytes, b"QS");
        state.moves();
    }

    fn came(&self, bytes: &[u8]) {
        let mut state = lock(&self.state);
        // The server is ready. Or it waits for a copy, and passes over the end of the request that began the copy.
        let answers = state.answered.take(bytes, b"ZG");
        if answers > 0 {
            state.login = None;
        }
        state.unanswered = state.unanswered.saturating_sub(answers);
        state.moves();
    }
}

impl State {
    fn new() -> Self {
        let now = Stopwatch::start();
        Self {
            lost: None,
            unanswered: 1,
            asked: Frames { head_bytes: 4, ..Frames::new() },
            answered: Frames::new(),
            moved: now,
            heard: now,
            login: None,
            serving: None,
            looking: false,
            waker: None,
        }
    }

    fn moves(&mut self) {
        self.moved = Stopwatch::start();
        self.heard = self.moved;
    }

    fn give_up(&mut self, silent_for: Duration) -> Patience {
        self.lost.get_or_insert(silent_for);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Patience::No
    }
}

enum Patience {
    /// It was given up.
    No,
    For(Duration),
    /// Waits until a byte comes or another thread wakes it.
    Quietly,
}

/// Counts messages of some kinds in a stream of bytes.
struct Frames {
    head: [u8; 5],
    filled: usize,
    /// The very first message of a client has no kind.
    head_bytes: usize,
    rest: usize,
}

impl Frames {
    fn new() -> Self {
        Self { head: [0; 5], filled: 0, head_bytes: 5, rest: 0 }
    }

    /// How many messages of these kinds begin in the bytes.
    fn take(&mut self, mut bytes: &[u8], kinds: &[u8]) -> usize {
        let mut found = 0;
        while let Some(first) = bytes.first() {
            if self.rest > 0 {
                let passed = self.rest.min(bytes.len());
                self.rest -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            self.head[self.filled] = *first;
            self.filled += 1;
            bytes = &bytes[1..];
            if self.filled == self.head_bytes {
                let length = self.head[..self.filled]
                    .last_chunk::<4>()
                    .map_or(4, |length| u32::from_be_bytes(*length));
                self.rest = (length as usize).saturating_sub(4);
                found += usize::from(self.head_bytes == 5 && kinds.contains(&self.head[0]));
                (self.filled, self.head_bytes) = (0, 5);
            }
        }
        found
    }
}

/// Makes connections whose bytes go over a [`Line`].
#[derive(Clone)]
pub(super) struct Watched {
    line: Arc<Line>,
    encryption: Encryption,
    mode: SslMode,
    domain: String,
}

impl Watched {
    pub(super) fn new(line: Arc<Line>, encryption: &Encryption, mode: SslMode) -> Self {
        Self { line, encryption: encryption.clone(), mode, domain: String::new() }
    }

    /// Has the driver ask for encryption, which is this, unless it is on a socket of this machine.
    pub(super) fn prepare(config: &mut Config, is_socket: bool) {
        if is_socket {
            config.ssl_mode(SslMode::Disable);
        } else {
            config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        }
    }
}

impl MakeTlsConnect<Socket> for Watched {
    type Stream = Wire;
    type TlsConnect = Self;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> io::Result<Self> {
        Ok(Self { domain: domain.to_owned(), ..self.clone() })
    }
}

impl TlsConnect<Socket> for Watched {
    type Stream = Wire;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, BoxError>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            let left =
                lock(&self.line.state).login.map(|(watch, limit)| limit.saturating_sub(watch.elapsed()));
            let handshake = self.encryption.carry(socket, self.mode, &self.domain);
            let Ok(done) = timeout(left.unwrap_or(Duration::MAX), handshake).await else {
                self.line.give_up();
                return Err(self.line.lost().map_or_else(|| "no answer".into(), Into::into));
            };
            let carrier = done?;
            Ok(Wire { carrier, line: self.line, sleep: None })
        })
    }
}

/// The stream of the driver.
pub(super) struct Wire {
    carrier: Carrier,
    line: Arc<Line>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    /// Waits for a byte, for as long as the line says.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.line.waits(cx.waker()) {
                Patience::No => return Poll::Ready(self.line.lost().map_or(Ok(()), Err)),
                Patience::Quietly => return Poll::Pending,
                Patience::For(time) => {
                    let until = Instant::now() + time;
                    let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(until)));
                    sleep.as_mut().reset(until);
                    ready!(sleep.as_mut().poll(cx));
                }
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(error) = self.line.lost() {
            return Poll::Ready(Err(error));
        }
        let before = buf.filled().len();
        match Pin::new(&mut self.carrier).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                self.line.came(&buf.filled()[before..]);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => match ready!(self.poll_wait(cx)) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            },
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.line.lost() {
            return Poll::Ready(Err(error));
        }
        let written = ready!(Pin::new(&mut self.carrier).poll_write(cx, buf))?;
        self.line.went(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.carrier).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.line.lost().is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.carrier).poll_shutdown(cx)
    }
}

impl TlsStream for Wire {
    fn channel_binding(&self) -> ChannelBinding {
        self.carrier.channel_binding()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let mut stream = vec![0, 0, 0, 8, 1, 2, 3, 4]; // the startup message
        for kind in *b"PBQSS" {
            stream.extend([kind, 0, 0, 0, 6, b'S', b'Q']);
        }
        for size in 1..stream.len() {
            let mut frames = Frames { head_bytes: 4, ..Frames::new() };
            let found: usize = stream.chunks(size).map(|bytes| frames.take(bytes, b"QS")).sum();
            assert_eq!(found, 3, "in pieces of {size}");
        }
    }
}
