//! Wrong arguments, and files that are something else.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::support::{Demo, Ended, snapshot};

const ALL: [&str; 7] = ["ex1", "ex2", "ex3", "ex4", "ex5", "ex6", "ex7"];

#[test]
fn every_example_has_help() {
    for name in ALL {
        let help = Demo::new(name).run(&["--help"]).exits(0);
        for word in ["--seed", "--fresh", "--json", "--dir", "--database-url", "DBOS_DATABASE_URL", name] {
            assert!(help.stdout.contains(word), "{word}: {help:#?}");
        }
        assert_eq!(help.stderr, "");
    }
}

#[test]
fn every_example_tells_its_version() {
    for name in ALL {
        let told = Demo::new(name).run(&["--version"]).exits(0);
        assert_eq!(told.stdout, format!("{name} {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn an_argument_that_is_nearly_right_gets_a_hint() {
    let run = Demo::new("ex6").run(&["--crsh", "0.2"]).exits(2);
    assert!(run.stderr.contains("unexpected argument '--crsh'"), "{run:#?}");
    assert!(run.stderr.contains("a similar argument exists: '--crash'"), "{run:#?}");
}

#[test]
fn an_argument_that_is_unknown_is_refused_before_anything_is_made() {
    for name in ALL {
        let demo = Demo::new(name);
        for wrong in ["--nonsense", "nonsense"] {
            let run = demo.run(&[wrong]).exits(2);
            assert!(run.stderr.contains(&format!("unexpected argument '{wrong}'")), "{run:#?}");
            assert!(run.stderr.contains("try '--help'"), "{run:#?}");
            assert_eq!(run.stdout, "");
        }
        assert!(!demo.path("").exists());
    }
}

#[test]
fn a_probability_that_is_none_is_refused_by_the_name_of_its_argument() {
    let probabilities = [
        ("ex3", &["--crash"][..]),
        ("ex4", &["--crash"]),
        ("ex5", &["--crash", "--generate-failure"]),
        ("ex6", &["--crash", "--insert-failure", "--generate-failure"]),
        ("ex7", &["--crash", "--insert-failure", "--generate-failure"]),
    ];
    for (name, arguments) in probabilities {
        let demo = Demo::new(name);
        for argument in arguments {
            for wrong in ["1.5", "abc", "NaN", "inf", "40%", "0,4", ""] {
                let run = demo.run(&[&format!("{argument}={wrong}")]).exits(2);
                assert!(run.stderr.contains(argument), "{wrong}: {run:#?}");
            }
            demo.run(&[argument, "-0.5"]).exits(2);
        }
        assert!(!demo.path("").exists());
    }
}

#[test]
fn a_negative_number_is_refused_by_the_name_of_its_argument() {
    let cases = [
        ("ex3", "--crash", "-0.5"),
        ("ex4", "--crash", "-1"),
        ("ex5", "--crash", "-0.5"),
        ("ex5", "--generate-failure", "-0.25"),
        ("ex6", "--crash", "-0.5"),
        ("ex6", "--insert-failure", "-0.001"),
        ("ex6", "--generate-failure", "-0.5"),
        ("ex7", "--crash", "-0.5"),
        ("ex7", "--insert-failure", "-0.5"),
        ("ex7", "--generate-failure", "-0.5"),
        ("ex1", "--seed", "-1"),
        ("ex7", "--seed", "-1"),
    ];
    for (name, argument, number) in cases {
        let run = Demo::new(name).run(&[argument, number]).exits(2);
        assert!(run.stderr.contains(&format!("invalid value '{number}' for '{argument}")), "{run:#?}");
    }
}

#[test]
fn a_seed_that_is_no_number_is_refused_by_name() {
    let run = Demo::new("ex6").run(&["--seed", "x"]).exits(2);
    assert!(run.stderr.contains("'--seed <SEED>'"), "{run:#?}");
}

/// Exit code 3, a reason with these words on stderr, and with `--json` the same reason as JSON.
fn cannot_run(demo: &Demo, args: &[&str], words: &[&str]) {
    let run = demo.run(args).exits(3);
    let reason = run.stderr.strip_prefix(&format!("{}: ", demo.name())).unwrap().trim_end();
    assert_eq!(reason.lines().count(), 1, "{run:#?}");
    for word in words {
        assert!(reason.contains(word), "{word}: {run:#?}");
    }
    let json = demo.run(&[args, &["--json"]].concat()).exits(3);
    assert_eq!(json.json()["error"], reason, "{json:#?}");
}

#[test]
fn a_password_in_a_url_is_shown_to_nobody() {
    for url in [
        "postgresql://u:secret@h/db",
        "postgres://u:secret@h:5432/db?sslmode=require&password=secret",
        "mysql://u:secret@h/db",
        "sqlite://u:secret@h/db",
        "host=h user=u password=secret dbname=db",
        "postgresql//u:secret?@h/db",
        "postgresql://h/db?password=a&secret=b",
    ] {
        let demo = Demo::new("ex6");
        for json in [&[][..], &["--json"]] {
            let by_argument = demo.run(&[&["--database-url", url], json].concat()).exits(3);
            let by_environment = Ended::of(demo.command(json).env("DBOS_DATABASE_URL", url)).exits(3);
            let help = Ended::of(demo.command(&["--help"]).env("DBOS_DATABASE_URL", url)).exits(0);
            for run in [by_argument, by_environment, help] {
                assert!(!run.stdout.contains("secret") && !run.stderr.contains("secret"), "{run:#?}");
            }
        }
        // A text that cannot be read at all is refused before there is a directory.
        let left = if demo.path("").exists() { snapshot(&demo.path("")) } else { Vec::new() };
        for (name, bytes) in left {
            let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
            assert!(!text.contains("secret"), "{name}: {text}");
        }
    }
}

#[test]
fn a_url_that_was_not_quoted_shows_no_password() {
    let demo = Demo::new("ex1");
    for rest in ["password=secret", "postgresql://u:secret@h/db", "secret@h/db"] {
        let run = demo.run(&["--database-url", "host=h", rest]).exits(2);
        assert!(run.stderr.contains("unexpected argument"), "{run:#?}");
        assert!(!run.stdout.contains("secret") && !run.stderr.contains("secret"), "{run:#?}");
    }
}

#[test]
fn a_url_that_is_not_understood_gets_the_way_out() {
    let demo = Demo::new("ex1");
    let url = "postgresql://127.0.0.1:1/db";
    cannot_run(&demo, &["--database-url", url], &["cannot open the system database", "127.0.0.1:1/db"]);
    let url = "postgresql://localhost";
    cannot_run(&demo, &["--database-url", url], &["names no database", "write postgresql://USER@HOST"]);
    for url in ["", "shop.db", "sqlite:", "mysql://localhost/db", "http://localhost/"] {
        cannot_run(&demo, &["--database-url", url], &["database URL", "write sqlite:PATH"]);
    }
}

/// `file` is refused as the system database, by its name, and stays as it is, and so does all beside it.
fn is_refused_as_it_is(demo: &Demo, file: &Path, words: &[&str]) {
    let beside = file.parent().unwrap();
    let before = snapshot(beside);
    let url = format!("sqlite:{}", file.display());
    let words = [&["cannot open the system database", file.to_str().unwrap()], words].concat();
    cannot_run(demo, &["--database-url", &url], &words);
    assert!(
        snapshot(beside) == before,
        "changed: {:?}",
        snapshot(beside).iter().map(|(n, _)| n).collect::<Vec<_>>()
    );
}

/// A directory for strange files, away from the state of the demo.
fn shelf(demo: &Demo) -> PathBuf {
    let shelf = demo.home().join("shelf");
    fs::create_dir(&shelf).unwrap();
    shelf
}

#[test]
fn a_text_file_is_refused_as_it_is() {
    let demo = Demo::new("ex1");
    let file = shelf(&demo).join("letter.txt");
    for length in [1, 15, 100, 511, 512, 4_096, 100_000] {
        fs::write(&file, &"Dear reader, ".repeat(8_000).as_bytes()[..length]).unwrap();
        is_refused_as_it_is(&demo, &file, &["not an SQLite database"]);
    }
}

#[test]
fn a_directory_is_refused_as_it_is() {
    let demo = Demo::new("ex1");
    let directory = shelf(&demo).join("letters");
    fs::create_dir(&directory).unwrap();
    is_refused_as_it_is(&demo, &directory, &["it is a directory"]);
}

#[test]
fn a_database_of_another_program_is_refused_as_it_is() {
    let demo = Demo::new("ex1");
    let file = shelf(&demo).join("library.db");
    let other = engine::rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("CREATE TABLE books (title TEXT); INSERT INTO books VALUES ('Emma')").unwrap();
    drop(other);
    is_refused_as_it_is(&demo, &file, &["another program", "books"]);
}

#[test]
fn a_damaged_database_is_refused_as_it_is() {
    let demo = Demo::new("ex1");
    demo.run(&[]).exits(0);
    let file = shelf(&demo).join("damaged.db");
    demo.sql("system.db").execute("VACUUM INTO ?1", [file.to_str().unwrap()]).unwrap();
    let whole = fs::read(&file).unwrap();
    let page = 4_096;

    let mut scribbled = whole.clone();
    scribbled[2 * page..whole.len() / 2].iter_mut().for_each(|byte| *byte ^= 0x5a);
    let mut zeroed = whole.clone();
    zeroed[page..].fill(0);
    let mut beheaded = whole.clone();
    beheaded[..16].fill(0);
    let damages = [
        (scribbled, "damaged"),
        (zeroed, "damaged"),
        (whole[..whole.len() / 2].to_vec(), "damaged"),
        (beheaded, "not an SQLite database"),
    ];
    for (bytes, word) in damages {
        fs::write(&file, bytes).unwrap();
        is_refused_as_it_is(&demo, &file, &[word]);
    }
    fs::write(&file, whole).unwrap();
    demo.run(&["--database-url", &format!("sqlite:{}", file.display())]).exits(0);
}

#[test]
fn a_database_in_a_directory_that_is_not_there_is_refused() {
    let demo = Demo::new("ex1");
    let missing = demo.home().join("missing");
    let url = format!("sqlite:{}", missing.join("system.db").display());
    cannot_run(&demo, &["--database-url", &url], &["directory", missing.to_str().unwrap()]);
    assert!(!missing.exists());
}

#[test]
fn a_users_database_that_is_none_is_refused_as_it_is() {
    let demo = Demo::new("ex1");
    fs::create_dir(demo.path("")).unwrap();
    let file = demo.path("users.db");
    fs::write(&file, "Dear reader, ".repeat(100)).unwrap();
    let before = fs::read(&file).unwrap();
    cannot_run(&demo, &[], &["cannot open the application database", file.to_str().unwrap()]);
    assert_eq!(fs::read(&file).unwrap(), before);
    let reason = format!(
        "ex1: cannot open the application database {}: it is not an SQLite database, or it is encrypted; name \
         another file\n",
        file.display()
    );
    assert_eq!(demo.run(&[]).stderr, reason, "each text once");
}

#[test]
fn a_directory_in_the_place_of_a_file_is_named() {
    for file in ["users.db", "journal.jsonl", "system.db"] {
        let demo = Demo::new("ex1");
        let path = demo.path(file);
        fs::create_dir_all(path.join("mine")).unwrap();
        for args in [&[][..], &["--fresh"]] {
            cannot_run(&demo, args, &[path.to_str().unwrap(), "irectory"]);
            let told = demo.run(args).stderr;
            assert_eq!(told.matches(file).count(), 1, "{told}");
        }
        assert!(path.join("mine").exists());
    }
}

/// Events that follow from the number of the run would differ.
#[test]
fn a_run_that_could_not_open_is_not_counted() {
    let demo = Demo::new("ex1");
    fs::create_dir_all(demo.path("users.db")).unwrap();
    cannot_run(&demo, &[], &["it is a directory"]);
    cannot_run(&demo, &["--database-url", "?"], &["database URL"]);
    fs::remove_dir(demo.path("users.db")).unwrap();
    assert_eq!(demo.run(&["--json"]).exits(0).json()["runs"], 1);
}

#[test]
fn a_state_directory_that_is_a_file_is_refused_as_it_is() {
    let demo = Demo::new("ex1");
    let file = demo.home().join("letter.txt");
    fs::write(&file, "Dear reader").unwrap();
    for args in [&["--json"][..], &["--json", "--fresh"]] {
        let run = Ended::of(&mut demo.command_in(&file, args)).exits(3);
        assert!(run.stderr.contains(file.to_str().unwrap()), "{run:#?}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "Dear reader");
}

#[test]
fn a_directory_of_an_example_with_another_key_is_refused_with_both_keys() {
    let demo = Demo::new("ex2");
    demo.run(&[]).exits(1);
    let other = Demo::in_directory_of("ex6", demo);
    let keys = ["(id, workflow_id, analyzed_at)", "(id, workflow_id, analyzed_at, created_at)"];
    cannot_run(&other, &[], &keys);
    cannot_run(&other, &[], &["users.db", "another database", "--dir"]);
    assert_eq!(other.users(), (10, 10));
}

#[test]
fn a_state_directory_may_have_any_name() {
    let demo = Demo::new("ex1");
    let inside = |name: &str| demo.home().join(name);
    let two_slashes = PathBuf::from(format!("/{}", inside("double").display()));
    let no_text = demo.home().join(OsStr::from_bytes(b"\xff"));
    for dir in [inside("with space;%20#"), inside("what?"), inside("a:memory:b"), two_slashes, no_text] {
        Ended::of(&mut demo.command_in(&dir, &[])).exits(0);
        assert!(dir.join("system.db").exists() && dir.join("users.db").exists(), "{}", dir.display());
    }
    Ended::of(&mut demo.command_in(Path::new("file:relative"), &[])).exits(0);
    assert!(inside("file:relative").join("users.db").exists());
}
