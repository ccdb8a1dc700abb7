// says: closure may outlive the current function, but it borrows `name`
// says: use the `move` keyword

use engine::{AsyncContext, Result};

pub async fn workflow(mut ctx: AsyncContext, name: String) -> Result<usize> {
    ctx.transaction("write", |_| engine::ok(name.len())).await
}
