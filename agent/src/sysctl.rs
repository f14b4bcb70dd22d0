//! Kernel settings under `/proc/sys`, of the calling thread's network namespace.

use std::{
    fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

/// A setting that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// Could not be read.
    #[error("read {path}: {source}; mount /proc, and run in the host's own file system view")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Could not be written.
    #[error(
        "write {value} to {path}: {source}; run as root with /proc/sys writable, or set it by hand"
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Holds something else than it does on a kernel that we know.
    #[error("{path} holds `{found}`, which is not {wanted}")]
    Unexpected {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
        /// What it should hold.
        wanted: &'static str,
    },
}

/// The settings below one folder, which is `/proc/sys` outside tests.
#[derive(Clone, Debug)]
pub struct Sysctls {
    root: PathBuf,
}

impl Sysctls {
    /// The kernel's own.
    #[must_use]
    pub fn host() -> Self {
        Self::below("/proc/sys")
    }

    /// Those below a folder.
    #[must_use]
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// `net.ipv4.ip_default_ttl`: the TTL of outer headers.
    pub fn default_ttl(&self) -> Result<u8, SysctlError> {
        let path = self.root.join("net/ipv4/ip_default_ttl");
        parse(&path, &read(&path)?, "a TTL from 1 to 255")
    }

    /// `net.ipv4.ip_local_port_range`, both ends included: where VXLAN source ports come from.
    pub fn local_port_range(&self) -> Result<(u16, u16), SysctlError> {
        let path = self.root.join("net/ipv4/ip_local_port_range");
        let text = read(&path)?;
        let wanted = "two ports";
        match text.split_ascii_whitespace().collect::<Vec<_>>()[..] {
            [low, high] => Ok((parse(&path, low, wanted)?, parse(&path, high, wanted)?)),
            _ => Err(unexpected(&path, &text, wanted)),
        }
    }

    /// `net.netfilter.nf_conntrack_max`; `None` while conntrack is not loaded.
    pub fn conntrack_max(&self) -> Result<Option<u32>, SysctlError> {
        let path = self.root.join("net/netfilter/nf_conntrack_max");
        match read(&path) {
            Ok(text) => parse(&path, &text, "a number of connections").map(Some),
            Err(SysctlError::Read { path: _, source })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// `net.netfilter.nf_conntrack_tcp_loose`: whether conntrack takes up a connection in
    /// mid-stream. Nobody minds where there is no conntrack.
    pub fn picks_up_tcp(&self) -> Result<bool, SysctlError> {
        let path = self.root.join("net/netfilter/nf_conntrack_tcp_loose");
        match read(&path) {
            Ok(text) => Ok(text != "0"),
            Err(SysctlError::Read { path: _, source })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(true)
            }
            Err(other) => Err(other),
        }
    }

    /// Turns `net.ipv4.ip_forward` on, and says whether it was off.
    pub fn enable_forwarding(&self) -> Result<bool, SysctlError> {
        let path = self.root.join("net/ipv4/ip_forward");
        // Writing the value that is there already would still reset per-device settings.
        if read(&path)? != "0" {
            return Ok(false);
        }
        write(&path, "1")?;
        Ok(true)
    }

    /// Whether what comes in by a device is forwarded. Nothing is done where it is not there.
    pub fn forward_from(&self, device: &str, on: bool) -> Result<(), SysctlError> {
        let path = self.root.join("net/ipv4/conf").join(device);
        let path = path.join("forwarding");
        let wanted = if on { "1" } else { "0" };
        match read(&path) {
            Ok(found) if found == wanted => Ok(()),
            Ok(_) => write(&path, wanted),
            Err(SysctlError::Read { path: _, source })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            Err(other) => Err(other),
        }
    }

    /// Sets `net.<family>.conf.<device>.<key>`, where the family is `ipv4` or `ipv6`.
    pub fn set_device(
        &self,
        family: &str,
        device: &str,
        key: &str,
        value: &str,
    ) -> Result<(), SysctlError> {
        let path = ["net", family, "conf", device, key]
            .iter()
            .fold(self.root.clone(), |path, part| path.join(part));
        write(&path, value)
    }
}

fn read(path: &Path) -> Result<String, SysctlError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(source) => Err(SysctlError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn write(path: &Path, value: &str) -> Result<(), SysctlError> {
    // Never created: a name that the kernel does not know is an error.
    fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(|source| SysctlError::Write {
            path: path.to_owned(),
            value: value.to_owned(),
            source,
        })
}

fn parse<T: FromStr>(path: &Path, text: &str, wanted: &'static str) -> Result<T, SysctlError> {
    text.parse().map_err(|_kind| unexpected(path, text, wanted))
}

fn unexpected(path: &Path, found: &str, wanted: &'static str) -> SysctlError {
    SysctlError::Unexpected {
        path: path.to_owned(),
        found: found.to_owned(),
        wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Sysctls) {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let sysctls = Sysctls::below(root.path());
        (root, sysctls)
    }

    #[test]
    fn settings_are_read() {
        let (_root, sysctls) = tree(&[
            ("net/ipv4/ip_default_ttl", "64\n"),
            ("net/ipv4/ip_local_port_range", "32768\t60999\n"),
            ("net/netfilter/nf_conntrack_max", "262144\n"),
        ]);
        assert_eq!(sysctls.default_ttl().unwrap(), 64);
        assert_eq!(sysctls.local_port_range().unwrap(), (32768, 60999));
        assert_eq!(sysctls.conntrack_max().unwrap(), Some(262_144));
    }

    #[test]
    fn what_is_missing_or_odd_is_named() {
        let (_root, sysctls) = tree(&[("net/ipv4/ip_local_port_range", "1 2 3")]);
        assert_eq!(sysctls.conntrack_max().unwrap(), None);
        let missing = sysctls.default_ttl().unwrap_err().to_string();
        assert!(missing.contains("net/ipv4/ip_default_ttl"), "{missing}");
        let odd = sysctls.local_port_range().unwrap_err().to_string();
        assert!(odd.contains("`1 2 3`, which is not two ports"), "{odd}");
        let unknown = sysctls.set_device("ipv6", "x", "y", "0").unwrap_err();
        assert!(unknown.to_string().contains("net/ipv6/conf/x/y"));
    }

    #[test]
    fn forwarding_is_turned_on_once() {
        let (_root, sysctls) = tree(&[("net/ipv4/ip_forward", "0\n")]);
        assert!(sysctls.enable_forwarding().unwrap());
        assert!(!sysctls.enable_forwarding().unwrap());
    }

    #[test]
    fn a_device_is_set() {
        let (root, sysctls) = tree(&[("net/ipv6/conf/flannel.1/accept_ra", "1\n")]);
        sysctls
            .set_device("ipv6", "flannel.1", "accept_ra", "0")
            .unwrap();
        let path = root.path().join("net/ipv6/conf/flannel.1/accept_ra");
        assert_eq!(fs::read_to_string(path).unwrap(), "0");
    }

    #[test]
    fn the_kernel_here_is_readable() {
        let sysctls = Sysctls::host();
        assert!(sysctls.default_ttl().unwrap() > 0);
        let (low, high) = sysctls.local_port_range().unwrap();
        assert!(low <= high);
        sysctls.conntrack_max().unwrap();
    }
}
