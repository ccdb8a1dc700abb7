//! A proxy before the server. It counts requests, loses answers on demand, and falls silent, on all connections or on
//! those of one application name.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use crate::Cluster;

/// The name of the server's socket in its directory.
const SOCKET: &str = ".s.PGSQL.5432";

/// Listens on a loopback port. Lives as long as the process.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Requests that were answered or whose answer was lost: each is a round trip.
    requests: AtomicU64,
    /// Statements that were run; a request may only prepare one.
    statements: AtomicU64,
    /// Loses the answer of each request whose number this divides; 0 for none.
    lose_every: AtomicU64,
    lost: AtomicU64,
    silent: AtomicBool,
    deaf: AtomicBool,
    /// The connections that are open, or were.
    links: Mutex<Vec<Weak<Link>>>,
    /// New connections of this application name fall silent at this moment.
    silence_of_new: Mutex<Option<(String, Moment)>>,
    /// How many connections fell silent by themselves.
    silenced: AtomicU64,
}

/// When a new connection falls silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It is accepted, and its login is never answered.
    Login,
    /// The login is answered, and no later request is.
    AfterLogin,
}

/// One connection.
#[derive(Debug, Default)]
struct Link {
    application: Mutex<String>,
    /// No byte comes through any more in either direction.
    silent: AtomicBool,
    /// The connection falls silent when the server is ready for the next request.
    after_login: AtomicBool,
    /// The connection falls silent within the next answer.
    within_answer: AtomicBool,
}

impl Link {
    /// Never returns once the connection is silent. Its sockets stay open, and the system still acknowledges their
    /// bytes.
    fn pass(&self, shared: &Shared) {
        wait_while_silent(shared);
        while self.silent.load(Ordering::SeqCst) {
            thread::park();
        }
    }

    fn fall_silent(&self, shared: &Shared) {
        if !self.silent.swap(true, Ordering::SeqCst) {
            shared.silenced.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Puts a proxy before this server.
    ///
    /// # Errors
    /// The system's error.
    pub fn before(cluster: &Cluster) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, shared) = (listener.local_addr()?, Arc::<Shared>::default());
        let (server, used) = (cluster.socket().join(SOCKET), shared.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if let Ok(server) = UnixStream::connect(&server) {
                    let shared = used.clone();
                    thread::spawn(move || relay(&client, &server, &shared));
                }
            }
        });
        Ok(Self { address, shared })
    }

    /// The URL of a database behind the proxy.
    pub fn url(&self, database: &str) -> String {
        format!("postgresql://postgres@{}/{database}?sslmode=disable", self.address)
    }

    /// How many requests the server was asked to answer.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// How many statements the server was asked to run.
    pub fn statements(&self) -> u64 {
        self.shared.statements.load(Ordering::SeqCst)
    }

    /// From now on the connection is cut after every `n`th request was done and before its answer is delivered. 0 ends
    /// that.
    pub fn lose_every(&self, n: u64) {
        self.shared.lose_every.store(n, Ordering::SeqCst);
    }

    /// How many answers were lost.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::SeqCst)
    }

    /// Sets whether each NOTIFY is lost, as behind a pooler that gives each transaction another connection.
    pub fn be_deaf(&self, deaf: bool) {
        self.shared.deaf.store(deaf, Ordering::SeqCst);
    }

    /// Sets whether every byte is held back and no connection is closed, as behind a cable that was pulled.
    pub fn be_silent(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::SeqCst);
    }

    /// Silences the connections that are open under this application name, for good. Returns how many; new connections
    /// work.
    pub fn silence(&self, application: &str) -> usize {
        let links = self.links_of(application);
        for link in &links {
            link.fall_silent(&self.shared);
        }
        links.len()
    }

    /// Silences the connections of this application name in the middle of their next answers. Returns how many.
    pub fn silence_within_answers(&self, application: &str) -> usize {
        let links = self.links_of(application);
        for link in &links {
            link.within_answer.store(true, Ordering::SeqCst);
        }
        links.len()
    }

    /// From now on new connections under this application name fall silent. `None` ends that. An empty name means all
    /// connections.
    pub fn silence_new(&self, application: &str, at: Option<Moment>) {
        *locked(&self.shared.silence_of_new) = at.map(|at| (application.to_owned(), at));
    }

    /// How many connections fell silent, without those of [`Proxy::be_silent`].
    pub fn silenced(&self) -> u64 {
        self.shared.silenced.load(Ordering::SeqCst)
    }

    fn links_of(&self, application: &str) -> Vec<Arc<Link>> {
        let mut links = locked(&self.shared.links);
        links.retain(|link| link.strong_count() > 0);
        let all = links.iter().filter_map(Weak::upgrade);
        all.filter(|link| *locked(&link.application) == application).collect()
    }
}

/// Relays one connection, until one of its ends closes.
fn relay(client: &TcpStream, server: &UnixStream, shared: &Arc<Shared>) {
    let _ = client.set_nodelay(true);
    let lose = Arc::new(AtomicBool::new(false));
    let link = Arc::<Link>::default();
    locked(&shared.links).push(Arc::downgrade(&link));
    let (Ok(to_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else { return };
    let (loses, of_both, shared_by_both) = (lose.clone(), link.clone(), shared.clone());
    let answers = thread::spawn(move || {
        let _ = answers(from_server, &to_client, &loses, (&of_both, &shared_by_both));
        let _ = to_client.shutdown(Shutdown::Both);
    });
    let _ = requests(client, server, &lose, (&link, shared));
    let _ = server.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Both);
    let _ = answers.join();
}

fn requests(
    mut client: &TcpStream,
    mut server: &UnixStream,
    lose: &AtomicBool,
    (link, shared): (&Link, &Shared),
) -> io::Result<()> {
    // The first message has no type.
    let startup = message(&mut client, 0)?;
    let application = application_name(&startup);
    let silence = locked(&shared.silence_of_new).clone();
    if let Some((named, at)) = silence
        && (named.is_empty() || named == application)
    {
        match at {
            Moment::Login => link.fall_silent(shared),
            Moment::AfterLogin => link.after_login.store(true, Ordering::SeqCst),
        }
    }
    *locked(&link.application) = application;
    link.pass(shared);
    server.write_all(&startup)?;
    loop {
        let message = message(&mut client, 1)?;
        link.pass(shared);
        if matches!(message[0], b'E' | b'Q') {
            shared.statements.fetch_add(1, Ordering::SeqCst);
        }
        // Sync and a simple query are answered.
        if matches!(message[0], b'S' | b'Q') {
            let number = shared.requests.fetch_add(1, Ordering::SeqCst) + 1;
            let every = shared.lose_every.load(Ordering::SeqCst);
            if every > 0 && number.is_multiple_of(every) {
                lose.store(true, Ordering::SeqCst);
            }
        }
        server.write_all(&message)?;
    }
}

fn answers(
    mut server: UnixStream,
    mut client: &TcpStream,
    lose: &AtomicBool,
    (link, shared): (&Link, &Shared),
) -> io::Result<()> {
    loop {
        let message = message(&mut server, 1)?;
        link.pass(shared);
        if message[0] == b'A' && shared.deaf.load(Ordering::SeqCst) {
            continue;
        }
        if link.within_answer.load(Ordering::SeqCst) {
            client.write_all(&message[..message.len() / 2])?;
            link.fall_silent(shared);
            link.pass(shared);
        }
        if !lose.load(Ordering::SeqCst) {
            client.write_all(&message)?;
        } else if message[0] == b'Z' {
            // The server is ready for the next request: this one is done.
            shared.lost.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        if message[0] == b'Z' && link.after_login.load(Ordering::SeqCst) {
            link.fall_silent(shared);
        }
    }
}

/// The application name in a client's startup message, where names and values alternate.
fn application_name(startup: &[u8]) -> String {
    let texts: Vec<&[u8]> = startup.get(8..).unwrap_or_default().split(|byte| *byte == 0).collect();
    let pairs = texts.chunks_exact(2);
    let value = pairs.into_iter().find(|pair| pair[0] == b"application_name").map(|pair| pair[1]);
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}

/// Reads a whole message: a type of so many bytes, a length that counts itself, and the rest.
fn message(from: &mut impl Read, type_bytes: usize) -> io::Result<Vec<u8>> {
    let mut head = vec![0; type_bytes + 4];
    from.read_exact(&mut head)?;
    let length: [u8; 4] = head[type_bytes..].try_into().map_err(io::Error::other)?;
    let whole = type_bytes + u32::from_be_bytes(length) as usize;
    head.resize(whole, 0);
    from.read_exact(&mut head[type_bytes + 4..])?;
    Ok(head)
}

#[expect(clippy::disallowed_methods, reason = "a silence has no signal to wait for")]
fn wait_while_silent(shared: &Shared) {
    while shared.silent.load(Ordering::SeqCst) {
        thread::sleep(std::time::Duration::from_millis(5));
    }
}
