//! Piton and sqlx in one process, on one file. Both are linked with the same SQLite, so they may share it.

use engine::{BoxError, Context, Engine};
use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnectOptions;

fn order(ctx: &mut Context, item: String) -> engine::Result<i64> {
    ctx.transaction("insert", |tx| {
        tx.query_one("INSERT INTO orders (item) VALUES ($1) RETURNING id", [item.as_str()])?.get::<i64>("id")
    })
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("shop.db");
    let pool =
        SqlitePool::connect_with(SqliteConnectOptions::new().filename(&file).create_if_missing(true)).await?;
    sqlx::query("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT NOT NULL)").execute(&pool).await?;

    // Calls of the engine block their thread.
    let path = file.clone();
    let started = tokio::task::spawn_blocking(move || {
        let engine = Engine::options().app("shop").shared_with_application().open_file(&path)?;
        let order = engine.register("order", order)?;
        engine.launch()?;
        let id = order.start_as(&engine, "order-1", "book".to_owned())?.result()?;
        Ok::<_, engine::Error>((engine, id))
    });
    let (engine, id) = started.await??;

    let item: String =
        sqlx::query_scalar("SELECT item FROM orders WHERE id = ?").bind(id).fetch_one(&pool).await?;
    let status: String =
        sqlx::query_scalar("SELECT status FROM workflow_status WHERE workflow_uuid = 'order-1'")
            .fetch_one(&pool)
            .await?;
    tokio::task::spawn_blocking(move || drop(engine)).await?;
    pool.close().await;
    let seen = (item.as_str(), status.as_str(), engine::rusqlite::version());
    assert_eq!((seen.0, seen.1), ("book", "SUCCESS"));
    println!("sqlx sees {seen:?}");
    Ok(())
}
