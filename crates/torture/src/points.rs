//! Places where a process kills itself: each row of a step's life, and each commit, before and after it.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::testing::{CommitPoint, Fate, Moment};

/// A place in the life of a step, as ARCHITECTURE.md counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Row 1: before the step is asked for.
    BeforeStep,
    /// Row 2: while a recorded outcome is decoded.
    WhileReplaying,
    /// Row 3: the body runs, and has had no effect.
    BeforeEffect,
    /// Row 4: the effect has happened.
    AfterEffect,
    /// Row 5: while the outcome is encoded.
    WhileEncoding,
    /// Row 5: while the outcome is decoded again.
    WhileDecoding,
    /// Row 6: before the n-th commit of the process.
    BeforeCommit(u64),
    /// Row 6: after the n-th commit of the process.
    AfterCommit(u64),
    /// After a commit that claims.
    AfterClaim,
    /// Before a commit that decides a race, or looks whether a branch of it may.
    BeforeDecide,
    /// After such a commit.
    AfterDecide,
    /// Row 7: the workflow has the value.
    AfterStep,
}

impl Point {
    /// The places that each step passes, with any commits.
    pub const IN_A_STEP: [Self; 7] = [
        Self::BeforeStep,
        Self::WhileReplaying,
        Self::BeforeEffect,
        Self::AfterEffect,
        Self::WhileEncoding,
        Self::WhileDecoding,
        Self::AfterStep,
    ];

    /// The places at a commit of some kinds of writes.
    const AT_KINDS: [Self; 3] = [Self::AfterClaim, Self::BeforeDecide, Self::AfterDecide];

    /// The places at which a process is when the engine's hook tells of this.
    fn of_commit(commit: &CommitPoint<'_>) -> impl Iterator<Item = Self> {
        let has = |kind| commit.kinds.contains(&kind);
        let (number, decides) = (commit.number, has("decide"));
        let all = match commit.moment {
            Moment::Before => [Some(Self::BeforeCommit(number)), decides.then_some(Self::BeforeDecide), None],
            Moment::After => [
                Some(Self::AfterCommit(number)),
                decides.then_some(Self::AfterDecide),
                has("claim").then_some(Self::AfterClaim),
            ],
        };
        all.into_iter().flatten()
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeforeStep => f.write_str("before-step"),
            Self::WhileReplaying => f.write_str("while-replaying"),
            Self::BeforeEffect => f.write_str("before-effect"),
            Self::AfterEffect => f.write_str("after-effect"),
            Self::WhileEncoding => f.write_str("while-encoding"),
            Self::WhileDecoding => f.write_str("while-decoding"),
            Self::BeforeCommit(n) => write!(f, "before-commit:{n}"),
            Self::AfterCommit(n) => write!(f, "after-commit:{n}"),
            Self::AfterClaim => f.write_str("after-claim"),
            Self::BeforeDecide => f.write_str("before-decide"),
            Self::AfterDecide => f.write_str("after-decide"),
            Self::AfterStep => f.write_str("after-step"),
        }
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().map_err(|_| format!("`{text}` is no number"));
        match text.split_once(':') {
            Some(("before-commit", n)) => Ok(Self::BeforeCommit(number(n)?)),
            Some(("after-commit", n)) => Ok(Self::AfterCommit(number(n)?)),
            _ => Self::AT_KINDS
                .into_iter()
                .chain(Self::IN_A_STEP)
                .find(|point| point.to_string() == text)
                .ok_or_else(|| format!("`{text}` is no crash point")),
        }
    }
}

/// Kills or holds this process at a place, at the n-th time that the process comes there.
pub struct Killer {
    at: Option<Point>,
    skip: AtomicU64,
    act: Box<dyn Fn() + Send + Sync>,
}

impl Killer {
    /// Acts at this place, once it was passed `skip` times.
    pub fn new(at: Option<Point>, skip: u64, act: impl Fn() + Send + Sync + 'static) -> Self {
        Self { at, skip: AtomicU64::new(skip), act: Box::new(act) }
    }

    /// Tells that the process is at this place.
    pub fn at(&self, point: Point) {
        if self.at == Some(point)
            && self.skip.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_err()
        {
            (self.act)();
        }
    }

    /// Tells that the process is at this commit. The engine's hook calls it.
    pub fn at_commit(&self, point: &CommitPoint<'_>) -> Fate {
        Point::of_commit(point).for_each(|point| self.at(point));
        Fate::Go
    }
}

/// Dies at once, as if killed from outside: no buffer is flushed, no value is dropped.
pub fn die() {
    let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    std::process::abort()
}
