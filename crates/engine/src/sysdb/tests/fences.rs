//! An execution that lost its workflow changes nothing, on either database, by any kind of write, in any batch.

use super::*;
use crate::sysdb::write::{self, RecoveryAttempt, Wake, Winner};

/// The writes of one kind that an execution may make, by their subject. The workflow has a message of topic `t`.
fn writes(kind: &str, owner: &Owner) -> Vec<(&'static str, Write)> {
    let (me, later) = (&owner.workflow, Timestamp::from_millis(NOW.as_millis() + 1));
    let settle = |status| Write::Settle { owner: owner.clone(), outcome: outcome(owner, status), at: NOW };
    let suspend = |until| Write::Suspend { owner: owner.clone(), until, at: NOW };
    let release = |attempt, again_at| Write::Release { owner: owner.clone(), attempt, again_at, at: NOW };
    match kind {
        "start_child" => [("inline", true), ("beside", false)]
            .map(|(what, claimed)| {
                let child = new_workflow(&format!("{me}-1"), &OwnerToken::generate(), claimed);
                let step = StepRow { child: Some(child.id.clone()), ..step("child") };
                (what, Write::StartChild { parent: owner.clone(), step, child })
            })
            .into(),
        "record_step" => vec![("a step", Write::RecordStep { owner: owner.clone(), step: step("s") })],
        "settle" => vec![
            ("a success", settle(WorkflowStatus::Success)),
            ("an error", settle(WorkflowStatus::Error)),
            ("parked", settle(WorkflowStatus::MaxRecoveryAttemptsExceeded)),
        ],
        "suspend" => vec![
            ("a sleep", suspend(Wake { at: Some(later), ..Wake::default() })),
            ("a child", suspend(settled(&WorkflowId::new("nobody").unwrap()))),
            ("a message", suspend(message_of(owner, "another"))),
            (
                "a race",
                suspend(any([message_of(owner, "another"), settled(&WorkflowId::new("nobody").unwrap())])),
            ),
        ],
        "release" => vec![
            ("at once", release(RecoveryAttempt::GivenBack, None)),
            ("later", release(RecoveryAttempt::Counted, Some(later))),
        ],
        "decide" => {
            let decide = |winner| Write::Decide { owner: owner.clone(), verdict: step("Piton.race"), winner };
            let of_the_winner = StepRow { step_id: StepId(2), ..step("s") };
            let taken = StepRow { output: None, name: "DBOS.recv".into(), ..of_the_winner.clone() };
            vec![
                ("a sleep", decide(Winner::Unrecorded)),
                ("a step", decide(Winner::Step(of_the_winner))),
                ("a message", decide(Winner::Receive { topic: "t".to_owned(), step: taken })),
            ]
        }
        "cancel_child" => {
            let child = WorkflowId::new("nobody").unwrap();
            let step = StepRow { child: Some(child.clone()), ..step("DBOS.cancelWorkflow") };
            vec![("a child", Write::CancelChild { owner: owner.clone(), step, child, at: NOW })]
        }
        "send" => {
            let sender = Some((owner.clone(), step("DBOS.send")));
            vec![("to itself", Write::Send { message: message(&format!("{me}::sent"), me), sender })]
        }
        "receive" => {
            let step = StepRow { output: None, ..step("DBOS.recv") };
            vec![("a message", Write::Receive { owner: owner.clone(), topic: "t".to_owned(), step })]
        }
        _ => panic!("no rows for {kind}: what an execution writes is fenced, and that is tested here"),
    }
}

/// Ways in which an execution loses its workflow.
const LOSSES: [&str; 2] = ["owner_xid = 'another'", "status = 'CANCELLED'"];

/// The writes of the same batch, which decide how it is committed.
#[derive(Debug, Clone, Copy)]
enum Company {
    Nothing,
    /// A write of the same kind.
    Alike,
    /// A start, a step and an end of others.
    Mixed,
}

impl Company {
    fn writes(self, kind: &str, other: &Owner, third: &Owner) -> Vec<Write> {
        let outcome = outcome(third, WorkflowStatus::Success);
        match self {
            Self::Nothing => vec![],
            Self::Alike => vec![writes(kind, other).remove(0).1],
            Self::Mixed => vec![
                Write::StartWorkflow(new_workflow(&format!("{}-new", third.workflow), &third.token, true)),
                Write::RecordStep { owner: other.clone(), step: step("s") },
                Write::Settle { owner: third.clone(), outcome, at: NOW },
            ],
        }
    }
}

fn is_well(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Done | Verdict::Woke | Verdict::Received { .. } | Verdict::Changed(_))
}

impl Ground<'_> {
    /// Commits a write of `owner` in company, and returns its verdict, and whether any row changed.
    fn commit(&mut self, owner: &Owner, write: &Write, company: &[Write]) -> (Verdict, bool) {
        let before = self.side.rows_of(owner.workflow.as_str());
        let mut batch = company.to_vec();
        batch.insert(company.len() / 2, write.clone());
        let mut verdicts = self.database.writer.commit(&batch).unwrap();
        let verdict = verdicts.remove(company.len() / 2);
        assert!(verdicts.iter().all(is_well), "the others are not concerned: {verdicts:?}");
        (verdict, self.side.rows_of(owner.workflow.as_str()) != before)
    }

    fn every_fenced_write_is_refused_to_a_former_owner(&mut self) {
        for kind in write::fenced() {
            for row in 0..writes(kind, &self.running()).len() {
                for company in [Company::Nothing, Company::Alike, Company::Mixed] {
                    self.is_refused(kind, row, company);
                }
            }
        }
    }

    fn is_refused(&mut self, kind: &str, row: usize, company: Company) {
        for loss in [None].into_iter().chain(LOSSES.map(Some)) {
            let owner = self.running();
            let (what, write) = writes(kind, &owner).remove(row);
            assert_eq!(write.kind(), kind);
            let others = company.writes(kind, &self.running(), &self.running());
            let Some(loss) = loss else {
                let (verdict, changed) = self.commit(&owner, &write, &others);
                assert!(changed && is_well(&verdict), "{kind}, {what}: {verdict:?} for the owner");
                continue;
            };
            let id = &owner.workflow;
            self.side.run(&format!("UPDATE workflow_status SET {loss} WHERE workflow_uuid = '{id}'"));
            let done = self.commit(&owner, &write, &others);
            assert_eq!(done, (Verdict::NotOwner, false), "{kind}, {what}, {loss}, beside {company:?}");
        }
    }
}

#[test]
fn an_execution_that_lost_its_workflow_writes_nothing_into_a_file() {
    let (mut database, mut side, _dir) = on_a_file();
    let mut ground = Ground { database: &mut database, side: side.as_mut(), started: 0 };
    ground.every_fenced_write_is_refused_to_a_former_owner();
}

#[test]
fn an_execution_that_lost_its_workflow_writes_nothing_on_a_server() {
    let Some((mut database, mut side)) = on_a_server() else { return };
    let mut ground = Ground { database: &mut database, side: side.as_mut(), started: 0 };
    ground.every_fenced_write_is_refused_to_a_former_owner();
}
