//! Workflows that wait for each other: in a circle of waits, or for a place in a queue that they fill themselves.

use std::collections::{BTreeMap, BTreeSet};

use crate::fleet::stranded::Notice;
use crate::sysdb::{QueuePlaces, WaitEdge, WaitGraph};

/// How many waits one notice names.
const NAMED_MAX: usize = 6;

/// The notices: one for each circle, and one for each full queue in which a holder of a place waits for another place.
pub(crate) fn notices(waits: &WaitGraph) -> Vec<Notice> {
    let stuck = stuck(waits);
    let circles = circles(&stuck, waits).into_iter().map(|circle| of_circle(&circle, waits));
    circles.chain(of_own_queues(&stuck, waits)).collect()
}

/// The waits that can never end. It begins with all waits, and removes a wait when its awaited workflow can go on, or
/// when it is in a race that another operation can win.
fn stuck(waits: &WaitGraph) -> Vec<&WaitEdge> {
    let mut stuck: Vec<&WaitEdge> = waits.waits.iter().collect();
    loop {
        let ids: BTreeSet<&str> = stuck.iter().map(|wait| wait.waiter.as_str()).collect();
        let before = stuck.len();
        stuck.retain(|wait| match &wait.in_queue {
            None => ids.contains(wait.awaited.as_str()),
            Some(queue) => full(waits, queue)
                .is_some_and(|places| places.holders.iter().all(|holder| ids.contains(holder.as_str()))),
        });
        let mut stuck_of: BTreeMap<&str, usize> = BTreeMap::new();
        for wait in &stuck {
            *stuck_of.entry(wait.waiter.as_str()).or_default() += 1;
        }
        stuck.retain(|wait| stuck_of[wait.waiter.as_str()] >= wait.stuck_with);
        if stuck.len() == before {
            return stuck;
        }
    }
}

/// The places of a queue, if there is no free one.
fn full<'w>(waits: &'w WaitGraph, queue: &str) -> Option<&'w QueuePlaces> {
    let places = waits.queues.iter().find(|places| places.queue == queue)?;
    (places.holders.len() >= places.in_flight as usize).then_some(places)
}

/// The stuck waits, in one list for each group that hangs together.
fn circles<'w>(stuck: &[&'w WaitEdge], waits: &'w WaitGraph) -> Vec<Vec<&'w WaitEdge>> {
    let mut beside: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut tie = |one: &'w str, other: &'w str| {
        beside.entry(one).or_default().push(other);
        beside.entry(other).or_default().push(one);
    };
    for wait in stuck {
        tie(wait.waiter.as_str(), wait.awaited.as_str());
        let places = wait.in_queue.as_ref().and_then(|queue| full(waits, queue));
        for holder in places.into_iter().flat_map(|places| &places.holders) {
            tie(wait.waiter.as_str(), holder.as_str());
        }
    }
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut circles = Vec::new();
    for first in stuck {
        let (mut members, mut ahead) = (BTreeSet::new(), vec![first.waiter.as_str()]);
        while let Some(id) = ahead.pop() {
            if seen.insert(id) {
                members.insert(id);
                ahead.extend(beside.get(id).into_iter().flatten());
            }
        }
        let circle: Vec<&WaitEdge> =
            stuck.iter().filter(|wait| members.contains(wait.waiter.as_str())).copied().collect();
        if !circle.is_empty() {
            circles.push(circle);
        }
    }
    circles
}

fn of_circle(circle: &[&WaitEdge], waits: &WaitGraph) -> Notice {
    let queues: BTreeSet<&String> = circle.iter().filter_map(|wait| wait.in_queue.as_ref()).collect();
    let more = if queues.is_empty() {
        ""
    } else {
        " Then raise in_flight of the queue, or put the child workflows into another queue"
    };
    let text = format!(
        "{} can never go on, because of a circle of waits: {}. Cancel one workflow of the circle with \
         Engine::cancel.{more}",
        counted(circle),
        named(circle, waits)
    );
    let first = circle.iter().map(|wait| wait.waiter.as_str()).min().unwrap_or_default();
    Notice { what: format!("circle of waits with workflow {first}"), count: circle.len() as u64, text }
}

/// The waits that end only when another workflow of the waiter's own queue has ended.
fn of_own_queues(stuck: &[&WaitEdge], waits: &WaitGraph) -> Vec<Notice> {
    let mut found: BTreeMap<&str, Vec<&WaitEdge>> = BTreeMap::new();
    for wait in waits.waits.iter().filter(|wait| !stuck.contains(wait)) {
        let places = wait.in_queue.as_ref().and_then(|queue| full(waits, queue));
        if let Some(places) = places.filter(|places| places.holders.contains(&wait.waiter)) {
            found.entry(&places.queue).or_default().push(wait);
        }
    }
    let notice = |(queue, own): (&str, Vec<&WaitEdge>)| Notice {
        text: format!(
            "queue {queue} is full. Children in the same queue are awaited by {}: {}. The wait ends when other workflows of \
             the queue have ended. Put the children into another queue, or raise in_flight of queue {queue}",
            counted(&own),
            named(&own, waits)
        ),
        what: format!("workflows that wait for children in their own full queue {queue}"),
        count: own.len() as u64,
    };
    found.into_iter().map(notice).collect()
}

/// How many workflows wait so. A race has a wait for each of its operations.
fn counted(waits: &[&WaitEdge]) -> String {
    let waiters: BTreeSet<&str> = waits.iter().map(|wait| wait.waiter.as_str()).collect();
    if waiters.len() == 1 { "1 workflow".to_owned() } else { format!("{} workflows", waiters.len()) }
}

fn named(list: &[&WaitEdge], waits: &WaitGraph) -> String {
    let one = |wait: &&WaitEdge| {
        let WaitEdge { waiter, awaited, in_queue, .. } = wait;
        let queue = in_queue.as_ref().map(|queue| {
            let in_flight = full(waits, queue).map_or(0, |places| places.in_flight);
            format!(", which waits for a place in queue {queue} (in_flight {in_flight}, all taken)")
        });
        format!("{waiter} waits for {awaited}{}", queue.unwrap_or_default())
    };
    let mut parts: Vec<String> = list.iter().take(NAMED_MAX).map(one).collect();
    if list.len() > NAMED_MAX {
        parts.push(format!("and {} more", list.len() - NAMED_MAX));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::id::WorkflowId;

    fn wait(waiter: &str, awaited: &str, in_queue: Option<&str>) -> WaitEdge {
        let id = |id: &str| WorkflowId::new(id).unwrap();
        let in_queue = in_queue.map(str::to_owned);
        WaitEdge { waiter: id(waiter), awaited: id(awaited), in_queue, stuck_with: 1 }
    }

    fn places(queue: &str, in_flight: u32, holders: &[&str]) -> QueuePlaces {
        let holders = holders.iter().map(|id| WorkflowId::new(id).unwrap()).collect();
        QueuePlaces { queue: queue.to_owned(), in_flight, holders }
    }

    fn texts(waits: Vec<WaitEdge>, queues: Vec<QueuePlaces>) -> Vec<String> {
        notices(&WaitGraph { waits, queues }).into_iter().map(|notice| notice.text).collect()
    }

    #[test]
    fn a_circle_is_named_with_all_that_hangs_on_it() {
        let circle = vec![wait("a", "b", None), wait("b", "a", None), wait("c", "a", None)];
        let said = texts(circle, Vec::new());
        assert_eq!(said.len(), 1);
        assert!(
            said[0].starts_with("3 workflows can never go on, because of a circle of waits: "),
            "{said:?}"
        );
        assert!(said[0].contains("a waits for b; b waits for a; c waits for a. Cancel one"), "{said:?}");
    }

    #[test]
    fn a_chain_that_ends_is_none_and_two_circles_are_two() {
        assert!(texts(vec![wait("a", "b", None), wait("b", "c", None)], Vec::new()).is_empty());
        let two = ["ab", "ba", "cd", "dc"].map(|pair| wait(&pair[..1], &pair[1..], None));
        assert_eq!(texts(two.to_vec(), Vec::new()).len(), 2);
    }

    #[test]
    fn a_race_is_stuck_when_each_of_its_operations_is() {
        let race = |awaited: &str| WaitEdge { stuck_with: 2, ..wait("r", awaited, None) };
        let waits = vec![race("a"), race("b"), wait("a", "r", None), wait("b", "r", None)];
        let said = texts(waits.clone(), Vec::new());
        assert!(said.len() == 1 && said[0].starts_with("3 workflows"), "{said:?}");
        // What waits for a race that can go on can go on as well.
        assert!(texts(waits[..3].to_vec(), Vec::new()).is_empty());
    }

    #[test]
    fn a_queue_that_waits_for_itself_is_named_with_its_limit() {
        let own = || vec![wait("p", "p-1", Some("q"))];
        let said = texts(own(), vec![places("q", 1, &["p"])]);
        let what = "p waits for p-1, which waits for a place in queue q (in_flight 1, all taken)";
        assert!(said.len() == 1 && said[0].contains(what) && said[0].contains("raise in_flight"), "{said:?}");
        // Another holder goes on, so this workflow will, too.
        let said = texts(own(), vec![places("q", 2, &["p", "r"])]);
        assert!(
            said.len() == 1 && said[0].contains("ends when other workflows of the queue have ended"),
            "{said:?}"
        );
        // There is a place.
        assert!(texts(own(), vec![places("q", 2, &["p"])]).is_empty());
    }

    #[test]
    fn a_circle_may_lead_through_queues() {
        let waits = vec![wait("p", "x", None), wait("x", "p-1", Some("q"))];
        let said = texts(waits.clone(), vec![places("q", 1, &["p"])]);
        assert!(said.len() == 1 && said[0].starts_with("2 workflows"), "{said:?}");
        assert!(texts(waits, vec![places("q", 2, &["p", "other"])]).is_empty());
    }
}
