//! The times that ex5 tells: the table, and the files for other tools.

use std::fs;
use std::io::Write as _;
use std::process::Command;

use super::support::{Demo, Ended};

const PARTS: [&str; 5] = ["engine", "commit", "step body", "application database", "wait"];

/// The milliseconds in the line of the table that begins so.
fn millis(run: &Ended, part: &str) -> f64 {
    let [line] = run.lines(&format!("  {part:<22} "))[..] else { panic!("no line {part}: {run:#?}") };
    let before_the_unit = line.split(" ms ").next().unwrap();
    before_the_unit.split_whitespace().last().unwrap().parse().unwrap()
}

fn the_parts_add_up(run: &Ended) {
    let parts: f64 = PARTS.iter().map(|part| millis(run, part)).sum();
    let [sum, wall] = ["sum", "wall"].map(|line| millis(run, line));
    assert!((parts - sum).abs() < 0.5, "each is rounded to a tenth of a millisecond: {run:#?}");
    assert!((parts - wall).abs() < 0.05 * wall, "{run:#?}");
    let whole_run = run.json()["wall_ms"].as_f64().unwrap();
    assert!(wall <= whole_run + 1.0, "{wall} of {whole_run}");
}

#[test]
fn the_parts_add_up_to_the_wall_time() {
    let run = Demo::new("ex5").run(&["--json", "--crash", "0"]).exits(0);
    the_parts_add_up(&run);
    for part in ["commit", "step body", "application database", "wait"] {
        assert!(millis(&run, part) > 0.0, "{part}: {run:#?}");
    }
}

#[test]
fn the_parts_of_a_recovered_run_add_up_to_its_wall_time() {
    let demo = Demo::new("ex5");
    demo.crash(&["--json", "--crash", "1"]);
    the_parts_add_up(&demo.run(&["--json", "--crash", "0"]).exits(0));
}

#[test]
fn the_flame_graph_needs_nothing_but_a_browser() {
    let demo = Demo::new("ex5");
    let run = demo.run(&["--json", "--crash", "0"]).exits(0);
    assert!(run.stderr.contains("main_profile.prof, main_profile.svg, main_profile.folded"), "{run:#?}");
    let svg = fs::read_to_string(demo.path("main_profile.svg")).unwrap();
    assert!(svg.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg "), "{svg}");
    assert!(svg.ends_with("</svg>\n"), "{svg}");
    for tag in ["svg", "g", "title", "text"] {
        let opened = svg.matches(&format!("<{tag} ")).count() + svg.matches(&format!("<{tag}>")).count();
        assert_eq!(opened, svg.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    let namespace = "http://www.w3.org/2000/svg";
    assert_eq!(svg.matches("http").count(), svg.matches(namespace).count(), "it refers to nothing elsewhere");
    for foreign in ["<script", "href", "@import", "url(", "<image"] {
        assert!(!svg.contains(foreign), "{foreign}");
    }
    for name in ["users_workflow", "users_batch_workflow", "step users", "insert_users_page"] {
        assert!(svg.contains(&format!("<title>{name} (")), "{name}");
    }
}

#[test]
fn the_folded_stacks_have_a_number_each_and_begin_at_main() {
    let demo = Demo::new("ex5");
    let run = demo.run(&["--json", "--crash", "0"]).exits(0);
    let folded = fs::read_to_string(demo.path("main_profile.folded")).unwrap();
    let micros: Vec<u64> = folded
        .lines()
        .map(|line| {
            let (stack, micros) = line.rsplit_once(' ').unwrap();
            assert!(stack == "main" || stack.starts_with("main;"), "{line}");
            micros.parse().unwrap()
        })
        .collect();
    assert!(folded.contains("main;users_workflow;users_batch_workflow;step users "), "{folded}");
    #[expect(clippy::cast_precision_loss, reason = "minutes at most")]
    let total = micros.iter().sum::<u64>() as f64 / 1000.0;
    let wall = millis(&run, "wall");
    assert!((total - wall).abs() < 0.05 * wall, "{total} of {wall}");
}

#[test]
fn python_reads_the_profile() {
    let demo = Demo::new("ex5");
    demo.run(&["--json", "--crash", "0"]).exits(0);
    let script = "import pstats; pstats.Stats('main_profile.prof').print_stats()\n\
                  import xml.dom.minidom; xml.dom.minidom.parse('main_profile.svg')";
    match Command::new("python3").args(["-c", script]).current_dir(demo.path("")).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
            for name in ["main", "users_workflow", "users_batch_workflow", "step users", "insert_users_page"]
            {
                assert!(text.contains(&format!("({name})")), "{name}: {text}");
            }
        }
        // Not by eprintln, which is shown for failed tests only.
        Err(error) => {
            writeln!(std::io::stderr(), "SKIPPED: no python3 to read the profile with ({error})").unwrap();
        }
    }
}
