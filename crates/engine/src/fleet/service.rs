//! The engine's own thread: notices what others committed, wakes who waits for it, takes up what can run.
//!
//! It looks when a commit of this process calls it, when another process has committed, and when a time has come.
//! Each look asks for all waiters at once; in between, an idle process reads one number from the database. A look
//! four times a second, whatever was noticed, makes it right even if nothing is.

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
    CENSUS_EVERY, CLAIM_MAX, POLL_MAX, POLL_MIN, SERVED_AT_ONCE, SERVED_EVERY_MIN, TRACELESS_EVERY,
};
use crate::pure::sync::say;
use crate::sysdb::write::{Attempt, Claim, ClaimedRow};
use crate::sysdb::{DbResult, INTERNAL_QUEUE, OpenQueue, Owner, Served, Verdict, Write};

/// What takes more than a moment takes at most one of so many parts of the time.
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
    /// How long to wait for a call before looking at the database again.
    pause: Duration,
    next_due: Option<Timestamp>,
    last_call: u64,
    swept: Option<Stopwatch>,
    launched: bool,
    /// Busy executors without a trace, when they were last looked for, and when that was.
    traceless: Option<(Stopwatch, Vec<ExecutorId>)>,
    unknown_since: Option<Stopwatch>,
    /// Since the last question for waits that have ended unnoticed, and how long until the next.
    served: Option<(Stopwatch, Duration)>,
    /// The same for the look at all that waits.
    census: Option<(Stopwatch, Duration)>,
    /// What was said of it.
    notices: Notices,
    /// How often work was looked for.
    turn: usize,
}

/// For whom a claim has room.
struct Room {
    /// With the names of the kinds that have.
    served: Arc<Served>,
    slots: Vec<(Kind, Vec<Slot>)>,
    limit: usize,
    /// Another kind has none.
    full: bool,
}

impl Fleet<'_> {
    fn look(&mut self, call: u64) {
        let called = std::mem::replace(&mut self.last_call, call) != call;
        // A launch is followed by a sweep at once: it takes up what was interrupted.
        let is_launched = self.core.identity().is_ok();
        let launched = is_launched && !std::mem::replace(&mut self.launched, is_launched);
        let sweep = launched || self.is_time_to_sweep();
        let changed = self.note("look_for_commits", self.core.committer.others_committed()).unwrap_or(false);
        self.pause = if called || changed { POLL_MIN } else { (self.pause * 2).min(POLL_MAX) };

        // What fails in one of these does not keep the others from being done.
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

    /// One that runs nothing, and for whom nobody waits, sweeps only if it is called, or has said something that may not
    /// hold any more.
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

    /// Those that were without a trace the last time, and are still.
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

    /// What waits for nobody, or in a circle. It is about all that waits, so it takes at most a fiftieth of the time.
    fn say_what_waits_in_vain(&mut self) -> DbResult<()> {
        // One that is not launched says nothing: whoever looks by it looks elsewhere.
        if self.core.identity().is_err() || !self.is_time_for_a_census() {
            return Ok(());
        }
        // Also after a look that fails.
        self.census = Some((Stopwatch::start(), CENSUS_EVERY * 9 / 10));
        let watch = Stopwatch::start();
        let mut standing = stranded::circles(self.core)?;
        match stranded::look(self.core) {
            Ok(stranded) => standing.extend(stranded.iter().map(Notice::from)),
            // Who cannot see who lives is told by the sweep.
            Err(error) => {
                say!(debug, "{error}; looking again for what waits for nobody");
                return Ok(());
            }
        }
        // A little less than the pause between two calls for it, so that each is heeded.
        let pause = (CENSUS_EVERY * 9 / 10).max(watch.elapsed() * SHARE);
        self.census = Some((Stopwatch::start(), pause));
        let news = self.notices.news(standing);
        for text in news.stands {
            say!(warn, "{text}");
        }
        for what in news.gone {
            say!(info, "{what}: no longer");
        }
        Ok(())
    }

    /// Waits without a thread that have ended unnoticed. A question about all of them, so it takes at most a
    /// fiftieth of the time.
    fn wake_the_served(&mut self) -> DbResult<()> {
        if self.served.as_ref().is_some_and(|(since, pause)| since.elapsed() < *pause) {
            return Ok(());
        }
        let watch = Stopwatch::start();
        let Ok(identity) = self.core.identity() else { return Ok(()) };
        let waiting = self.core.reader.served_waits(&identity.app)?;
        self.served = Some((Stopwatch::start(), SERVED_EVERY_MIN.max(watch.elapsed() * SHARE)));
        for waiting in waiting.chunks(SERVED_AT_ONCE) {
            let now = self.core.options.clock.now();
            self.commit(Write::WakeServed { waiting: waiting.to_vec(), now });
        }
        Ok(())
    }

    /// The others may have refused what only this executor knows, while they took it for dead.
    fn revive_the_refused(&self) {
        let Ok(served) = self.core.served() else { return };
        let at = self.core.options.clock.now();
        // Failures are logged by the committer.
        let _ = recovery::revive(&served.identity, &served.names, at, |write| {
            self.core.committer.commit(write, Caller::Engine)
        });
    }

    /// Those that this process suspended and whose time has passed, though the wall clock was set back. Says whether there
    /// are any.
    fn wake_the_overdue(&self) -> bool {
        if self.core.identity().is_err() {
            return false;
        }
        let overdue = self.core.dues.overdue(&self.core.options.clock);
        for waiting in overdue.chunks(SERVED_AT_ONCE) {
            let now = self.core.options.clock.now();
            self.commit(Write::WakeServed { waiting: waiting.to_vec(), now });
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
        // Before the slots are counted: one that is freed from here on calls again.
        self.core.note_backlog(true);
        // Each queue is the first in its turn, so that none takes all the slots every time.
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

    /// Takes as many workflows that wait in a queue as there are free slots, and as its limits let it. Says whether more
    /// may wait for a slot; one that waits for a limit is called for when a workflow of its queue ends.
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
            self.core
                .outage
                .names_row(&row.workflow, "its id is no text, so nobody can run it; it is ended as ERROR");
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
                // More than asked for: what an earlier try took whose answer was lost.
                workflow::release(self.core, &assignment.run, Attempt::GivenBack, None, Caller::Engine);
                self.core.runs.leave(&assignment.run);
            }
        }
        more
    }

    /// The kinds of workflows for which there are free slots, at most `most` of each. `None` if there are none at all.
    fn room_for(&self, served: &Arc<Served>, most: usize) -> Option<Room> {
        let registry = &self.core.registry;
        let (mut slots, mut full) = (Vec::new(), false);
        // A name that nobody registers runs as a plain one, to fail.
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

    /// One question for all of them. Where it has no answer, a run asks by itself.
    fn with_their_pasts(&self, runs: Vec<Arc<Run>>, rows: &[ClaimedRow]) -> Vec<Assignment> {
        let ids: Vec<_> = rows.iter().map(|row| row.workflow.clone()).collect();
        let mut pasts = self.core.reader.pasts(&ids).unwrap_or_default();
        let assign =
            |(run, row): (Arc<Run>, &ClaimedRow)| Assignment::claimed(run, row, pasts.remove(&row.workflow));
        runs.into_iter().zip(rows).map(assign).collect()
    }

    /// The next look tries again. What may pass is said where it happens.
    fn note<T>(&self, part: &'static str, done: DbResult<T>) -> Option<T> {
        let outage = &self.core.outage;
        match &done {
            Ok(_) => outage.notices.passed(part),
            Err(error) if error.may_pass => {}
            Err(error) => outage.refused(part, error),
        }
        done.ok()
    }

    /// Failures are logged by the committer; the next look tries again.
    fn commit(&self, write: Write) -> Option<Verdict> {
        self.core.committer.commit(write, Caller::Engine).ok()
    }
}

/// Tells executions that lost their workflow to another process, or to an operator, before they find out by
/// their next write.
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
