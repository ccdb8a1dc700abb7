//! The places of the output: the story, the JSON, and pipes without a reader.

use std::io::Read as _;
use std::process::{Command, ExitStatus, Stdio};

use super::support::{Demo, Ended};

#[test]
fn the_story_is_on_stdout_and_stderr_is_silent() {
    for (name, code) in [("ex1", 0), ("ex2", 1)] {
        let run = Demo::new(name).run(&[]).exits(code);
        assert!(run.stdout.starts_with(&format!("{name}: ")), "{run:#?}");
        assert!(run.stdout.contains("\n+ step truncate: done and recorded\n"), "{run:#?}");
        assert_eq!(run.stderr, "");
    }
}

#[test]
fn with_json_stdout_has_one_line_and_the_story_is_on_stderr() {
    let keys = [
        "duplicates",
        "error",
        "example",
        "output",
        "rows",
        "runs",
        "status",
        "steps_replayed",
        "steps_run",
        "unique_users",
        "wall_ms",
        "workflow_id",
    ];
    for (name, code) in [("ex1", 0), ("ex2", 1)] {
        let run = Demo::new(name).run(&["--json"]).exits(code);
        let found = run.json();
        assert_eq!(found.as_object().unwrap().keys().collect::<Vec<_>>(), keys);
        assert_eq!(found["example"], name);
        assert!(run.stderr.starts_with(&format!("{name}: ")), "{run:#?}");
    }
}

#[test]
fn in_a_pipe_there_are_plain_lines() {
    let run = Demo::new("ex6").run(&["--crash", "0"]).exits(0);
    assert!(run.stdout.lines().any(|line| line == "+ batch 10 of 10 done"), "{run:#?}");
    assert!(run.stdout.chars().all(|c| c == '\n' || !c.is_control()), "{run:#?}");
    assert!(run.stdout.ends_with('\n'));
    assert_eq!(run.stderr, "");
}

#[test]
fn log_lines_do_not_mix_with_the_json() {
    let demo = Demo::new("ex1");
    let run = Ended::of(demo.command(&["--json"]).env("RUST_LOG", "trace")).exits(0);
    assert_eq!(run.json()["status"], "SUCCESS");
}

/// A pipe without a reader.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn without_a_reader_of_stdout(command: &mut Command) -> (ExitStatus, String) {
    let mut child = command.stdout(closed()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!said.contains("panicked"), "{said}");
    (child.wait().unwrap(), said)
}

#[test]
fn a_reader_of_the_story_that_goes_away_does_not_end_the_demo() {
    let demo = Demo::new("ex6");
    let (status, said) = without_a_reader_of_stdout(&mut demo.command(&["--crash", "0"]));
    assert_eq!((status.code(), said.as_str()), (Some(0), ""));
    assert_eq!(demo.users().1, 1_000);
}

#[test]
fn a_reader_of_the_json_that_goes_away_does_not_end_the_demo() {
    for (args, code) in [(&["--json"][..], 0), (&["--json", "--database-url", "?"], 3), (&["--help"], 0)] {
        let (status, said) = without_a_reader_of_stdout(&mut Demo::new("ex1").command(args));
        assert_eq!(status.code(), Some(code), "{args:?}: {said}");
    }
}

#[test]
fn a_reader_of_stderr_that_goes_away_does_not_end_the_demo() {
    let demo = Demo::new("ex1");
    let output = demo.command(&["--json"]).stderr(closed()).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(demo.users(), (20, 20));
}

#[test]
fn a_reader_of_stderr_that_goes_away_does_not_make_an_error_a_panic() {
    let demo = Demo::new("ex1");
    let output = demo.command(&["--json", "--database-url", "?"]).stderr(closed()).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8(output.stdout).unwrap().contains("database URL"));
}

#[test]
fn a_crash_is_a_crash_without_a_reader_too() {
    use std::os::unix::process::ExitStatusExt as _;
    let demo = Demo::new("ex3");
    let (status, _) = without_a_reader_of_stdout(&mut demo.command(&["--crash", "1"]));
    assert_eq!(status.signal(), Some(nix::sys::signal::Signal::SIGSEGV as i32));
}
