//! Failures on demand, equal for equal seeds and runs, and crashes that are real.

use std::sync::Arc;

use rand::rngs::ChaCha12Rng;
use rand::{RngExt, SeedableRng};

use crate::story::Story;

/// Decides which places fail.
pub struct Chaos {
    seed: u64,
    run: u64,
    story: Arc<Story>,
}

impl Chaos {
    pub(crate) fn new(seed: u64, run: u64, story: Arc<Story>) -> Self {
        Self { seed, run, story }
    }

    /// Whether `what` fails at this place (a batch, a page, an attempt), with this probability.
    ///
    /// The answer follows from the seed, from how often the program ran in its directory, and from the place. Time and
    /// threads have no part in it. So a loop of restarts is the same every time, and does not crash for ever.
    pub fn strikes(&self, what: &str, probability: f64, place: &[u64]) -> bool {
        roll(self.seed, self.run, what, place) < probability
    }

    /// Dies now, by a segmentation fault.
    pub fn crash(&self, place: &str) -> ! {
        self.story.crashes(place);
        // The first signal only makes the runtime's handler step aside; the second one kills.
        #[cfg(unix)]
        for _ in 0..2 {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSEGV);
        }
        std::process::abort()
    }
}

/// A number from 0 to 1 that follows from its arguments alone.
fn roll(seed: u64, run: u64, what: &str, place: &[u64]) -> f64 {
    let numbers = [seed, run].into_iter().chain(place.iter().copied());
    let bytes = what.bytes().chain(numbers.flat_map(u64::to_le_bytes));
    // FNV-1a: as stable as the seed should be.
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    ChaCha12Rng::seed_from_u64(hash).random()
}

/// A loop of crashes should not fill the disk.
pub(crate) fn forbid_core_files() {
    #[cfg(unix)]
    {
        use nix::sys::resource::{Resource, setrlimit};
        let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_place_fails_the_same_way_every_time() {
        assert_eq!(roll(1, 2, "crash", &[7]).to_bits(), roll(1, 2, "crash", &[7]).to_bits());
        let different = [
            roll(1, 2, "crash", &[7]),
            roll(2, 2, "crash", &[7]),
            roll(1, 3, "crash", &[7]),
            roll(1, 2, "insert", &[7]),
            roll(1, 2, "crash", &[8]),
            roll(1, 2, "crash", &[]),
        ];
        let distinct: std::collections::HashSet<u64> = different.iter().map(|roll| roll.to_bits()).collect();
        assert_eq!(distinct.len(), different.len());
    }

    #[test]
    fn failures_are_as_likely_as_they_should_be() {
        let struck = (0..10_000).filter(|n| roll(1, 1, "insert", &[*n]) < 0.4).count();
        assert!((3_800..4_200).contains(&struck), "{struck}");
    }
}
