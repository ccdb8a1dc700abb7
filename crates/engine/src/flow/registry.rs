//! Workflows by name. Their types are erased here and kept in a [`Workflow`].

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
#[cfg(feature = "tokio")]
use std::pin::Pin;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(feature = "tokio")]
use crate::flow::async_context::AsyncContext;
use crate::flow::context::Context;
use crate::flow::known_errors::KnownErrors;
use crate::flow::options::WorkflowOptions;
use crate::pure::codec::{self, Codec};
use crate::pure::error::{BoxError, Error, Failure, Result, UNENCODABLE};
use crate::pure::id::check_name;
use crate::pure::queue::{Queue, QueueOptions};
use crate::sysdb::StoredInput;

/// A registered workflow that takes an `I` and returns an `O`. It starts runs of the workflow.
///
/// It holds a name and no engine, so a workflow may capture the references of its children.
pub struct Workflow<I, O> {
    name: Arc<str>,
    types: PhantomData<fn(I) -> O>,
}

impl<I, O> Workflow<I, O> {
    /// The workflow with this name, which need not be registered yet. Use it for a workflow that starts itself or is
    /// registered later. A wrong type shows when the input or the output is decoded.
    pub fn named(name: &str) -> Self {
        Self { name: name.into(), types: PhantomData }
    }

    /// The name under which it is registered.
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

/// The beginning of the names of the engine's own queues.
const RESERVED: &str = "_dbos_";

/// The place where a workflow runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A thread.
    Plain,
    /// A task of an async runtime.
    #[cfg(feature = "tokio")]
    Async,
}

impl Kind {
    pub(crate) const ALL: &[Self] = &[
        Self::Plain,
        #[cfg(feature = "tokio")]
        Self::Async,
    ];
}

/// Decodes the input, runs the function, encodes the output.
pub(crate) enum Body {
    Plain(Box<PlainFunction>),
    #[cfg(feature = "tokio")]
    Async(Box<AsyncFunction>),
}

type PlainFunction = dyn Fn(&mut Context, &StoredInput) -> Result<String, Failure> + Send + Sync;

#[cfg(feature = "tokio")]
pub(crate) type AsyncFunction = dyn Fn(AsyncContext, StoredInput) -> AsyncBody + Send + Sync;

/// One run of an async function.
#[cfg(feature = "tokio")]
pub(crate) type AsyncBody = Pin<Box<dyn Future<Output = Result<String, Failure>> + Send>>;

pub(crate) struct Registered {
    pub(crate) options: WorkflowOptions,
    pub(crate) body: Body,
}

impl Registered {
    pub(crate) fn kind(&self) -> Kind {
        match self.body {
            Body::Plain(_) => Kind::Plain,
            #[cfg(feature = "tokio")]
            Body::Async(_) => Kind::Async,
        }
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.kind() == Kind::Plain
    }
}

/// The workflows and queues of this program. Fixed at the launch, so that recovery knows which workflows it can run.
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
        let workflow = name.to_owned();
        let body = move |ctx: &mut Context, input: &StoredInput| {
            let output = function(ctx, decoded(&workflow, input)?);
            let errors = &ctx.flow.core().registry.errors;
            encoded(&workflow, output.map_err(|error| errors.failure_of(error).0)?)
        };
        self.add(name, options, Body::Plain(Box::new(body)))
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn register_async<I, O, E, F, Fut>(
        &self,
        name: &str,
        options: WorkflowOptions,
        function: F,
    ) -> Result<Workflow<I, O>>
    where
        I: DeserializeOwned + Send + 'static,
        O: Serialize + DeserializeOwned + Send,
        E: Into<BoxError> + 'static,
        F: FnOnce(AsyncContext, I) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<O, E>> + Send + 'static,
    {
        let workflow: Arc<str> = name.into();
        let body = move |ctx: AsyncContext, input: StoredInput| -> AsyncBody {
            let (function, workflow, core) = (function.clone(), workflow.clone(), ctx.flow.core().clone());
            Box::pin(async move {
                let returned = function(ctx, decoded(&workflow, &input)?).await;
                // The returned value ends here: an error need not be `Send`.
                encoded(&workflow, returned.map_err(|error| core.registry.errors.failure_of(error).0)?)
            })
        };
        self.add(name, options, Body::Async(Box::new(body)))
    }

    fn add<I, O>(&self, name: &str, options: WorkflowOptions, body: Body) -> Result<Workflow<I, O>> {
        check_name("workflow name", name)?;
        if self.names.get().is_some() {
            return Err(Error::AlreadyLaunched);
        }
        let mut workflows = self.workflows.write().unwrap_or_else(PoisonError::into_inner);
        if workflows.contains_key(name) {
            return Err(Error::AlreadyRegistered { what: "workflow", name: name.to_owned() });
        }
        workflows.insert(name.to_owned(), Arc::new(Registered { options, body }));
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
            let (what, reason) = (
                "queue name",
                format!(
                    "starts with {RESERVED}, which is reserved for queues of the engine; choose another name"
                ),
            );
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

    /// The kind of the workflow of this name, if it is registered.
    pub(crate) fn kind_of(&self, name: &str) -> Option<Kind> {
        let workflows = self.workflows.read().unwrap_or_else(PoisonError::into_inner);
        workflows.get(name).map(|registered| registered.kind())
    }

    pub(crate) fn has(&self, kind: Kind) -> bool {
        let workflows = self.workflows.read().unwrap_or_else(PoisonError::into_inner);
        workflows.values().any(|registered| registered.kind() == kind)
    }

    /// The names of workflows of one kind, among these names.
    pub(crate) fn of_kind(&self, names: &[String], kind: Kind) -> Vec<String> {
        let workflows = self.workflows.read().unwrap_or_else(PoisonError::into_inner);
        let is_of_it = |name: &&String| workflows.get(*name).is_some_and(|found| found.kind() == kind);
        names.iter().filter(is_of_it).cloned().collect()
    }

    /// The names, fixed by the first call.
    pub(crate) fn freeze(&self) -> &[String] {
        self.names.get_or_init(|| {
            self.workflows.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
        })
    }
}

/// The input of a run, as the function takes it.
fn decoded<I: DeserializeOwned>(workflow: &str, input: &StoredInput) -> Result<I, Failure> {
    codec::decode_input(workflow, input.serialization.as_deref(), input.text.as_deref())
        .map_err(|error| Failure::of_engine(&error))
}

/// The output of a run, as it is recorded.
fn encoded<O: Serialize + DeserializeOwned>(workflow: &str, output: O) -> Result<String, Failure> {
    let what = format!("output of workflow {workflow}");
    codec::encode(Codec::PortableJson, &what, output)
        .map(|encoded| encoded.text)
        .map_err(|error| Failure::new(UNENCODABLE, error.to_string()))
}

/// Names for a message.
pub(crate) fn listed<'n>(names: impl Iterator<Item = &'n String>) -> String {
    let names: Vec<_> = names.map(String::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
