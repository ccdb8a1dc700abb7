//! The records of all workflows: which places they have, and what stands there.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::at_once::{BRANCHES, ITEM, item_name};
use crate::audit::{Breach, Breaches};
use crate::database::Database;

/// The outcomes of all bodies of steps, by workflow and by the name of the step in the ledger.
pub type Outcomes = BTreeMap<(String, String), Option<String>>;

/// The records of each workflow, in the order of their places.
#[derive(Debug, Default)]
pub struct Records(BTreeMap<String, Vec<Record>>);

#[derive(Debug)]
struct Record {
    place: u64,
    name: String,
    output: Option<String>,
}

/// The verdict of a race, as the engine records it.
#[derive(Deserialize)]
struct Verdict {
    winner: usize,
    of: usize,
}

impl Records {
    /// Reads all of them.
    ///
    /// # Errors
    /// The error of the database.
    pub fn read(database: &Database) -> anyhow::Result<Self> {
        let sql = "SELECT workflow_uuid, function_id, function_name, output FROM operation_outputs
                    ORDER BY workflow_uuid, function_id";
        let mut all = Self::default();
        for row in database.rows(sql)? {
            let mut columns = row.into_iter();
            let mut column = || columns.next().flatten();
            let workflow = column().unwrap_or_default();
            let place = column().unwrap_or_default().parse()?;
            let record = Record { place, name: column().unwrap_or_default(), output: column() };
            all.0.entry(workflow).or_default().push(record);
        }
        Ok(all)
    }

    /// The outcomes of bodies. The items of a map, which share a name, have their numbers.
    pub fn outcomes(&self) -> Outcomes {
        let mut outcomes = Outcomes::new();
        for (workflow, records) in &self.0 {
            let mut first_item = 0;
            for Record { place, name, output } in records {
                if name == "Piton.map" {
                    first_item = place + 1;
                }
                if name.starts_with("Piton.") || name.starts_with("DBOS.") {
                    continue;
                }
                let name = if name == ITEM { item_name(place - first_item) } else { name.clone() };
                outcomes.insert((workflow.clone(), name), output.clone());
            }
        }
        outcomes
    }

    /// Checks that no place is empty but those of operations that lost a race, that races recorded what their verdicts
    /// say, and that each item of a map made its own value.
    pub fn check_places(&self, breaches: &mut Breaches) {
        for (workflow, records) in &self.0 {
            let mut may_be_empty = BTreeSet::new();
            let mut next = 1;
            for Record { place, name, output } in records {
                let missing = (next..*place).find(|place| !may_be_empty.contains(place));
                if let Some(missing) = missing {
                    breaches.push((Breach::Lost, format!("a hole in the steps of {workflow}: {missing}")));
                }
                next = place + 1;
                if name == "Piton.race" {
                    match places_of_losers(records, *place, output.as_deref()) {
                        Ok(places) => may_be_empty.extend(places),
                        Err(what) => {
                            breaches.push((Breach::Broken, format!("{workflow} step {place}: {what}")));
                        }
                    }
                }
            }
        }
        for ((workflow, step), output) in self.outcomes() {
            let item = step.strip_prefix("item-").map(|item| format!("\"{item}:"));
            if item.is_some_and(|item| !output.as_ref().is_some_and(|output| output.starts_with(&item))) {
                breaches.push((Breach::Broken, format!("{workflow} {step} has the value {output:?}")));
            }
        }
    }
}

/// The places of the operations that lost the race with this verdict. Their outcomes may not be recorded, and that of
/// the winner must be.
fn places_of_losers(records: &[Record], verdict: u64, output: Option<&str>) -> Result<Vec<u64>, String> {
    let Verdict { winner, of } = output
        .and_then(|output| serde_json::from_str(output).ok())
        .ok_or("a race without a readable verdict")?;
    let mut place = verdict + 1;
    let mut losers = Vec::new();
    for (number, (name, places)) in BRANCHES.into_iter().enumerate().take(of) {
        let is_recorded = records.iter().any(|record| record.place == place && record.name == name);
        if number == winner && !is_recorded {
            return Err(format!("{name} has won a race and is not recorded"));
        }
        if number != winner {
            // The time of a sleep is recorded before the wait.
            if is_recorded && name != "DBOS.sleep" {
                return Err(format!("{name} has lost a race and is recorded"));
            }
            losers.extend(place..place + places);
        }
        place += places;
    }
    if winner >= of || of > BRANCHES.len() {
        return Err(format!("operation {winner} of {of} has won a race"));
    }
    Ok(losers)
}
