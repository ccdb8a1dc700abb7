//! The user under whom a server runs: PostgreSQL refuses to run as root.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// Users that a server may run as when this process is root's.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// A user and a group; `None` for this process's own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner(Option<(u32, u32)>);

impl Owner {
    pub(crate) fn of_servers() -> io::Result<Self> {
        // This reads the owner of this process without another crate.
        if fs::metadata("/proc/self").map_or(1, |own| own.uid()) != 0 {
            return Ok(Self(None));
        }
        let users = fs::read_to_string("/etc/passwd")?;
        let found = USERS.iter().find_map(|name| users.lines().find_map(|line| ids_of(line, name)));
        let missing =
            || io::Error::other("PostgreSQL does not run as root, and there is no user postgres or nobody");
        found.map(|ids| Self(Some(ids))).ok_or_else(missing)
    }

    pub(crate) fn give(self, path: &Path) -> io::Result<()> {
        let Self(Some((user, group))) = self else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(user), Some(group))
    }

    /// A program in a process group of its own: a terminal's signal that ends this process does not reach it.
    pub(crate) fn command(self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.process_group(0).current_dir("/");
        if let Self(Some((user, group))) = self {
            command.uid(user).gid(group);
        }
        command
    }
}

/// From a line of `/etc/passwd`: `name:x:uid:gid:...`.
fn ids_of(line: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields = line.split(':');
    if fields.next() != Some(name) {
        return None;
    }
    let mut number = || fields.next().and_then(|field| field.parse::<u32>().ok());
    let _password = number();
    Some((number()?, number()?))
}
