// says: cannot move out of `ctx` because it is borrowed

use engine::{AsyncContext, Result};

pub async fn workflow(mut ctx: AsyncContext, (): ()) -> Result<()> {
    ctx.step("outer", async move |_| ctx.step("inner", async |_| engine::ok(())).await).await
}
