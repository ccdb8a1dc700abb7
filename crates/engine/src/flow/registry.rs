//! Workflows by name, with their types erased and kept in a [`Workflow`].

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::flow::context::Context;
use crate::flow::known_errors::KnownErrors;
use crate::flow::options::WorkflowOptions;
use crate::pure::codec::{self, Codec};
use crate::pure::error::{BoxError, Error, Failure, Result, UNENCODABLE};
use crate::pure::id::check_name;
use crate::pure::queue::{Queue, QueueOptions};
use crate::sysdb::StoredInput;

/// A registered workflow that takes an `I` and returns an `O`: what starts runs of it.
///
/// It holds a name and no engine, so a workflow may capture the references of its children.
pub struct Workflow<I, O> {
    name: Arc<str>,
    types: PhantomData<fn(I) -> O>,
}

impl<I, O> Workflow<I, O> {
    /// The workflow that is or will be registered under this name, for one that starts itself or is registered
    /// later. A wrong type shows when the input or the output is decoded.
    pub fn named(name: &str) -> Self {
        Self { name: name.into(), types: PhantomData }
    }

    /// The name it is registered under.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn shared_name(&self) -> Arc<str> {
        self.name.clone()
    }
}

impl<I, O> Clone for Workflow<I, O> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), types: PhantomData }
    }
}

impl<I, O> fmt::Debug for Workflow<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workflow({})", self.name)
    }
}

/// How the names of the engine's own queues begin.
const RESERVED: &str = "_dbos_";

/// Decodes the input, runs the function, encodes the output.
type Body = dyn Fn(&mut Context, &StoredInput) -> Result<String, Failure> + Send + Sync;

pub(crate) struct Registered {
    pub(crate) options: WorkflowOptions,
    pub(crate) body: Box<Body>,
}

/// The workflows and queues of this program. Fixed at the launch, so that recovery knows what it can run.
#[derive(Default)]
pub(crate) struct Registry {
    pub(crate) errors: KnownErrors,
    workflows: RwLock<BTreeMap<String, Arc<Registered>>>,
    queues: RwLock<BTreeMap<String, QueueOptions>>,
    names: OnceLock<Vec<String>>,
}

impl Registry {
    pub(crate) fn register<I, O, E>(
        &self,
        name: &str,
        options: WorkflowOptions,
        function: impl Fn(&mut Context, I) -> Result<O, E> + Send + Sync + 'static,
    ) -> Result<Workflow<I, O>>
    where
        I: DeserializeOwned,
        O: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
    {
        check_name("workflow name", name)?;
        if self.names.get().is_some() {
            return Err(Error::AlreadyLaunched);
        }
        let workflow = name.to_owned();
        let body = move |ctx: &mut Context, input: &StoredInput| {
            let input = codec::decode_input(&workflow, input.serialization.as_deref(), input.text.as_deref())
                .map_err(|error| Failure::of_engine(&error))?;
            let output =
                function(ctx, input).map_err(|error| ctx.core().registry.errors.failure_of(error).0)?;
            let what = format!("output of workflow {workflow}");
            let encoded = codec::encode(Codec::PortableJson, &what, output)
                .map_err(|error| Failure::new(UNENCODABLE, error.to_string()))?;
            Ok(encoded.text)
        };
        let mut workflows = self.workflows.write().unwrap_or_else(PoisonError::into_inner);
        if workflows.contains_key(name) {
            return Err(Error::AlreadyRegistered { what: "workflow", name: name.to_owned() });
        }
        workflows.insert(name.to_owned(), Arc::new(Registered { options, body: Box::new(body) }));
        Ok(Workflow::named(name))
    }

    pub(crate) fn register_error<E>(&self, name: &str) -> Result<()>
    where
        E: std::error::Error + Serialize + DeserializeOwned + 'static,
    {
        if self.names.get().is_some() {
            return Err(Error::AlreadyLaunched);
        }
        self.errors.register::<E>(name)
    }

    pub(crate) fn register_queue(&self, name: &str, options: QueueOptions) -> Result<Queue> {
        check_name("queue name", name)?;
        if name.starts_with(RESERVED) {
            let (what, reason) = ("queue name", format!("starts with {RESERVED}, as the engine's own do"));
            return Err(Error::InvalidName { what, name: name.to_owned(), reason });
        }
        options.check().map_err(|reason| Error::InvalidOption {
            what: format!("queue {name}"),
            reason: reason.to_owned(),
        })?;
        if self.names.get().is_some() {
            return Err(Error::AlreadyLaunched);
        }
        let mut queues = self.queues.write().unwrap_or_else(PoisonError::into_inner);
        if queues.contains_key(name) {
            return Err(Error::AlreadyRegistered { what: "queue", name: name.to_owned() });
        }
        queues.insert(name.to_owned(), options);
        Ok(Queue::named(name))
    }

    pub(crate) fn queues(&self) -> BTreeMap<String, QueueOptions> {
        self.queues.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn get(&self, name: &str) -> Result<Arc<Registered>> {
        let workflows = self.workflows.read().unwrap_or_else(PoisonError::into_inner);
        workflows.get(name).cloned().ok_or_else(|| Error::NotRegistered {
            name: name.to_owned(),
            registered: listed(workflows.keys()),
        })
    }

    /// The names, fixed by the first call.
    pub(crate) fn freeze(&self) -> &[String] {
        self.names.get_or_init(|| {
            self.workflows.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
        })
    }
}

/// Names for a message.
pub(crate) fn listed<'n>(names: impl Iterator<Item = &'n String>) -> String {
    let names: Vec<_> = names.map(String::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
