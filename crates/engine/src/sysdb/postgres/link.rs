//! A session with the server, driven by the thread that uses it: each wait for the server has a limit of ours.
//!
//! The driver's client and its socket live on a runtime of their own, which runs only while a request does. So a
//! request costs no hop to another thread, and an answer that never comes costs its limit and not the thread.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::{self, Builder};
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, Error, Notification};

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// None came within this time. Whether the request was done is not known.
    Silence(Duration),
    /// The error of the server or the network.
    Said(Error),
    /// The system has no room for another runtime.
    System(io::Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Said(error)
    }
}

/// The half of the driver that moves bytes, over any carrier.
pub(super) trait Driver: Send {
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<AsyncMessage, Error>>>;
}

impl<S, T> Driver for tokio_postgres::Connection<S, T>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send,
{
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<AsyncMessage, Error>>> {
        Self::poll_message(self, cx)
    }
}

/// Both halves, just made.
pub(super) type Halves = (Client, Box<dyn Driver>);

/// An open session.
pub(super) struct Link {
    client: Option<Client>,
    wire: Option<Wire>,
    runtime: Runtime,
}

/// The bytes, and the notices among them.
struct Wire {
    driver: Box<dyn Driver>,
    heard: VecDeque<Notification>,
    ended: bool,
}

/// A runtime that drives one session, while a thread waits for it.
pub(super) struct Runtime(Option<runtime::Runtime>);

impl Runtime {
    pub(super) fn new() -> Result<Self, Fault> {
        Builder::new_current_thread()
            .enable_all()
            .build()
            .map(|runtime| Self(Some(runtime)))
            .map_err(Fault::System)
    }

    /// Runs `work` for as long as it may take.
    pub(super) fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Fault> {
        let Some(runtime) = &self.0 else { return Err(gone()) };
        match runtime.block_on(async { timeout(limit, work).await }) {
            Ok(done) => done.map_err(Fault::Said),
            Err(_) => Err(Fault::Silence(limit)),
        }
    }
}

impl Drop for Runtime {
    /// Waits for nothing: a look-up of a name may still be under way on a thread of its own. Also inside an async runtime.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Link {
    pub(super) fn new((client, driver): Halves, runtime: Runtime) -> Self {
        let wire = Wire { driver, heard: VecDeque::new(), ended: false };
        Self { client: Some(client), wire: Some(wire), runtime }
    }

    /// Makes a request and waits for its answer, at most this long. After a silence nothing more can be asked.
    pub(super) fn ask<T>(
        &mut self,
        limit: Duration,
        request: impl AsyncFnOnce(&Client) -> Result<T, Error>,
    ) -> Result<T, Fault> {
        let (Some(client), Some(wire)) = (&self.client, &mut self.wire) else { return Err(gone()) };
        if wire.ended {
            return Err(gone());
        }
        let answered = self.runtime.within(limit, async {
            let mut answer = pin!(request(client));
            poll_fn(|cx| {
                wire.drive(cx)?;
                answer.as_mut().poll(cx)
            })
            .await
        });
        if matches!(answered, Err(Fault::Silence(_))) {
            self.hang_up();
        }
        answered
    }

    /// The next word that the server tells, if one comes within this time.
    pub(super) fn hear(&mut self, within: Duration) -> Result<Option<Notification>, Fault> {
        let Some(wire) = &mut self.wire else { return Err(gone()) };
        let heard = self.runtime.within(within, async {
            poll_fn(|cx| {
                wire.drive(cx)?;
                match wire.heard.pop_front() {
                    Some(word) => Poll::Ready(Ok(Some(word))),
                    None if wire.ended => Poll::Ready(Ok(None)),
                    None => Poll::Pending,
                }
            })
            .await
        });
        match heard {
            Ok(Some(word)) => Ok(Some(word)),
            Ok(None) => Err(gone()),
            Err(Fault::Silence(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Whether the server has left the connection open: reads the bytes that have come, without waiting.
    pub(super) fn is_open(&mut self) -> bool {
        let Some(wire) = &mut self.wire else { return false };
        let mut looked = false;
        let looks = poll_fn(|cx| {
            wire.ended |= wire.drive(cx).is_err();
            if wire.ended || std::mem::replace(&mut looked, true) {
                return Poll::Ready(Ok(!wire.ended));
            }
            // Once more, after the runtime has asked the system for readable bytes.
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        self.runtime.within(Duration::MAX, looks).unwrap_or(false)
    }

    /// Whether it is known that the session has ended, so that no answer would come.
    pub(super) fn is_closed(&self) -> bool {
        let ended = self.wire.as_ref().is_none_or(|wire| wire.ended);
        ended || self.client.as_ref().is_none_or(Client::is_closed)
    }

    /// Closes the socket without a word.
    fn hang_up(&mut self) {
        self.client = None;
        self.wire = None;
    }
}

impl Wire {
    /// Moves all bytes that can be moved without waiting.
    fn drive(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        while !self.ended {
            match self.driver.poll_message(cx) {
                Poll::Ready(Some(Ok(AsyncMessage::Notification(word)))) => self.heard.push_back(word),
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => {
                    self.ended = true;
                    return Err(error);
                }
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => break,
            }
        }
        Ok(())
    }
}

impl Drop for Link {
    /// Says goodbye as far as that needs no waiting, and waits for no goodbye in return.
    fn drop(&mut self) {
        self.client = None;
        if let Some(mut wire) = self.wire.take() {
            let _ = wire.drive(&mut Context::from_waker(Waker::noop()));
        }
    }
}

/// Of a session that had ended before.
fn gone() -> Fault {
    Fault::System(io::Error::new(io::ErrorKind::NotConnected, "the connection is gone"))
}
