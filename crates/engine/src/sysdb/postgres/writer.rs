//! The one connection that writes for all workflows of this process. Starts, steps and ends, which are most of all writes,
//! are one statement; a batch with others among them is a transaction.

use std::collections::HashSet;
use std::sync::Arc;

use super::batch::Set;
use super::connection::{Connection, outside_async};
use super::connector::{Connector, Purpose};
use super::news::News;
use super::{batch, claims, manage, messages, queues, races, steps, workflows};
use crate::sysdb::{DbError, DbResult, Verdict, Write, Writer};

pub(super) struct PostgresWriter {
    connector: Connector,
    connection: Option<Connection>,
    news: Arc<News>,
}

impl PostgresWriter {
    pub(super) fn new(connector: Connector, connection: Connection, news: Arc<News>) -> Self {
        Self { connector, connection: Some(connection), news }
    }
}

impl Writer for PostgresWriter {
    fn commit(&mut self, batch: &[Write]) -> DbResult<Vec<Verdict>> {
        let (own, connector) = (self.connection.take(), &self.connector);
        let (connection, done) = outside_async("commit", || {
            let mut connection = match own.and_then(Connection::if_sound) {
                Some(connection) => connection,
                None => connector.connect(Purpose::Writer)?,
            };
            let done = connection.watched(|connection| commit(connection, batch));
            Ok((connection, done))
        })?;
        self.connection = Some(connection);
        if let Ok(verdicts) = &done {
            self.news.tell(batch, verdicts);
        }
        done
    }

    /// As the others told, or as the last beat of this executor saw.
    fn others_committed(&mut self) -> DbResult<bool> {
        Ok(self.news.were_heard())
    }
}

impl Drop for PostgresWriter {
    fn drop(&mut self) {
        self.news.end();
    }
}

fn commit(connection: &mut Connection, batch: &[Write]) -> DbResult<Vec<Verdict>> {
    // The most frequent batch of all goes straight to its statement.
    if let [Write::RecordStep { owner, step }] = batch {
        return Ok(vec![steps::record_lone(connection, owner, step)?]);
    }
    let waves = waves(batch);
    let mut verdicts = vec![None; batch.len()];
    let mut apply_all = |connection: &mut Connection| -> DbResult<()> {
        for wave in &waves {
            wave.apply(connection, batch, &mut verdicts)?;
        }
        Ok(())
    };
    match waves.as_slice() {
        [wave] if wave.is_one_statement() => apply_all(connection)?,
        _ => connection.atomically(apply_all)?,
    }
    let all: Option<Vec<Verdict>> = verdicts.into_iter().collect();
    all.ok_or_else(|| DbError::lasting("commit", "a write has no verdict"))
}

/// Writes that are applied one after the other but for its set, by their places in the batch.
#[derive(Default)]
struct Wave<'b> {
    set: Set<'b>,
    starts: Vec<usize>,
    steps: Vec<usize>,
    ends: Vec<usize>,
    others: Vec<usize>,
}

/// The writes of a batch come from threads and tasks that wait for them, so their order is free. Only writes of one
/// workflow keep their order. A set has at most one write of each workflow and comes first. So a write that may not
/// overtake waits for the next wave.
fn waves(batch: &[Write]) -> Vec<Wave<'_>> {
    let mut waves = Vec::new();
    let mut rest: Vec<usize> = (0..batch.len()).collect();
    while !rest.is_empty() {
        let (mut wave, mut seen, mut later) = (Wave::default(), HashSet::new(), Vec::new());
        let mut late = HashSet::new();
        for place in rest {
            let write = &batch[place];
            let is_late = write.workflows().any(|id| late.contains(id));
            match write {
                Write::StartWorkflow(new) if seen.insert(&new.id) => {
                    wave.starts.push(place);
                    wave.set.starts.push(new);
                }
                Write::RecordStep { owner, step } if seen.insert(&owner.workflow) => {
                    wave.steps.push(place);
                    wave.set.steps.push((owner, step));
                }
                Write::Settle { owner, outcome, at } if seen.insert(&owner.workflow) => {
                    wave.ends.push(place);
                    wave.set.ends.push((owner, outcome, *at));
                }
                Write::StartWorkflow(_) | Write::RecordStep { .. } | Write::Settle { .. } => {
                    late.extend(write.workflows());
                    later.push(place);
                }
                _ if is_late => {
                    late.extend(write.workflows());
                    later.push(place);
                }
                _ => {
                    seen.extend(write.workflows());
                    wave.others.push(place);
                }
            }
        }
        waves.push(wave);
        rest = later;
    }
    waves
}

impl Wave<'_> {
    /// Whether it needs no transaction around it. A lone write of another kind makes its own where it needs one.
    fn is_one_statement(&self) -> bool {
        let in_set = self.starts.len() + self.steps.len() + self.ends.len();
        self.others.is_empty() || (in_set == 0 && self.others.len() == 1)
    }

    /// Conflicts are verdicts; an error fails the whole batch.
    fn apply(
        &self,
        connection: &mut Connection,
        batch: &[Write],
        all: &mut [Option<Verdict>],
    ) -> DbResult<()> {
        if self.starts.len() + self.steps.len() + self.ends.len() > 0 {
            let verdicts = batch::apply(connection, &self.set)?;
            let places = self.starts.iter().chain(&self.steps).chain(&self.ends);
            let verdicts = verdicts.starts.into_iter().chain(verdicts.steps).chain(verdicts.ends);
            for (place, verdict) in places.zip(verdicts) {
                all[*place] = Some(verdict);
            }
        }
        for place in &self.others {
            all[*place] = Some(apply_one(connection, &batch[*place])?);
        }
        Ok(())
    }
}

fn apply_one(connection: &mut Connection, write: &Write) -> DbResult<Verdict> {
    match write {
        Write::StartWorkflow(new) => workflows::start(connection, new),
        Write::RecordStep { owner, step } => steps::record_one(connection, owner, step),
        Write::Settle { owner, outcome, at } => workflows::settle(connection, (owner, outcome, *at)),
        Write::StartChild { parent, step, child } => workflows::start_child(connection, parent, step, child),
        Write::Suspend { owner, until, at } => workflows::suspend(connection, owner, until, *at),
        Write::Decide { owner, verdict, winner } => races::decide(connection, owner, verdict, winner),
        Write::Release { owner, attempt, again_at, at } => {
            workflows::release(connection, owner, *attempt, *again_at, *at)
        }
        Write::Claim(claim) => queues::claim(connection, claim),
        Write::WakeDue { identity, now } => claims::wake_due(connection, &identity.app, *now),
        Write::WakeFulfilled { waiting, now } => claims::wake_fulfilled(connection, waiting, *now),
        Write::Requeue { executor, at } => claims::requeue(connection, executor, *at),
        Write::RefuseUnknown(unknown) => claims::refuse_unknown(connection, unknown),
        Write::Revive { identity, known, at } => claims::revive(connection, identity, known, *at),
        Write::RegisterVersion { identity, at } => claims::register_version(connection, identity, *at),
        Write::RegisterQueue { identity, queue, options, at } => {
            queues::register(connection, identity, queue, *options, *at)
        }
        Write::CancelChild { owner, step, child, at } => {
            manage::cancel_child(connection, owner, step, child, *at)
        }
        Write::Cancel { workflow, children, at } => manage::cancel(connection, workflow, *children, *at),
        Write::Resume { workflow, token, at } => manage::resume(connection, workflow, token, *at),
        Write::Send { message, sender } => messages::send(connection, message, sender.as_ref()),
        Write::Receive { owner, topic, step } => messages::receive(connection, owner, topic, step),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::clock::Timestamp;
    use crate::pure::id::{OwnerToken, StepId, WorkflowId};
    use crate::sysdb::write::{NewWorkflow, RecoveryAttempt};
    use crate::sysdb::{Owner, StepRow};

    fn owner(id: &str) -> Owner {
        Owner { workflow: WorkflowId::stored(id.to_owned()), token: OwnerToken::generate() }
    }

    fn row(step: u32) -> StepRow {
        StepRow {
            step_id: StepId(step),
            name: "x".into(),
            output: None,
            error: None,
            child: None,
            started_at: None,
            completed_at: None,
            serialization: None,
        }
    }

    fn release(owner: Owner) -> Write {
        Write::Release {
            owner,
            attempt: RecoveryAttempt::GivenBack,
            again_at: None,
            at: Timestamp::from_millis(0),
        }
    }

    fn places(batch: &[Write]) -> Vec<(Vec<usize>, Vec<usize>)> {
        waves(batch).into_iter().map(|wave| (wave.steps, wave.others)).collect()
    }

    /// Operations of an async workflow are committed at once, and then it is given back.
    #[test]
    fn what_gives_a_workflow_back_comes_after_all_that_it_recorded_before() {
        let w = owner("w");
        let step = |step| Write::RecordStep { owner: w.clone(), step: row(step) };
        let batch = [step(1), step(2), release(w.clone())];
        assert_eq!(places(&batch), [(vec![0], vec![]), (vec![1], vec![2])]);
        let batch = [release(w.clone()), step(1), step(2)];
        assert_eq!(places(&batch), [(vec![], vec![0]), (vec![1], vec![]), (vec![2], vec![])]);
    }

    #[test]
    fn a_child_is_given_back_after_it_was_started() {
        let (parent, child) = (owner("w"), owner("w-3"));
        let step = |step| Write::RecordStep { owner: parent.clone(), step: row(step) };
        let new = NewWorkflow {
            id: child.workflow.clone(),
            name: "child".into(),
            input: String::new(),
            parent: None,
            app: "test".into(),
            version: None,
            token: child.token.clone(),
            claimed_by: None,
            queue: None,
            priority: 0,
            at: Timestamp::from_millis(0),
        };
        let start = Write::StartChild { parent: parent.clone(), step: row(3), child: new };
        let batch = [step(1), step(2), start, release(child)];
        assert_eq!(places(&batch), [(vec![0], vec![]), (vec![1], vec![2, 3])]);
    }
}
