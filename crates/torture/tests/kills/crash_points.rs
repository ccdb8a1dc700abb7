//! A process is killed at each place of a step's life and around each commit. The next process goes on, and the audit
//! finds nothing lost, doubled, stuck or broken. The workflows of either process are plain or async functions, by
//! turns.

use std::collections::BTreeSet;
use std::sync::Mutex;

use torture::kinds::Kind;
use torture::points::Point;

use crate::support::{Ended, Ground};
use crate::{AT_ONCE, every_nth_commit};

/// Tries each case on a ground of its own, several at once.
fn each<T: Send + Sync>(cases: &[T], case: impl Fn(&T) + Sync) {
    for some in cases.chunks(usize::try_from(AT_ONCE).unwrap()) {
        std::thread::scope(|scope| {
            for one in some {
                scope.spawn(|| case(one));
            }
        });
    }
}

/// Tries the cases 1, 1 + n, and so on of each series, several at once, until a case says that it was beyond the end.
pub(crate) fn each_until_the_end<S: Sync>(series: &[S], nth: u64, case: impl Fn(&S, u64) -> bool + Sync) {
    let next = Mutex::new((0, 1));
    let work = || loop {
        let (index, number) = {
            let mut next = next.lock().unwrap();
            let taken = *next;
            next.1 += nth;
            taken
        };
        let Some(one) = series.get(index) else { break };
        let mut next = if case(one, number) { continue } else { next.lock().unwrap() };
        if next.0 == index {
            *next = (index + 1, 1);
        }
    };
    std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(work))));
}

/// The kind of workflows that goes on after a kill, by turns.
pub(crate) fn next_kind(turn: u64) -> Kind {
    if turn.is_multiple_of(2) { Kind::Async } else { Kind::Plain }
}

/// Rows 1, 3, 4, 5 and 7 of a step's life, at its first, second and third step.
fn killed_in_a_step(kind: Kind) {
    let points = Point::IN_A_STEP.into_iter().filter(|point| *point != Point::WhileReplaying);
    let cases: Vec<_> = points.flat_map(|point| (0..3).map(move |skip| (point, skip))).zip(0..).collect();
    each(&cases, |((point, skip), turn)| {
        let mut ground = Ground::new();
        let args = format!("--kind {kind} --everything e --kill-at {point} --skip {skip} --finish");
        assert!(ground.run(&args).was_killed(), "{point} was not reached {} times", skip + 1);
        let next = next_kind(*turn);
        ground.finish_as(next);
        ground.assert_clean(&format!("{kind}, then {next}: killed at {point}, passed {skip} times"));
    });
}

#[test]
fn a_kill_in_a_step_leaves_nothing_lost_or_doubled() {
    killed_in_a_step(Kind::Plain);
}

#[test]
fn a_kill_in_an_async_step_leaves_nothing_lost_or_doubled() {
    killed_in_a_step(Kind::Async);
}

/// Row 2: the process that goes on is killed as well, while it reads the past, and is of the other kind.
#[test]
fn a_kill_while_the_past_is_replayed_leaves_nothing_lost_or_doubled() {
    each(&[(Kind::Plain, 0), (Kind::Async, 1)], |(kind, skip)| {
        let mut ground = Ground::new();
        let first = format!("--kind {kind} --everything e --kill-at after-step --skip 2 --finish");
        assert!(ground.run(&first).was_killed());
        let other = if *kind == Kind::Plain { Kind::Async } else { Kind::Plain };
        let killed = ground.run(&format!("--kind {other} --kill-at while-replaying --skip {skip} --finish"));
        assert!(killed.was_killed(), "nothing was replayed {} times", skip + 1);
        ground.finish_as(*kind);
        ground.assert_clean(&format!("{kind}, then {other}: killed at while-replaying, passed {skip} times"));
    });
}

/// Row 6: before and after every commit of a process, or every n-th, until there are no more commits. The commits have
/// writes of these kinds. Which commit has which write depends on the batches, so it may take several rounds.
fn killed_around_each_commit(expected: &[&str], run: impl Fn(&mut Ground, Point) -> Ended + Sync) {
    let mut kinds = BTreeSet::new();
    let missing = |kinds: &BTreeSet<String>| expected.iter().find(|kind| !kinds.contains(**kind)).copied();
    for _ in 0..3 {
        kinds.extend(one_round(&run));
        if every_nth_commit() > 1 || missing(&kinds).is_none() {
            return;
        }
    }
    panic!("no {} in {kinds:?}", missing(&kinds).unwrap());
}

/// Returns the kinds of writes in the commits.
fn one_round(run: &(impl Fn(&mut Ground, Point) -> Ended + Sync)) -> BTreeSet<String> {
    let one = |moment: fn(u64) -> Point, number| {
        let (mut ground, point) = (Ground::new(), moment(number));
        let ended = run(&mut ground, point);
        let kinds = ended.was_killed().then(|| ended.last_commit());
        if kinds.is_some() {
            ground.finish_as(next_kind(number));
        }
        ground.assert_clean(&format!("killed {point}"));
        kinds
    };
    let mut all = BTreeSet::new();
    for moment in [Point::BeforeCommit, Point::AfterCommit] {
        let mut numbers = (1..).step_by(usize::try_from(every_nth_commit()).unwrap());
        loop {
            let found: Vec<_> = std::thread::scope(|scope| {
                let several = numbers.by_ref().take(usize::try_from(AT_ONCE).unwrap());
                let several = several.map(|number| scope.spawn(move || one(moment, number)));
                several.collect::<Vec<_>>().into_iter().map(|one| one.join().unwrap()).collect()
            });
            let was_the_end = found.iter().all(Option::is_none);
            all.extend(found.into_iter().flatten().flatten());
            if was_the_end {
                break;
            }
        }
    }
    all
}

fn killed_around_the_commits_of(kind: Kind) {
    killed_around_each_commit(
        &[
            "register_version",
            "start_workflow",
            "record_step",
            "transaction_step",
            "send",
            "start_child",
            "receive",
            "settle",
        ],
        |ground, point| {
            ground.run(&format!("--kind {kind} --everything e --kill-at {point} --tell-commits --finish"))
        },
    );
}

#[test]
fn a_kill_around_any_commit_leaves_nothing_lost_or_doubled() {
    killed_around_the_commits_of(Kind::Plain);
}

#[test]
fn a_kill_around_any_commit_of_async_workflows_leaves_nothing_lost_or_doubled() {
    killed_around_the_commits_of(Kind::Async);
}

/// Kills around the commits of a workflow whose every wait leaves its thread.
fn killed_around_the_commits_of_waits(kind: Kind) {
    killed_around_each_commit(&["suspend", "claim", "wake_due"], |ground, point| {
        let args = "--everything e --suspend-after 0 --tell-commits --finish";
        ground.run(&format!("--kind {kind} {args} --kill-at {point}"))
    });
}

#[test]
fn a_kill_around_any_commit_of_waits_without_a_thread_leaves_nothing_lost_or_doubled() {
    killed_around_the_commits_of_waits(Kind::Plain);
}

#[test]
fn a_kill_around_any_commit_of_waits_of_async_workflows_leaves_nothing_lost_or_doubled() {
    killed_around_the_commits_of_waits(Kind::Async);
}

/// The process that takes over is killed too, around each of its commits.
fn killed_around_the_commits_of_a_recovery(first: Kind, second: Kind) {
    killed_around_each_commit(&["revive", "requeue", "claim", "record_step", "settle"], |ground, point| {
        let args = "--everything e --kill-at after-effect --skip 1 --finish";
        assert!(ground.run(&format!("--kind {first} {args}")).was_killed());
        ground.run(&format!("--kind {second} --kill-at {point} --tell-commits --finish"))
    });
}

#[test]
fn a_kill_around_any_commit_of_a_recovery_leaves_nothing_lost_or_doubled() {
    killed_around_the_commits_of_a_recovery(Kind::Async, Kind::Plain);
}

#[test]
fn a_kill_around_any_commit_of_a_recovery_by_async_workflows_leaves_nothing_lost_or_doubled() {
    killed_around_the_commits_of_a_recovery(Kind::Plain, Kind::Async);
}
