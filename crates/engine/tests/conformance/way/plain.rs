//! The suite with plain functions as its workflows.

pub(crate) use engine::{Context, Engine, Operation};

/// Whether each workflow has a thread, which is its own while it runs.
pub(crate) const IS_PLAIN: bool = true;

/// An engine as the texts use it.
pub(crate) fn opened(engine: Engine) -> Engine {
    engine
}
