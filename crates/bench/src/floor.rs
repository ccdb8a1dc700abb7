//! The floor: the statements that the engine's rows need, by hand, and nothing else.

mod postgres;
mod sqlite;

use model::User;

pub(crate) use postgres::ByHandOnPostgres;
pub(crate) use sqlite::ByHandOnSqlite;

/// One write of a workflow's life.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Write {
    Start(usize),
    Step(usize, u32),
    Settle(usize),
}

/// The statements on one database, over a connection with the engine's settings.
pub(crate) trait ByHand {
    /// Commits the writes as one transaction.
    fn commit(&mut self, writes: &[Write], payload: &str) -> anyhow::Result<()>;

    /// Reads the inputs and the recorded steps of these workflows, decodes the steps, and returns their number.
    fn read(&mut self, workflows: &[usize]) -> anyhow::Result<usize>;
}

/// The rows that a program would write without an engine.
pub(crate) struct Floor {
    by_hand: Box<dyn ByHand>,
    next: usize,
}

const NOW: i64 = 1_767_225_600_000;

impl Floor {
    pub(crate) fn new(by_hand: Box<dyn ByHand>) -> Self {
        Self { by_hand, next: 0 }
    }

    /// A number that no other workflow has.
    pub(crate) fn fresh(&mut self) -> usize {
        self.next += 1;
        self.next
    }

    /// Commits the writes as one transaction.
    pub(crate) fn commit(&mut self, writes: &[Write], payload: &str) -> anyhow::Result<()> {
        self.by_hand.commit(writes, payload)
    }

    /// Commits the writes in transactions of this size.
    pub(crate) fn commit_in_batches(&mut self, writes: &[Write], size: usize) -> anyhow::Result<()> {
        writes.chunks(size.max(1)).try_for_each(|batch| self.commit(batch, "1"))
    }

    /// Reads the input and the steps of each workflow and settles them in transactions of this size.
    pub(crate) fn recover(&mut self, workflows: &[usize], size: usize) -> anyhow::Result<usize> {
        let mut rows = 0;
        for batch in workflows.chunks(size.max(1)) {
            rows += self.by_hand.read(batch)?;
            let settles: Vec<_> = batch.iter().map(|&n| Write::Settle(n)).collect();
            self.commit(&settles, "1")?;
        }
        Ok(rows)
    }

    /// ex6 without its engine: 10 batches of 10 generated pages and one insert, each recorded with a commit of its own.
    /// The starts and ends of the 11 workflows are written, too.
    pub(crate) fn ex6(
        &mut self,
        mut insert: impl FnMut(&[User]) -> anyhow::Result<()>,
    ) -> anyhow::Result<usize> {
        let mut commits = 0;
        let parent = self.fresh();
        let mut record = |floor: &mut Self, write: Write, payload: &str| {
            commits += 1;
            floor.commit(&[write], payload)
        };
        record(self, Write::Start(parent), "null")?;
        for batch in 0..10_u32 {
            let child = self.fresh();
            // The parent's record of its child and the child's row are one commit.
            record(self, Write::Start(child), &batch.to_string())?;
            let mut users = Vec::new();
            for page in 0..10_u32 {
                let generated = model::fake_users(u64::from(batch * 10 + page), 10);
                let text = serde_json::to_string(&generated)?;
                record(self, Write::Step(child, page + 1), &text)?;
                users.extend(serde_json::from_str::<Vec<User>>(&text)?);
            }
            insert(&users)?;
            record(self, Write::Step(child, 11), "100")?;
            record(self, Write::Settle(child), "100")?;
            record(self, Write::Step(parent, batch + 1), "100")?;
        }
        record(self, Write::Settle(parent), "1000")?;
        Ok(commits)
    }
}

fn id(n: usize) -> String {
    // As long as the ids of the engine.
    format!("00000000-0000-7000-8000-{n:012}")
}
