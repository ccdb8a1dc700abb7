//! The engine's own thread, and what it looks after: the work of the dead, what waits for nobody, circles.

pub(crate) mod circle;
pub(crate) mod recovery;
pub(crate) mod service;
pub(crate) mod stranded;
