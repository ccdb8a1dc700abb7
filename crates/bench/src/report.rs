//! The table and the JSON object.

use serde_json::{Value, json};

pub(crate) struct Report {
    durability: String,
    lines: Vec<Line>,
}

/// One measurement, and the number with which it is compared.
pub(crate) struct Line {
    name: String,
    unit: &'static str,
    rate: f64,
    latency_ms: Option<(f64, f64)>,
    commits_per_write: Option<f64>,
    targets: Vec<Target>,
}

struct Target {
    what: &'static str,
    value: f64,
    /// The limit; a number without a limit is only shown.
    limit: Option<f64>,
    at_least: bool,
}

impl Target {
    fn is_met(&self) -> Option<bool> {
        self.limit.map(|limit| if self.at_least { self.value >= limit } else { self.value <= limit })
    }

    fn told(&self) -> String {
        let Self { what, value, limit, at_least } = self;
        let bound = if *at_least { "at least" } else { "at most" };
        let verdict = |met| if met { "met" } else { "MISSED" };
        match (limit, self.is_met().map(verdict)) {
            (Some(limit), Some(verdict)) => {
                format!("{value:.2} {what} (target: {bound} {limit}): {verdict}")
            }
            _ => format!("{value:.2} {what}"),
        }
    }
}

impl Line {
    pub(crate) fn rate(name: &str, unit: &'static str, rate: f64) -> Self {
        let name = name.to_owned();
        Self { name, unit, rate, latency_ms: None, commits_per_write: None, targets: Vec::new() }
    }

    pub(crate) fn latency(mut self, p50_ms: f64, p99_ms: f64) -> Self {
        self.latency_ms = Some((p50_ms, p99_ms));
        self
    }

    pub(crate) fn commits_per_write(mut self, ratio: f64) -> Self {
        self.commits_per_write = Some(ratio);
        self
    }

    pub(crate) fn against(mut self, what: &'static str, value: f64, limit: Option<f64>) -> Self {
        self.targets.push(Target { what, value, limit, at_least: true });
        self
    }

    pub(crate) fn below(mut self, what: &'static str, value: f64, limit: Option<f64>) -> Self {
        self.targets.push(Target { what, value, limit, at_least: false });
        self
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "unit": self.unit,
            "rate": self.rate,
            "p50_ms": self.latency_ms.map(|(p50, _)| p50),
            "p99_ms": self.latency_ms.map(|(_, p99)| p99),
            "commits_per_write": self.commits_per_write,
            "targets": self.targets.iter().map(|target| json!({
                "what": target.what, "value": target.value, "limit": target.limit,
                "at_least": target.at_least, "met": target.is_met(),
            })).collect::<Vec<_>>(),
        })
    }
}

impl Report {
    /// A report of commits with this durability.
    pub(crate) fn new(durability: String) -> Self {
        Self { durability, lines: Vec::new() }
    }

    pub(crate) fn add(&mut self, line: Line) {
        self.lines.push(line);
    }

    pub(crate) fn print(&self) {
        println!("{}", machine());
        println!("durability: {}", self.durability);
        println!();
        println!("{:<58} {:>12} {:<12} {:>8} {:>8} {:>9}", "", "rate", "", "p50 ms", "p99 ms", "commits/w");
        for line in &self.lines {
            let number = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.2}"));
            println!(
                "{:<58} {:>12.1} {:<12} {:>8} {:>8} {:>9}",
                line.name,
                line.rate,
                line.unit,
                number(line.latency_ms.map(|(p50, _)| p50)),
                number(line.latency_ms.map(|(_, p99)| p99)),
                line.commits_per_write.map_or(String::new(), |ratio| format!("{ratio:.3}")),
            );
            for target in &line.targets {
                println!("    {}", target.told());
            }
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let lines: Vec<_> = self.lines.iter().map(Line::to_json).collect();
        json!({ "machine": machine(), "durability": self.durability, "lines": lines })
    }
}

/// Processor, cores and system, as far as they can be told.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    format!("machine: {}, {cores} cores, {os} {arch}", model.unwrap_or("processor unknown"))
}
