//! The same process once more, with a command line that everybody may read.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use super::complain;
use crate::cli::Hidden;

/// What runs, whatever has become of its file.
const MYSELF: &str = "/proc/self/exe";

/// Starts this program anew in this process, the password in its environment, which root and its
/// own user alone can read. Returns only where that fails: then all goes on as it was typed.
pub fn without_password(hidden: &Hidden) {
    let mut words = hidden.args.iter();
    let Some(name) = words.next() else { return };
    let error = match program(name) {
        Ok(program) => Command::new(program)
            .arg0(name)
            .args(words)
            .env(hidden.variable, &hidden.value)
            .exec(),
        Err(error) => error,
    };
    complain(&format!(
        "the password stays in the process list: {error}; use --etcd-password-file or {}",
        hidden.variable
    ));
}

/// This program by the name that it was started by, which the process list shows; by
/// [`MYSELF`] where another file has that name by now.
fn program(name: &OsStr) -> io::Result<PathBuf> {
    let file = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    let me = file(Path::new(MYSELF))?;
    let mut names = Vec::new();
    if Path::new(name).components().nth(1).is_some() {
        names.push(PathBuf::from(name));
    } else if let Some(path) = env::var_os("PATH") {
        names.extend(env::split_paths(&path).map(|folder| folder.join(name)));
    }
    names.extend(fs::read_link(MYSELF).ok());
    let found = names
        .into_iter()
        .find(|path| file(path).is_ok_and(|file| file == me));
    Ok(found.unwrap_or_else(|| MYSELF.into()))
}
