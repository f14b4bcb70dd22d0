//! One agent for one network: a locked file that names the holder.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    path::PathBuf,
};

use nix::fcntl::{Flock, FlockArg};

use crate::model::net::Vni;

/// Held for as long as the agent runs.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "unlocks when it is dropped")] Flock<File>);

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
        Ok(mut lock) => {
            let written = lock
                .set_len(0)
                .and_then(|()| lock.rewind())
                .and_then(|()| write!(lock, "{}", std::process::id()));
            written.map_err(|error| named(&error))?;
            Ok(Lock(lock))
        }
        Err((mut file, _)) => {
            let mut holder = String::new();
            // The number is for the message only.
            let _ = file.read_to_string(&mut holder);
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

/// Removes the file of a lock that is held by the caller.
pub fn remove(vni: Vni) {
    // What is gone already is as good.
    let _ = fs::remove_file(format!("/run/weft/{vni}.lock"));
}
