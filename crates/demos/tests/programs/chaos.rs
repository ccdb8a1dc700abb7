//! Failures follow from the seed and from nothing else.

use super::support::{Demo, Ended};

/// The story of all runs, without the names that differ.
fn story(demo: &Demo, args: &[&str]) -> String {
    let runs = demo.run_until_it_ends(args);
    let last = runs.last().unwrap();
    let found = last.json();
    let told = |run: &Ended| {
        let story = run.stderr.replace(run.workflow(), "ID").replace(demo.path("").to_str().unwrap(), "DIR");
        format!("{story}({})\n", run.status)
    };
    let story: String = runs.iter().map(told).collect();
    let keys =
        ["status", "output", "unique_users", "rows", "duplicates", "runs", "steps_run", "steps_replayed"];
    story + &keys.map(|key| format!("{key}: {}", found[key])).join(", ")
}

#[test]
fn the_same_seed_tells_the_same_story_in_two_directories() {
    let args = ["--json", "--seed", "11", "--crash", "0.3"];
    let first = story(&Demo::new("ex6"), &args);
    assert!(first.contains("X crash"), "{first}");
    assert_eq!(first, story(&Demo::new("ex6"), &args));
}

#[test]
fn another_seed_tells_another_story() {
    let args = |seed| ["--json", "--crash", "0", "--seed", seed];
    let [first, second] = ["1", "2"].map(|seed| story(&Demo::new("ex6"), &args(seed)));
    assert_ne!(first, second.replace("seed 2", "seed 1"));
}

/// With equal seeds the same steps fail at the same attempts, and the same batches crash.
#[test]
fn ex7_meets_the_failures_of_ex6() {
    let [six, seven] = ["ex6", "ex7"].map(|name| {
        let runs = Demo::new(name).run_until_it_ends(&["--json"]);
        let lines = runs.iter().flat_map(|run| run.stderr.lines());
        let failures: Vec<String> = lines
            .filter(|line| line.starts_with(['!', 'X', '+']))
            .map(|line| line.split(": simulated").next().unwrap().to_owned())
            .collect();
        failures
    });
    assert!(six.iter().any(|line| line.starts_with("! step insert")), "{six:#?}");
    assert_eq!(six, seven);
}

#[test]
fn without_failures_nothing_fails_and_nothing_is_there_twice() {
    let demo = Demo::new("ex6");
    let quiet = ["--json", "--crash", "0", "--insert-failure", "0", "--generate-failure", "0"];
    let run = demo.run(&quiet).exits(0);
    assert!(run.lines("!").is_empty() && run.lines("X").is_empty(), "{run:#?}");
    assert_eq!(demo.users(), (1_000, 1_000));
}
