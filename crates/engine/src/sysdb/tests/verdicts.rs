//! The verdict of a write that meets traces: of its own earlier try, or of another writer.

use super::*;
use crate::sysdb::WaitEdge;
use crate::sysdb::write::{Existing, RecoveryAttempt, Refusal, Winner};

fn record(owner: &Owner, step: StepRow) -> Write {
    Write::RecordStep { owner: owner.clone(), step }
}

fn settle(owner: &Owner, status: WorkflowStatus) -> Write {
    Write::Settle { owner: owner.clone(), outcome: outcome(owner, status), at: NOW }
}

#[test]
fn a_step_is_recorded_once_and_knows_its_own_record() {
    on_both(|ground| {
        let owner = ground.running();
        assert_eq!(ground.verdict(record(&owner, step("s"))), Verdict::Done);
        assert_eq!(ground.verdict(record(&owner, step("s"))), Verdict::Done, "its own earlier try");
        let other = Verdict::Refused(Refusal::OtherStep { recorded: "s".to_owned() });
        assert_eq!(ground.verdict(record(&owner, step("another"))), other);
        let output = Some("8".to_owned());
        assert_eq!(ground.verdict(record(&owner, StepRow { output, ..step("s") })), other);
        let steps = ground.database.reader.steps(&owner.workflow, StepId(0), 10).unwrap();
        assert_eq!(steps, [step("s")]);
    });
}

#[test]
fn a_start_knows_its_own_row_and_whose_another_one_is() {
    on_both(|ground| {
        let token = OwnerToken::generate();
        let new = || new_workflow("mine", &token, false);
        assert_eq!(ground.verdict(Write::StartWorkflow(new())), Verdict::Done);
        assert_eq!(ground.verdict(Write::StartWorkflow(new())), Verdict::Done, "its own earlier try");
        let again = || new_workflow("mine", &OwnerToken::generate(), false);
        let there = |same_input| Verdict::AlreadyThere(Existing { same_input });
        assert_eq!(ground.verdict(Write::StartWorkflow(again())), there(true));
        let input = "7".to_owned();
        assert_eq!(ground.verdict(Write::StartWorkflow(NewWorkflow { input, ..again() })), there(false));
        let name = Arc::from("another");
        let other = Verdict::Refused(Refusal::OtherWorkflow { name: "w".to_owned() });
        assert_eq!(ground.verdict(Write::StartWorkflow(NewWorkflow { name, ..again() })), other);
    });
}

#[test]
fn an_outcome_stays_and_is_known_again() {
    on_both(|ground| {
        let owner = ground.running();
        assert_eq!(ground.verdict(settle(&owner, WorkflowStatus::Success)), Verdict::Done);
        assert_eq!(ground.verdict(settle(&owner, WorkflowStatus::Success)), Verdict::Done, "its earlier try");
        assert_eq!(ground.verdict(settle(&owner, WorkflowStatus::Error)), Verdict::NotOwner);
        let found = ground.database.reader.outcome(&owner.workflow).unwrap();
        assert_eq!(found, Some(outcome(&owner, WorkflowStatus::Success)));
    });
}

/// The fleet is called for these alone: no other workflow can go on.
#[test]
fn an_end_and_a_message_say_whether_they_woke_somebody() {
    on_both(|ground| {
        let parent = ground.running();
        let token = OwnerToken::generate();
        let child = NewWorkflow {
            parent: Some(parent.workflow.clone()),
            ..new_workflow(&format!("{}-1", parent.workflow), &token, true)
        };
        let child_owner = Owner { workflow: child.id.clone(), token };
        assert_eq!(ground.verdict(Write::StartWorkflow(child)), Verdict::Done);
        let until = settled(&child_owner.workflow);
        let suspend = Write::Suspend { owner: parent.clone(), until, at: NOW };
        assert_eq!(ground.verdict(suspend), Verdict::Done);
        assert_eq!(ground.verdict(settle(&child_owner, WorkflowStatus::Success)), Verdict::Woke);

        let receiver = ground.running();
        let send = |n: u32| {
            let message = message(&format!("{}::{n}", receiver.workflow), &receiver.workflow);
            Write::Send { message: NewMessage { topic: "u".to_owned(), ..message }, sender: None }
        };
        let until = message_of(&receiver, "u");
        let suspend = Write::Suspend { owner: receiver.clone(), until, at: NOW };
        assert_eq!(ground.verdict(suspend), Verdict::Done);
        assert_eq!(ground.verdict(send(1)), Verdict::Woke);
        assert_eq!(ground.verdict(send(2)), Verdict::Done, "it is awake");
    });
}

#[test]
fn who_waits_for_what_is_there_is_told_so_and_stays() {
    on_both(|ground| {
        let ended = ground.running();
        ground.verdict(settle(&ended, WorkflowStatus::Error));
        let owner = ground.running();
        for until in [
            message_of(&owner, "t"),
            settled(&ended.workflow),
            any([settled(&WorkflowId::new("nobody").unwrap()), message_of(&owner, "t")]),
            any([settled(&WorkflowId::new("nobody").unwrap()), settled(&ended.workflow)]),
        ] {
            let before = ground.side.rows_of(owner.workflow.as_str());
            let suspend = Write::Suspend { owner: owner.clone(), until, at: NOW };
            assert_eq!(ground.verdict(suspend), Verdict::Refused(Refusal::NoNeedToWait));
            assert_eq!(ground.side.rows_of(owner.workflow.as_str()), before);
        }
    });
}

#[test]
fn each_of_several_waits_wakes_the_workflow() {
    on_both(|ground| {
        for first in 0..3 {
            let parent = ground.running();
            let children = [1, 2].map(|number| {
                let token = OwnerToken::generate();
                let id = format!("{}-{number}", parent.workflow);
                let parent = Some(parent.workflow.clone());
                let child = NewWorkflow { parent, ..new_workflow(&id, &token, true) };
                let owner = Owner { workflow: child.id.clone(), token };
                assert_eq!(ground.verdict(Write::StartWorkflow(child)), Verdict::Done);
                owner
            });
            let [one, two] = &children;
            let until = any([settled(&one.workflow), settled(&two.workflow), message_of(&parent, "u")]);
            let suspend = Write::Suspend { owner: parent.clone(), until, at: NOW };
            assert_eq!(ground.verdict(suspend), Verdict::Done);
            let another = message(&format!("{}::another", parent.workflow), &parent.workflow);
            let send = Write::Send { message: another, sender: None };
            assert_eq!(ground.verdict(send), Verdict::Done, "of a topic that it does not wait for");
            let message = message(&format!("{}::u", parent.workflow), &parent.workflow);
            let wakes = match first {
                0 | 1 => settle(&children[first], WorkflowStatus::Success),
                _ => Write::Send { message: NewMessage { topic: "u".to_owned(), ..message }, sender: None },
            };
            assert_eq!(ground.verdict(wakes), Verdict::Woke, "{first}");
        }
    });
}

#[test]
fn a_circle_is_seen_through_several_waits_but_not_through_a_race() {
    on_both(|ground| {
        let workflows = [ground.running(), ground.running(), ground.running()];
        let [a, b, c] = workflows.each_ref().map(|owner| &owner.workflow);
        let nobody = WorkflowId::new("nobody").unwrap();
        let waits = |ground: &Ground<'_>| ground.database.reader.waits_of(a).unwrap();
        let both = Wake { any: false, ..any([settled(&nobody), settled(c)]) };
        for (owner, until) in [(&workflows[0], settled(b)), (&workflows[1], both)] {
            let suspend = Write::Suspend { owner: owner.clone(), until, at: NOW };
            assert_eq!(ground.verdict(suspend), Verdict::Done);
        }
        let mut seen = waits(ground);
        seen.sort_unstable();
        let mut expected = vec![(a.clone(), b.clone()), (b.clone(), nobody.clone()), (b.clone(), c.clone())];
        expected.sort_unstable();
        assert_eq!(seen, expected);
        let until = any([settled(a), settled(&nobody)]);
        let suspend = Write::Suspend { owner: workflows[2].clone(), until, at: NOW };
        assert_eq!(ground.verdict(suspend), Verdict::Done);
        assert_eq!(waits(ground).len(), 3, "what is in a race can go on");
    });
}

/// A race that could end otherwise is not among the waits.
#[test]
fn the_waits_of_a_race_are_listed_when_all_are_for_workflows() {
    on_both(|ground| {
        let workflows = [ground.running(), ground.running(), ground.running()];
        let [a, b, c] = workflows.each_ref().map(|owner| &owner.workflow);
        let dated = Wake { at: Some(Timestamp::from_millis(i64::MAX)), ..any([settled(a)]) };
        for (owner, until) in [(&workflows[0], any([settled(b), settled(c)])), (&workflows[1], dated)] {
            let suspend = Write::Suspend { owner: owner.clone(), until, at: NOW };
            assert_eq!(ground.verdict(suspend), Verdict::Done);
        }
        let until = any([settled(a), message_of(&workflows[2], "another")]);
        let suspend = Write::Suspend { owner: workflows[2].clone(), until, at: NOW };
        assert_eq!(ground.verdict(suspend), Verdict::Done);
        let mut listed = ground.database.reader.waits("test").unwrap().waits;
        listed.sort_unstable_by(|one, other| one.awaited.cmp(&other.awaited));
        let wait = |awaited: &WorkflowId| WaitEdge {
            waiter: a.clone(),
            awaited: awaited.clone(),
            in_queue: None,
            stuck_with: 2,
        };
        let mut expected = vec![wait(b), wait(c)];
        expected.sort_unstable_by(|one, other| one.awaited.cmp(&other.awaited));
        assert_eq!(listed, expected);
    });
}

/// As another program may have written them. The server takes JSON alone.
#[test]
fn attributes_that_are_no_json_stop_no_look_for_circles() {
    let (mut database, mut side, _dir) = on_a_file();
    let mut ground = Ground { database: &mut database, side: side.as_mut(), started: 0 };
    let [a, b] = [ground.running(), ground.running()];
    let sleep = Wake { at: Some(Timestamp::from_millis(i64::MAX)), ..Wake::default() };
    for (owner, until) in [(&a, settled(&b.workflow)), (&b, sleep)] {
        let suspend = Write::Suspend { owner: owner.clone(), until, at: NOW };
        assert_eq!(ground.verdict(suspend), Verdict::Done);
    }
    let odd = format!("UPDATE workflow_status SET attributes = '{{' WHERE workflow_uuid = '{}'", b.workflow);
    ground.side.run(&odd);
    assert_eq!(ground.database.reader.waits("test").unwrap().waits.len(), 1);
    assert_eq!(ground.database.reader.waits_of(&a.workflow).unwrap(), [(a.workflow, b.workflow)]);
}

fn verdict_of(winner: usize) -> StepRow {
    StepRow { output: Some(winner.to_string()), ..step("Piton.race") }
}

#[test]
fn a_race_is_decided_once_and_its_loser_takes_nothing() {
    on_both(|ground| {
        let owner = ground.running();
        let sent = message(&format!("{}::1", owner.workflow), &owner.workflow);
        ground.verdict(Write::Send { message: sent, sender: None });
        let decide = |number, winner| {
            let verdict = verdict_of(number);
            Write::Decide { owner: owner.clone(), verdict, winner }
        };
        let at = |place, row| StepRow { step_id: StepId(place), ..row };
        let receive = |topic: &str| {
            let step = StepRow { output: None, name: "DBOS.recv".into(), ..at(3, step("")) };
            Winner::Receive { topic: topic.to_owned(), step }
        };
        let none = ground.verdict(decide(1, receive("another")));
        assert_eq!(none, Verdict::Refused(Refusal::NoMessage), "and no verdict");
        let wins = decide(0, Winner::Step(at(2, step("s"))));
        assert_eq!(ground.verdict(wins.clone()), Verdict::Done);
        assert_eq!(ground.verdict(wins), Verdict::Done, "its own earlier try");
        let rows = ground.side.rows_of(owner.workflow.as_str());
        for late in [receive("t"), Winner::Unrecorded, Winner::Step(at(3, step("late")))] {
            assert_eq!(ground.verdict(decide(1, late)), Verdict::Refused(Refusal::Decided));
        }
        assert_eq!(ground.side.rows_of(owner.workflow.as_str()), rows, "the message is there yet");
    });
}

#[test]
fn a_message_that_wins_a_race_is_taken_once() {
    on_both(|ground| {
        let owner = ground.running();
        let sent = message(&format!("{}::1", owner.workflow), &owner.workflow);
        ground.verdict(Write::Send { message: sent, sender: None });
        let step = StepRow { output: None, name: "DBOS.recv".into(), step_id: StepId(3), ..step("") };
        let winner = Winner::Receive { topic: "t".to_owned(), step };
        let decide = Write::Decide { owner: owner.clone(), verdict: verdict_of(1), winner };
        let first = ground.verdict(decide.clone());
        assert!(matches!(first, Verdict::Received { .. }), "{first:?}");
        assert_eq!(ground.verdict(decide), first, "its own earlier try");
    });
}

#[test]
fn an_attempt_that_is_given_back_does_not_count() {
    on_both(|ground| {
        let attempts = |ground: &mut Ground<'_>, attempt| {
            let owner = ground.running();
            let release = Write::Release { owner: owner.clone(), attempt, again_at: None, at: NOW };
            assert_eq!(ground.verdict(release), Verdict::Done);
            ground.side.attempts(owner.workflow.as_str())
        };
        assert_eq!(attempts(ground, RecoveryAttempt::GivenBack), 0);
        assert_eq!(attempts(ground, RecoveryAttempt::Counted), 1);
    });
}

/// A past is read whole or not at all: a replay that has a part of it would run the rest again.
#[test]
fn pasts_are_read_together_up_to_a_number_of_rows_and_a_size_and_each_is_whole() {
    use crate::pure::limits::{PASTS_BYTES_MAX, PASTS_ROWS_MAX};
    on_both(|ground| {
        let reads = |ground: &mut Ground<'_>, owners: &[&Owner]| {
            let ids: Vec<_> = owners.iter().map(|owner| owner.workflow.clone()).collect();
            let pasts = ground.database.reader.pasts(&ids).unwrap();
            ids.iter().map(|id| pasts.get(id).map(|past| past.steps.len())).collect::<Vec<_>>()
        };
        let (many, few) = (ground.running(), ground.running());
        ground.side.fill(many.workflow.as_str(), PASTS_ROWS_MAX, 1);
        ground.side.fill(few.workflow.as_str(), 2, 1);
        assert_eq!(reads(ground, &[&many, &few]), [Some(PASTS_ROWS_MAX), None]);
        assert_eq!(reads(ground, &[&few]), [Some(2)]);
        let (large, small) = (ground.running(), ground.running());
        ground.side.fill(large.workflow.as_str(), 2, PASTS_BYTES_MAX / 2);
        ground.side.fill(small.workflow.as_str(), 2, 1);
        assert_eq!(reads(ground, &[&large, &small]), [Some(2), None]);
        assert_eq!(reads(ground, &[&small, &many]).iter().flatten().count(), 1, "in the order of their ids");
    });
}
