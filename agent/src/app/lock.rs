//! One agent for one network: a locked file that names the holder.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use ipnet::Ipv4Net;
use nix::fcntl::{Flock, FlockArg};

use crate::model::net::Vni;

const FOLDER: &str = "/run/weft";

/// Held for as long as the agent runs.
#[derive(Debug)]
pub struct Lock(Flock<File>);

impl Lock {
    /// Says whose the network's rules are, to agents of other networks on this host, and where this
    /// one answers. The file stays when the agent ends, and so do the rules.
    pub fn claim(&mut self, network: Ipv4Net, socket: &Path) -> io::Result<()> {
        let pid = std::process::id();
        self.write(&format!("{pid}\n{network}\n{}\n", name_of(socket)))
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.rewind()?;
        self.0.write_all(text.as_bytes())
    }
}

/// Takes the lock of a network, or says who holds it.
pub fn take(vni: Vni) -> Result<Lock, String> {
    let path = PathBuf::from(format!("/run/weft/{vni}.lock"));
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    fs::create_dir_all("/run/weft").map_err(|error| named(&error))?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| named(&error))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            let mut lock = Lock(lock);
            // What the last agent said holds until the next one says otherwise.
            let mut before = String::new();
            let read = lock.0.read_to_string(&mut before);
            read.map_err(|error| named(&error))?;
            let rest = before.split_once('\n').map_or("", |(_pid, rest)| rest);
            let text = format!("{}\n{rest}", std::process::id());
            lock.write(&text).map_err(|error| named(&error))?;
            Ok(lock)
        }
        Err((mut file, _)) => {
            let mut holder = String::new();
            // The number is for the message only.
            let _ = file.read_to_string(&mut holder);
            let holder = holder.lines().next().unwrap_or_default();
            Err(format!(
                "network {vni} on this host already has an agent: process {holder}"
            ))
        }
    }
}

/// Networks of this host that have a lock, other than this one.
#[must_use]
pub fn others(vni: Vni) -> Vec<String> {
    let own = format!("{vni}.lock");
    let entries = fs::read_dir("/run/weft").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".lock") && *name != own)
        .collect()
}

/// Ranges of this host's other networks, as their agents claimed them.
#[must_use]
pub fn networks(vni: Vni) -> Vec<Ipv4Net> {
    let texts = others(vni).into_iter().filter_map(|name| {
        // A file that went meanwhile is no network.
        fs::read_to_string(format!("/run/weft/{name}")).ok()
    });
    texts
        .filter_map(|text| text.lines().nth(1)?.parse().ok())
        .collect()
}

/// The network whose agent answers at a socket, or did so last; `None` where no file says so.
#[must_use]
pub fn network_at(socket: &Path) -> Option<Vni> {
    network_in(Path::new(FOLDER), socket)
}

fn network_in(folder: &Path, socket: &Path) -> Option<Vni> {
    let socket = name_of(socket);
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let claimed = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let vni: u64 = name.strip_suffix(".lock")?.parse().ok()?;
        let text = fs::read_to_string(entry.path()).ok()?;
        let written = entry.metadata().and_then(|file| file.modified());
        let written = written.unwrap_or(SystemTime::UNIX_EPOCH);
        let claimed = (written, Vni::try_from(vni).ok()?);
        (text.lines().nth(2) == Some(&socket)).then_some(claimed)
    });
    // An agent that was given another network left the file of the one before.
    claimed.max().map(|(_, vni)| vni)
}

/// A socket by one name, however it was typed.
fn name_of(socket: &Path) -> String {
    let whole = std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned());
    let resolved = match (whole.parent().map(fs::canonicalize), whole.file_name()) {
        (Some(Ok(folder)), Some(name)) => folder.join(name),
        _ => whole,
    };
    resolved.display().to_string()
}

/// Removes the file of a lock that is held by the caller.
pub fn remove(vni: Vni) {
    // What is gone already is as good.
    let _ = fs::remove_file(format!("/run/weft/{vni}.lock"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_that_of_the_network_that_claimed_it_last() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str, age: u64| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            let when = SystemTime::now() - std::time::Duration::from_secs(age);
            File::options()
                .write(true)
                .open(&path)
                .and_then(|file| file.set_modified(when))
                .unwrap();
        };
        put("1.lock", "7\n10.1.0.0/16\n/nowhere/a.sock\n", 3);
        put("2.lock", "8\n10.2.0.0/16\n/nowhere/b.sock\n", 2);
        put("3.lock", "9\n10.3.0.0/16\n/nowhere/b.sock\n", 1);
        // Of an agent that did not say so yet.
        put("4.lock", "9\n10.4.0.0/16\n", 0);
        let network = |socket: &str| network_in(folder.path(), Path::new(socket));
        let vni = |number: u64| Some(Vni::try_from(number).unwrap());
        assert_eq!(network("/nowhere/a.sock"), vni(1));
        assert_eq!(network("/nowhere/b.sock"), vni(3));
        assert_eq!(network("/nowhere/c.sock"), None);
    }
}
