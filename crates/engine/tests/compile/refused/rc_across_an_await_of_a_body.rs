// says: future cannot be sent between threads safely
// says: has type `Rc<u32>` which is not `Send`
// says: await occurs here, with `shared` maybe used later

use std::rc::Rc;

use engine::{AsyncContext, Engine, Result, Workflow};

async fn workflow(mut ctx: AsyncContext, n: u32) -> Result<u32> {
    ctx.step("a", async |_| {
        let shared = Rc::new(n);
        std::future::ready(()).await;
        engine::ok(*shared)
    })
    .await
}

pub fn register(engine: &Engine) -> Result<Workflow<u32, u32>> {
    engine.register_async("w", workflow)
}
