//! A test that hangs, as the harness sees it.

use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Duration;

/// Run by the other test alone.
#[test]
#[ignore = "never ends by itself"]
fn a_test_that_hangs() {
    watch::test(Duration::from_millis(100));
    watch::shows(|| "a table\n".to_owned());
    drop(watch::waiting("what has come"));
    let _waiting = watch::waiting("what never comes");
    let (_never, receiver) = channel::<()>();
    let _ = receiver.recv();
}

#[test]
fn a_test_over_its_limit_fails_and_says_what_it_waits_for() {
    let this = std::env::current_exe().expect("a test is a program");
    let hung = Command::new(this)
        .args(["--ignored", "--exact", "a_test_that_hangs", "--test-threads", "2"])
        .output()
        .expect("it can be started");
    let said = String::from_utf8_lossy(&hung.stderr);
    assert_eq!(hung.status.code(), Some(101), "{said}");
    for word in ["a_test_that_hangs did not end within 100ms", "what never comes", "a table"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(!said.contains("what has come"), "{said}");
}
