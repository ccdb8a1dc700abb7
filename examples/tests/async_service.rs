//! The order service as a process of its own: driven over HTTP, killed, started again, told to stop.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use engine::rusqlite::{Connection, Params, types::FromSql};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use ureq::Agent;
use watch::{PATIENCE, eventually, waiting};

/// Far below the grace that running steps get: orders that wait take none of it. Clients may take 3 s.
const STOPS_WITHIN: Duration = Duration::from_secs(20);

/// The database of one test, which outlives its services.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        watch::test(watch::LIMIT);
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("orders.db")
    }

    fn start(&self) -> Service {
        Service::start(&format!("sqlite:{}", self.file().display()))
    }

    fn sql(&self) -> Connection {
        let connection = Connection::open(self.file()).unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        connection
    }

    fn value<T: FromSql>(&self, query: &str, params: impl Params) -> T {
        self.sql().query_row(query, params, |row| row.get(0)).unwrap()
    }

    fn reservations(&self, id: &str) -> u32 {
        self.value("SELECT count(*) FROM reservations WHERE order_id = ?1", [id])
    }

    /// The names of the steps that an order has recorded, in their places.
    fn steps(&self, id: &str) -> Vec<String> {
        let connection = self.sql();
        let query =
            "SELECT function_name FROM operation_outputs WHERE workflow_uuid = ?1 ORDER BY function_id";
        let mut query = connection.prepare(query).unwrap();
        query.query_map([id], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }
}

/// A service that runs. Dropped before its end, it is killed.
struct Service {
    process: Child,
    address: String,
    http: Agent,
}

impl Service {
    /// On a free port, which it tells when it serves.
    fn start(url: &str) -> Self {
        let program = env!("CARGO_BIN_EXE_async_service");
        let mut process = Command::new(program).args(["0", url]).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = process.stdout.take().unwrap();
        let config =
            Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build();
        let mut service = Self { process, address: String::new(), http: Agent::new_with_config(config) };
        let (tell, told) = channel();
        thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map(|_| tell.send(line))
        });
        let line = told.recv_timeout(PATIENCE).expect("the service says where it listens");
        line.trim_end().strip_prefix("listening on http://").unwrap().clone_into(&mut service.address);
        service
    }

    fn at(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn get(&self, path: &str) -> (u16, Value) {
        read(self.http.get(self.at(path)).call())
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let post = self.http.post(self.at(path)).content_type("application/json");
        read(post.send(body.to_string()))
    }

    fn place(&self, key: &str) -> (u16, Value) {
        let post = self.http.post(self.at("/orders")).header("Idempotency-Key", key);
        read(post.content_type("application/json").send(json!({"item": "book", "cents": 1900}).to_string()))
    }

    fn approve(&self, id: &str) -> (u16, Value) {
        self.post(&format!("/orders/{id}/approve"), &json!({"by": "Ada"}))
    }

    fn cancel(&self, id: &str) -> (u16, Value) {
        self.post(&format!("/orders/{id}/cancel"), &Value::Null)
    }

    fn look(&self, id: &str) -> Value {
        let (code, order) = self.get(&format!("/orders/{id}"));
        assert_eq!((code, &order["id"]), (200, &json!(id)));
        order
    }

    fn place_and_wait_for_approval(&self, id: &str) {
        assert_eq!(self.place(id), (202, json!({"id": id, "attached": false})));
        eventually("the order waits for its approval", || self.look(id)["last_step"] == "DBOS.sleep");
    }

    fn wait_for_the_end(&self, id: &str) -> Value {
        let is_open =
            |order: &Value| ["PENDING", "ENQUEUED", "DELAYED"].map(Value::from).contains(&order["status"]);
        eventually("the order has ended", || !is_open(&self.look(id)));
        self.look(id)
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// A request whose body never comes, as the service knows: it has asked for it.
    fn begin_a_request(&self) -> TcpStream {
        const HEAD: &str = "POST /orders HTTP/1.1\r\nHost: here\r\nIdempotency-Key: half\r\n\
            Content-Type: application/json\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n";
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(HEAD.as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer).unwrap();
        assert_eq!(answer.trim_end(), "HTTP/1.1 100 Continue");
        stream
    }

    /// Sends the signal and waits for the end.
    fn stop(mut self, signal: Signal) -> ExitStatus {
        let pid = Pid::from_raw(self.process.id().try_into().unwrap());
        kill(pid, signal).unwrap();
        let _waiting = waiting("the end of the service");
        let mut ended = None;
        eventually("the service has ended", || {
            ended = self.process.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The status code, and the body, which is always JSON.
fn read(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> (u16, Value) {
    let mut answer = answer.unwrap();
    let body = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
}

fn receipt(id: &str) -> Value {
    json!({
        "approved_by": "Ada",
        "payment": format!("1900 cents, charged once for {id}:4"),
        "parcel": format!("book, sent once for {id}:5"),
    })
}

#[test]
fn orders_that_wait_outlive_a_kill_and_end_once() {
    const ALL_STEPS: [&str; 5] = ["reserve", "DBOS.recv", "DBOS.sleep", "charge", "ship"];
    let (place, orders) = (Place::new(), ["order-1", "order-2", "order-3"]);
    let service = place.start();
    for id in orders {
        service.place_and_wait_for_approval(id);
    }
    assert_eq!(service.place("order-1"), (202, json!({"id": "order-1", "attached": true})));
    service.kill();

    let service = place.start();
    for id in orders {
        assert_eq!(service.place(id), (202, json!({"id": id, "attached": true})));
        assert_eq!(service.approve(id).0, 202);
        assert_eq!(service.approve(id).0, 202, "a client that repeats it");
    }
    for id in orders {
        let ended = service.wait_for_the_end(id);
        assert_eq!((&ended["status"], &ended["receipt"]), (&json!("SUCCESS"), &receipt(id)));
        assert_eq!((place.reservations(id), place.steps(id)), (1, ALL_STEPS.map(str::to_owned).to_vec()));
        assert_eq!(service.approve(id), (202, ended.clone()));
        assert_eq!(service.cancel(id), (200, ended), "what has ended stays as it ended");
    }
    service.kill();
    let service = place.start();
    for id in orders {
        assert_eq!(service.look(id)["receipt"], receipt(id));
    }
    assert_eq!(place.value::<u32>("SELECT count(*) FROM reservations", []), 3);
    assert_eq!(place.value::<u32>("SELECT count(*) FROM workflow_status WHERE name = 'order'", []), 3);
    assert_eq!(place.value::<u32>("SELECT count(*) FROM notifications", []), 3, "one approval for each");
}

#[test]
fn a_cancelled_order_stays_cancelled() {
    let place = Place::new();
    let service = place.start();
    service.place_and_wait_for_approval("order-1");
    let (code, cancelled) = service.cancel("order-1");
    assert_eq!((code, &cancelled["status"]), (200, &json!("CANCELLED")));
    assert_eq!(cancelled["error"], "workflow order-1 was cancelled");
    assert_eq!(service.approve("order-1"), (202, cancelled.clone()));
    service.kill();

    let service = place.start();
    assert_eq!(service.cancel("order-1"), (200, cancelled.clone()));
    // An order that ends shows that the service has looked at what there is to do.
    service.place_and_wait_for_approval("order-2");
    service.approve("order-2");
    service.wait_for_the_end("order-2");
    assert_eq!(service.look("order-1"), cancelled);
    assert_eq!(
        (place.reservations("order-1"), place.steps("order-1").contains(&"charge".to_owned())),
        (1, false)
    );
}

#[test]
fn an_order_that_nobody_approved_in_time_gives_its_reservation_back() {
    let place = Place::new();
    let service = place.start();
    service.place_and_wait_for_approval("order-1");
    assert_eq!(place.reservations("order-1"), 1);
    service.kill();

    // The day passes while no service runs.
    let deadline = "UPDATE operation_outputs SET output = output - 86400 WHERE function_name = 'DBOS.sleep'";
    assert_eq!(place.sql().execute(deadline, []).unwrap(), 1);
    let delayed = "UPDATE workflow_status SET delay_until_epoch_ms = 1 WHERE status = 'DELAYED'";
    place.sql().execute(delayed, []).unwrap();
    let service = place.start();
    let ended = service.wait_for_the_end("order-1");
    assert_eq!(ended["status"], "ERROR");
    assert!(ended["error"].as_str().unwrap().contains("nobody approved the order within a day"), "{ended}");
    assert_eq!(place.reservations("order-1"), 0);
}

#[test]
fn what_cannot_be_served_is_said_as_json_with_a_fitting_code() {
    let place = Place::new();
    let service = place.start();
    let refused = |(code, answer): (u16, Value), says: &str| {
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains(says), "{error}");
        code
    };
    let order = json!({"item": "book", "cents": 1900});
    assert_eq!(refused(service.get("/orders/none"), "no workflow none"), 404);
    assert_eq!(refused(service.approve("none"), "no workflow none"), 404);
    assert_eq!(refused(service.cancel("none"), "no workflow none"), 404);
    assert_eq!(refused(service.post("/orders", &order), "Idempotency-Key"), 400);
    assert_eq!(refused(service.place(&"x".repeat(256)), "at most 255"), 400);
    assert_eq!(refused(service.place("create-tables"), "`create_tables`"), 409);
    assert_eq!(refused(service.post("/orders/none/approve", &json!({})), "missing field `by`"), 422);
}

#[test]
fn a_service_that_is_told_to_stop_gives_waiting_orders_to_the_next_one() {
    let place = Place::new();
    for (signal, id) in [(Signal::SIGTERM, "order-1"), (Signal::SIGINT, "order-2")] {
        let service = place.start();
        service.place_and_wait_for_approval(id);
        let _idle = TcpStream::connect(&service.address).unwrap();
        let _half = service.begin_a_request();
        let told = Instant::now();
        assert_eq!(service.stop(signal).code(), Some(0), "{signal}");
        assert!(told.elapsed() < STOPS_WITHIN, "{signal}: {:?}", told.elapsed());
    }
    let service = place.start();
    for id in ["order-1", "order-2"] {
        service.approve(id);
        assert_eq!(service.wait_for_the_end(id)["receipt"], receipt(id));
    }
    assert_eq!(place.value::<u32>("SELECT max(recovery_attempts) FROM workflow_status", []), 1);
}
