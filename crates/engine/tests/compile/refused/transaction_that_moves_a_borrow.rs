// says: `name` does not live long enough
// says: requires that `name` is borrowed for `'static`

use engine::{AsyncContext, Result};

pub async fn workflow(mut ctx: AsyncContext, name: String) -> Result<usize> {
    let borrowed = &name;
    ctx.transaction("write", move |_| engine::ok(borrowed.len())).await
}
