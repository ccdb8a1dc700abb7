//! Ids and names: how they are made, and which are refused.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use crate::pure::error::{Error, Result};
use crate::pure::limits::{HASHED_IDS_MAX, NAME_BYTES_MAX};

/// The id of one workflow, for good: 1 to 255 bytes of text without NUL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkflowId(Arc<str>);

impl WorkflowId {
    /// Makes an id of a text that a caller chose.
    ///
    /// # Errors
    /// [`Error::InvalidName`] when the text is empty, too long, or holds a NUL.
    pub fn new(text: impl AsRef<str>) -> Result<Self> {
        let text = text.as_ref();
        check_name("workflow id", text)?;
        Ok(Self(text.into()))
    }

    /// A new id: a UUIDv7, so ids sort by creation.
    pub(crate) fn generate() -> Self {
        Self(Uuid::now_v7().to_string().into())
    }

    /// The id that a parent's step gives its child. It is equal in every run.
    ///
    /// | id | when |
    /// |---|---|
    /// | `PARENT-STEP` | it has at most 255 bytes |
    /// | `HASH~COUNT` | it would be longer: the UUIDv5 of the long id, and how often ids of this line were hashed |
    /// | `HASH~COUNT-STEP` | the parent's id was hashed |
    ///
    /// # Errors
    /// [`Error::InvalidName`] when ids of this line were hashed [`HASHED_IDS_MAX`] times: the recursion seems to have
    /// no end.
    pub(crate) fn of_child(parent: &Self, step: StepId) -> Result<Self> {
        let long = format!("{parent}-{step}");
        if long.len() <= NAME_BYTES_MAX {
            return Self::new(long);
        }
        let count = parent.times_hashed() + 1;
        if count > HASHED_IDS_MAX {
            let reason = format!(
                "would be a child too deep: ids of its line were hashed {HASHED_IDS_MAX} times. Does the recursion end? \
                 Give a child an id of its own to go deeper"
            );
            return Err(Error::InvalidName { what: "id of a child", name: shortened(&long), reason });
        }
        let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, long.as_bytes());
        Self::new(format!("{hash}~{count}"))
    }

    /// How often ids of this line were hashed, as this id tells.
    fn times_hashed(&self) -> u32 {
        let Some((hash, rest)) = self.0.split_once('~') else { return 0 };
        let count = rest.split('-').next().unwrap_or_default();
        if Uuid::try_parse(hash).is_ok() { count.parse().unwrap_or(0) } else { 0 }
    }

    /// An id as the database holds it: other programs may have chosen it, so nothing is refused.
    pub(crate) fn stored(text: String) -> Self {
        Self(text.into())
    }

    /// The id as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkflowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for WorkflowId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// The place of a durable operation in its workflow: 1 for the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(pub u32);

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of an executor: one launch of an engine. Ids that other programs wrote have no such prefix. Whether the
/// executors of those programs live is not judged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ExecutorId(Arc<str>);

impl ExecutorId {
    /// Marks the ids of this engine in `workflow_status.executor_id`.
    pub(crate) const PREFIX: &'static str = "piton-";

    /// A fresh id. The label is for people who read the table.
    pub(crate) fn generate(label: Option<&str>) -> Self {
        let unique = Uuid::now_v7();
        Self(match label {
            Some(label) => format!("{}{label}-{unique}", Self::PREFIX).into(),
            None => format!("{}{unique}", Self::PREFIX).into(),
        })
    }

    pub(crate) fn stored(text: &str) -> Self {
        Self(text.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Proof of a claim: every claim writes a fresh token, and every write of the execution names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct OwnerToken(Arc<str>);

impl OwnerToken {
    pub(crate) fn generate() -> Self {
        Self(Uuid::now_v7().to_string().into())
    }

    pub(crate) fn stored(text: String) -> Self {
        Self(text.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Refuses a name that a database key cannot hold everywhere.
pub(crate) fn check_name(what: &'static str, text: &str) -> Result<()> {
    let reason = if text.is_empty() {
        "is empty".to_owned()
    } else if text.len() > NAME_BYTES_MAX {
        format!("has {} bytes; at most {NAME_BYTES_MAX} are allowed", text.len())
    } else if text.contains('\0') {
        "holds a NUL character".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::InvalidName { what, name: shortened(text), reason })
}

/// Enough of a refused name to recognise it, with control characters made visible.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 40;
    let shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() { format!("{shown}...") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        WorkflowId::new(text).unwrap_err().to_string()
    }

    #[test]
    fn an_id_has_one_to_255_bytes() {
        assert_eq!(refusal(""), "workflow id `` is empty");
        assert_eq!(
            refusal(&"x".repeat(256)),
            format!("workflow id `{}...` has 256 bytes; at most 255 are allowed", "x".repeat(40))
        );
        assert!(WorkflowId::new("x").is_ok());
        assert!(WorkflowId::new("x".repeat(255)).is_ok());
        assert!(WorkflowId::new("\u{1F9D7}".repeat(64)).is_err(), "256 bytes in 64 characters");
    }

    #[test]
    fn a_nul_is_refused_and_shown_escaped() {
        assert_eq!(refusal("a\0b"), "workflow id `a\\0b` holds a NUL character");
    }

    #[test]
    fn generated_ids_sort_by_creation() {
        let ids: Vec<_> = (0..1000).map(|_| WorkflowId::generate()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn a_child_is_named_after_its_parent_and_step() {
        let parent = WorkflowId::new("order-1").unwrap();
        assert_eq!(WorkflowId::of_child(&parent, StepId(3)).unwrap().as_str(), "order-1-3");
    }

    /// The ids are written out, because an id that the next release makes in another way starts another child.
    #[test]
    fn a_child_whose_name_would_be_too_long_is_named_by_a_hash() {
        let fits = WorkflowId::new("p".repeat(253)).unwrap();
        assert_eq!(WorkflowId::of_child(&fits, StepId(1)).unwrap().as_str(), format!("{fits}-1"));
        let parent = WorkflowId::new("p".repeat(254)).unwrap();
        let child = WorkflowId::of_child(&parent, StepId(1)).unwrap();
        assert_eq!(child.as_str(), "ac8abeb9-fb5d-56d6-8033-9f6a50a6192c~1");
        assert_eq!(WorkflowId::of_child(&child, StepId(2)).unwrap().as_str(), format!("{child}-2"));
        assert_ne!(WorkflowId::of_child(&parent, StepId(2)).unwrap(), child);
        let longest = WorkflowId::new("\u{1F9D7}".repeat(63)).unwrap();
        assert!(WorkflowId::of_child(&longest, StepId(u32::MAX)).is_ok());
    }

    #[test]
    fn a_recursion_without_end_is_refused() {
        let (mut id, mut levels) = (WorkflowId::new("d").unwrap(), 0);
        let error = loop {
            match WorkflowId::of_child(&id, StepId(1)) {
                Ok(child) => (id, levels) = (child, levels + 1),
                Err(error) => break error.to_string(),
            }
            assert!(id.as_str().len() <= NAME_BYTES_MAX);
        };
        assert!(levels > 10_000, "{levels}");
        assert!(error.contains("too deep"), "{error}");
    }
}
