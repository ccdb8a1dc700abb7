use engine::{Error, Timestamp, WorkflowFilter, WorkflowId, WorkflowStatus};

use crate::support::{App, Result};
use crate::way::{Context, Engine};

/// Ten workflows, a second apart, of two names and two outcomes.
fn filled() -> (App, Engine) {
    let app = App::new();
    let engine = app.open();
    let good =
        engine.register("good", |ctx: &mut Context, n: u32| ctx.step("s", |_| Ok::<_, Error>(n))).unwrap();
    let bad = engine.register("bad", |_: &mut Context, n: u32| Err::<(), _>(format!("no {n}"))).unwrap();
    engine.launch().unwrap();
    for n in 0..5 {
        good.start_as(&engine, &format!("good-{n}"), n).unwrap().result().unwrap();
        app.clock.advance(std::time::Duration::from_secs(1));
        bad.start_as(&engine, &format!("bad_{n}"), n).unwrap().result().unwrap_err();
        app.clock.advance(std::time::Duration::from_secs(1));
    }
    (app, engine)
}

fn ids(engine: &Engine, filter: &WorkflowFilter) -> Vec<String> {
    engine.list(filter).unwrap().into_iter().map(|info| info.id.to_string()).collect()
}

#[test]
fn a_filter_narrows_by_status_name_prefix_and_time() {
    let (_app, engine) = filled();
    let all = WorkflowFilter::new();
    assert_eq!(engine.count(&all).unwrap(), 10);
    assert_eq!(engine.count(&all.clone().status(WorkflowStatus::Error)).unwrap(), 5);
    let ended = all.clone().status(WorkflowStatus::Error).status(WorkflowStatus::Success);
    assert_eq!(engine.count(&ended).unwrap(), 10);
    assert_eq!(engine.count(&all.clone().status(WorkflowStatus::Pending)).unwrap(), 0);
    assert_eq!(engine.count(&all.clone().name("good")).unwrap(), 5);
    assert_eq!(ids(&engine, &all.clone().id_prefix("good-1")), ["good-1"]);
    let start = 1_767_225_600_000;
    let from = all.clone().created_from(Timestamp::from_millis(start + 8_000));
    assert_eq!(ids(&engine, &from), ["good-4", "bad_4"]);
    let before = all.created_before(Timestamp::from_millis(start + 2_000));
    assert_eq!(ids(&engine, &before), ["good-0", "bad_0"]);
}

#[test]
fn limit_and_offset_page_through_in_order() {
    let (_app, engine) = filled();
    let page = |offset| WorkflowFilter::new().name("good").limit(2).offset(offset);
    assert_eq!(ids(&engine, &page(0)), ["good-0", "good-1"]);
    assert_eq!(ids(&engine, &page(4)), ["good-4"]);
    assert_eq!(ids(&engine, &page(9)), Vec::<String>::new());
    assert_eq!(ids(&engine, &page(0).newest_first()), ["good-4", "good-3"]);
    assert_eq!(engine.count(&page(1)).unwrap(), 5, "a count ignores pages");
}

/// Also within one millisecond, and under ids whose order is another.
#[test]
fn what_one_caller_starts_in_order_is_listed_in_order() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("w", |_: &mut Context, (): ()| Ok::<_, Error>(())).unwrap();
    engine.launch().unwrap();
    let mut started: Vec<String> = (0..20).map(|n| format!("w{}", 50 - n)).collect();
    for id in &started {
        workflow.start_as(&engine, id, ()).unwrap().result().unwrap();
    }
    assert_eq!(ids(&engine, &WorkflowFilter::new()), started);
    let pages: Vec<_> =
        (0..4).flat_map(|page| ids(&engine, &WorkflowFilter::new().limit(5).offset(page * 5))).collect();
    assert_eq!(pages, started);
    started.reverse();
    assert_eq!(ids(&engine, &WorkflowFilter::new().newest_first()), started);
}

/// A prefix and a name are texts, not patterns and not SQL.
#[test]
fn wildcards_and_quotes_are_taken_literally() {
    let (_app, engine) = filled();
    for text in ["%", "_", "bad%", "good_", "'; DROP TABLE workflow_status; --", "\"", "\\", "\0"] {
        assert_eq!(engine.count(&WorkflowFilter::new().id_prefix(text)).unwrap(), 0, "{text}");
        assert_eq!(engine.count(&WorkflowFilter::new().name(text)).unwrap(), 0, "{text}");
    }
    assert_eq!(engine.count(&WorkflowFilter::new().id_prefix("bad_")).unwrap(), 5);
    assert_eq!(engine.count(&WorkflowFilter::new().id_prefix("")).unwrap(), 10);
}

#[test]
fn a_listed_workflow_shows_its_input_and_its_outcome() {
    let (_app, engine) = filled();
    let infos = engine.list(&WorkflowFilter::new().limit(2)).unwrap();
    assert_eq!(infos[0].input.as_deref(), Some(r#"{"positionalArgs":[0],"namedArgs":{}}"#));
    assert_eq!((infos[0].output.as_deref(), &infos[0].failure), (Some("0"), &None));
    assert_eq!(infos[1].failure.as_ref().unwrap().message(), "no 0");
    assert_eq!(infos[1].output, None);
    assert_eq!(infos[0].application.as_deref(), Some("test"));
    assert!(infos[0].executor.as_ref().unwrap().starts_with("piton-"));
}

#[test]
fn another_applications_workflows_are_listed_only_when_asked_for() {
    let (app, _engine) = filled();
    let other = app.open_with(Engine::options().app("other"));
    assert_eq!(other.count(&WorkflowFilter::new()).unwrap(), 0);
    assert_eq!(other.count(&WorkflowFilter::new().all_applications()).unwrap(), 10);
}

#[test]
fn steps_and_progress_show_how_far_a_workflow_is() {
    let app = App::new();
    let engine = app.open();
    let child = engine.register("child", |_: &mut Context, n: u32| Ok::<_, Error>(n)).unwrap();
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| -> Result<()> {
        ctx.step("one", |_| Ok::<_, Error>("text".to_owned()))?;
        ctx.run(&child, 7)?;
        let _ = ctx.step("two", |_| Err::<(), _>("no luck"));
        Ok(())
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", ()).unwrap().result().unwrap();
    let id = WorkflowId::new("w").unwrap();
    let steps = engine.steps(&id).unwrap();
    let shown: Vec<_> = steps.iter().map(|s| (s.step_id.0, s.name.as_str(), s.output.as_deref())).collect();
    assert_eq!(
        shown,
        [
            (1, "one", Some("\"text\"")),
            (2, "child", None),
            (3, "DBOS.getResult", Some("7")),
            (4, "two", None)
        ]
    );
    assert_eq!(steps[3].failure.as_ref().unwrap().message(), "no luck");
    let progress = engine.progress(&id).unwrap();
    assert_eq!((progress.steps_recorded, progress.last_step.as_deref()), (4, Some("two")));
    assert_eq!((progress.children, progress.children_done, progress.attempts), (1, 1, 1));
    assert_eq!(engine.steps(&WorkflowId::new("nobody").unwrap()).unwrap(), []);
}
