//! Workflows that no living executor can take up: none has their application, version, queue or name.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use crate::flow::core::Core;
use crate::pure::clock::{Stopwatch, Timestamp};
use crate::pure::error::{Error, Result};
use crate::pure::limits::{SAID_AGAIN_AFTER, UNKNOWN_AFTER};
use crate::pure::listing::{Absent, Stranded};
use crate::sysdb::{Census, DbResult, Membership, OpenGroup};

/// The stranded workflows of all applications of the database, as it stands now.
pub(crate) fn look(core: &Core) -> Result<Vec<Stranded>> {
    let census = core.reader.census()?;
    let members = match core.liveness.members() {
        // No executor was ever launched.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        // When it is not known which executors live, nothing is said of the dead ones.
        Err(error) => {
            return Err(Error::Database { statement: "living_executors", source: Arc::new(error) });
        }
        Ok(members) => members,
    };
    Ok(judge(&census, &members, &core.options.app, core.options.clock.now()))
}

/// Judges the groups of waiting workflows. An application is left out while another program runs workflows of it: they
/// may be for that program. Workflows of other applications are given a while, because their program may be about to
/// start.
fn judge(census: &Census, members: &[Membership], own: &str, now: Timestamp) -> Vec<Stranded> {
    let mut found: BTreeMap<_, Stranded> = BTreeMap::new();
    let judged = census.groups.iter().filter(|group| {
        let is_young = now.since(group.oldest) < UNKNOWN_AFTER;
        !census.of_others.contains(&group.app) && (group.app.as_deref() == Some(own) || !is_young)
    });
    for group in judged {
        let Some(stranded) = absent_of(group, members).map(|absent| stranded(group, absent)) else {
            continue;
        };
        let Stranded { absent, application, version, queue, name, .. } = &stranded;
        let key = (*absent, application.clone(), version.clone(), queue.clone(), name.clone());
        let all = found.entry(key).or_insert_with(|| Stranded { count: 0, ..stranded.clone() });
        all.count += stranded.count;
        all.oldest = all.oldest.min(stranded.oldest);
    }
    found.into_values().collect()
}

/// The part that is missing for these workflows, if one is.
fn absent_of(group: &OpenGroup, members: &[Membership]) -> Option<Absent> {
    let version = group.version.as_ref().or(group.newest.as_ref());
    let mut able: Vec<&Membership> = members.iter().collect();
    let mut narrow = |fits: &dyn Fn(&Membership) -> bool| {
        able.retain(|member| fits(member));
        able.is_empty()
    };
    if narrow(&|member| group.app.as_ref().is_none_or(|app| *app == member.app)) {
        return Some(Absent::Application);
    }
    if narrow(&|member| version.is_none_or(|version| *version == member.version)) {
        return Some(Absent::Version);
    }
    let has =
        |names: &[String], name: &Option<String>| name.as_ref().is_some_and(|name| names.contains(name));
    if narrow(&|member| group.queue_exists && has(&member.queues, &group.queue)) {
        return Some(Absent::Queue);
    }
    narrow(&|member| has(&member.workflows, &group.name)).then_some(Absent::Name)
}

/// Groups that differ only in parts without meaning for the reason are counted together.
fn stranded(group: &OpenGroup, absent: Absent) -> Stranded {
    let version = group.version.clone().or_else(|| group.newest.clone());
    Stranded {
        absent,
        application: group.app.clone(),
        version: version.filter(|_| absent > Absent::Application),
        queue: group.queue.clone().filter(|_| absent > Absent::Version),
        name: group.name.clone().filter(|_| absent > Absent::Queue),
        count: group.count,
        oldest: group.oldest,
    }
}

/// Notices of states that last. Each is given when it comes, when its count has changed, and when it has gone.
#[derive(Default)]
pub(crate) struct Notices(HashMap<String, Said>);

struct Said {
    count: u64,
    at: Stopwatch,
}

/// A state that lasts.
pub(crate) struct Notice {
    /// The text that tells the state from others, and names it when it has gone.
    pub(crate) what: String,
    pub(crate) count: u64,
    pub(crate) text: String,
}

/// The lines to be logged now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) stands: Vec<String>,
    pub(crate) gone: Vec<String>,
}

impl Notices {
    /// Whether no state lasts, as far as was said.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The news of all states that last now. A count that changes all the time is logged once a minute.
    pub(crate) fn news(&mut self, standing: Vec<Notice>) -> News {
        let mut news = News::default();
        let mut said = HashMap::new();
        for Notice { what, count, text } in standing {
            let before = self.0.remove(&what);
            let stays = before.filter(|said| said.count == count || said.at.elapsed() < SAID_AGAIN_AFTER);
            let now = stays.unwrap_or_else(|| {
                news.stands.push(text);
                Said { count, at: Stopwatch::start() }
            });
            said.insert(what, now);
        }
        news.gone.extend(std::mem::replace(&mut self.0, said).into_keys());
        news
    }
}

impl From<&Stranded> for Notice {
    fn from(stranded: &Stranded) -> Self {
        let what = Stranded { count: 0, ..stranded.clone() }.what();
        Self { what, count: stranded.count, text: stranded.to_string() }
    }
}

/// Workflows of the application that wait in a circle.
pub(crate) fn circles(core: &Core) -> DbResult<Vec<Notice>> {
    Ok(crate::fleet::circle::notices(&core.reader.waits(&core.options.app)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(app: &str, version: Option<&str>, name: &str, queue: &str, count: u64) -> OpenGroup {
        let text = |text: &str| Some(text.to_owned());
        OpenGroup {
            app: text(app),
            version: version.map(str::to_owned),
            newest: text("2"),
            name: text(name),
            queue: text(queue),
            queue_exists: true,
            count,
            oldest: Timestamp::from_millis(0),
        }
    }

    fn member(app: &str, version: &str, name: &str, queue: &str) -> Membership {
        let texts = |text: &str| vec![text.to_owned()];
        Membership {
            app: app.to_owned(),
            version: version.to_owned(),
            workflows: texts(name),
            queues: texts(queue),
        }
    }

    fn judged(groups: Vec<OpenGroup>, members: &[Membership]) -> Vec<(Absent, u64)> {
        let census = Census { groups, of_others: Vec::new() };
        let found = judge(&census, members, "shop", Timestamp::from_millis(60_000));
        found.iter().map(|stranded| (stranded.absent, stranded.count)).collect()
    }

    #[test]
    fn each_thing_that_is_missing_has_its_name() {
        let members = [member("shop", "2", "order", "mails"), member("shop", "2", "refund", "refunds")];
        let of = |group| judged(vec![group], &members);
        assert_eq!(of(group("shop", Some("2"), "order", "mails", 1)), []);
        assert_eq!(of(group("shop", None, "order", "mails", 1)), [], "the newest takes it");
        assert_eq!(of(group("bank", Some("2"), "order", "mails", 1)), [(Absent::Application, 1)]);
        assert_eq!(of(group("shop", Some("1"), "order", "mails", 1)), [(Absent::Version, 1)]);
        assert_eq!(of(group("shop", Some("2"), "order", "other", 1)), [(Absent::Queue, 1)]);
        assert_eq!(of(group("shop", Some("2"), "order", "refunds", 1)), [(Absent::Name, 1)]);
        let removed = OpenGroup { queue_exists: false, ..group("shop", Some("2"), "order", "mails", 1) };
        assert_eq!(of(removed), [(Absent::Queue, 1)]);
        let anybodys = OpenGroup { app: None, ..group("", Some("2"), "order", "mails", 1) };
        assert_eq!(of(anybodys.clone()), []);
        assert_eq!(judged(vec![anybodys], &[]), [(Absent::Application, 1)]);
    }

    #[test]
    fn those_that_miss_the_same_are_counted_together() {
        let groups = vec![
            group("shop", Some("1"), "order", "mails", 80),
            group("shop", Some("1"), "refund", "refunds", 9),
            group("shop", Some("2"), "order", "other", 2),
        ];
        let members = [member("shop", "2", "order", "mails")];
        assert_eq!(judged(groups.clone(), &members), [(Absent::Version, 89), (Absent::Queue, 2)]);
        let census = Census { groups, of_others: Vec::new() };
        let text = judge(&census, &members, "shop", Timestamp::from_millis(60_000))[0].to_string();
        let start =
            "89 open workflows of version 1 of application shop: no living executor runs that version; ";
        assert!(text.starts_with(start) && text.contains("version(\"1\")"), "{text}");
    }

    #[test]
    fn what_may_be_for_another_program_is_not_judged() {
        let groups =
            vec![group("bank", Some("1"), "order", "mails", 1), group("shop", Some("1"), "a", "b", 1)];
        let census = Census { groups, of_others: vec![Some("bank".to_owned())] };
        let applications = |now| {
            let found = judge(&census, &[], "shop", Timestamp::from_millis(now));
            found.into_iter().filter_map(|stranded| stranded.application).collect::<Vec<_>>()
        };
        assert_eq!(applications(60_000), ["shop"]);
        let census = Census { of_others: Vec::new(), ..census.clone() };
        let applications = |now| {
            let found = judge(&census, &[], "shop", Timestamp::from_millis(now));
            found.into_iter().filter_map(|stranded| stranded.application).collect::<Vec<_>>()
        };
        assert_eq!(applications(29_999), ["shop"], "its program may be about to start");
        assert_eq!(applications(30_000), ["bank", "shop"]);
    }

    #[test]
    fn a_notice_is_given_once_per_change() {
        let notice =
            |what: &str, count| Notice { what: what.to_owned(), count, text: format!("{count} {what}") };
        let mut notices = Notices::default();
        let said = |stands: &[&str], gone: &[&str]| {
            let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            News { stands: texts(stands), gone: texts(gone) }
        };
        assert_eq!(notices.news(vec![notice("a", 1), notice("b", 2)]), said(&["1 a", "2 b"], &[]));
        assert_eq!(notices.news(vec![notice("a", 1), notice("b", 2)]), said(&[], &[]));
        assert_eq!(notices.news(vec![notice("a", 5)]), said(&[], &["b"]), "its count waits for a minute");
        assert_eq!(notices.news(vec![notice("b", 2)]), said(&["2 b"], &["a"]));
    }
}
