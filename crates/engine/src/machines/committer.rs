//! Group commit: the writes that gather while a commit runs become durable with the next commit.
//!
//! An engine thread that is alone in line leads: it commits its write at once, on its own thread. When several writes
//! wait, the committer's own thread leads. It commits all of them together, so 64 writers share one fsync. One thread
//! of the batch hands out the verdicts, while the committer commits the next batch.
//!
//! A thread that is not the engine's never leads. It may belong to an async runtime, where a driver that blocks would
//! panic.
//!
//! Does not know: SQL, what the writes mean.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
#[cfg(feature = "tokio")]
use std::{
    future::poll_fn,
    task::{self, Poll, Waker},
};

#[cfg(feature = "tokio")]
use crate::machines::timer::Alarm;
use crate::machines::waiter::Hub;
use crate::pure::clock::{Clock, Stopwatch, Timestamp};
use crate::pure::limits::{
    BATCH_WRITES_MAX, CALL_WITHIN, COMMIT_RETRY_MAX, COMMIT_RETRY_MIN, WHOLE_BATCH_PAUSE,
};
use crate::pure::observer::{Event, Observers};
#[cfg(feature = "tokio")]
use crate::pure::sync::wake;
use crate::pure::sync::{Inflight, InflightGuard, Signal, lock, wait, wait_for};
use crate::sysdb::outage::{Outage, Part};
use crate::sysdb::testing::Gate;
use crate::sysdb::{DbError, DbResult, Verdict, Write, Writer};

/// The reason why a write has no verdict.
#[derive(Debug, Clone)]
pub(crate) enum CommitError {
    /// The engine has shut down. Whether the write was committed is not known.
    Closed,
    /// The database refused the write for good.
    Refused(DbError),
    /// The database does not answer, for this reason, and the caller waits no longer. A write that was `begun` may
    /// still be committed.
    Unanswered { begun: bool, reason: String },
}

/// The caller of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A thread of the engine: it may commit for others, and waits without a limit.
    Engine,
    /// Any other thread: it waits at most [`CALL_WITHIN`].
    Outside,
    /// A task, or a thread that waits for several writes at once. It neither leads nor hands out, and waits without a
    /// limit.
    Passive,
}

pub(crate) struct Committer {
    line: Mutex<Line>,
    /// Wakes the committer's own thread.
    lead_for_outside: Condvar,
    writer: Mutex<Box<dyn Writer>>,
    /// Raised when the committer closes, to end a wait between retries.
    closing: Signal,
    /// Writes that no caller waits for.
    unheard: Inflight,
    around: Surroundings,
}

/// The parts of the engine that a committer uses and tells.
pub(crate) struct Surroundings {
    pub(crate) gate: Gate,
    pub(crate) observers: Observers,
    /// Raised when a commit leaves work for the fleet.
    pub(crate) fleet: Arc<Signal>,
    /// Where threads and tasks of this process wait for what a commit makes true.
    pub(crate) hub: Arc<Hub>,
    pub(crate) outage: Arc<Outage>,
    /// Measures how long a caller has waited, also while the wall clock is set.
    pub(crate) steady_clock: Clock,
}

/// The writes that wait, in order.
#[derive(Default)]
struct Line {
    queued: VecDeque<Queued>,
    /// A thread commits, or was told to.
    led: bool,
    /// The committer's own thread was told to commit.
    outside_leads: bool,
    closed: bool,
}

struct Queued {
    job: Job,
    caller: Caller,
    ticket: Arc<Ticket>,
}

enum Job {
    Write(Box<Write>),
    /// No other thread may commit meanwhile: for a transaction on another connection.
    Alone,
}

/// The ticket of a caller in line. On it the caller is told its turn.
#[derive(Default)]
struct Ticket {
    turn: Mutex<Told>,
    told: Condvar,
    /// The caller is a [`Caller::Passive`].
    is_passive: bool,
    /// Held for a write that no caller waits for.
    _unheard: Option<InflightGuard>,
    #[cfg(feature = "tokio")]
    task: Mutex<Option<Waker>>,
}

#[derive(Default)]
enum Told {
    #[default]
    Nothing,
    Turn(Turn),
    /// The caller has gone.
    InVain,
}

enum Turn {
    Lead,
    Alone,
    Verdict(Answer),
    /// The verdict, and the verdicts to hand out to the others of the batch.
    Courier(Answer, Vec<(Arc<Ticket>, Answer)>),
}

type Answer = Result<Verdict, CommitError>;

/// From this size of a batch on, one of its threads hands out the verdicts. The committer's own thread commits the next
/// batch meanwhile.
const COURIER_FROM: usize = 4;

impl Ticket {
    fn of(caller: Caller) -> Self {
        Self { is_passive: caller == Caller::Passive, ..Self::default() }
    }

    /// Tells the caller its turn. Gives the turn back when the caller has gone.
    fn tell(&self, turn: Turn) -> Result<(), Turn> {
        let mut told = lock(&self.turn);
        if matches!(*told, Told::InVain) {
            return Err(turn);
        }
        *told = Told::Turn(turn);
        self.told.notify_one();
        drop(told);
        #[cfg(feature = "tokio")]
        {
            let waiting = lock(&self.task).take();
            waiting.into_iter().for_each(wake);
        }
        Ok(())
    }

    /// The verdict. If there is none yet, the task is woken when there is.
    #[cfg(feature = "tokio")]
    fn poll(&self, context: &task::Context<'_>) -> Poll<Answer> {
        // The waker comes first, so that no turn is missed in between.
        *lock(&self.task) = Some(context.waker().clone());
        match std::mem::take(&mut *lock(&self.turn)) {
            Told::Turn(Turn::Verdict(answer)) => Poll::Ready(answer),
            // A task is told no other turn.
            Told::Turn(Turn::Lead | Turn::Alone | Turn::Courier(..)) | Told::Nothing | Told::InVain => {
                Poll::Pending
            }
        }
    }

    fn is_to_lead(&self) -> bool {
        matches!(*lock(&self.turn), Told::Turn(Turn::Lead))
    }

    /// Waits for a turn, without a limit or until this time. A turn that comes later is told in vain.
    fn wait(&self, clock: &Clock, until: Option<Timestamp>) -> Option<Turn> {
        let mut told = lock(&self.turn);
        loop {
            if let Told::Turn(turn) = std::mem::take(&mut *told) {
                return Some(turn);
            }
            told = match until.map(|until| clock.nap_until(until)) {
                None => wait(&self.told, told),
                Some(Some(nap)) => wait_for(&self.told, told, nap),
                Some(None) => {
                    *told = Told::InVain;
                    return None;
                }
            };
        }
    }
}

impl Committer {
    pub(crate) fn new(writer: Box<dyn Writer>, around: Surroundings) -> Self {
        Self {
            line: Mutex::default(),
            lead_for_outside: Condvar::new(),
            writer: Mutex::new(writer),
            closing: Signal::default(),
            unheard: Inflight::default(),
            around,
        }
    }

    /// Makes a write durable and returns its verdict.
    pub(crate) fn commit(&self, write: Write, caller: Caller) -> Result<Verdict, CommitError> {
        if caller == Caller::Engine && self.takes_the_lead()? {
            let answer = self.commit_unharmed(std::slice::from_ref(&write)).pop();
            self.pass_on();
            return answer.unwrap_or(Err(CommitError::Closed));
        }
        let ticket = self.stand_in_line(Job::Write(Box::new(write)), caller)?;
        self.wait_in(&ticket, caller)
    }

    /// Waits with this ticket for the verdict. Leads when told to.
    fn wait_in(&self, ticket: &Arc<Ticket>, caller: Caller) -> Result<Verdict, CommitError> {
        let until = match caller {
            Caller::Engine | Caller::Passive => None,
            Caller::Outside => self.around.steady_clock.now().checked_add(CALL_WITHIN),
        };
        loop {
            match ticket.wait(&self.around.steady_clock, until) {
                Some(Turn::Lead) => self.lead(),
                Some(Turn::Verdict(verdict)) => return verdict,
                Some(Turn::Courier(verdict, others)) => {
                    hand_out(others);
                    return verdict;
                }
                Some(Turn::Alone) => {}
                None => return Err(self.leave_line(ticket)),
            }
        }
    }

    /// Makes many writes of one engine thread durable, in as few commits as can be, and returns the verdict of each.
    pub(crate) fn commit_all(&self, writes: Vec<Write>) -> Vec<Result<Verdict, CommitError>> {
        let tickets = self.stand_in_line_all(writes);
        tickets.into_iter().map(|ticket| self.wait_in(&ticket?, Caller::Passive)).collect()
    }

    /// All writes stand in line before the thread waits for the first.
    fn stand_in_line_all(&self, writes: Vec<Write>) -> Vec<Result<Arc<Ticket>, CommitError>> {
        let stand = |write| self.stand_in_line(Job::Write(Box::new(write)), Caller::Passive);
        writes.into_iter().map(stand).collect()
    }

    /// Makes a write of a task durable, without blocking its thread. A write is made also when its task has gone,
    /// unless the engine closes first.
    #[cfg(feature = "tokio")]
    pub(crate) async fn commit_for_a_task(&self, write: Write) -> Result<Verdict, CommitError> {
        let ticket = self.stand_in_line(Job::Write(Box::new(write)), Caller::Passive)?;
        poll_fn(|context| ticket.poll(context)).await
    }

    /// Makes many writes of a task durable, in as few commits as can be, and returns the verdict of each.
    #[cfg(feature = "tokio")]
    pub(crate) async fn commit_all_for_a_task(
        &self,
        writes: Vec<Write>,
    ) -> Vec<Result<Verdict, CommitError>> {
        let tickets = self.stand_in_line_all(writes);
        let mut answers = Vec::with_capacity(tickets.len());
        for ticket in tickets {
            answers.push(match ticket {
                Ok(ticket) => poll_fn(|context| ticket.poll(context)).await,
                Err(error) => Err(error),
            });
        }
        answers
    }

    /// Makes a write of a task durable. The task waits no longer than `deadline`.
    #[cfg(feature = "tokio")]
    pub(crate) async fn commit_for_a_caller(
        &self,
        write: Write,
        mut deadline: Alarm<'_>,
    ) -> Result<Verdict, CommitError> {
        let ticket = self.stand_in_line(Job::Write(Box::new(write)), Caller::Passive)?;
        poll_fn(|context| match ticket.poll(context) {
            Poll::Pending => deadline.poll(context).map(|()| Err(self.leave_line(&ticket))),
            ready @ Poll::Ready(_) => ready,
        })
        .await
    }

    /// Makes a write durable in its turn, for a caller that does not wait.
    pub(crate) fn commit_unheard(&self, write: Write) {
        // The ticket counts as left already.
        let turn = Mutex::new(Told::InVain);
        let ticket = Ticket { turn, _unheard: Some(self.unheard.enter()), ..Ticket::default() };
        let _ = self.join_the_line(Job::Write(Box::new(write)), Caller::Outside, ticket);
    }

    /// Waits until the writes that no caller waits for are made, at most this long. Writes that are not made when the
    /// committer closes are lost.
    pub(crate) fn wait_for_the_unheard(&self, time: Duration) {
        self.unheard.wait_until_none(time);
    }

    /// Whether this thread of the engine now leads. It does if no thread leads, and then it commits without standing in
    /// line.
    fn takes_the_lead(&self) -> Result<bool, CommitError> {
        let mut line = lock(&self.line);
        if line.closed {
            return Err(CommitError::Closed);
        }
        Ok(!std::mem::replace(&mut line.led, true))
    }

    /// Takes the ticket of a caller that waits no longer out of the line.
    fn leave_line(&self, ticket: &Arc<Ticket>) -> CommitError {
        let mut line = lock(&self.line);
        let before = line.queued.len();
        line.queued.retain(|queued| !Arc::ptr_eq(&queued.ticket, ticket));
        let reason = self.around.outage.reason().unwrap_or_else(|| "it is busy with other writes".to_owned());
        CommitError::Unanswered { begun: line.queued.len() == before, reason }
    }

    /// Runs `work` while no other thread commits. Only for threads of the engine.
    pub(crate) fn alone<T>(&self, work: impl FnOnce() -> T) -> Result<T, CommitError> {
        let ticket = self.stand_in_line(Job::Alone, Caller::Engine)?;
        loop {
            match ticket.wait(&self.around.steady_clock, None) {
                Some(Turn::Lead) => self.lead(),
                Some(Turn::Alone) => {
                    // The lead is passed on even if `work` panics.
                    let _pass_on = PassOn(self);
                    return Ok(work());
                }
                Some(Turn::Verdict(Err(error))) => return Err(error),
                Some(Turn::Verdict(Ok(_)) | Turn::Courier(..)) | None => {}
            }
        }
    }

    /// Joins the line. Leads at once if no thread leads.
    fn stand_in_line(&self, job: Job, caller: Caller) -> Result<Arc<Ticket>, CommitError> {
        self.join_the_line(job, caller, Ticket::of(caller))
    }

    fn join_the_line(&self, job: Job, caller: Caller, ticket: Ticket) -> Result<Arc<Ticket>, CommitError> {
        let ticket = Arc::new(ticket);
        let mut line = lock(&self.line);
        if line.closed {
            return Err(CommitError::Closed);
        }
        line.queued.push_back(Queued { job, caller, ticket: ticket.clone() });
        if !line.led {
            line.led = true;
            self.appoint(&mut line);
        }
        Ok(ticket)
    }

    /// Tells the next thread to lead: an engine thread that is alone in line, or else the committer's own.
    fn appoint(&self, line: &mut Line) {
        match line.queued.front() {
            Some(first) if line.queued.len() == 1 && first.caller == Caller::Engine => {
                // A thread of the engine waits without a limit, so it hears this.
                let _ = first.ticket.tell(Turn::Lead);
            }
            _ => {
                line.outside_leads = true;
                self.lead_for_outside.notify_one();
            }
        }
    }

    /// Commits the waiting writes once, passes the lead on and hands out the verdicts.
    fn lead(&self) {
        hand_out(self.lead_once());
    }

    /// Commits the waiting writes once and passes the lead on. Returns the verdicts to hand out.
    fn lead_once(&self) -> Vec<(Arc<Ticket>, Answer)> {
        let batch = {
            let mut line = lock(&self.line);
            match line.queued.front() {
                Some(Queued { job: Job::Alone, ticket, .. }) => {
                    // That thread passes the lead on itself.
                    let _ = ticket.tell(Turn::Alone);
                    line.queued.pop_front();
                    return Vec::new();
                }
                _ => take_batch(&mut line.queued),
            }
        };
        let (writes, tickets): (Vec<Write>, Vec<Arc<Ticket>>) = batch.into_iter().unzip();
        // The line is empty when the committer closed after it had appointed this thread.
        let verdicts = if writes.is_empty() { Vec::new() } else { self.commit_unharmed(&writes) };
        self.pass_on();
        tickets.into_iter().zip(verdicts).collect()
    }

    fn pass_on(&self) {
        let mut line = lock(&self.line);
        if line.queued.is_empty() {
            line.led = false;
        } else {
            self.appoint(&mut line);
        }
    }

    /// Commits a batch. The lead and the tickets of waiting callers survive a panic of a hook or of the committer.
    fn commit_unharmed(&self, writes: &[Write]) -> Vec<Answer> {
        catch_unwind(AssertUnwindSafe(|| self.commit_batch(writes))).unwrap_or_else(|payload| {
            std::mem::forget(payload);
            let error = DbError::lasting("commit", "panicked; see the log");
            writes.iter().map(|_| Err(CommitError::Refused(error.clone()))).collect()
        })
    }

    /// Commits a batch as one transaction, and tries it again while the failure may pass.
    ///
    /// The batch is tried in halves when the failure will not pass, so that one bad write does not fail its neighbours.
    /// It is tried in halves, too, when the failure lasts: the size of the batch may be the cause.
    fn commit_batch(&self, writes: &[Write]) -> Vec<Answer> {
        let mut pause = COMMIT_RETRY_MIN;
        loop {
            let seen = self.closing.now();
            let watch = Stopwatch::start();
            match self
                .around
                .gate
                .around(|| writes.iter().map(Write::kind).collect(), || self.try_batch(writes))
            {
                Ok(verdicts) => {
                    self.around.outage.passed(Part::Writes);
                    self.around.outage.notices.all_passed(|| writes.iter().map(Write::kind));
                    self.tell(writes, &verdicts);
                    self.around
                        .observers
                        .tell(|| Event::Committed { writes: writes.len(), took: watch.elapsed() });
                    return verdicts.into_iter().map(Ok).collect();
                }
                Err(error) if error.may_pass => {
                    self.around.outage.failed(Part::Writes, &error);
                    self.closing.wait_at_most(seen, pause);
                    if lock(&self.line).closed {
                        return writes.iter().map(|_| Err(CommitError::Closed)).collect();
                    }
                    if pause >= WHOLE_BATCH_PAUSE && writes.len() > 1 {
                        return self.commit_halves(writes, &error);
                    }
                    pause = (pause * 2).min(COMMIT_RETRY_MAX);
                }
                Err(error) => return self.commit_halves(writes, &error),
            }
        }
    }

    /// Tells the waits of this process, and the fleet, what these writes have made true.
    fn tell(&self, writes: &[Write], verdicts: &[Verdict]) {
        for (write, verdict) in writes.iter().zip(verdicts) {
            write.fulfils(verdict, |awaited, outcome| self.around.hub.came_true(awaited, outcome));
        }
        if writes.iter().zip(verdicts).any(|(write, verdict)| write.leaves_work(verdict)) {
            self.around.fleet.raise();
        }
    }

    /// Whether another process, or a transaction step of this process, has committed since the last call.
    pub(crate) fn others_committed(&self) -> DbResult<bool> {
        lock(&self.writer).others_committed()
    }

    fn try_batch(&self, writes: &[Write]) -> DbResult<Vec<Verdict>> {
        lock(&self.writer).commit(writes)
    }

    fn commit_halves(&self, writes: &[Write], error: &DbError) -> Vec<Answer> {
        if writes.len() <= 1 {
            for write in writes {
                self.around.outage.refused(write.kind(), error);
            }
            return writes.iter().map(|_| Err(CommitError::Refused(error.clone()))).collect();
        }
        let (first, second) = writes.split_at(writes.len() / 2);
        let mut verdicts = self.commit_batch(first);
        verdicts.extend(self.commit_batch(second));
        verdicts
    }

    /// The body of the committer's own thread, until the committer closes. It leads for threads that may not lead, and
    /// for many writes at once.
    pub(crate) fn serve_outside(&self) {
        loop {
            let mut line = lock(&self.line);
            while !line.outside_leads {
                if line.closed {
                    return;
                }
                line = wait(&self.lead_for_outside, line);
            }
            line.outside_leads = false;
            drop(line);
            let mut answers = self.lead_once();
            let courier = answers.iter().rposition(|(ticket, _)| !ticket.is_passive);
            match courier
                .filter(|_| answers.len() >= COURIER_FROM)
                .map(|courier| answers.swap_remove(courier))
            {
                None => hand_out(answers),
                Some((courier, answer)) => {
                    if let Err(Turn::Courier(_, answers)) = courier.tell(Turn::Courier(answer, answers)) {
                        hand_out(answers);
                    }
                }
            }
        }
    }

    /// Lets go of the database. Call this when the committer is closed and idle.
    pub(crate) fn close_writer(&self) {
        lock(&self.writer).close();
    }

    /// Whether no commit is running.
    pub(crate) fn is_idle(&self) -> bool {
        !lock(&self.line).led
    }

    /// Takes no more writes. Waiting callers are told that the engine has closed, unless their write is being
    /// committed.
    pub(crate) fn close(&self) {
        let left = {
            let mut line = lock(&self.line);
            line.closed = true;
            let left = std::mem::take(&mut line.queued);
            // A thread that was told to lead and has not heard it yet hears only that the engine has closed.
            line.led &= !left.iter().any(|queued| queued.ticket.is_to_lead());
            left
        };
        self.closing.raise();
        self.lead_for_outside.notify_all();
        for queued in left {
            let _ = queued.ticket.tell(Turn::Verdict(Err(CommitError::Closed)));
        }
    }
}

/// Passes the lead on when dropped.
struct PassOn<'c>(&'c Committer);

impl Drop for PassOn<'_> {
    fn drop(&mut self) {
        self.0.pass_on();
    }
}

fn hand_out(answers: Vec<(Arc<Ticket>, Answer)>) {
    for (ticket, answer) in answers {
        let _ = ticket.tell(Turn::Verdict(answer));
    }
}

/// The writes at the head of the line, up to a job that must be alone.
fn take_batch(queued: &mut VecDeque<Queued>) -> Vec<(Write, Arc<Ticket>)> {
    let mut batch = Vec::with_capacity(queued.len().min(BATCH_WRITES_MAX));
    while batch.len() < BATCH_WRITES_MAX
        && let Some(first) = queued.pop_front()
    {
        match first.job {
            Job::Write(write) => batch.push((*write, first.ticket)),
            Job::Alone => {
                queued.push_front(first);
                break;
            }
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::pure::id::ExecutorId;
    use crate::pure::observer::Observers;

    struct Nowhere;

    impl Writer for Nowhere {
        fn commit(&mut self, batch: &[Write]) -> DbResult<Vec<Verdict>> {
            Ok(vec![Verdict::Done; batch.len()])
        }

        fn others_committed(&mut self) -> DbResult<bool> {
            Ok(false)
        }
    }

    fn requeue() -> Write {
        Write::Requeue { executor: ExecutorId::generate(None), at: Timestamp::from_millis(0) }
    }

    fn queued(job: Job) -> Queued {
        Queued { job, caller: Caller::Outside, ticket: Arc::default() }
    }

    #[test]
    fn a_batch_is_bounded_and_ends_before_what_must_be_alone() {
        let write = || queued(Job::Write(Box::new(requeue())));
        let mut line: VecDeque<_> = (0..=BATCH_WRITES_MAX).map(|_| write()).collect();
        assert_eq!(take_batch(&mut line).len(), BATCH_WRITES_MAX);
        line.push_back(queued(Job::Alone));
        line.push_back(write());
        assert_eq!(take_batch(&mut line).len(), 1);
        assert!(take_batch(&mut line).is_empty());
        assert_eq!(line.len(), 2, "they keep their places");
    }

    fn committer(writer: Box<dyn Writer>) -> Committer {
        let around = Surroundings {
            gate: Gate::default(),
            observers: Observers::default(),
            fleet: Arc::default(),
            hub: Arc::default(),
            outage: Arc::new(Outage::of(String::new())),
            steady_clock: Clock::system().steady(),
        };
        Committer::new(writer, around)
    }

    #[test]
    fn a_close_leaves_nobody_in_the_lead() {
        let committer = committer(Box::new(Nowhere));
        let ticket = committer.stand_in_line(Job::Alone, Caller::Engine).ok().unwrap();
        assert!(ticket.is_to_lead() && !committer.is_idle());
        committer.close();
        assert!(committer.is_idle(), "whoever leaves last takes leave");
    }

    /// Says when a commit began, and makes it when told to.
    struct Slow {
        began: mpsc::Sender<usize>,
        go_on: mpsc::Receiver<()>,
    }

    impl Writer for Slow {
        fn commit(&mut self, batch: &[Write]) -> DbResult<Vec<Verdict>> {
            self.began.send(batch.len()).unwrap();
            self.go_on.recv().unwrap();
            Ok(vec![Verdict::Done; batch.len()])
        }

        fn others_committed(&mut self) -> DbResult<bool> {
            Ok(false)
        }
    }

    #[test]
    fn a_write_that_nobody_waits_for_is_made_before_the_close() {
        let ((began, commits), (let_go, go_on)) = (mpsc::channel(), mpsc::channel());
        let committer = committer(Box::new(Slow { began, go_on }));
        thread::scope(|scope| {
            scope.spawn(|| committer.serve_outside());
            scope.spawn(|| drop(committer.commit(requeue(), Caller::Outside)));
            assert_eq!(commits.recv(), Ok(1));
            committer.commit_unheard(requeue());
            scope.spawn(|| {
                committer.wait_for_the_unheard(Duration::from_secs(60));
                committer.close();
            });
            let_go.send(()).unwrap();
            let_go.send(()).unwrap();
            assert_eq!(commits.recv(), Ok(1), "the write that nobody waits for");
        });
    }
}
