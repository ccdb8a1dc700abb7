//! A profile of attributed time: every moment of a run belongs to one of five parts. They are the engine, commits, step
//! bodies, the application database, and waits. It is made from the engine's events, not by sampling.
//!
//! [`Profile`] is an observer. [`Profile::measure`] counts calls that the engine does not see. There are writers for
//! `snakeviz` (`.prof`), for flame graph tools (folded stacks), and for a flame graph of its own (`.svg`).

mod flame;
mod marshal;
mod table;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use engine::{Event, Observer};

pub use table::Table;

/// The part to which time belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The engine's own code, and the workflow's between its steps.
    Engine,
    /// Waiting for a write to become durable.
    Commit,
    /// The body of a step.
    StepBody,
    /// The application database, called from a workflow.
    ApplicationDatabase,
    /// Waiting for a time, an attempt, or another thread.
    Wait,
}

/// One place where time was spent, below its callers.
#[derive(Debug, Default, Clone)]
struct Node {
    calls: u64,
    /// Time in it and below it.
    total: Duration,
    children: BTreeMap<(String, PartKey), Node>,
}

/// Orders nodes of one name by part.
type PartKey = u8;

impl Part {
    const ALL: [Self; 5] =
        [Self::Engine, Self::Commit, Self::StepBody, Self::ApplicationDatabase, Self::Wait];

    const fn key(self) -> PartKey {
        self as PartKey
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Commit => "commit",
            Self::StepBody => "step body",
            Self::ApplicationDatabase => "application database",
            Self::Wait => "wait",
        }
    }

    fn of_key(key: PartKey) -> Self {
        Self::ALL.into_iter().find(|part| part.key() == key).unwrap_or(Self::Engine)
    }
}

impl Node {
    /// Time in it and not below it.
    fn own(&self) -> Duration {
        self.total.saturating_sub(self.children.values().map(|child| child.total).sum())
    }
}

/// Collects events while workflows run.
#[derive(Default)]
pub struct Profile {
    threads: Mutex<HashMap<ThreadId, Stack>>,
}

/// The workflows that run on one thread: inline children above their parents.
#[derive(Default, Clone)]
struct Stack {
    root: Node,
    open: Vec<(String, Instant)>,
}

impl Stack {
    /// The node of the innermost open workflow.
    fn current(&mut self) -> &mut Node {
        let path = self.open.iter().map(|(name, _)| (name.clone(), Part::Engine.key()));
        path.fold(&mut self.root, |node, key| node.children.entry(key).or_default())
    }

    fn add(&mut self, name: &str, part: Part, took: Duration) {
        let node = self.current().children.entry((name.to_owned(), part.key())).or_default();
        node.calls += 1;
        node.total += took;
    }

    fn close(&mut self, now: Instant) {
        let elapsed =
            self.open.last().map(|(_, start)| now.saturating_duration_since(*start)).unwrap_or_default();
        let node = self.current();
        node.calls += 1;
        node.total += elapsed;
        self.open.pop();
    }

    /// What is known at this moment: the open workflows count until now.
    fn until(&self, now: Instant) -> Node {
        let mut stack = self.clone();
        while !stack.open.is_empty() {
            stack.close(now);
        }
        stack.root
    }
}

impl Profile {
    /// Runs `work` and counts its time.
    pub fn measure<T>(&self, name: &str, part: Part, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.on_this_thread(|stack| stack.add(name, part, start.elapsed()));
        result
    }

    fn on_this_thread<T>(&self, work: impl FnOnce(&mut Stack) -> T) -> T {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        work(threads.entry(thread::current().id()).or_default())
    }

    /// The run of the workflow of this name, as seen by the program that has waited for it since `began`.
    ///
    /// Only the thread of that workflow counts: work on other threads meanwhile is a wait of this thread. The program may
    /// hear the outcome before the workflow's thread has told its end. What is open counts until now.
    pub fn finish(&self, workflow: &str, began: Instant) -> Finished {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let wall = now.saturating_duration_since(began);
        let key = (workflow.to_owned(), Part::Engine.key());
        let found = threads.values().find_map(|stack| stack.until(now).children.remove(&key));
        let mut main = Node { calls: 1, total: wall, children: BTreeMap::new() };
        if let Some(run) = found {
            main.children.insert(key, run);
        }
        Finished { main, wall }
    }
}

impl Observer for Profile {
    fn observe(&self, event: &Event<'_>) {
        self.on_this_thread(|stack| match event {
            Event::WorkflowStarted { name, .. } => stack.open.push(((*name).to_owned(), Instant::now())),
            Event::WorkflowEnded { .. } | Event::WorkflowLeft { .. } => stack.close(Instant::now()),
            Event::StepRan { name, took, .. } => stack.add(&format!("step {name}"), Part::StepBody, *took),
            Event::Recorded { kind, took, .. } => stack.add(&format!("commit {kind}"), Part::Commit, *took),
            Event::Waited { took, .. } => stack.add("wait", Part::Wait, *took),
            _ => {}
        });
    }
}

/// A complete profile.
pub struct Finished {
    main: Node,
    wall: Duration,
}

impl Finished {
    /// The time of each part.
    pub fn table(&self) -> Table {
        Table::of(&self.main, self.wall)
    }

    /// Writes `main_profile.prof`, `.folded` and `.svg`.
    ///
    /// # Errors
    /// The error of the file system.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        fs::write(dir.join("main_profile.prof"), marshal::pstats(&self.main))?;
        fs::write(dir.join("main_profile.folded"), flame::folded(&self.main))?;
        fs::write(dir.join("main_profile.svg"), flame::svg(&self.main))
    }
}

/// Every node with the names of its callers, outermost first.
fn walk<'n>(main: &'n Node, visit: &mut impl FnMut(&[(&'n str, Part)], &'n Node)) {
    fn below<'n>(
        path: &mut Vec<(&'n str, Part)>,
        node: &'n Node,
        visit: &mut impl FnMut(&[(&'n str, Part)], &'n Node),
    ) {
        visit(path, node);
        for ((name, key), child) in &node.children {
            path.push((name, Part::of_key(*key)));
            below(path, child, visit);
            path.pop();
        }
    }
    below(&mut vec![("main", Part::Engine)], main, visit);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// main 100 ms: a workflow of 90, in it a step of 40, two commits of 10 each, 5 of the database.
    pub(super) fn sample() -> Node {
        let leaf = |calls, total| Node { calls, total: ms(total), children: BTreeMap::new() };
        let workflow = Node {
            calls: 1,
            total: ms(90),
            children: BTreeMap::from([
                (("step users".to_owned(), Part::StepBody.key()), leaf(10, 40)),
                (("commit record_step".to_owned(), Part::Commit.key()), leaf(2, 20)),
                (("insert_users_page".to_owned(), Part::ApplicationDatabase.key()), leaf(1, 5)),
            ]),
        };
        let key = ("users_workflow".to_owned(), Part::Engine.key());
        Node { calls: 1, total: ms(100), children: BTreeMap::from([(key, workflow)]) }
    }

    #[test]
    fn own_time_is_what_the_callees_leave() {
        let main = sample();
        assert_eq!(main.own(), ms(10));
        let mut seen = Vec::new();
        walk(&main, &mut |path, node| seen.push((path.last().unwrap().0.to_owned(), node.own())));
        assert_eq!(seen.iter().map(|(_, own)| *own).sum::<Duration>(), ms(100));
        assert!(seen.contains(&("users_workflow".to_owned(), ms(25))));
    }

    fn started(profile: &Profile, id: &engine::WorkflowId, name: &str) {
        profile.observe(&Event::WorkflowStarted {
            workflow: id,
            name,
            inline_in: None,
            attempt: 1,
            recovered: false,
        });
    }

    #[test]
    fn a_workflow_that_has_not_told_its_end_counts_until_now() {
        let (profile, began) = (Profile::default(), Instant::now());
        let id = engine::WorkflowId::new("w").unwrap();
        started(&profile, &id, "parent");
        started(&profile, &id, "child");
        profile.observe(&Event::Recorded { workflow: &id, kind: "settle", took: ms(1) });
        while began.elapsed() < ms(3) {
            thread::yield_now();
        }
        let Finished { main, wall } = profile.finish("parent", began);
        let mut parts = Duration::ZERO;
        walk(&main, &mut |_, node| parts += node.own());
        assert_eq!(parts, wall);
    }

    #[test]
    fn inline_children_are_above_their_parents() {
        let profile = Profile::default();
        let id = engine::WorkflowId::new("w").unwrap();
        let started = |name| started(&profile, &id, name);
        let ended = |name| {
            let event = Event::WorkflowEnded { workflow: &id, name, status: engine::WorkflowStatus::Success };
            profile.observe(&event);
        };
        started("parent");
        for _ in 0..2 {
            started("child");
            profile.observe(&Event::Recorded { workflow: &id, kind: "settle", took: ms(3) });
            ended("child");
        }
        profile.measure("insert", Part::ApplicationDatabase, || ());
        ended("parent");
        let finished = profile.finish("parent", Instant::now());
        let mut folded: Vec<String> = Vec::new();
        walk(&finished.main, &mut |path, node| {
            let names: Vec<_> = path.iter().map(|(name, _)| *name).collect();
            folded.push(format!("{} {}", names.join(";"), node.calls));
        });
        assert_eq!(
            folded,
            [
                "main 1",
                "main;parent 1",
                "main;parent;child 2",
                "main;parent;child;commit settle 2",
                "main;parent;insert 1"
            ]
        );
    }
}
