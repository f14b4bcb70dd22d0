//! One agent for one network: a locked file that names the holder.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    path::PathBuf,
};

use ipnet::Ipv4Net;
use nix::fcntl::{Flock, FlockArg};

use crate::model::net::Vni;

/// Held for as long as the agent runs.
#[derive(Debug)]
pub struct Lock(Flock<File>);

impl Lock {
    /// Says whose the network's rules are, to agents of other networks on this host. The file stays
    /// when the agent ends, and so do the rules.
    pub fn claim(&mut self, network: Ipv4Net) -> io::Result<()> {
        self.write(&format!("{}\n{network}\n", std::process::id()))
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
            let pid = std::process::id().to_string();
            lock.write(&pid).map_err(|error| named(&error))?;
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

/// Removes the file of a lock that is held by the caller.
pub fn remove(vni: Vni) {
    // What is gone already is as good.
    let _ = fs::remove_file(format!("/run/weft/{vni}.lock"));
}
