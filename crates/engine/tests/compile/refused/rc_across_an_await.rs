// says: future cannot be sent between threads safely
// says: has type `Rc<u32>` which is not `Send`
// says: await occurs here, with `shared` maybe used later

use std::rc::Rc;

use engine::{AsyncContext, Engine, Result, Workflow};

pub fn register(engine: &Engine) -> Result<Workflow<u32, u32>> {
    engine.register_async("w", async |mut ctx: AsyncContext, n: u32| {
        let shared = Rc::new(n);
        ctx.step("a", async |_| engine::ok(())).await?;
        engine::ok(*shared)
    })
}
