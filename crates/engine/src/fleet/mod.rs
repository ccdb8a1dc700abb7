//! The engine's own thread, and its looks: at the work of dead executors, at workflows that no executor can take up, at
//! circles.

pub(crate) mod circle;
pub(crate) mod recovery;
pub(crate) mod service;
pub(crate) mod stranded;
