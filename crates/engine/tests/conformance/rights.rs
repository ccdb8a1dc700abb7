//! Several users on one file. What needs another user is tried when the tests run as the superuser, as in ci.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use engine::{Context, Engine, Error, Workflow};

use crate::process::{errand, path_of_the_errand, run, say, start, tell_warnings, this_program};
use crate::support::eventually;

/// A user that no service of a machine runs as.
const NOBODY: u32 = 65534;
/// Longer than any recovery takes here, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that every user can enter, with this program in it and a place for a database.
struct Ground {
    dir: tempfile::TempDir,
}

impl Ground {
    /// `None` unless the tests run as the superuser.
    fn of_the_superuser() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        if fs::metadata(dir.path()).unwrap().uid() != 0 {
            eprintln!("skipped: only the superuser can try what another user may do");
            return None;
        }
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let program = dir.path().join("program");
        if fs::hard_link(this_program(), &program).is_err() {
            fs::copy(this_program(), &program).unwrap();
        }
        fs::create_dir(dir.path().join("data")).unwrap();
        Some(Self { dir })
    }

    fn directory(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn database(&self) -> PathBuf {
        self.directory().join("shop.db")
    }

    fn errand(&self, name: &str) -> Command {
        errand(&self.dir.path().join("program"), &format!("rights::{name}"), &self.database())
    }

    fn errand_of_nobody(&self, name: &str) -> Command {
        let mut command = self.errand(name);
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
        command
    }

    /// In a database of another user: the superuser begins it, and is killed.
    fn leave_a_workflow_of_the_superuser(&self) {
        chown(self.directory(), Some(NOBODY), Some(NOBODY)).unwrap();
        run(&mut self.errand_of_nobody("make_the_database_and_leave"));
        let mut of_root = start(self.errand("hang_in_a_body").env("PITON_TEST_HANG", "1"));
        of_root.wait_for("in the body");
        of_root.kill();
    }
}

fn open(path: &Path) -> (Engine, Workflow<bool, u32>) {
    let engine = Engine::options().app("test").open_file(path).unwrap();
    let workflow = engine.register("w", |ctx: &mut Context, hang: bool| {
        ctx.step("first", |_| {
            if hang && std::env::var_os("PITON_TEST_HANG").is_some() {
                say("in the body");
                loop {
                    std::thread::park();
                }
            }
            Ok::<_, Error>(7)
        })
    });
    (engine, workflow.unwrap())
}

#[test]
fn make_the_database_and_leave() {
    let Some(path) = path_of_the_errand() else { return };
    let (engine, workflow) = open(&path);
    engine.launch().unwrap();
    workflow.start(&engine, false).unwrap().result().unwrap();
}

#[test]
fn hang_in_a_body() {
    let Some(path) = path_of_the_errand() else { return };
    let (engine, workflow) = open(&path);
    engine.launch().unwrap();
    let _ = workflow.start_as(&engine, "left", true).unwrap().result();
}

#[test]
fn go_on_with_what_was_left() {
    let Some(path) = path_of_the_errand() else { return };
    let (engine, _workflow) = open(&path);
    engine.launch().unwrap();
    let left = engine.retrieve::<u32>("left").unwrap();
    assert_eq!(left.wait(PATIENCE).unwrap(), Some(7), "{:?}", left.status());
}

#[test]
fn what_the_superuser_left_behind_goes_on_under_the_owner_of_the_file() {
    let Some(ground) = Ground::of_the_superuser() else { return };
    ground.leave_a_workflow_of_the_superuser();
    run(&mut ground.errand_of_nobody("go_on_with_what_was_left"));
}

/// The directory, too, when the superuser was the first.
#[test]
fn what_the_superuser_makes_first_is_for_the_owner_of_the_file() {
    let Some(ground) = Ground::of_the_superuser() else { return };
    chown(ground.directory(), Some(NOBODY), Some(NOBODY)).unwrap();
    fs::write(ground.database(), "").unwrap();
    chown(ground.database(), Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(ground.database(), Permissions::from_mode(0o640)).unwrap();
    let mut of_root = start(ground.errand("hang_in_a_body").env("PITON_TEST_HANG", "1"));
    of_root.wait_for("in the body");
    let directory = ground.directory().join("shop.db-executors");
    let lock = fs::read_dir(&directory).unwrap().next().unwrap().unwrap().path();
    let rights = |path: &Path| {
        let found = fs::metadata(path).unwrap();
        (found.uid(), found.gid(), found.mode() & 0o7777)
    };
    assert_eq!(rights(&directory), (NOBODY, NOBODY, 0o750));
    assert_eq!(rights(&lock), (NOBODY, NOBODY, 0o640));
    of_root.kill();
    run(&mut ground.errand_of_nobody("go_on_with_what_was_left"));
}

#[test]
fn doubt_whether_one_lives() {
    let Some(path) = path_of_the_errand() else { return };
    tell_warnings();
    let (engine, _workflow) = open(&path);
    engine.launch().unwrap();
    let directory = path.with_file_name("shop.db-executors");
    let unreadable = directory.join("piton-of-root.lock");
    let own = || {
        let files = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|file| *file != unreadable).find(|file| file.extension().is_some_and(|e| e == "lock"))
    };
    // Each sweep looks at all lock files, and puts this executor's own one back.
    for _ in 0..3 {
        fs::remove_file(own().unwrap()).unwrap();
        eventually("a sweep", || own().is_some());
    }
    let left = engine.retrieve::<u32>("left").unwrap();
    say(&format!("status {}", left.status().unwrap()));
    fs::remove_file(&unreadable).unwrap();
    assert_eq!(left.wait(PATIENCE).unwrap(), Some(7));
}

#[test]
fn an_executor_that_cannot_be_looked_at_is_named_once_with_the_way_out() {
    let Some(ground) = Ground::of_the_superuser() else { return };
    ground.leave_a_workflow_of_the_superuser();
    // As an earlier version, or a restore, may have left it.
    let directory = ground.directory().join("shop.db-executors");
    let lock = fs::read_dir(&directory).unwrap().next().unwrap().unwrap().path();
    let unreadable = directory.join("piton-of-root.lock");
    fs::rename(lock, &unreadable).unwrap();
    chown(&unreadable, Some(0), Some(0)).unwrap();
    let database = engine::rusqlite::Connection::open(ground.database()).unwrap();
    database
        .execute_batch("UPDATE workflow_status SET executor_id = 'piton-of-root' WHERE status = 'PENDING'")
        .unwrap();
    drop(database);

    let said = run(&mut ground.errand_of_nobody("doubt_whether_one_lives"));
    assert!(said.contains(&"status PENDING".to_owned()), "{said:?}");
    let warnings: Vec<_> = said.iter().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for words in ["piton-of-root.lock", "belongs to user 0", "Permission denied", "`chown`", "remove it"] {
        assert!(warnings[0].contains(words), "{words}: {warnings:?}");
    }
}

#[test]
fn open_and_tell() {
    let Some(path) = path_of_the_errand() else { return };
    tell_warnings();
    match Engine::options().open_file(&path) {
        Ok(_) => say("opened"),
        Err(error) => say(&error.to_string()),
    }
}

#[test]
fn a_file_that_this_user_may_only_read_is_refused_at_open() {
    let Some(ground) = Ground::of_the_superuser() else { return };
    run(&mut ground.errand("make_the_database_and_leave"));
    chown(ground.directory(), Some(NOBODY), Some(NOBODY)).unwrap();
    for mode in [0o444, 0o400] {
        fs::set_permissions(ground.database(), Permissions::from_mode(mode)).unwrap();
        let said = run(&mut ground.errand_of_nobody("open_and_tell")).pop().unwrap();
        let owner = format!("shop.db, which belongs to user 0 and group 0 (mode {mode:o})");
        assert!(said.contains("may not read and write") && said.contains(&owner), "{said}");
    }
}

#[test]
fn a_directory_that_takes_no_files_is_named_at_open() {
    let Some(ground) = Ground::of_the_superuser() else { return };
    let cannot_be_made = run(&mut ground.errand_of_nobody("open_and_tell")).pop().unwrap();
    run(&mut ground.errand("make_the_database_and_leave"));
    chown(ground.database(), Some(NOBODY), Some(NOBODY)).unwrap();
    let cannot_be_used = run(&mut ground.errand_of_nobody("open_and_tell")).pop().unwrap();
    let directory = format!("directory {}", ground.directory().canonicalize().unwrap().display());
    for said in [cannot_be_made, cannot_be_used] {
        assert!(said.contains(&directory) && said.contains("Permission denied"), "{said}");
    }
}

#[test]
fn a_lock_directory_that_others_can_write_to_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");
    let locks = dir.path().join("x.db-executors");
    fs::create_dir(&locks).unwrap();
    fs::set_permissions(&locks, Permissions::from_mode(0o777)).unwrap();
    let said = run(&mut errand(&this_program(), "rights::open_and_tell", &path));
    let [warning, opened] = &said[..] else { panic!("{said:?}") };
    assert!(warning.contains("x.db-executors") && warning.contains("mode 777"), "{warning}");
    assert!(
        warning.contains("others can remove its lock files") && warning.contains("chmod 700"),
        "{warning}"
    );
    assert_eq!(opened, "opened");
    fs::set_permissions(&locks, Permissions::from_mode(0o700)).unwrap();
    assert_eq!(run(&mut errand(&this_program(), "rights::open_and_tell", &path)), ["opened"]);
}

#[test]
fn a_lock_directory_that_is_a_link_or_a_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");
    let locks = dir.path().join("x.db-executors");
    let refused = |kind: &str| {
        let error = Engine::options().open_file(&path).unwrap_err().to_string();
        for words in ["x.db-executors", kind, "remove it"] {
            assert!(error.contains(words), "{error}");
        }
        assert!(!path.exists(), "nothing was made");
    };
    symlink(dir.path(), &locks).unwrap();
    refused("is a symbolic link");
    fs::remove_file(&locks).unwrap();
    fs::write(&locks, "").unwrap();
    refused("is no directory");
}

/// To open a pipe is to wait for its other end.
#[test]
fn what_is_no_file_among_the_lock_files_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");
    let pipe = dir.path().join("x.db-executors/piton-pipe.lock");
    let errand = |name: &str| errand(&this_program(), &format!("rights::{name}"), &path);
    let mut dead = start(errand("hang_in_a_body").env("PITON_TEST_HANG", "1"));
    dead.wait_for("in the body");
    dead.kill();
    assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
    run(&mut errand("go_on_with_what_was_left"));
}
