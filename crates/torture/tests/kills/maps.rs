//! A process is killed around each commit of a map. Items that are recorded never run again, the others do, and the
//! values are in the order of the items.

use torture::kinds::Kind;
use torture::points::Point;

use crate::crash_points::{each_until_the_end, next_kind};
use crate::every_nth;
use crate::support::{Ground, Rest};

/// The workflow with this number maps a hundred items, twenty at once.
const MAP: &str = "w69";
const START: &str = "--start 69..70";
const ITEMS: usize = 100;

/// The next process has workflows of either kind, by turns.
fn killed_around_the_commits_of_a_map(kind: Kind) {
    let moments: [fn(u64) -> Point; 2] = [Point::BeforeCommit, Point::AfterCommit];
    each_until_the_end(&moments, every_nth(1, 6), |moment, number| {
        killed_at(kind, moment(number), next_kind(number))
    });
}

/// Whether the process came there.
fn killed_at(kind: Kind, point: Point, next: Kind) -> bool {
    let mut ground = Ground::new();
    let was_killed = ground.run(&format!("--kind {kind} {START} --kill-at {point} --finish")).was_killed();
    let what = format!("{kind}, then {next}: killed {point}");
    if was_killed {
        let rest = ground.finish_as(next);
        if ground.acks.contains(MAP) || ground.returned(MAP).is_some() {
            assert_the_others_ran(&rest, &what);
        }
    }
    if let Some(values) = ground.returned(MAP) {
        assert_eq!(values.len(), ITEMS + 2, "{what}");
        for (item, value) in values[1..=ITEMS].iter().enumerate() {
            assert!(value.starts_with(&format!("{item}:")), "{what}: item {item} is {value}");
        }
    }
    ground.assert_clean(&what);
    was_killed
}

fn assert_the_others_ran(rest: &Rest, what: &str) {
    for item in 0..ITEMS {
        let step = (MAP.to_owned(), format!("item-{item}"));
        let (is_recorded, ran) = (rest.recorded.contains_key(&step), rest.bodies.contains(&step));
        assert_ne!(is_recorded, ran, "{what}: item {item} is recorded: {is_recorded}, ran: {ran}");
    }
}

#[test]
fn a_kill_around_any_commit_of_a_map_leaves_nothing_lost_or_doubled() {
    killed_around_the_commits_of_a_map(Kind::Plain);
}

#[test]
fn a_kill_around_any_commit_of_an_async_map_leaves_nothing_lost_or_doubled() {
    killed_around_the_commits_of_a_map(Kind::Async);
}
