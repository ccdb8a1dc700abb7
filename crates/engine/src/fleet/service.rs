//! The engine's own thread. It notices what other processes committed, wakes the threads and tasks that wait for it,
//! and takes up workflows.
//!
//! It looks when a commit of this process calls it, when another process has committed, and when a time has come. Each
//! look asks one question for all waiters. In between, an idle process reads one number from the database. A look four
//! times a second makes the thread right even if it notices no change.

use std::sync::Arc;
use std::time::Duration;

use crate::fleet::recovery;
use crate::fleet::stranded::{self, Notice, Notices};
use crate::flow::core::{Core, Run};
use crate::flow::registry::Kind;
use crate::flow::workflow::{self, Assignment};
use crate::machines::committer::Caller;
use crate::machines::slots::Slot;
use crate::pure::clock::{Stopwatch, Timestamp};
use crate::pure::id::{ExecutorId, OwnerToken};
use crate::pure::limits::{
    CENSUS_EVERY, CLAIM_MAX, FULFILLED_AT_ONCE, FULFILLED_EVERY_MIN, POLL_MAX, POLL_MIN, TRACELESS_EVERY,
};
use crate::pure::sync::say;
use crate::sysdb::write::{Claim, ClaimedRow, RecoveryAttempt};
use crate::sysdb::{DbResult, INTERNAL_QUEUE, OpenQueue, Owner, Served, Verdict, Write};

/// A look that takes more than a moment takes at most one of this many parts of the time.
const SHARE: u32 = 50;

/// The body of the fleet's thread, until the engine stops.
pub(crate) fn serve(core: &Arc<Core>) {
    let mut fleet = Fleet {
        core,
        pause: POLL_MIN,
        next_due: None,
        last_call: 0,
        swept: None,
        launched: false,
        traceless: None,
        unknown_since: None,
        served: None,
        census: None,
        notices: Notices::default(),
        turn: 0,
    };
    while !core.is_stopping() {
        let call = core.fleet.now();
        fleet.look(call);
        core.fleet.wait_at_most(call, fleet.pause);
    }
}

struct Fleet<'c> {
    core: &'c Arc<Core>,
    /// How long the thread waits for a call before it looks at the database again.
    pause: Duration,
    next_due: Option<Timestamp>,
    last_call: u64,
    swept: Option<Stopwatch>,
    launched: bool,
    /// When executors without a trace were last looked for, and which busy executors were found.
    traceless: Option<(Stopwatch, Vec<ExecutorId>)>,
    unknown_since: Option<Stopwatch>,
    /// When the last question for waits that ended unnoticed was asked, and how long until the next.
    served: Option<(Stopwatch, Duration)>,
    /// When all waiting workflows were last looked at, and how long until the next look.
    census: Option<(Stopwatch, Duration)>,
    /// The notices of the last look.
    notices: Notices,
    /// How often the thread has looked for work.
    turn: usize,
}

/// The workflows for which a claim has room.
struct Room {
    /// With the names of the kinds of workflows that have free slots.
    served: Arc<Served>,
    slots: Vec<(Kind, Vec<Slot>)>,
    limit: usize,
    /// Whether another kind has no free slots.
    full: bool,
}

impl Fleet<'_> {
    fn look(&mut self, call: u64) {
        let called = std::mem::replace(&mut self.last_call, call) != call;
        // A launch is followed by a sweep at once, which takes up interrupted workflows.
        let is_launched = self.core.identity().is_ok();
        let launched = is_launched && !std::mem::replace(&mut self.launched, is_launched);
        let sweep = launched || self.is_time_to_sweep();
        let changed = self.note("look_for_commits", self.core.committer.others_committed()).unwrap_or(false);
        self.pause = if called || changed { POLL_MIN } else { (self.pause * 2).min(POLL_MAX) };

        // A failure of one of these does not keep the others from being done.
        if changed || sweep {
            self.note("look_for_waiters", self.core.hub.look(self.core.reader.as_ref()));
            self.note("look_for_owners", stop_the_superseded(self.core));
        }
        let due = self.next_due.is_some_and(|due| self.core.options.clock.now() >= due);
        if due {
            self.wake_due();
        }
        let due = self.wake_the_overdue() || due;
        if called || changed || due || sweep || self.core.has_backlog() {
            let taken_up = self.take_up_work();
            self.note("take_up_work", taken_up);
        }
        if sweep {
            if self.core.liveness.was_refused() {
                self.revive_the_refused();
            }
            let woken = self.wake_the_served();
            self.note("wake_the_served", woken);
            let taken_over = self.take_over_from_the_traceless();
            self.note("take_over", taken_over);
            let swept = recovery::sweep(self.core, &mut self.unknown_since);
            self.note("sweep", swept);
            let said = self.say_what_waits_in_vain();
            self.note("say_what_waits_in_vain", said);
            self.swept = Some(Stopwatch::start());
        }
    }

    /// Whether it is time to sweep. An engine without runs and waiters sweeps only if it is called, or has given a
    /// notice that may not hold any more.
    fn is_time_to_sweep(&self) -> bool {
        if self.swept.is_some_and(|swept| swept.elapsed() < self.core.sweep_every) {
            return false;
        }
        !self.core.runs.is_empty()
            || !self.core.hub.is_empty()
            || self.core.liveness.calls_for_a_sweep()
            || (!self.notices.is_empty() && self.is_time_for_a_census())
    }

    fn is_time_for_a_census(&self) -> bool {
        self.census.as_ref().is_none_or(|(looked, pause)| looked.elapsed() >= *pause)
    }

    /// Takes over from executors that were without a trace the last time, and still are.
    fn take_over_from_the_traceless(&mut self) -> DbResult<()> {
        let looked = self.traceless.as_ref().map(|(looked, _)| looked.elapsed());
        if self.core.identity().is_err() || looked.is_some_and(|ago| ago < TRACELESS_EVERY) {
            return Ok(());
        }
        let now = recovery::without_trace(self.core)?;
        let before = self.traceless.replace((Stopwatch::start(), now.clone()));
        let before = before.map(|(_, before)| before).unwrap_or_default();
        for executor in now.iter().filter(|executor| before.contains(executor)) {
            recovery::take_over(self.core, executor);
        }
        Ok(())
    }

    /// Says which workflows no executor can take up, and which wait in a circle. It reads all waiting workflows, so it
    /// takes at most a fiftieth of the time.
    fn say_what_waits_in_vain(&mut self) -> DbResult<()> {
        // An engine that is not launched says nothing in the log: its program asks by a call.
        if self.core.identity().is_err() || !self.is_time_for_a_census() {
            return Ok(());
        }
        // The pause holds also after a look that fails.
        self.census = Some((Stopwatch::start(), CENSUS_EVERY * 9 / 10));
        let watch = Stopwatch::start();
        let mut standing = stranded::circles(self.core)?;
        match stranded::look(self.core) {
            Ok(stranded) => standing.extend(stranded.iter().map(Notice::from)),
            // The sweep reports that it is not known which executors live.
            Err(error) => {
                say!(debug, "{error}; looking again for what waits for nobody");
                return Ok(());
            }
        }
        // The pause is a little less than the time between two calls, so that each call is heeded.
        let pause = (CENSUS_EVERY * 9 / 10).max(watch.elapsed() * SHARE);
        self.census = Some((Stopwatch::start(), pause));
        let news = self.notices.news(standing);
        for text in news.stands {
            say!(warn, "{text}");
        }
        for what in news.gone {
            say!(info, "{what}: this problem is over");
        }
        Ok(())
    }

    /// Wakes workflows without a thread whose wait has ended unnoticed. One question asks for all of them, so it takes
    /// at most a fiftieth of the time.
    fn wake_the_served(&mut self) -> DbResult<()> {
        if self.served.as_ref().is_some_and(|(since, pause)| since.elapsed() < *pause) {
            return Ok(());
        }
        let watch = Stopwatch::start();
        let Ok(identity) = self.core.identity() else { return Ok(()) };
        let waiting = self.core.reader.fulfilled_waits(&identity.app)?;
        self.served = Some((Stopwatch::start(), FULFILLED_EVERY_MIN.max(watch.elapsed() * SHARE)));
        for waiting in waiting.chunks(FULFILLED_AT_ONCE) {
            let now = self.core.options.clock.now();
            self.commit(Write::WakeFulfilled { waiting: waiting.to_vec(), now });
        }
        Ok(())
    }

    /// Revives workflows that only this executor knows. Other executors may have refused them while they took it for
    /// dead.
    fn revive_the_refused(&self) {
        let Ok(served) = self.core.served() else { return };
        let at = self.core.options.clock.now();
        // The committer logs failures.
        let _ = recovery::revive(&served.identity, &served.names, at, |write| {
            self.core.committer.commit(write, Caller::Engine)
        });
    }

    /// Wakes workflows that this process suspended and whose time has passed, though the wall clock was set back. Says
    /// whether there are any.
    fn wake_the_overdue(&self) -> bool {
        if self.core.identity().is_err() {
            return false;
        }
        let overdue = self.core.dues.overdue(&self.core.options.clock);
        for waiting in overdue.chunks(FULFILLED_AT_ONCE) {
            let now = self.core.options.clock.now();
            self.commit(Write::WakeFulfilled { waiting: waiting.to_vec(), now });
        }
        !overdue.is_empty()
    }

    fn wake_due(&self) {
        let Ok(identity) = self.core.identity() else { return };
        self.commit(Write::WakeDue { identity: identity.clone(), now: self.core.options.clock.now() });
    }

    fn take_up_work(&mut self) -> DbResult<()> {
        let Ok(served) = self.core.served() else { return Ok(()) };
        if !self.core.is_alive(&served.identity.executor) {
            self.next_due = None;
            return Ok(());
        }
        let mut outlook = self.core.reader.outlook(served)?;
        self.next_due = outlook.next_due;
        // This comes before the slots are counted: a slot that is freed from here on calls again.
        self.core.note_backlog(true);
        // Each queue in turn is the first, so that no queue takes all the slots every time.
        self.turn = self.turn.wrapping_add(1);
        if !outlook.open.is_empty() {
            let first = self.turn % outlook.open.len();
            outlook.open.rotate_left(first);
        }
        let mut backlog = false;
        for queue in &outlook.open {
            backlog |= self.claim(served, queue);
        }
        self.core.note_backlog(backlog);
        Ok(())
    }

    /// Claims as many waiting workflows of a queue as there are free slots, within the queue's limits. Returns whether
    /// more may wait for a slot. For a workflow that waits for a limit, the fleet is called when a workflow of its
    /// queue ends.
    fn claim(&self, served: &Arc<Served>, queue: &OpenQueue) -> bool {
        let left_of = |max: u32| (max as usize).saturating_sub(self.core.runs.count_of(&queue.name));
        let room = queue.worker_concurrency.map(left_of);
        if room == Some(0) {
            return false;
        }
        let most = room.unwrap_or(CLAIM_MAX).min(CLAIM_MAX);
        let Some(Room { served, mut slots, limit, full }) = self.room_for(served, most) else { return true };
        let token = OwnerToken::generate();
        self.core.runs.reserve(&token);
        let asked = Stopwatch::start();
        let claimed = self.commit(Write::Claim(Claim {
            served,
            queue: queue.name.clone(),
            concurrency: queue.concurrency,
            in_flight: queue.in_flight,
            token: token.clone(),
            limit,
            at: self.core.options.clock.now(),
        }));
        let mut rows = match claimed {
            Some(Verdict::Claimed(rows)) => rows,
            _ => Vec::new(),
        };
        let more = full || (rows.len() == limit && room != Some(limit));
        for row in rows.extract_if(.., |row| row.unreadable) {
            self.core.outage.names_row(
                &row.workflow,
                "its id is not a text, so no executor can run it; it was ended as ERROR",
            );
        }
        let from: Option<Arc<str>> = (queue.name != INTERNAL_QUEUE).then(|| queue.name.as_str().into());
        let enter = |row: &ClaimedRow| {
            let owner = Owner { workflow: row.workflow.clone(), token: token.clone() };
            let run = Run::claimed(owner, from.clone(), asked);
            self.core.runs.enter(&run);
            run
        };
        let runs: Vec<_> = rows.iter().map(enter).collect();
        self.core.runs.unreserve(&token);
        let assignments = self.with_their_pasts(runs, &rows);
        for assignment in assignments {
            let kind = self.core.registry.kind_of(assignment.name()).unwrap_or(Kind::Plain);
            if let Some(slot) = slots.iter_mut().find(|(of, _)| *of == kind).and_then(|(_, free)| free.pop())
            {
                workflow::dispatch(self.core, assignment, slot, Caller::Engine);
            } else {
                // The claim gave more rows than it asked for: an earlier try took them, and its answer was lost.
                workflow::release(
                    self.core,
                    &assignment.run,
                    RecoveryAttempt::GivenBack,
                    None,
                    Caller::Engine,
                );
                self.core.runs.leave(&assignment.run);
            }
        }
        more
    }

    /// The kinds of workflows that have free slots, at most `most` slots of each kind. `None` if there are no free
    /// slots.
    fn room_for(&self, served: &Arc<Served>, most: usize) -> Option<Room> {
        let registry = &self.core.registry;
        let (mut slots, mut full) = (Vec::new(), false);
        // A workflow whose name is not registered runs as a plain one, to fail.
        for kind in Kind::ALL.iter().copied().filter(|kind| *kind == Kind::Plain || registry.has(*kind)) {
            match self.core.slots_of(kind).take(most) {
                free if free.is_empty() => full = true,
                free => slots.push((kind, free)),
            }
        }
        // Each row may be of any of these kinds.
        let limit = slots.iter().map(|(_, free)| free.len()).min()?;
        let served = if full {
            let names = slots.iter().flat_map(|(kind, _)| registry.of_kind(&served.names, *kind)).collect();
            Arc::new(Served { names, ..served.as_ref().clone() })
        } else {
            served.clone()
        };
        Some(Room { served, slots, limit, full })
    }

    /// Reads the pasts of all runs by one question. Where it has no answer, a run reads its past by itself.
    fn with_their_pasts(&self, runs: Vec<Arc<Run>>, rows: &[ClaimedRow]) -> Vec<Assignment> {
        let ids: Vec<_> = rows.iter().map(|row| row.workflow.clone()).collect();
        let mut pasts = self.core.reader.pasts(&ids).unwrap_or_default();
        let assign =
            |(run, row): (Arc<Run>, &ClaimedRow)| Assignment::claimed(run, row, pasts.remove(&row.workflow));
        runs.into_iter().zip(rows).map(assign).collect()
    }

    /// Notes the result of a part of the look. The next look tries again. A failure that may pass is logged where it
    /// happens.
    fn note<T>(&self, part: &'static str, done: DbResult<T>) -> Option<T> {
        let outage = &self.core.outage;
        match &done {
            Ok(_) => outage.notices.passed(part),
            Err(error) if error.may_pass => {}
            Err(error) => outage.refused(part, error),
        }
        done.ok()
    }

    /// Commits a write. The committer logs failures; the next look tries again.
    fn commit(&self, write: Write) -> Option<Verdict> {
        self.core.committer.commit(write, Caller::Engine).ok()
    }
}

/// Stops executions that lost their workflow to another process or to an operator, before their next write tells them.
fn stop_the_superseded(core: &Core) -> DbResult<()> {
    let owners = core.runs.owners();
    if owners.is_empty() {
        return Ok(());
    }
    for (lost, loss) in core.reader.lost_among(&owners)? {
        core.runs.tell_to_stop(&lost, &loss);
    }
    Ok(())
}
