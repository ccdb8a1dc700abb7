//! The table of parts.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::{Node, Part, walk};

/// How much of the wall time each part took.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    wall: Duration,
    parts: BTreeMap<Part, (u64, Duration)>,
}

impl Table {
    pub(super) fn of(main: &Node, wall: Duration) -> Self {
        let mut parts = BTreeMap::new();
        walk(main, &mut |path, node| {
            let part = path.last().map_or(Part::Engine, |(_, part)| *part);
            let (calls, time): &mut (u64, Duration) = parts.entry(part).or_default();
            *calls += node.calls;
            *time += node.own();
        });
        Self { wall, parts }
    }

    /// The time of one part.
    pub fn time(&self, part: Part) -> Duration {
        self.parts.get(&part).map_or(Duration::ZERO, |(_, time)| *time)
    }

    /// The sum of all parts.
    pub fn sum(&self) -> Duration {
        self.parts.values().map(|(_, time)| *time).sum()
    }

    /// The time that the program waited for its run.
    pub fn wall(&self) -> Duration {
        self.wall
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, name: &str, calls: Option<u64>, time: Duration| {
            let share = 100.0 * time.as_secs_f64() / self.wall.as_secs_f64().max(1e-9);
            let calls = calls.map_or(String::new(), |calls| calls.to_string());
            let ms = time.as_secs_f64() * 1000.0;
            writeln!(f, "  {name:<22} {calls:>8} {ms:>10.1} ms {share:>6.1} %")
        };
        writeln!(f, "  {:<22} {:>8} {:>13} {:>8}", "part", "calls", "time", "share")?;
        for part in Part::ALL {
            let (calls, time) = self.parts.get(&part).copied().unwrap_or_default();
            line(f, part.name(), Some(calls), time)?;
        }
        line(f, "sum", None, self.sum())?;
        line(f, "wall", None, self.wall)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn the_parts_add_up_to_the_wall_time() {
        let main = sample();
        let table = Table::of(&main, main.total);
        assert_eq!(table.sum(), table.wall());
        assert_eq!(table.time(Part::Engine), Duration::from_millis(35));
        assert_eq!(table.time(Part::Commit), Duration::from_millis(20));
        assert_eq!(table.time(Part::Wait), Duration::ZERO);
        assert!(
            table.to_string().contains("step body                    10       40.0 ms   40.0 %"),
            "{table}"
        );
    }
}
