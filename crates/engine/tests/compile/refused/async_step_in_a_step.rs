// says: cannot borrow `ctx` as mutable more than once at a time
// says: ctx.step("outer", async |_| ctx.step("inner", async |_| engine::ok(())).await).await

use engine::{AsyncContext, Result};

pub async fn workflow(mut ctx: AsyncContext, (): ()) -> Result<()> {
    ctx.step("outer", async |_| ctx.step("inner", async |_| engine::ok(())).await).await
}
