//! A process is killed around the verdict of a race, when a message has come for it. There is one verdict, the winner is
//! recorded once and never runs again, and the message is received once, in the race or after it.

use std::collections::BTreeSet;
use std::sync::Mutex;

use torture::kinds::Kind;
use torture::points::Point;
use torture::worker::OUTSIDE;

use crate::crash_points::{each_until_the_end, next_kind};
use crate::every_nth;
use crate::support::Ground;

/// The workflows with these numbers race a message, the end of a child, a sleep and a step. One of them ends soon: the
/// message, the child, the sleep, the step, or all.
const WITH_A_STEP: [u64; 5] = [35, 26, 17, 8, 89];

/// Races without a step, which leave memory: a message, the end of a child or a sleep wakes them.
const WITHOUT_A_STEP: [u64; 3] = [80, 71, 62];

/// What the race of this number may return.
fn winners(number: u64) -> &'static [&'static str] {
    match number % 5 {
        // The message from outside may come before.
        0 => &["message"],
        1 => &["child", "message"],
        2 => &["sleep", "message"],
        3 => &["step", "message"],
        _ => &["message", "child", "sleep", "step"],
    }
}

fn start(number: u64) -> String {
    format!("--start {number}..{} --finish", number + 1)
}

/// Checks what the race returned, and the messages that it got. Returns the winner, if the race was ever started.
fn winner(ground: &Ground, number: u64, from_outside: usize, what: &str) -> Option<String> {
    let returned = ground.returned(&format!("w{number}"))?;
    let winner = returned[0].split(' ').next().unwrap();
    assert!(winners(number).contains(&winner), "{what}: {returned:?}");
    let text = |value: &String| value.strip_prefix("message ").unwrap_or(value) == OUTSIDE;
    assert_eq!(returned.iter().filter(|value| text(value)).count(), from_outside, "{what}: {returned:?}");
    let verdicts = format!(
        "SELECT count(*) FROM operation_outputs WHERE workflow_uuid = 'w{number}' AND function_name = 'Piton.race'"
    );
    assert_eq!(ground.number(&verdicts), 1, "{what}");
    Some(winner.to_owned())
}

/// At each commit that decides, or asks whether a message is there, until there are no more of them.
fn killed_around_the_verdicts(kind: Kind) {
    let moments = [
        (Point::BeforeDecide, Point::BeforeDecide),
        (Point::BeforeDecide, Point::AfterDecide),
        (Point::AfterDecide, Point::AfterDecide),
    ];
    let series: Vec<_> = WITH_A_STEP
        .into_iter()
        .flat_map(|number| moments.map(|(message_at, kill_at)| (number, message_at, kill_at)))
        .step_by(usize::try_from(every_nth(1, 4)).unwrap())
        .collect();
    each_until_the_end(&series, 1, |(number, message_at, kill_at), time| {
        let (next, skip) = (next_kind(number + time), time - 1);
        let mut ground = Ground::new();
        let message = format!("--message-to w{number} --message-at {message_at} --skip {skip}");
        let args = format!("--kind {kind} {} --kill-at {kill_at} {message}", start(*number));
        let was_killed = ground.run(&args).was_killed();
        let what =
            format!("{kind}, then {next}: w{number}, killed {kill_at}, time {time}, a message {message_at}");
        assert!(was_killed || time > 1, "{what}: it was not killed");
        if was_killed {
            ground.finish_as(next);
        }
        assert!(winner(&ground, *number, usize::from(was_killed), &what).is_some(), "{what}");
        ground.assert_clean(&what);
        was_killed
    });
}

#[test]
fn a_kill_around_a_verdict_leaves_one_verdict_and_each_message() {
    killed_around_the_verdicts(Kind::Plain);
}

#[test]
fn a_kill_around_a_verdict_of_an_async_workflow_leaves_one_verdict_and_each_message() {
    killed_around_the_verdicts(Kind::Async);
}

/// The race has left memory, and one of its branches wakes it. The process is killed around each commit, or every n-th,
/// until there are no more commits.
fn killed_around_the_commits_without_memory(kind: Kind) {
    let moments: [fn(u64) -> Point; 2] = [Point::BeforeCommit, Point::AfterCommit];
    let series: Vec<_> =
        WITHOUT_A_STEP.into_iter().flat_map(|number| moments.map(|moment| (number, moment))).collect();
    let (seen, nth) = (Mutex::new(BTreeSet::new()), every_nth(3, 8));
    each_until_the_end(&series, nth, |(number, moment), commit| {
        let kinds = killed_without_memory(kind, *number, moment(commit), next_kind(commit));
        let was_killed = kinds.is_some();
        seen.lock().unwrap().extend(kinds.into_iter().flatten());
        was_killed
    });
    let (seen, expected) =
        (seen.into_inner().unwrap(), ["suspend", "decide", "claim", "wake_due", "send", "settle"]);
    let missing: Vec<_> = expected.iter().filter(|kind| !seen.contains(**kind)).collect();
    assert!(nth > 1 || missing.is_empty(), "no {missing:?} in {seen:?}");
}

/// The kinds of the writes in the last commit, if the process was killed.
fn killed_without_memory(kind: Kind, number: u64, point: Point, next: Kind) -> Option<Vec<String>> {
    let mut ground = Ground::new();
    let args = format!("--kind {kind} {} --suspend-after 0 --kill-at {point} --tell-commits", start(number));
    let ended = ground.run(&args);
    let what = format!("{kind}, then {next}: w{number} without memory, killed {point}");
    if ended.was_killed() {
        ground.finish_with(&format!("--kind {next} --suspend-after 0"));
    }
    let found = winner(&ground, number, 0, &what);
    assert!(found.is_some() || !ground.acks.contains(&format!("w{number}")), "{what}");
    ground.assert_clean(&what);
    ended.was_killed().then(|| ended.last_commit())
}

#[test]
fn a_kill_around_any_commit_of_a_race_without_memory_leaves_one_verdict() {
    killed_around_the_commits_without_memory(Kind::Plain);
}

#[test]
fn a_kill_around_any_commit_of_an_async_race_without_memory_leaves_one_verdict() {
    killed_around_the_commits_without_memory(Kind::Async);
}
