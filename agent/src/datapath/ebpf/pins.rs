//! Where maps and links are pinned, and whether what is pinned there is what we expect.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use aya::{Ebpf, maps::MapInfo};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::statfs,
};
use weft_common::{abi, stats::Hook};

use super::{call, io_call};
use crate::{
    datapath::DatapathError,
    model::net::{IfIndex, Vni},
};

/// Where the kernel's BPF file system belongs.
const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPFFS_MAGIC: i64 = 0xcafe_4a11;

/// The folder of one network's pins: `/sys/fs/bpf/weft/v<ABI>/<vni>`.
#[derive(Clone, Debug)]
pub struct PinDir(PathBuf);

impl PinDir {
    /// The folder for a network.
    #[must_use]
    pub fn new(vni: Vni) -> Self {
        Self(Path::new(BPFFS).join(format!("weft/v{}/{vni}", abi::LAYOUT)))
    }

    /// The networks that have pins of this layout.
    pub fn networks() -> io::Result<Vec<Vni>> {
        let folder = Path::new(BPFFS).join(format!("weft/v{}", abi::LAYOUT));
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut networks = Vec::new();
        for entry in entries {
            let number = entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            networks.extend(number.and_then(|number: u64| Vni::try_from(number).ok()));
        }
        networks.sort_unstable();
        Ok(networks)
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where a map is pinned.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.0.join("maps").join(name)
    }

    /// Where a link is pinned. The number is in the name because a pin does not say where it
    /// points, and names hold dots, which bpffs refuses.
    #[must_use]
    pub fn link(&self, hook: Hook, link: IfIndex) -> PathBuf {
        self.0.join("links").join(format!("{}-{link}", hook.name()))
    }

    /// Every pinned link, by what its name says.
    pub fn links(&self) -> io::Result<Vec<(Hook, IfIndex, PathBuf)>> {
        let mut links = Vec::new();
        let entries = match fs::read_dir(self.0.join("links")) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(links),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let parsed = name
                .to_str()
                .and_then(|name| name.rsplit_once('-'))
                .and_then(|(hook, index)| {
                    let hook = Hook::named(hook)?;
                    let index = IfIndex::try_from(index.parse::<u32>().ok()?).ok()?;
                    Some((hook, index))
                });
            if let Some((hook, index)) = parsed {
                links.push((hook, index, entry.path()));
            }
        }
        Ok(links)
    }

    /// Makes the folders, mounting bpffs where it is missing.
    pub fn create(&self) -> Result<(), DatapathError> {
        ensure_bpffs()?;
        for folder in ["maps", "links"] {
            let folder = self.0.join(folder);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(io_call(format!("make {}", folder.display())))?;
        }
        Ok(())
    }

    /// Pins again what is no longer pinned.
    pub fn keep(&self, ebpf: &Ebpf) -> Result<usize, DatapathError> {
        let missing = abi::MAPS.iter().filter(|name| !self.map(name).exists());
        let missing: Vec<_> = missing.collect();
        if !missing.is_empty() {
            self.create()?;
        }
        for name in &missing {
            let path = self.map(name);
            if let Some(map) = ebpf.map(name) {
                map.pin(&path)
                    .map_err(call(format!("pin {}", path.display())))?;
            }
        }
        Ok(missing.len())
    }

    fn qdisc(&self, link: IfIndex) -> PathBuf {
        self.0.join("qdiscs").join(link.to_string())
    }

    /// Notes that the device's qdisc clsact is of our making. bpffs holds nothing but folders and
    /// pins: it is an empty folder.
    pub fn mark_qdisc(&self, link: IfIndex) -> Result<(), DatapathError> {
        let path = self.qdisc(link);
        fs::create_dir_all(&path).map_err(io_call(format!("make {}", path.display())))
    }

    /// Takes that note back.
    pub fn unmark_qdisc(&self, link: IfIndex) -> Result<(), DatapathError> {
        let path = self.qdisc(link);
        match fs::remove_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_call(format!("remove {}", path.display()))(error))
            }
            _ => Ok(()),
        }
    }

    /// Whether the device's qdisc clsact is of our making.
    pub fn has_marked_qdisc(&self, link: IfIndex) -> bool {
        self.qdisc(link).exists()
    }

    /// The devices whose qdisc clsact is of our making.
    pub fn marked_qdiscs(&self) -> Vec<IfIndex> {
        let entries = fs::read_dir(self.0.join("qdiscs")).into_iter().flatten();
        entries
            .filter_map(|entry| {
                let number: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
                IfIndex::try_from(number).ok()
            })
            .collect()
    }

    /// The folders of the same network under other versions of the layout.
    pub fn siblings(&self) -> Vec<Self> {
        let versions = fs::read_dir(Path::new(BPFFS).join("weft"))
            .into_iter()
            .flatten();
        let vni = self.0.file_name().unwrap_or_default();
        versions
            .filter_map(|version| Some(version.ok()?.path().join(vni)))
            .filter(|folder| *folder != self.0 && folder.exists())
            .map(Self)
            .collect()
    }

    /// Removes every pin, and so every program that hangs only by its pin.
    pub fn remove(&self) -> io::Result<()> {
        // Who takes packets goes before who notes what the stack carries.
        let mut links = self.links()?;
        links.sort_by_key(|(hook, _, _)| matches!(hook, Hook::ToContainer | Hook::ToOverlay));
        for (_, _, path) in links {
            fs::remove_file(path)?;
        }
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Other networks may still have pins there: only empty folders go.
        for parent in self.0.ancestors().skip(1).take(2) {
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// Mounts bpffs where it belongs, if nothing of that kind is mounted there.
fn ensure_bpffs() -> Result<(), DatapathError> {
    let is_bpffs = |path: &str| statfs(path).is_ok_and(|fs| fs.filesystem_type().0 == BPFFS_MAGIC);
    if is_bpffs(BPFFS) {
        return Ok(());
    }
    mount(
        Some("bpf"),
        BPFFS,
        Some("bpf"),
        MsFlags::empty(),
        Some("mode=0700"),
    )
    .map_err(|errno| DatapathError {
        call: format!("mount bpffs at {BPFFS}"),
        why: format!("{errno}: mount it yourself with `mount -t bpf bpf {BPFFS}`"),
        errno: Some(errno as i32),
    })
}

/// What a map must look like to be adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Kernel map type.
    pub kind: u32,
    /// Bytes of a key.
    pub key: u32,
    /// Bytes of a value.
    pub value: u32,
    /// Capacity.
    pub entries: u32,
}

/// Shape of a pinned map; `None` when nothing is pinned there. aya 0.14 adopts a pinned map
/// whatever its shape is, so it must be looked at before the programs are loaded.
pub fn pinned_shape(path: &Path) -> Result<Option<Shape>, DatapathError> {
    if !path.exists() {
        return Ok(None);
    }
    let info = MapInfo::from_pin(path).map_err(call(format!("open {}", path.display())))?;
    let kind = info
        .map_type()
        .map_err(call(format!("read {}", path.display())))?;
    Ok(Some(Shape {
        kind: kind as u32,
        key: info.key_size(),
        value: info.value_size(),
        entries: info.max_entries(),
    }))
}
