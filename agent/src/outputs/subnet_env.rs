//! `subnet.env`: what container runtimes learn of this node's subnet, byte for byte as flannel
//! writes it.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Read, Write},
    net::Ipv4Addr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use ipnet::{IpNet, Ipv4Net};

use crate::model::{
    json::short,
    net::{Mtu, Subnet},
};

/// More than any such file holds.
const MAX_FILE: u64 = 64 * 1024;

/// The contents of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetEnv {
    /// The whole overlay range.
    pub network: Ipv4Net,
    /// This node's slice of it.
    pub subnet: Ipv4Net,
    /// MTU of containers.
    pub mtu: Mtu,
    /// Whether the agent masquerades, so that the runtime must not.
    pub ip_masq: bool,
}

/// Why a file does not say what a runtime needs.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    /// It cannot be read.
    #[error("`{path}` cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A variable that must be there.
    #[error("`{0}` is missing in subnet.env: is the agent running?")]
    Missing(&'static str),
    /// A variable with a value that cannot be.
    #[error("`{name}` in subnet.env is `{value}`, it must be {want}")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        want: &'static str,
    },
}

impl SubnetEnv {
    /// The file's text.
    #[must_use]
    pub fn text(&self) -> String {
        let Self {
            network,
            subnet,
            mtu,
            ip_masq,
        } = self;
        let bridge = bridge(*subnet);
        format!(
            "FLANNEL_NETWORK={network}\nFLANNEL_SUBNET={bridge}\nFLANNEL_MTU={mtu}\nFLANNEL_IPMASQ={ip_masq}\n"
        )
    }

    /// The address that the containers' bridge gets: the subnet's first.
    #[must_use]
    pub fn bridge(&self) -> Ipv4Net {
        bridge(self.subnet)
    }

    /// Reads the text of such a file, flannel's too.
    pub fn parse(text: &str) -> Result<Self, EnvError> {
        let variables = Variables::read(text);
        let range = |name| {
            let range = variables.range(name)?.ok_or(EnvError::Missing(name))?;
            Ok(range.trunc())
        };
        Ok(Self {
            network: range("FLANNEL_NETWORK")?,
            subnet: range("FLANNEL_SUBNET")?,
            mtu: variables
                .mtu("FLANNEL_MTU")?
                .ok_or(EnvError::Missing("FLANNEL_MTU"))?,
            ip_masq: variables
                .truth("FLANNEL_IPMASQ")?
                .ok_or(EnvError::Missing("FLANNEL_IPMASQ"))?,
        })
    }

    /// Reads such a file.
    pub fn read(path: &Path) -> Result<Self, EnvError> {
        Self::parse(&read(path)?)
    }

    /// Puts the file in place in one step: a runtime that reads it never sees half of it.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        put(path, &self.text())
    }
}

/// The text of such a file.
pub fn read(path: &Path) -> Result<String, EnvError> {
    read_limited(path).map_err(|source| EnvError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Puts a file in place in one step, readable by everybody.
pub fn put(path: &Path, text: &str) -> io::Result<()> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    if let Some(dir) = dir {
        create_dir(dir)?;
    }
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    let draft = path.with_file_name(hidden);
    // What a crash left behind, and never through a link that somebody put there.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&draft)?;
    // The mode above is cut by the umask, and runtimes without root must read the file.
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

/// The subnet that the last run was given, as flannel finds it: one range, host bits cut off.
/// Whatever is wrong with the file means that there is none.
#[must_use]
pub fn read_previous(path: &Path) -> Option<Subnet> {
    let text = read_limited(path).ok()?;
    let variables = variables(&text);
    let value = variables.get("FLANNEL_SUBNET")?;
    let mut ranges = value
        .split(',')
        .filter_map(|part| part.trim().parse::<Ipv4Net>().ok());
    let only = ranges.next()?;
    if ranges.next().is_some() {
        return None;
    }
    Subnet::try_from(IpNet::V4(only.trunc())).ok()
}

fn bridge(subnet: Ipv4Net) -> Ipv4Net {
    let addr = Ipv4Addr::from(u32::from(subnet.network()).wrapping_add(1));
    Ipv4Net::new_assert(addr, subnet.prefix_len())
}

/// The variables of such a file.
pub(super) struct Variables<'text>(BTreeMap<&'text str, String>);

impl<'text> Variables<'text> {
    pub(super) fn read(text: &'text str) -> Self {
        Self(variables(text))
    }

    /// An address with its prefix, host bits kept.
    pub(super) fn range(&self, name: &'static str) -> Result<Option<Ipv4Net>, EnvError> {
        self.get(name, "an IPv4 range", |value| value.parse().ok())
    }

    pub(super) fn mtu(&self, name: &'static str) -> Result<Option<Mtu>, EnvError> {
        self.get(name, "a number from 576", |value| {
            Mtu::try_from(value.parse::<u32>().ok()?).ok()
        })
    }

    pub(super) fn truth(&self, name: &'static str) -> Result<Option<bool>, EnvError> {
        self.get(name, "true or false", |value| value.parse().ok())
    }

    fn get<T>(
        &self,
        name: &'static str,
        want: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, EnvError> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        read(value)
            .map(Some)
            .ok_or_else(|| invalid(name, value, want))
    }
}

/// Lines of a dotenv file: `export`, quotes, blanks, comments and Windows line ends are allowed.
fn variables(text: &str) -> BTreeMap<&str, String> {
    text.lines()
        .filter_map(|line| {
            let line = line.trim();
            let line = line.strip_prefix("export ").unwrap_or(line);
            let (name, value) = line.split_once('=')?;
            let name = name.trim();
            (!name.starts_with('#')).then(|| (name, unquoted(value.trim()).to_owned()))
        })
        .collect()
}

fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote) {
            return rest.split(quote).next().unwrap_or(rest);
        }
    }
    value.split(" #").next().unwrap_or(value).trim_end()
}

/// Only a regular file of a sane size: a FIFO would never end.
fn read_limited(path: &Path) -> io::Result<String> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        ));
    }
    let mut text = String::new();
    let length = fs::File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_string(&mut text)?;
    if u64::try_from(length).is_ok_and(|length| length > MAX_FILE) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is too large",
        ));
    }
    Ok(text)
}

/// Creates what is missing of a directory, open to readers whatever the umask.
fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_dir(parent)?;
    }
    match DirBuilder::new().mode(0o755).create(dir) {
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(0o755)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

fn invalid(name: &'static str, value: &str, want: &'static str) -> EnvError {
    EnvError::Invalid {
        name,
        value: short(value),
        want,
    }
}

#[cfg(test)]
mod tests;
