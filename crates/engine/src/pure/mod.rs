//! Parts that need neither a database nor an engine.

pub(crate) mod blocking;
pub(crate) mod causes;
pub(crate) mod clock;
pub(crate) mod codec;
pub(crate) mod due;
pub(crate) mod error;
pub(crate) mod id;
pub(crate) mod inside;
pub(crate) mod limits;
pub(crate) mod listing;
pub(crate) mod notices;
pub(crate) mod observer;
pub(crate) mod queue;
pub(crate) mod retry;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) mod sql;
pub(crate) mod status;
pub(crate) mod sync;
pub(crate) mod tally;
