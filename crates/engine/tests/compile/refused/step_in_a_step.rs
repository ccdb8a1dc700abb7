// says: cannot borrow `*ctx` as mutable because previous closure requires unique access
// says: ctx.step("outer", |_| ctx.step("inner", |_| engine::ok(())))

use engine::{Context, Result};

pub fn workflow(ctx: &mut Context, (): ()) -> Result<()> {
    ctx.step("outer", |_| ctx.step("inner", |_| engine::ok(())))
}
