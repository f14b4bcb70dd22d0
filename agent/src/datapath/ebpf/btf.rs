//! Where conntrack hangs on a packet: offsets out of the kernel's own type information.
//!
//! A reader for the few records it takes (kernel `Documentation/bpf/btf.rst`): it finds the byte
//! offset of a named member of a named struct, in the kernel's BTF or in a module's, whose strings
//! and types continue the kernel's.

use std::{fs, path::Path, sync::OnceLock};

use weft_common::settings::ConntrackOffsets;

const KERNEL: &str = "/sys/kernel/btf/vmlinux";
const MODULE: &str = "/sys/kernel/btf/nf_conntrack";

const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
/// Nesting of anonymous structs that is followed.
const DEPTH: u32 = 8;

/// Offsets for the programs; not known where the kernel does not say.
#[must_use]
pub fn conntrack_offsets() -> ConntrackOffsets {
    // Read once a process: offsets stay as they are, while what is not known may become so with a
    // module, and a file system may hide what another shows.
    static KNOWN: OnceLock<ConntrackOffsets> = OnceLock::new();
    let (kernel, module) = (Path::new(KERNEL), Path::new(MODULE));
    let known = KNOWN.get().filter(|_| kernel.exists()).copied();
    let found = known.or_else(|| offsets_from(kernel, module));
    found.map_or_else(ConntrackOffsets::default, |found| {
        *KNOWN.get_or_init(|| found)
    })
}

fn offsets_from(kernel: &Path, module: &Path) -> Option<ConntrackOffsets> {
    let kernel = fs::read(kernel).ok()?;
    let kernel = Btf::parse(&kernel, None)?;
    let skb_nfct = kernel.member("sk_buff", "_nfct")?;
    let status = match kernel.member("nf_conn", "status") {
        Some(status) => status,
        None => {
            let module = fs::read(module).ok()?;
            Btf::parse(&module, Some(&kernel))?.member("nf_conn", "status")?
        }
    };
    Some(ConntrackOffsets {
        skb_nfct,
        status,
        known: 1,
    })
}

struct Btf<'a> {
    base: Option<&'a Btf<'a>>,
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type of this file starts.
    starts: Vec<usize>,
    first_id: usize,
    first_string: usize,
}

/// The fixed part of a type record.
struct Record {
    name: u32,
    kind: u32,
    members: usize,
    bitfields: bool,
    body: usize,
}

impl<'a> Btf<'a> {
    fn parse(data: &'a [u8], base: Option<&'a Btf<'a>>) -> Option<Self> {
        if u16::from_le_bytes(data.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let header = usize::try_from(word(data, 4)?).ok()?;
        let slice = |at: usize| -> Option<&'a [u8]> {
            let start = header.checked_add(usize::try_from(word(data, at)?).ok()?)?;
            data.get(start..start.checked_add(usize::try_from(word(data, at + 4)?).ok()?)?)
        };
        let mut btf = Self {
            base,
            types: slice(8)?,
            strings: slice(16)?,
            starts: Vec::new(),
            first_id: base.map_or(1, |base| base.first_id + base.starts.len()),
            first_string: base.map_or(0, |base| base.first_string + base.strings.len()),
        };
        let mut at = 0;
        while at < btf.types.len() {
            btf.starts.push(at);
            let record = btf.record(at)?;
            at = record.body + body_len(record.kind, record.members)?;
        }
        Some(btf)
    }

    fn record(&self, at: usize) -> Option<Record> {
        let info = word(self.types, at + 4)?;
        Some(Record {
            name: word(self.types, at)?,
            kind: info >> 24 & 0x1f,
            members: usize::try_from(info & 0xffff).ok()?,
            bitfields: info >> 31 != 0,
            body: at + 12,
        })
    }

    fn string(&self, offset: u32) -> Option<&'a [u8]> {
        let offset = usize::try_from(offset).ok()?;
        match (offset.checked_sub(self.first_string), self.base) {
            (Some(own), _) => self.strings.get(own..)?.split(|byte| *byte == 0).next(),
            (None, Some(base)) => base.string(u32::try_from(offset).ok()?),
            (None, None) => None,
        }
    }

    /// Byte offset of a member of a struct of this file.
    fn member(&self, structure: &str, member: &str) -> Option<u32> {
        self.starts.iter().find_map(|start| {
            let record = self.record(*start)?;
            if record.kind != KIND_STRUCT || self.string(record.name)? != structure.as_bytes() {
                return None;
            }
            self.member_of(*start, member, DEPTH)
        })
    }

    fn member_of(&self, start: usize, member: &str, depth: u32) -> Option<u32> {
        let record = self.record(start)?;
        if record.kind != KIND_STRUCT && record.kind != KIND_UNION {
            return None;
        }
        (0..record.members).find_map(|index| {
            let at = record.body + index * 12;
            let offset = word(self.types, at + 8)?;
            let bits = if record.bitfields {
                offset & 0x00ff_ffff
            } else {
                offset
            };
            let name = self.string(word(self.types, at)?)?;
            if name == member.as_bytes() {
                return Some(bits / 8);
            }
            if !name.is_empty() || depth == 0 {
                return None;
            }
            let id = usize::try_from(word(self.types, at + 4)?).ok()?;
            let inner = *self.starts.get(id.checked_sub(self.first_id)?)?;
            Some(bits / 8 + self.member_of(inner, member, depth - 1)?)
        })
    }
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        data.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

/// Bytes that follow the fixed part of a record.
fn body_len(kind: u32, members: usize) -> Option<usize> {
    Some(match kind {
        1 | 14 | 17 => 4,
        3 => 12,
        KIND_STRUCT | KIND_UNION | 15 | 19 => members * 12,
        6 | 13 => members * 8,
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Strings: "", "sk_buff", "_nfct", "nf_conn", "status", "pad".
    const STRINGS: &[u8] = b"\0sk_buff\0_nfct\0nf_conn\0status\0pad\0";

    fn file(types: &[u32]) -> Vec<u8> {
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut data = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types.len(), types.len(), STRINGS.len()] {
            data.extend(u32::try_from(word).unwrap().to_le_bytes());
        }
        data.extend(types);
        data.extend(STRINGS);
        data
    }

    const STRUCT: u32 = KIND_STRUCT << 24;
    const UNION: u32 = KIND_UNION << 24;

    #[test]
    fn members_are_found_through_anonymous_ones() {
        let data = file(&[
            // 1: int of 4 bytes
            0,
            1 << 24,
            4,
            32,
            // 2: anonymous union { pad; _nfct }
            0,
            UNION | 2,
            8,
            31,
            1,
            0,
            9,
            1,
            0,
            // 3: sk_buff { pad at 0; <2> at 64 bits }
            1,
            STRUCT | 2,
            16,
            31,
            1,
            0,
            0,
            2,
            64,
            // 4: nf_conn { pad; status at 128 bits }
            15,
            STRUCT | 2,
            24,
            31,
            1,
            0,
            23,
            1,
            128,
        ]);
        let btf = Btf::parse(&data, None).unwrap();
        assert_eq!(btf.member("sk_buff", "_nfct"), Some(8));
        assert_eq!(btf.member("nf_conn", "status"), Some(16));
        assert_eq!(btf.member("nf_conn", "_nfct"), None);
    }

    #[test]
    fn broken_files_are_refused() {
        let data = file(&[1, STRUCT | 1, 16, 31, 1, 0]);
        assert!(Btf::parse(&data, None).is_some());
        for len in 0..data.len() - STRINGS.len() {
            let Some(btf) = Btf::parse(&data[..len], None) else {
                continue;
            };
            assert_eq!(btf.member("sk_buff", "_nfct"), None, "cut at {len}");
        }
    }
}
