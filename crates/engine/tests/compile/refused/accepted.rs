// Compiles: the others are refused for what they say.

use engine::{AsyncContext, Engine, Result, Workflow};

pub fn register(engine: &Engine) -> Result<Workflow<String, usize>> {
    engine.register_async("w", async |mut ctx: AsyncContext, name: String| {
        let length = ctx.step("a", async |_| engine::ok(name.len())).await?;
        ctx.transaction("write", move |_| engine::ok(length + name.len())).await
    })
}
