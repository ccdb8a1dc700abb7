//! Parts of statements: frequent writes are made of them, so that many writes of several kinds can be one statement.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::connection::{Params, Session, Statement, column};
use crate::sysdb::DbResult;

/// A kind of write, as a part of a statement. Its parameters are counted from 1.
pub(super) struct Part {
    pub(super) ctes: &'static str,
    /// Returns rows of kind, workflow id, flag.
    pub(super) found: &'static str,
    pub(super) params: usize,
}

/// The flag of a part for each workflow that it wrote.
#[derive(Default)]
pub(super) struct Found(HashMap<String, bool>);

impl Found {
    /// One workflow that was written.
    pub(super) fn of(id: &str) -> Self {
        Self([(id.to_owned(), true)].into())
    }

    pub(super) fn get(&self, id: &str) -> Option<bool> {
        self.0.get(id).copied()
    }
}

/// One statement of several parts, made once.
pub(super) fn joined(name: &'static str, parts: &[Part]) -> Statement {
    let (mut ctes, mut found, mut before) = (Vec::new(), Vec::new(), 0);
    for part in parts {
        ctes.push(renumbered(part.ctes, before));
        found.push(part.found);
        before += part.params;
    }
    let sql = format!("WITH {} {}", ctes.join(","), found.join(" UNION ALL "));
    Statement { name, sql: Box::leak(sql.into_boxed_str()) }
}

/// Its parameters counted on from so many.
fn renumbered(sql: &str, before: usize) -> String {
    let mut parts = sql.split('$');
    let mut all = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let number: usize = part[..digits].parse().unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = write!(all, "${}{}", number + before, &part[digits..]);
    }
    all
}

/// The flags of the parts, by their kinds.
pub(super) fn query(
    session: &mut impl Session,
    statement: &Statement,
    params: Params<'_>,
) -> DbResult<[Found; 3]> {
    let mut all = <[Found; 3]>::default();
    for row in session.query(statement, params)? {
        let (kind, id): (i32, String) = (column(statement, &row, 0)?, column(statement, &row, 1)?);
        if let Some(found) = usize::try_from(kind - 1).ok().and_then(|kind| all.get_mut(kind)) {
            found.0.insert(id, column(statement, &row, 2)?);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_counted_on() {
        assert_eq!(renumbered("a $1, $12::text[] $2", 10), "a $11, $22::text[] $12");
        assert_eq!(renumbered("nothing", 3), "nothing");
    }
}
