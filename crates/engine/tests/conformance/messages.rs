use std::time::Duration;

use engine::{Error, Workflow, WorkflowId};

use crate::support::{App, Result, eventually};
use crate::way::{Context, Engine};

const HOUR: Duration = Duration::from_secs(3600);

/// Takes as many messages of a topic as it is told to.
fn receiver(engine: &Engine) -> Workflow<(String, u32, Duration), Vec<Option<String>>> {
    type Input = (String, u32, Duration);
    let workflow =
        engine.register("receiver", |ctx: &mut Context, (topic, count, timeout): Input| -> Result<Vec<_>> {
            (0..count).map(|_| ctx.recv::<String>(&topic, timeout)).collect()
        });
    workflow.unwrap()
}

fn texts(received: &[Option<String>]) -> Vec<&str> {
    received.iter().map(|text| text.as_deref().unwrap_or("none")).collect()
}

/// 29: in the order of sending, each once, by topic.
#[test]
fn messages_of_a_topic_are_taken_in_order_and_once() {
    let app = App::new();
    let engine = app.open();
    let workflow = receiver(&engine);
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ("a".into(), 3, HOUR)).unwrap();
    for text in ["one", "two", "three", "four"] {
        engine.send(handle.id(), "a", text.to_owned()).unwrap();
        engine.send(handle.id(), "b", format!("{text} of b")).unwrap();
        engine.send(handle.id(), "", format!("{text} of none")).unwrap();
    }
    assert_eq!(texts(&handle.result().unwrap()), ["one", "two", "three"]);
    assert_eq!(app.value::<u32>("SELECT count(*) FROM notifications WHERE consumed", []), 3);
    assert_eq!(app.value::<u32>("SELECT count(*) FROM notifications WHERE NOT consumed", []), 9);
    // The time-out row of a receive comes before its own, as DBOS has it.
    let names = ["DBOS.recv", "DBOS.sleep"].repeat(3);
    assert_eq!(app.recorded("w"), names);
}

/// Also under keys whose order is another, from a workflow with children, and across a restart.
#[test]
fn what_one_caller_sends_in_order_arrives_in_order() {
    let app = App::new();
    app.database.let_the_clock_of_messages_stand();
    let register = |engine: &Engine| {
        let child = engine.register("child", |ctx: &mut Context, n: u32| -> Result<()> {
            ctx.send(&WorkflowId::new("w")?, "a", n.to_string())
        });
        let child = child.unwrap();
        let sender = engine.register("sender", move |ctx: &mut Context, (): ()| -> Result<()> {
            let to = WorkflowId::new("w")?;
            for n in (0..30).step_by(2) {
                ctx.send(&to, "a", n.to_string())?;
                ctx.run(&child, n + 1)?;
            }
            Ok(())
        });
        (receiver(engine), sender.unwrap())
    };
    let engine = app.open();
    let (waiter, _) = register(&engine);
    engine.launch().unwrap();
    waiter.start_as(&engine, "w", ("a".into(), 80, HOUR)).unwrap();
    eventually("it waits", || !app.recorded("w").is_empty());
    // It takes them when all of them are there.
    drop(engine);
    let engine = app.open_with(app.options().app("other"));
    let to = WorkflowId::new("w").unwrap();
    let (_, sender) = register(&engine);
    engine.launch().unwrap();
    sender.start_as(&engine, "s", ()).unwrap().result().unwrap();
    for n in 30..60 {
        engine.send_once(&format!("key {}", 100 - n), &to, "a", n.to_string()).unwrap();
        // A repeated one keeps its place.
        engine.send_once("key 70", &to, "a", "again".to_owned()).unwrap();
    }
    drop(engine);
    let engine = app.open();
    register(&engine);
    for n in 60..80 {
        match n % 2 {
            0 => engine.send(&to, "a", n.to_string()).unwrap(),
            _ => engine.send_once(&format!("{}", 100 - n), &to, "a", n.to_string()).unwrap(),
        }
    }
    engine.launch().unwrap();
    let received = engine.retrieve::<Vec<Option<String>>>("w").unwrap().result().unwrap();
    assert_eq!(texts(&received), (0..80).map(|n| n.to_string()).collect::<Vec<_>>());
}

/// 29: a receive without a message ends at its time, across restarts.
#[test]
fn a_receive_without_a_message_ends_at_its_time() {
    let app = App::new();
    let engine = app.open();
    let workflow = receiver(&engine);
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ("a".into(), 1, Duration::from_secs(3))).unwrap();
    eventually("it waits", || app.recorded("w").len() == 1);
    drop((handle, engine));
    app.clock.advance(Duration::from_secs(2));

    let engine = app.open();
    receiver(&engine);
    engine.launch().unwrap();
    let handle = engine.retrieve::<Vec<Option<String>>>("w").unwrap();
    assert!(!handle.status().unwrap().is_terminal());
    app.clock.advance(Duration::from_secs(1));
    assert_eq!(texts(&handle.result().unwrap()), ["none"]);
    assert_eq!(app.value::<String>("SELECT output FROM operation_outputs WHERE function_id = 1", []), "null");
}

/// 30: one message for each key and destination.
#[test]
fn a_repeated_send_with_a_key_sends_once_for_each_destination() {
    let app = App::new();
    let engine = app.open();
    let workflow = receiver(&engine);
    engine.launch().unwrap();
    let ids = ["v", "w"].map(|id| WorkflowId::new(id).unwrap());
    let handles: Vec<_> = ids
        .iter()
        .map(|id| workflow.start_as(&engine, id.as_str(), ("a".into(), 2, HOUR)).unwrap())
        .collect();
    for id in &ids {
        for _ in 0..3 {
            engine.send_once("key", id, "a", "once".to_owned()).unwrap();
        }
        engine.send_once("other key", id, "a", "again".to_owned()).unwrap();
    }
    for handle in handles {
        assert_eq!(texts(&handle.result().unwrap()), ["once", "again"]);
    }
    assert_eq!(app.value::<u32>("SELECT count(*) FROM notifications", []), 4);
}

/// A receive would take it for none.
#[test]
fn a_message_that_says_nothing_is_refused() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("w", |ctx: &mut Context, (): ()| -> Result<String> {
        let to = ctx.workflow_id().clone();
        Ok(ctx.send(&to, "a", ()).unwrap_err().to_string())
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let handle = workflow.start(&engine, ()).unwrap();
    assert!(handle.result().unwrap().contains("it is `null`"), "{:?}", handle.result());
    let outside = engine.send(handle.id(), "a", None::<u32>).unwrap_err();
    assert!(matches!(outside, Error::Unencodable { .. }), "{outside}");
    assert_eq!(app.value::<i64>("SELECT count(*) FROM notifications", []), 0);
}

/// 31: a send to nobody fails the same way when it is replayed, even if somebody came by that name.
#[test]
fn a_send_to_a_missing_workflow_fails_the_same_way_every_time() {
    let app = App::new();
    let register = |engine: &Engine| {
        let sender = engine.register("sender", |ctx: &mut Context, (): ()| -> Result<String> {
            let nobody = WorkflowId::new("nobody")?;
            if *ctx.workflow_id() == nobody {
                return Ok("here I am".to_owned());
            }
            Ok(ctx.send(&nobody, "a", 1).unwrap_err().to_string())
        });
        sender.unwrap()
    };
    let engine = app.open();
    let sender = register(&engine);
    engine.launch().unwrap();
    let live = sender.start_as(&engine, "s", ()).unwrap().result().unwrap();
    assert!(live.contains("there is no workflow nobody"), "{live}");
    sender.start_as(&engine, "nobody", ()).unwrap().result().unwrap();
    let outside = engine.send(&WorkflowId::new("no one").unwrap(), "a", 1).unwrap_err();
    assert!(matches!(outside, Error::NotFound { .. }));
    drop(engine);

    app.interrupt("s", 1);
    let engine = app.open();
    register(&engine);
    engine.launch().unwrap();
    assert_eq!(engine.retrieve::<String>("s").unwrap().result().unwrap(), live);
    let to_nobody = "SELECT count(*) FROM notifications WHERE destination_uuid = 'nobody'";
    assert_eq!(app.value::<u32>(to_nobody, []), 0);
}

/// A workflow that sends is interrupted anywhere: each message is there once.
#[test]
fn a_recovered_sender_sends_nothing_twice() {
    for recorded in 0..=3 {
        let app = App::new();
        let register = |engine: &Engine| {
            receiver(engine);
            let sender = engine.register("sender", |ctx: &mut Context, to: String| -> Result<()> {
                let to = WorkflowId::new(to)?;
                (0..3).try_for_each(|n| ctx.send(&to, "a", format!("message {n}")))
            });
            sender.unwrap()
        };
        let engine = app.open();
        let sender = register(&engine);
        engine.launch().unwrap();
        let waiting = Workflow::<_, Vec<Option<String>>>::named("receiver");
        let handle = waiting.start_as(&engine, "r", ("a".to_owned(), 3, HOUR)).unwrap();
        sender.start_as(&engine, "s", "r".to_owned()).unwrap().result().unwrap();
        assert_eq!(texts(&handle.result().unwrap()), ["message 0", "message 1", "message 2"]);
        drop((handle, engine));
        // The effect and the record are one commit, so what is not recorded was not sent either.
        app.execute("DELETE FROM notifications WHERE message_uuid > ?1", [format!("s-{recorded}::r")]);
        app.interrupt("s", recorded);
        let engine = app.open();
        register(&engine);
        engine.launch().unwrap();
        engine.retrieve::<()>("s").unwrap().result().unwrap();
        assert_eq!(app.value::<u32>("SELECT count(*) FROM notifications", []), 3);
    }
}

/// 32: a consumed message stays with the receive that took it.
#[test]
fn a_recovered_receiver_gets_the_same_messages() {
    let app = App::new();
    let engine = app.open();
    let workflow = receiver(&engine);
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ("a".into(), 2, HOUR)).unwrap();
    engine.send(handle.id(), "a", "one".to_owned()).unwrap();
    engine.send(handle.id(), "a", "two".to_owned()).unwrap();
    assert_eq!(texts(&handle.result().unwrap()), ["one", "two"]);
    drop((handle, engine));
    app.interrupt("w", 4);
    let engine = app.open();
    receiver(&engine);
    engine.launch().unwrap();
    let handle = engine.retrieve::<Vec<Option<String>>>("w").unwrap();
    assert_eq!(texts(&handle.result().unwrap()), ["one", "two"]);
}

/// A receiver that waits long takes no thread; a message of its topic brings it back, one of another does not.
#[test]
fn a_receiver_that_waits_long_leaves_its_thread_until_its_topic_comes() {
    let app = App::new();
    let engine = app.open_with(app.options().suspend_after(Duration::ZERO));
    let workflow = receiver(&engine);
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ("a".into(), 1, HOUR)).unwrap();
    eventually("it leaves its thread", || app.status("w") == "DELAYED");
    engine.send(handle.id(), "b", "not this".to_owned()).unwrap();
    assert_eq!(app.status("w"), "DELAYED");
    engine.send(handle.id(), "a", "this".to_owned()).unwrap();
    assert_eq!(texts(&handle.result().unwrap()), ["this"]);
    assert_eq!(app.attempts("w"), 1);
}

#[test]
fn a_message_of_another_type_is_an_error_and_is_consumed() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("w", |ctx: &mut Context, (): ()| -> Result<(String, Option<u32>)> {
        let error = ctx.recv::<u32>("a", HOUR).unwrap_err().to_string();
        Ok((error, ctx.recv("a", HOUR)?))
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let handle = workflow.start(&engine, ()).unwrap();
    engine.send(handle.id(), "a", "text".to_owned()).unwrap();
    engine.send(handle.id(), "a", 7).unwrap();
    let (error, second) = handle.result().unwrap();
    assert!(error.starts_with("message cannot be decoded: invalid type: string"), "{error}");
    assert_eq!(second, Some(7));
}

#[test]
fn a_message_of_another_topic_does_not_keep_a_receiver_on_its_thread() {
    let app = App::new();
    let engine = app.open_with(app.options().suspend_after(Duration::from_secs(1)));
    let workflow = receiver(&engine);
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ("a".to_owned(), 1, HOUR)).unwrap();
    engine.send(handle.id(), "b", "stray".to_owned()).unwrap();
    eventually("without a thread", || {
        app.clock.advance(Duration::from_millis(100));
        app.status("w") == "DELAYED"
    });
    engine.send(handle.id(), "a", "meant".to_owned()).unwrap();
    assert_eq!(texts(&handle.result().unwrap()), ["meant"]);
}

/// As a DBOS client does, which knows nothing of who waits without a thread.
#[test]
fn a_message_that_another_program_wrote_wakes_its_receiver() {
    let app = App::new();
    let engine = app.open_with(app.options().suspend_after(Duration::ZERO));
    let workflow = receiver(&engine);
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ("a".to_owned(), 1, HOUR)).unwrap();
    eventually("without a thread", || app.status("w") == "DELAYED");
    app.execute(
        "INSERT INTO notifications (message_uuid, destination_uuid, topic, message, serialization)
         VALUES ('m', 'w', 'a', '\"hello\"', 'portable_json')",
        [],
    );
    assert_eq!(texts(&handle.result().unwrap()), ["hello"]);
}

#[test]
fn keys_and_destinations_that_only_look_alike_together_send_two_messages() {
    let app = App::new();
    let engine = app.open();
    let workflow = receiver(&engine);
    engine.launch().unwrap();
    let input = || ("t".to_owned(), 1, HOUR);
    for (first, second) in [(("k::y", "x"), ("k", "y::x")), (("l:", "z"), ("l", ":z"))] {
        for (key, id) in [first, second] {
            let handle = workflow.start_as(&engine, id, input()).unwrap();
            engine.send_once(key, handle.id(), "t", key.to_owned()).unwrap();
            assert_eq!(texts(&handle.result().unwrap()), [key]);
        }
    }
}

#[test]
fn a_receive_beyond_the_calendar_is_refused_by_its_own_name() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("w", |ctx: &mut Context, (): ()| -> Result<Option<u32>> {
        ctx.recv("topic", Duration::MAX)
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let error = workflow.start(&engine, ()).unwrap().result().unwrap_err().to_string();
    assert!(error.contains("timeout of recv") && error.contains("beyond the calendar"), "{error}");
    assert!(!error.contains("sleep"), "{error}");
}
