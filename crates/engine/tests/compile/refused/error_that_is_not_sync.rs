// says: `Cell<u32>` cannot be shared between threads safely
// says: NotSync

use std::cell::Cell;
use std::fmt;

use engine::{Context, Result};

#[derive(Debug)]
pub struct NotSync(Cell<u32>);

impl fmt::Display for NotSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.get())
    }
}

impl std::error::Error for NotSync {}

pub fn workflow(ctx: &mut Context, n: u32) -> Result<()> {
    ctx.step("fails", |_| Err(NotSync(Cell::new(n))))
}
