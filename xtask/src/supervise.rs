//! One child process: started, told to stop when this one is, and waited for.

use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The process that runs now; 0 for none.
static CHILD: AtomicU32 = AtomicU32::new(0);

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Exit(u8),
    /// By a signal of this name.
    Death(String),
}

/// From here on, INT and TERM are for the child: it stops in order, and so do we.
pub(crate) fn forward_signals() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        INTERRUPTED.store(true, Ordering::SeqCst);
        interrupt(CHILD.load(Ordering::SeqCst));
    })?;
    Ok(())
}

pub(crate) fn was_interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Runs a command to its end, in a process group of its own: a Ctrl-C at the terminal reaches it once, through this
/// process.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<End> {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    let mut child = command.spawn()?;
    CHILD.store(child.id(), Ordering::SeqCst);
    if was_interrupted() {
        interrupt(child.id());
    }
    let status = child.wait();
    CHILD.store(0, Ordering::SeqCst);
    Ok(end_of(status?))
}

fn end_of(status: ExitStatus) -> End {
    #[cfg(unix)]
    if let Some(number) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let name = nix::sys::signal::Signal::try_from(number).map(nix::sys::signal::Signal::as_str);
        return End::Death(name.map_or_else(|_| format!("signal {number}"), str::to_owned));
    }
    status.code().map_or_else(
        || End::Death("an unknown signal".to_owned()),
        // Windows has larger codes; they count as a failure.
        |code| End::Exit(u8::try_from(code).unwrap_or(1)),
    )
}

fn interrupt(pid: u32) {
    #[cfg(unix)]
    if let Ok(pid) = i32::try_from(pid)
        && pid > 0
    {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGINT);
    }
    #[cfg(not(unix))]
    let _ = pid;
}
