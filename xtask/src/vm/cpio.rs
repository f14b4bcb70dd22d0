//! Writes a cpio archive in the form that the kernel unpacks (`newc`): see the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::io::{self, Write};

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;
const DEVICE: u32 = 0o020_600;

/// An archive being written. Parents come before what is in them.
pub(super) struct Archive<W> {
    out: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    pub(super) const fn new(out: W) -> Self {
        Self { out, inode: 0 }
    }

    pub(super) fn folder(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, FOLDER, &[], (0, 0))
    }

    pub(super) fn file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.entry(name, FILE, content, (0, 0))
    }

    pub(super) fn symlink(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.entry(name, SYMLINK, target.as_bytes(), (0, 0))
    }

    pub(super) fn device(&mut self, name: &str, number: (u32, u32)) -> io::Result<()> {
        self.entry(name, DEVICE, &[], number)
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, &[], (0, 0))?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8], dev: (u32, u32)) -> io::Result<()> {
        self.inode += 1;
        let length = |bytes: usize| u32::try_from(bytes).map_err(io::Error::other);
        let fields = [
            self.inode,
            mode,
            0, // owner
            0, // group
            1, // links
            0, // time
            length(content.len())?,
            0, // of this archive's device
            0,
            dev.0,
            dev.1,
            length(name.len() + 1)?,
            0, // sum, in another form only
        ];
        write!(self.out, "070701")?;
        for field in fields {
            write!(self.out, "{field:08x}")?;
        }
        self.out.write_all(name.as_bytes())?;
        // The name ends with a zero, and is filled up together with the header.
        let header = 110 + name.len() + 1;
        self.fill(1 + header.next_multiple_of(4) - header)?;
        self.out.write_all(content)?;
        self.fill(content.len().next_multiple_of(4) - content.len())
    }

    fn fill(&mut self, bytes: usize) -> io::Result<()> {
        self.out.write_all([0; 4].get(..bytes).unwrap_or(&[0; 4]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_laid_out_in_words() {
        let mut archive = Archive::new(Vec::new());
        archive.file("init", b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.get(..14), Some(&b"07070100000001"[..]));
        assert_eq!(bytes.get(110..116), Some(&b"init\0\0"[..]));
        assert_eq!(bytes.get(116..124), Some(&b"hello\0\0\0"[..]));
        assert_eq!(bytes.get(124..130), Some(&b"070701"[..]));
        assert_eq!(bytes.len() % 4, 0);
    }
}
