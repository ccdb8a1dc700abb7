//! The one connection that writes for all workflows of this process. A batch of one kind is one statement, which is
//! its own transaction; a mixed one is a few statements in a transaction.

use std::collections::HashSet;
use std::sync::Arc;

use super::connection::{Connection, outside_async};
use super::connector::{Connector, Purpose};
use super::news::News;
use super::{claims, manage, messages, queues, steps, workflows};
use crate::sysdb::{DbResult, Verdict, Write, Writer};

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
        let mut connection = match self.connection.take().filter(Connection::is_sound) {
            Some(connection) => connection,
            None => self.connector.connect(Purpose::Engine)?,
        };
        let done = outside_async("commit", || connection.watched(|connection| commit(connection, batch)));
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
    let sets = sets(batch);
    let mut verdicts = vec![Verdict::NotOwner; batch.len()];
    let mut apply_all = |connection: &mut Connection| -> DbResult<()> {
        for set in &sets {
            for (place, verdict) in apply(connection, batch, set)? {
                verdicts[place] = verdict;
            }
        }
        Ok(())
    };
    match sets.as_slice() {
        [_] => apply_all(connection)?,
        _ => connection.atomically(apply_all)?,
    }
    Ok(verdicts)
}

/// Writes that are applied together, by their places in the batch.
enum Set {
    Starts(Vec<usize>),
    Steps(Vec<usize>),
    Ends(Vec<usize>),
    One(usize),
}

/// The writes of a batch come from threads that wait for them, so their order is free. Only those of one workflow keep
/// it: a set has at most one of each workflow.
fn sets(batch: &[Write]) -> Vec<Set> {
    let mut sets = Vec::new();
    let mut rest: Vec<usize> = (0..batch.len()).collect();
    while !rest.is_empty() {
        let (mut starts, mut steps, mut ends, mut others) = (vec![], vec![], vec![], vec![]);
        let (mut seen, mut later) = (HashSet::new(), Vec::new());
        for place in rest {
            let (set, workflow) = match &batch[place] {
                Write::StartWorkflow(new) => (&mut starts, &new.id),
                Write::RecordStep { owner, .. } => (&mut steps, &owner.workflow),
                Write::Settle { owner, .. } => (&mut ends, &owner.workflow),
                _ => {
                    others.push(Set::One(place));
                    continue;
                }
            };
            if seen.insert(workflow) { set.push(place) } else { later.push(place) }
        }
        let wave = [Set::Starts(starts), Set::Steps(steps), Set::Ends(ends)];
        sets.extend(wave.into_iter().filter(|set| !set.is_empty()));
        sets.extend(others);
        rest = later;
    }
    sets
}

impl Set {
    fn is_empty(&self) -> bool {
        match self {
            Self::Starts(places) | Self::Steps(places) | Self::Ends(places) => places.is_empty(),
            Self::One(_) => false,
        }
    }
}

/// One set. Conflicts are verdicts; an error fails the whole batch.
fn apply(connection: &mut Connection, batch: &[Write], set: &Set) -> DbResult<Vec<(usize, Verdict)>> {
    let (places, verdicts) = match set {
        Set::Starts(places) => {
            let new = places.iter().filter_map(|place| match &batch[*place] {
                Write::StartWorkflow(new) => Some(new),
                _ => None,
            });
            (places, workflows::start(connection, &new.collect::<Vec<_>>())?)
        }
        Set::Steps(places) => {
            let rows = places.iter().filter_map(|place| match &batch[*place] {
                Write::RecordStep { owner, step } => Some((owner, step)),
                _ => None,
            });
            (places, steps::record(connection, &rows.collect::<Vec<_>>())?)
        }
        Set::Ends(places) => {
            let ends = places.iter().filter_map(|place| match &batch[*place] {
                Write::Settle { owner, outcome, at } => Some((owner, outcome, *at)),
                _ => None,
            });
            (places, workflows::settle(connection, &ends.collect::<Vec<_>>())?)
        }
        Set::One(place) => return Ok(vec![(*place, apply_one(connection, &batch[*place])?)]),
    };
    Ok(places.iter().copied().zip(verdicts).collect())
}

fn apply_one(connection: &mut Connection, write: &Write) -> DbResult<Verdict> {
    let first = |verdicts: Vec<Verdict>| verdicts.into_iter().next().unwrap_or(Verdict::NotOwner);
    match write {
        Write::StartWorkflow(new) => Ok(first(workflows::start(connection, &[new])?)),
        Write::StartChild { parent, step, child } => workflows::start_child(connection, parent, step, child),
        Write::RecordStep { owner, step } => steps::record_one(connection, owner, step),
        Write::Settle { owner, outcome, at } => {
            Ok(first(workflows::settle(connection, &[(owner, outcome, *at)])?))
        }
        Write::Suspend { owner, until, at } => workflows::suspend(connection, owner, until, *at),
        Write::Release { owner, attempt, again_at, at } => {
            workflows::release(connection, owner, *attempt, *again_at, *at)
        }
        Write::Claim(claim) => queues::claim(connection, claim),
        Write::WakeDue { identity, now } => claims::wake_due(connection, &identity.app, *now),
        Write::WakeServed { waiting, now } => claims::wake_served(connection, waiting, *now),
        Write::Requeue { executor, at } => claims::requeue(connection, executor, *at),
        Write::RefuseUnknown(unknown) => claims::refuse_unknown(connection, unknown),
        Write::Revive { identity, known, at } => claims::revive(connection, identity, known, *at),
        Write::RegisterVersion { identity, at } => claims::register_version(connection, identity, *at),
        Write::RegisterQueue { identity, queue, options, at } => {
            queues::register(connection, identity, queue, *options, *at)
        }
        Write::Cancel { workflow, children, at } => manage::cancel(connection, workflow, *children, *at),
        Write::Resume { workflow, token, at } => manage::resume(connection, workflow, token, *at),
        Write::Send { message, sender } => messages::send(connection, message, sender.as_ref()),
        Write::Receive { owner, topic, step } => messages::receive(connection, owner, topic, step),
    }
}
