//! What the engine logs.

use std::sync::{Arc, Mutex, OnceLock};

/// Warnings and information of the engine, of all tests of this process.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    /// The lines that hold this text.
    pub(crate) fn lines(&self, text: &str) -> Vec<String> {
        self.0.lock().unwrap().iter().filter(|line| line.contains(text)).cloned().collect()
    }
}

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("engine") && metadata.level() <= log::Level::Info
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.lock().unwrap().push(format!("{} {}", record.level(), record.args()));
        }
    }

    fn flush(&self) {}
}

pub(crate) fn listen_to_the_log() -> Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    let log = LOG.get_or_init(|| {
        let log = Log::default();
        if log::set_boxed_logger(Box::new(log.clone())).is_ok() {
            log::set_max_level(log::LevelFilter::Info);
        }
        log
    });
    log.clone()
}
