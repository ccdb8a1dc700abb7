//! An order service: axum in front, an async engine behind, one process, one file.
//!
//! An order is a workflow. It reserves, waits up to a day for an approval, charges and ships. A waiting order takes no
//! thread and outlives any number of restarts. Kill the service whenever you like.
//!
//! Run it: `cargo run --bin async_service -p examples -- 8080 sqlite:orders.db`, and in another terminal:
//!
//! ```sh
//! curl localhost:8080/orders -H 'Idempotency-Key: order-1' --json '{"item": "book", "cents": 1900}'
//! curl localhost:8080/orders/order-1
//! curl localhost:8080/orders/order-1/approve --json '{"by": "Ada"}'
//! curl localhost:8080/orders/order-1/cancel -X POST
//! ```

#![expect(clippy::pedantic, clippy::print_stdout, reason = "an example is plain code, and prints")]

use std::time::Duration;
use std::{env, io};

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use engine::{
    AsyncContext, AsyncEngine, BoxError, Engine, Error, StepInfo, StepOptions, Workflow, WorkflowId,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

const A_DAY: Duration = Duration::from_secs(24 * 3600);

/// How long requests may still take when the service is told to stop. Below it, how long running steps may take after
/// them.
const GRACE_OF_REQUESTS: Duration = Duration::from_secs(3);
const GRACE_OF_STEPS: Duration = Duration::from_secs(30);

/// The bank drops a call now and then, or does not answer. It charges once for each key, so asking again is safe.
const FLAKY_BANK: StepOptions = StepOptions::retries().attempts_max(5).timeout(Duration::from_secs(10));

#[derive(Serialize, Deserialize)]
struct Order {
    item: String,
    cents: u32,
}

#[derive(Serialize, Deserialize)]
struct Approval {
    by: String,
}

#[derive(Serialize, Deserialize)]
struct Receipt {
    approved_by: String,
    payment: String,
    parcel: String,
}

/// The whole life of an order. After a crash it goes on behind its last recorded step.
async fn order(mut ctx: AsyncContext, order: Order) -> Result<Receipt, BoxError> {
    let (id, item) = (ctx.workflow_id().to_string(), order.item);
    let row = [id.clone(), item.clone()];
    // The row and the record of the step are one commit: there is never a second row, nor a step without its row.
    ctx.transaction("reserve", move |tx| {
        tx.execute("INSERT INTO reservations (order_id, item) VALUES ($1, $2)", &row)
    })
    .await?;

    let Some(approval) = ctx.recv::<Approval>("approval", A_DAY).await? else {
        let release = "DELETE FROM reservations WHERE order_id = $1";
        ctx.transaction("release", move |tx| tx.execute(release, [&id])).await?;
        return Err("nobody approved the order within a day".into());
    };

    let pay = async |step: StepInfo| charge(order.cents, &step.key()).await;
    let payment = ctx.step_with("charge", &FLAKY_BANK, pay).await?;
    let parcel = ctx.step("ship", async |step| ship(&item, &step.key()).await).await?;
    Ok(Receipt { approved_by: approval.by, payment, parcel })
}

/// Stands for the client of a bank.
async fn charge(cents: u32, key: &str) -> io::Result<String> {
    Ok(format!("{cents} cents, charged once for {key}"))
}

/// Stands for the client of a warehouse.
async fn ship(item: &str, key: &str) -> io::Result<String> {
    Ok(format!("{item}, sent once for {key}"))
}

/// Makes the table of this program. As a workflow of a fixed id it happens once in the life of a database.
async fn create_tables(mut ctx: AsyncContext, (): ()) -> engine::Result<()> {
    ctx.transaction("create", |tx| {
        tx.batch("CREATE TABLE IF NOT EXISTS reservations (order_id TEXT NOT NULL, item TEXT NOT NULL)")
    })
    .await
}

/// The parts that the handlers share.
#[derive(Clone)]
struct Shop {
    engine: AsyncEngine,
    order: Workflow<Order, Receipt>,
}

type Answer = Result<(StatusCode, Json<Value>), Problem>;
type Body<T> = Result<Json<T>, JsonRejection>;

/// The key is the id of the workflow, so a client that repeats its request gets the order that it has begun.
async fn place(State(shop): State<Shop>, headers: HeaderMap, order: Body<Order>) -> Answer {
    let Some(key) = headers.get("Idempotency-Key").and_then(|key| key.to_str().ok()) else {
        return Err(Problem(StatusCode::BAD_REQUEST, "say an Idempotency-Key".to_owned()));
    };
    let placed = shop.engine.start_as(&shop.order, key, order?.0).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": placed.id().as_str(), "attached": placed.is_attached() }))))
}

/// The status of an order, and its outcome when it has ended.
async fn look(State(shop): State<Shop>, Path(id): Path<String>) -> Answer {
    let order = shop.engine.retrieve::<Receipt>(&id).await?;
    let progress = shop.engine.progress(order.id()).await?;
    // An order that waits for its approval has recorded two steps: `reserve`, and until when it waits (`DBOS.sleep`).
    let mut answer = json!({
        "id": id,
        "status": progress.status.as_str(),
        "last_step": progress.last_step,
        "steps": progress.steps_recorded,
    });
    if progress.status.is_terminal() {
        match order.await {
            Ok(receipt) => answer["receipt"] = json!(receipt),
            Err(error) => answer["error"] = json!(error.to_string()),
        }
    }
    Ok((StatusCode::OK, Json(answer)))
}

/// The message is stored before this answers. Sent under one key, it is one message, however often a client repeats it.
async fn approve(State(shop): State<Shop>, Path(id): Path<String>, approval: Body<Approval>) -> Answer {
    shop.engine.send_once("approval", &WorkflowId::new(&id)?, "approval", approval?.0).await?;
    let (_, order) = look(State(shop), Path(id)).await?;
    Ok((StatusCode::ACCEPTED, order))
}

/// An order that has ended stays as it ended. The steps that a cancelled order has done are not undone.
async fn cancel(State(shop): State<Shop>, Path(id): Path<String>) -> Answer {
    shop.engine.cancel(&WorkflowId::new(&id)?).await?;
    look(State(shop), Path(id)).await
}

/// An error as clients see it.
struct Problem(StatusCode, String);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::NotFound { .. } => StatusCode::NOT_FOUND,
            Error::IdInUse { .. } => StatusCode::CONFLICT,
            Error::InvalidName { .. } | Error::Unencodable { .. } => StatusCode::BAD_REQUEST,
            Error::ShuttingDown | Error::Unanswered { .. } => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, error.to_string())
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut args = env::args().skip(1);
    let port: u16 = args.next().map_or(Ok(0), |port| port.parse())?;
    let url = args.next().unwrap_or_else(|| "sqlite:orders.db".to_owned());
    let (stop, late) = (told_to_stop()?, told_to_stop()?);

    // The file holds the table of this program beside those of the engine.
    let engine = Engine::options().app("shop").shared_with_application().open_async(&url).await?;
    let order = engine.register("order", order)?;
    let create_tables = engine.register("create_tables", create_tables)?;
    engine.launch().await?; // takes up the orders of earlier processes, too
    engine.start_as(&create_tables, "create-tables", ()).await?.await?;

    let routes = Router::new()
        .route("/orders", post(place))
        .route("/orders/{id}", get(look))
        .route("/orders/{id}/approve", post(approve))
        .route("/orders/{id}/cancel", post(cancel))
        .with_state(Shop { engine: engine.clone(), order });
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);

    tokio::select! {
        served = axum::serve(listener, routes).with_graceful_shutdown(stop) => served?,
        // A client that never ends its request does not delay the end.
        () = async { late.await; sleep(GRACE_OF_REQUESTS).await } => {}
    }
    // Orders that wait are given back for the next process.
    engine.shutdown(GRACE_OF_STEPS).await;
    Ok(())
}

/// Ends when this process gets SIGTERM or ctrl-c, from now on.
fn told_to_stop() -> io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move { tokio::select!(_ = terminate.recv() => {}, _ = interrupt.recv() => {}) })
}
