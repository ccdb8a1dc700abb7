//! What becomes of a write that meets traces: of its own earlier try, or of somebody else.

use super::*;
use crate::sysdb::write::{Attempt, Existing, Refusal, Wake};

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

/// The fleet is called for those alone: nobody else can go on.
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
        let until = Wake::WhenSettled(child_owner.workflow.clone());
        let suspend = Write::Suspend { owner: parent.clone(), until, at: NOW };
        assert_eq!(ground.verdict(suspend), Verdict::Done);
        assert_eq!(ground.verdict(settle(&child_owner, WorkflowStatus::Success)), Verdict::Woke);

        let receiver = ground.running();
        let send = |n: u32| {
            let message = message(&format!("{}::{n}", receiver.workflow), &receiver.workflow);
            Write::Send { message: NewMessage { topic: "u".to_owned(), ..message }, sender: None }
        };
        let until = Wake::WhenMessage { topic: "u".to_owned(), deadline: NOW };
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
            Wake::WhenMessage { topic: "t".to_owned(), deadline: NOW },
            Wake::WhenSettled(ended.workflow.clone()),
        ] {
            let before = ground.side.rows_of(owner.workflow.as_str());
            let suspend = Write::Suspend { owner: owner.clone(), until, at: NOW };
            assert_eq!(ground.verdict(suspend), Verdict::Refused(Refusal::NoNeedToWait));
            assert_eq!(ground.side.rows_of(owner.workflow.as_str()), before);
        }
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
        assert_eq!(attempts(ground, Attempt::GivenBack), 0);
        assert_eq!(attempts(ground, Attempt::Counted), 1);
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
