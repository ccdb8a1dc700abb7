//! A process is killed at each place of a step's life and around each commit; the next one goes on, and the audit
//! finds nothing lost, doubled, stuck or broken.

mod support;

use std::collections::BTreeSet;

use support::Ground;
use torture::points::Point;

/// Rows 1, 3, 4, 5 and 7 of a step's life, at its first, second and third step.
#[test]
fn a_kill_in_a_step_leaves_nothing_lost_or_doubled() {
    for point in Point::IN_A_STEP.into_iter().filter(|point| *point != Point::WhileReplaying) {
        for skip in 0..3 {
            let mut ground = Ground::new();
            let killed = ground.run(&format!("--everything e --kill-at {point} --skip {skip} --finish"));
            assert!(killed.was_killed(), "{point} was not reached {} times", skip + 1);
            ground.finish();
            ground.assert_clean(&format!("killed at {point}, passed {skip} times"));
        }
    }
}

/// Row 2: the process that goes on is killed as well, while it reads the past.
#[test]
fn a_kill_while_the_past_is_replayed_leaves_nothing_lost_or_doubled() {
    for skip in 0..2 {
        let mut ground = Ground::new();
        assert!(ground.run("--everything e --kill-at after-step --skip 2 --finish").was_killed());
        let killed = ground.run(&format!("--kill-at while-replaying --skip {skip} --finish"));
        assert!(killed.was_killed(), "nothing was replayed {} times", skip + 1);
        ground.finish();
        ground.assert_clean(&format!("killed at while-replaying, passed {skip} times"));
    }
}

/// Row 6: before and after every commit that a workflow of all kinds of writes makes, until there are no more of
/// them. Gives the kinds of writes in the commits.
fn killed_around_each_commit(args: &str, moments: [fn(u64) -> Point; 2]) -> BTreeSet<String> {
    let mut kinds = BTreeSet::new();
    for moment in moments {
        for number in 1.. {
            let mut ground = Ground::new();
            let point = moment(number);
            let worker = ground.run(&format!("{args} --kill-at {point} --tell-commits --finish"));
            if worker.was_killed() {
                kinds.extend(worker.last_commit());
                ground.finish();
            }
            ground.assert_clean(&format!("{args} killed {point}"));
            if !worker.was_killed() {
                break;
            }
        }
    }
    kinds
}

#[test]
fn a_kill_around_any_commit_leaves_nothing_lost_or_doubled() {
    let kinds = killed_around_each_commit("--everything e", [Point::BeforeCommit, Point::AfterCommit]);
    for kind in [
        "register_version",
        "start_workflow",
        "record_step",
        "transaction_step",
        "send",
        "start_child",
        "receive",
        "settle",
    ] {
        assert!(kinds.contains(kind), "no {kind} in {kinds:?}");
    }
}

/// The same when every wait leaves its thread.
#[test]
fn a_kill_around_any_commit_of_waits_without_a_thread_leaves_nothing_lost_or_doubled() {
    let args = "--everything e --suspend-after 0";
    let kinds = killed_around_each_commit(args, [Point::BeforeCommit, Point::AfterCommit]);
    for kind in ["suspend", "claim", "wake_due"] {
        assert!(kinds.contains(kind), "no {kind} in {kinds:?}");
    }
}

/// The process that takes over is killed too, around each of its commits.
#[test]
fn a_kill_around_any_commit_of_a_recovery_leaves_nothing_lost_or_doubled() {
    let mut kinds = BTreeSet::new();
    for moment in [Point::BeforeCommit, Point::AfterCommit] {
        for number in 1.. {
            let mut ground = Ground::new();
            let killed = ground.run("--everything e --kill-at after-effect --skip 1 --finish");
            assert!(killed.was_killed());
            let point = moment(number);
            let second = ground.run(&format!("--kill-at {point} --tell-commits --finish"));
            if second.was_killed() {
                kinds.extend(second.last_commit());
                ground.finish();
            }
            ground.assert_clean(&format!("the recovery was killed {point}"));
            if !second.was_killed() {
                break;
            }
        }
    }
    for kind in ["revive", "requeue", "claim", "record_step", "settle"] {
        assert!(kinds.contains(kind), "no {kind} in {kinds:?}");
    }
}
