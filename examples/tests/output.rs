//! Each example prints the text that its trailing comment promises.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The line of a source file after which its output stands.
const MARKER: &str = "// Output:";

/// One test per example: runs it and compares.
macro_rules! examples {
    ($($test:ident: $name:literal,)*) => {
        const TESTED: &[&str] = &[$($name),*];

        $(
            #[test]
            fn $test() {
                let program = env!(concat!("CARGO_BIN_EXE_", $name));
                check(program, include_str!(concat!("../", $name, ".rs")));
            }
        )*
    };
}

examples! {
    hello_prints_what_it_promises: "hello",
    retries_prints_what_it_promises: "retries",
    sleep_across_restart_prints_what_it_promises: "sleep_across_restart",
    transaction_step_prints_what_it_promises: "transaction_step",
    child_fan_out_prints_what_it_promises: "child_fan_out",
    two_processes_prints_what_it_promises: "two_processes",
    async_fan_out_prints_what_it_promises: "async_fan_out",
}

/// Examples that run until they are told to stop. Each has a test of its own.
const SERVICES: &[&str] = &["async_service"];

#[test]
fn every_example_but_a_service_promises_an_output_and_is_tested() {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            let is_service = SERVICES.contains(&stem(&path).as_str());
            assert_ne!(promised(&source).is_some(), is_service, "the `{MARKER}` block of {}", path.display());
            found.insert(stem(&path));
        }
    }
    assert_eq!(found, TESTED.iter().chain(SERVICES).map(|&name| name.to_owned()).collect());
}

fn check(program: &str, source: &str) {
    watch::test(watch::LIMIT);
    let _waiting = watch::waiting(format!("the end of {program}"));
    let run = Command::new(program).output().unwrap();
    let (printed, complaints) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    let promised = promised(source).unwrap();
    assert!(
        run.status.success() && printed == promised,
        "{}\n--- promised\n{promised}--- printed\n{printed}--- complaints\n{complaints}",
        run.status
    );
}

/// The output that the comment at the end of a source file promises.
fn promised(source: &str) -> Option<String> {
    let (_, block) = source.rsplit_once(&format!("\n{MARKER}\n"))?;
    let uncommented = |line: &str| line.strip_prefix("// ").map(|line| format!("{line}\n"));
    let lines = block.lines().map(uncommented).collect::<Option<String>>()?;
    (!lines.is_empty()).then_some(lines)
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}
