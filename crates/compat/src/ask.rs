//! A client: it launches no engine, puts a workflow into a queue, and reads the outcome.

use std::time::Duration;

use anyhow::Context as _;
use engine::{Engine, EnqueueOptions, Error, Queue, Workflow};
use serde_json::{Value, json};

#[derive(Debug, clap::Args)]
pub(crate) struct AskArgs {
    /// Name of the workflow
    workflow: String,
    /// The queue that the other program serves
    queue: String,
    /// The other program's application
    #[arg(long)]
    application: String,
    /// Arguments as JSON: an array for positional arguments, an object for named arguments
    #[arg(long, default_value = "[]", value_parser = json_text)]
    args: Value,
    /// Id of the workflow [default: a new id]
    #[arg(long)]
    id: Option<String>,
    /// Do not wait for the result
    #[arg(long)]
    no_wait: bool,
}

fn json_text(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text)
}

impl AskArgs {
    pub(crate) fn ask(&self, engine: &Engine) -> anyhow::Result<()> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let mut options = EnqueueOptions::new().application(&self.application).spread_arguments();
        if let Some(id) = &self.id {
            options = options.id(id);
        }
        let workflow = Workflow::<Value, Value>::named(&self.workflow);
        let queue = Queue::named(&self.queue);
        let handle = workflow.enqueue_with(engine, &queue, &options, self.args.clone())?;
        let id = handle.id().as_str();
        let answer = if self.no_wait {
            json!({ "id": id })
        } else {
            match handle.wait(PATIENCE) {
                Ok(result) => json!({ "id": id, "result": result.context("no result in time")? }),
                Err(Error::WorkflowFailed { failure, .. }) => json!({ "id": id, "error": failure }),
                Err(error) => return Err(error.into()),
            }
        };
        println!("{answer}");
        Ok(())
    }
}
