//! What must not compile. Each file of `refused/` says in its first lines what the compiler is to say of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The one that compiles.
const ACCEPTED: &str = "accepted.rs";

/// The libraries that cargo built for this test.
struct Libraries {
    dir: PathBuf,
    engine: PathBuf,
}

impl Libraries {
    /// Those beside this test. Cargo keeps the engine with other features and of other days there as well, so the newest
    /// is taken with which compiles what should.
    fn of_this_test() -> Self {
        let dir = std::env::current_exe().unwrap().parent().unwrap().to_owned();
        let built = |path: &PathBuf| fs::metadata(path).and_then(|about| about.modified()).ok();
        let is_engine = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("libengine-") && name.ends_with(".rlib")
        };
        let entries = fs::read_dir(&dir).unwrap().filter_map(Result::ok).map(|entry| entry.path());
        let mut engines: Vec<_> = entries.filter(is_engine).collect();
        engines.sort_by_key(built);
        let mut said = Vec::new();
        while let Some(engine) = engines.pop() {
            let libraries = Self { dir: dir.clone(), engine };
            match libraries.compile(&files().join(ACCEPTED)) {
                Ok(()) => return libraries,
                Err(error) => said.push(error),
            }
        }
        panic!("{ACCEPTED} compiles with no engine in {}: {said:#?}", dir.display());
    }

    /// Compiles a file as far as its types; gives what the compiler said if it refuses.
    fn compile(&self, file: &Path) -> Result<(), String> {
        let out = tempfile::tempdir().unwrap();
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let compiled = Command::new(rustc)
            .args(["--edition", "2024", "--crate-type", "lib", "--emit", "metadata", "--color", "never"])
            .arg("--out-dir")
            .arg(out.path())
            .arg("-L")
            .arg(format!("dependency={}", self.dir.display()))
            .arg("--extern")
            .arg(format!("engine={}", self.engine.display()))
            .arg(file)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&compiled.stderr).into_owned();
        if compiled.status.success() { Ok(()) } else { Err(said) }
    }
}

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile/refused")
}

#[test]
fn what_must_not_be_written_is_refused_in_words_that_help() {
    watch::test(watch::LIMIT);
    let libraries = Libraries::of_this_test();
    let mut refused = 0;
    for entry in fs::read_dir(files()).unwrap() {
        let file = entry.unwrap().path();
        if file.ends_with(ACCEPTED) {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let Err(said) = libraries.compile(&file) else { panic!("{} compiles", file.display()) };
        let expected: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("// says: ")).collect();
        assert!(!expected.is_empty(), "{} says what is expected", file.display());
        for expected in expected {
            assert!(said.contains(expected), "{}: not said: {expected}\n{said}", file.display());
        }
        refused += 1;
    }
    assert!(refused > 0);
}
