//! `pstats`: the file that Python's `cProfile` writes and `snakeviz` draws.
//!
//! It is one marshalled dictionary: a function is `(file, line, name)`, and its value is
//! `(primitive calls, calls, own time, total time, {caller: (calls, primitive calls, own time, total time)})`,
//! times in seconds.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Node, Part, walk};

/// A function: the part stands where Python has the file, so that viewers group by it.
type Function = (&'static str, String);

#[derive(Default, Clone)]
struct Stats {
    calls: u64,
    own: Duration,
    total: Duration,
    callers: BTreeMap<Function, Stats>,
}

pub(super) fn pstats(main: &Node) -> Vec<u8> {
    let mut functions: BTreeMap<Function, Stats> = BTreeMap::new();
    walk(main, &mut |path, node| {
        let function = |at: usize| path.get(at).map(|(name, part)| (file(*part), (*name).to_owned()));
        let Some(own) = function(path.len() - 1) else { return };
        let stats = functions.entry(own).or_default();
        stats.add(node);
        if let Some(caller) = path.len().checked_sub(2).and_then(function) {
            stats.callers.entry(caller).or_default().add(node);
        }
    });
    let mut bytes = vec![b'{'];
    for (function, stats) in &functions {
        put_function(&mut bytes, function);
        put_tuple(&mut bytes, 5);
        put_stats(&mut bytes, stats);
        bytes.push(b'{');
        for (caller, stats) in &stats.callers {
            put_function(&mut bytes, caller);
            put_tuple(&mut bytes, 4);
            put_stats(&mut bytes, stats);
        }
        bytes.push(b'0');
    }
    bytes.push(b'0');
    bytes
}

impl Stats {
    fn add(&mut self, node: &Node) {
        self.calls += node.calls;
        self.own += node.own();
        self.total += node.total;
    }
}

const fn file(part: Part) -> &'static str {
    match part {
        Part::Engine => "engine",
        Part::Commit => "engine/commit",
        Part::StepBody => "step body",
        Part::ApplicationDatabase => "application database",
        Part::Wait => "wait",
    }
}

fn put_function(bytes: &mut Vec<u8>, (file, name): &Function) {
    put_tuple(bytes, 3);
    put_text(bytes, file);
    put_number(bytes, 0);
    put_text(bytes, name);
}

/// Recursion is told apart by callers, so all calls count as primitive.
fn put_stats(bytes: &mut Vec<u8>, stats: &Stats) {
    put_number(bytes, stats.calls);
    put_number(bytes, stats.calls);
    put_float(bytes, stats.own.as_secs_f64());
    put_float(bytes, stats.total.as_secs_f64());
}

fn put_tuple(bytes: &mut Vec<u8>, len: u32) {
    bytes.push(b'(');
    bytes.extend(len.to_le_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(b'u');
    bytes.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// As Python does: 32 bits, or digits of 15 bits.
fn put_number(bytes: &mut Vec<u8>, number: u64) {
    if let Ok(small) = i32::try_from(number) {
        bytes.push(b'i');
        bytes.extend(small.to_le_bytes());
        return;
    }
    // 64 bits have at most five such digits.
    let digits: Vec<u8> = (0..5)
        .map(|place| number >> (15 * place))
        .take_while(|rest| *rest > 0)
        .flat_map(|rest| ((rest & 0x7fff) as u16).to_le_bytes())
        .collect();
    bytes.push(b'l');
    bytes.extend(u32::try_from(digits.len() / 2).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend(digits);
}

fn put_float(bytes: &mut Vec<u8>, number: f64) {
    bytes.push(b'g');
    bytes.extend(number.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::tests::sample;
    use super::*;

    fn number(number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_number(&mut bytes, number);
        bytes
    }

    #[test]
    fn numbers_are_marshalled_as_python_does() {
        assert_eq!(number(7), [b'i', 7, 0, 0, 0]);
        assert_eq!(number(0x8000_0000), [b'l', 3, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    }

    /// Without Python there is nothing to compare with, and the test says so.
    #[test]
    fn pstats_of_python_reads_the_profile() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.prof");
        let mut main = sample();
        main.calls = 0x1_0000_0001;
        std::fs::write(&path, pstats(&main)).unwrap();
        let script = "import pstats, sys\n\
                      stats = pstats.Stats(sys.argv[1])\n\
                      print(stats.total_calls, round(stats.total_tt * 1000))\n\
                      for name, (cc, nc, tt, ct, callers) in sorted(stats.stats.items()):\n\
                      \x20   print(*name, nc, round(tt * 1000), round(ct * 1000), [c[2] for c in callers])\n";
        let output = match Command::new("python3").args(["-c", script]).arg(&path).output() {
            Ok(output) => output,
            Err(error) => {
                eprintln!("SKIPPED: no python3 to read the profile with ({error})");
                return;
            }
        };
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "4294967311 100",
                "application database 0 insert_users_page 1 5 5 ['users_workflow']",
                "engine 0 main 4294967297 10 100 []",
                "engine 0 users_workflow 1 25 90 ['main']",
                "engine/commit 0 commit record_step 2 20 20 ['users_workflow']",
                "step body 0 step users 10 40 40 ['users_workflow']",
            ]
        );
    }
}
