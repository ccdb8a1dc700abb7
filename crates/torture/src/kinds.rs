//! Whether the workflows of a worker are plain or async functions.

use std::fmt;

use rand::rngs::ChaCha12Rng;
use rand::{RngExt, SeedableRng};

/// The kinds of a worker's workflows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Plain functions, each on a thread.
    Plain,
    /// Async functions, each a task.
    Async,
    /// By chance, workflow by workflow.
    Mixed,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Async, Self::Mixed];

    /// The kinds of one workflow after another; chance follows from the seed.
    pub fn by(self, seed: u64) -> Kinds {
        Kinds { kind: self, chance: ChaCha12Rng::seed_from_u64(seed) }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Async => "async",
            Self::Mixed => "mixed",
        })
    }
}

/// The kind of one workflow after another.
#[derive(Debug)]
pub struct Kinds {
    kind: Kind,
    chance: ChaCha12Rng,
}

impl Kinds {
    /// Whether the next one is async.
    pub fn next_is_async(&mut self) -> bool {
        match self.kind {
            Kind::Plain => false,
            Kind::Async => true,
            Kind::Mixed => self.chance.random_bool(0.5),
        }
    }
}
