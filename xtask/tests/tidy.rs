//! ARCHITECTURE.md, held against the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn architecture() -> String {
    fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md")
}

/// The part of the page under this heading, up to the next one.
fn section(heading: &str) -> String {
    let page = architecture();
    let mut lines = page.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "ARCHITECTURE.md has no heading `{heading}`");
    lines.take_while(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
}

/// The first cell of each row of the first table, without the head.
fn rows(section: &str) -> Vec<Vec<String>> {
    let table =
        section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    table.skip(2).map(cells).collect()
}

/// The texts in backquotes.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

struct File {
    /// From the engine's `src` on.
    path: String,
    /// Without its tests.
    code: String,
    head: String,
}

/// The files of the engine, without files that hold only tests.
fn engine() -> Vec<File> {
    let src = root().join("crates/engine/src");
    let mut files = Vec::new();
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the engine").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a file of the engine");
                let code = text.split("\nmod tests {").next().unwrap_or_default().to_owned();
                let head =
                    text.lines().take_while(|line| line.starts_with("//!")).collect::<Vec<_>>().join("\n");
                let path = path.strip_prefix(&src).expect("below src").display().to_string();
                files.push(File { path, code, head });
            }
        }
    }
    assert!(files.len() > 50, "only {} files of the engine were found", files.len());
    files
}

/// Lines of code, without comments.
fn code_lines(file: &File) -> impl Iterator<Item = (usize, &str)> {
    file.code
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(n, line)| (n + 1, line))
}

fn nothing_is_wrong(found: &[String]) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// The rooms of the table, from the top, as folders of the engine's `src`.
fn rooms() -> Vec<String> {
    let rows = rows(&section("### Rooms of the engine"));
    let room =
        |row: &Vec<String>| quoted(&row[0])[0].trim_end_matches('/').trim_end_matches(".rs").to_owned();
    rows.iter().map(room).collect()
}

/// A file at the top of `src` is a room of its own.
fn room_of(path: &str) -> &str {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

#[test]
fn each_file_of_the_engine_stands_in_a_room_of_the_table() {
    let rooms = rooms();
    let files = engine();
    let outside = files.iter().filter(|file| !rooms.iter().any(|room| room == room_of(&file.path)));
    nothing_is_wrong(&outside.map(|file| format!("{} is in no room", file.path)).collect::<Vec<_>>());
    let empty = rooms.iter().filter(|room| !files.iter().any(|file| room_of(&file.path) == room.as_str()));
    nothing_is_wrong(&empty.map(|room| format!("nothing is in room {room}")).collect::<Vec<_>>());
}

#[test]
fn imports_point_down_the_table_of_rooms() {
    let rooms = rooms();
    let place = |room: &str| rooms.iter().position(|other| other == room);
    let mut wrong = Vec::new();
    for file in engine() {
        let Some(from) = place(room_of(&file.path)) else { continue };
        for (number, line) in code_lines(&file) {
            for imported in line.split("crate::").skip(1) {
                let end = imported.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(imported.len());
                if let Some(to) = place(&imported[..end])
                    && to < from
                {
                    wrong.push(format!("{}:{number} imports {} from above", file.path, &imported[..end]));
                }
            }
        }
    }
    nothing_is_wrong(&wrong);
}

#[test]
fn sql_stands_behind_the_wall_alone() {
    const BEGINNINGS: [&str; 6] =
        ["SELECT ", "INSERT INTO", "UPDATE ", "DELETE FROM", "CREATE TABLE", "PRAGMA "];
    let mut wrong = Vec::new();
    for file in engine().iter().filter(|file| room_of(&file.path) != "sysdb") {
        let found = code_lines(file).filter(|(_, line)| BEGINNINGS.iter().any(|sql| line.contains(sql)));
        wrong.extend(found.map(|(number, line)| format!("{}:{number} has SQL: {}", file.path, line.trim())));
    }
    nothing_is_wrong(&wrong);
}

#[test]
fn drivers_are_named_behind_the_wall_alone() {
    let mut wrong = Vec::new();
    for file in engine().iter().filter(|file| !["sysdb", "lib"].contains(&room_of(&file.path))) {
        let found = code_lines(file).filter(|(_, line)| {
            line.contains("rusqlite::") || line.contains(" postgres::") || line.contains("tokio_postgres")
        });
        wrong.extend(
            found.map(|(number, line)| format!("{}:{number} names a driver: {}", file.path, line.trim())),
        );
    }
    nothing_is_wrong(&wrong);
}

/// The page says: `Writer` (2), `Reader` (9), ...
#[test]
fn the_traits_of_the_wall_have_as_many_methods_as_the_page_says() {
    let page = architecture();
    let wall = engine().into_iter().find(|file| file.path == "sysdb/mod.rs").expect("sysdb/mod.rs");
    let mut counted = BTreeMap::new();
    let mut current = None;
    for line in wall.code.lines() {
        if let Some(rest) = line.strip_prefix("pub(crate) trait ") {
            let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
            current = Some(rest[..end].to_owned());
        } else if line == "}" {
            current = None;
        } else if let Some(name) = &current
            && line.starts_with("    fn ")
        {
            *counted.entry(name.clone()).or_insert(0_usize) += 1;
        }
    }
    assert!(counted.len() >= 4, "{counted:?}");
    let wrong = counted.iter().filter(|(name, methods)| !page.contains(&format!("`{name}` ({methods})")));
    nothing_is_wrong(
        &wrong
            .map(|(name, methods)| format!("{name} has {methods} methods; ARCHITECTURE.md says otherwise"))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn each_thread_of_the_engine_stands_in_the_table_of_threads() {
    let told: BTreeSet<String> =
        rows(&section("### 6.4 Threads")).iter().flat_map(|row| quoted(&row[0])).collect();
    let mut found = BTreeSet::new();
    for file in engine() {
        for (_, line) in code_lines(&file) {
            for name in line.split('"').skip(1).step_by(2) {
                let Some(rest) = name.strip_prefix("piton-") else { continue };
                let is_thread = line.contains("name(\"") || line.contains("spawn(");
                if is_thread && !rest.is_empty() && rest.chars().all(|c| c.is_ascii_lowercase()) {
                    found.insert(name.to_owned());
                }
            }
        }
    }
    assert_eq!(found, told, "left: threads of the code; right: threads of ARCHITECTURE.md");
}

/// The names that a word in a "Does not know" line forbids.
fn forbidden(word: &str) -> Option<&'static [&'static str]> {
    Some(match word {
        "SQL" => &["SELECT ", "INSERT INTO", "Statement {"],
        "drivers" => &["rusqlite", "postgres::"],
        "threads" => &["std::thread", "thread::", "Condvar"],
        "queues" => &["queue::"],
        "codecs" => &["codec::"],
        "commits" => &["committer", "Committer"],
        "waits" => &["wait_past", "wait_at_most", "wait_for"],
        "step ids" => &["StepId"],
        "workflows" => &["WorkflowId", "Workflow<"],
        "the database" => &["sysdb::sqlite", "sysdb::postgres", "DbResult"],
        "what the writes mean" => {
            &["Write::StartWorkflow", "Write::RecordStep", "Write::Settle", "Write::Send"]
        }
        "how anything is waited for" => &["Condvar", "wait_past", "wait_at_most"],
        "what an operation does" => &["step::", "sleep::", "message::", "child::"],
        _ => return None,
    })
}

#[test]
fn a_file_does_not_name_what_its_head_says_that_it_does_not_know() {
    let mut wrong = Vec::new();
    let mut heads = 0;
    for file in engine() {
        let head: String = file.head.lines().map(|line| line.trim_start_matches("//!")).collect();
        let Some((_, said)) = head.split_once("Does not know:") else { continue };
        heads += 1;
        let said = said.split('.').next().unwrap_or_default();
        for word in said.split(',').map(|word| word.split('(').next().unwrap_or_default().trim()) {
            let Some(names) = forbidden(word) else {
                wrong.push(format!("{}: this test does not know what `{word}` forbids", file.path));
                continue;
            };
            let found = code_lines(&file).filter(|(_, line)| names.iter().any(|name| line.contains(name)));
            wrong
                .extend(found.map(|(number, line)| {
                    format!("{}:{number} knows of {word}: {}", file.path, line.trim())
                }));
        }
    }
    assert!(heads > 5, "only {heads} heads say what they do not know");
    nothing_is_wrong(&wrong);
}

/// Files whose statements run before there are tables, or that have no list.
const WITHOUT_LIST: [&str; 3] =
    ["sysdb/postgres/open.rs", "sysdb/postgres/schema.rs", "sysdb/postgres/news.rs"];

/// A test of each backend prepares the statements of these lists.
#[test]
fn each_statement_is_in_the_list_of_its_file() {
    let mut wrong = Vec::new();
    for file in engine()
        .iter()
        .filter(|file| file.path.starts_with("sysdb/") && !WITHOUT_LIST.contains(&file.path.as_str()))
    {
        let names = file.code.lines().filter_map(|line| {
            let line = line.strip_prefix("pub(super) ").unwrap_or(line);
            line.strip_prefix("const ")?.split_once(": Statement").map(|(name, _)| name.to_owned())
        });
        let listed: String = file
            .code
            .split("const ALL: &[Statement] =")
            .nth(1)
            .and_then(|rest| rest.split(';').next())
            .unwrap_or_default()
            .to_owned();
        let listed: BTreeSet<&str> = listed.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        wrong.extend(
            names
                .filter(|name| !listed.contains(name.as_str()))
                .map(|name| format!("{}: {name} is in no list", file.path)),
        );
    }
    nothing_is_wrong(&wrong);
}

/// The paths of all Rust files below a folder, from the root on, with their texts.
fn sources(folder: &str) -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources").flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                let path = path.strip_prefix(&root).expect("below the root").display().to_string();
                found.push((path, text));
            }
        }
    }
    found
}

/// A reader sees one item at a time: its docs say what it does, not what it has in common with its neighbour.
#[test]
fn no_doc_comment_begins_with_the_same() {
    let mut wrong = Vec::new();
    for (path, text) in ["crates", "xtask", "examples"].into_iter().flat_map(sources) {
        let mut is_in_docs = false;
        for (number, line) in text.lines().enumerate() {
            let docs = line.trim_start().strip_prefix("/// ");
            if !is_in_docs && docs.is_some_and(|docs| docs.starts_with("The same")) {
                wrong.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
            is_in_docs = docs.is_some();
        }
    }
    nothing_is_wrong(&wrong);
}

/// The longest sentence in the docs of a public item, in words.
const SENTENCE_WORDS_MAX: usize = 25;

/// The docs of the public items in a file, each with the number of its first line. Those of the crate are `//!` lines.
fn docs_of_public_items(path: &str, text: &str) -> Vec<(usize, Vec<String>)> {
    let marker = if path.ends_with("src/lib.rs") { "//!" } else { "///" };
    let (mut found, mut docs, mut first) = (Vec::new(), Vec::new(), 0);
    for (number, line) in text.split("\nmod tests {").next().unwrap_or_default().lines().enumerate() {
        let line = line.trim_start();
        if let Some(doc) = line.strip_prefix(marker).or_else(|| line.strip_prefix("///")) {
            if docs.is_empty() {
                first = number + 1;
            }
            docs.push(doc.trim().to_owned());
        } else if !line.starts_with("#[") {
            let docs = std::mem::take(&mut docs);
            if !docs.is_empty() && (line.starts_with("pub ") || first == 1) {
                found.push((first, docs));
            }
        }
    }
    found
}

/// The sentences of some docs, without code, tables and headings. A list item is a paragraph.
fn sentences(docs: &[String]) -> Vec<String> {
    let (mut paragraphs, mut is_code) = (vec![String::new()], false);
    for line in docs {
        is_code ^= line.starts_with("```");
        if is_code || line.is_empty() || ["```", "#", "|"].iter().any(|mark| line.starts_with(mark)) {
            paragraphs.push(String::new());
            continue;
        }
        if line.starts_with("- ") {
            paragraphs.push(String::new());
        }
        let paragraph = paragraphs.last_mut().expect("one to begin with");
        paragraph.push_str(line.trim_start_matches("- "));
        paragraph.push(' ');
    }
    let ends = |word: &str| word.trim_end_matches([')', '*', '"']).ends_with(['.', '?', '!']);
    let mut found = Vec::new();
    for paragraph in paragraphs {
        let mut sentence = Vec::new();
        for word in paragraph.split_whitespace() {
            sentence.push(word);
            if ends(word) {
                found.push(std::mem::take(&mut sentence).join(" "));
            }
        }
        found.push(sentence.join(" "));
    }
    found
}

/// A sentence of a public item is understood at the first reading.
#[test]
fn sentences_about_public_items_are_short() {
    let mut wrong = Vec::new();
    for (path, text) in sources("crates/engine/src") {
        for (line, docs) in docs_of_public_items(&path, &text) {
            for sentence in sentences(&docs) {
                let words = sentence.split_whitespace().filter(|word| word.contains(char::is_alphanumeric));
                let count = words.count();
                if count > SENTENCE_WORDS_MAX {
                    wrong.push(format!("{path}:{line}: {count} words: {sentence}"));
                }
            }
        }
    }
    nothing_is_wrong(&wrong);
}
