//! The file system of the guest: programs with the libraries that they ask for, laid out as here.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::cpio::Archive;
use crate::shell;

#[derive(Debug)]
enum Node {
    Content(Vec<u8>),
    /// A file of this machine.
    Copy(PathBuf),
    Symlink(String),
    Device((u32, u32)),
    Folder,
}

/// What will be in the guest, by absolute path.
#[derive(Default)]
pub(super) struct Tree(BTreeMap<PathBuf, Node>);

impl Tree {
    pub(super) fn content(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.put(Path::new(path), Node::Content(content.into()));
    }

    pub(super) fn symlink(&mut self, path: &str, target: &str) {
        self.put(Path::new(path), Node::Symlink(target.to_owned()));
    }

    pub(super) fn device(&mut self, path: &str, number: (u32, u32)) {
        self.put(Path::new(path), Node::Device(number));
    }

    pub(super) fn folder(&mut self, path: &str) {
        self.put(Path::new(path), Node::Folder);
    }

    /// Copies a file to a place of its own.
    pub(super) fn copy(&mut self, from: &Path, to: &str) {
        self.put(Path::new(to), Node::Copy(from.to_owned()));
    }

    /// A program or library where it is on this machine, with every symlink on the way to it, and
    /// the libraries that it is linked with.
    pub(super) fn program(&mut self, path: &Path) -> Result<()> {
        self.chain(path)?;
        self.libraries(path)
    }

    /// The libraries of a program.
    pub(super) fn libraries(&mut self, path: &Path) -> Result<()> {
        let mut ldd = Command::new("ldd");
        ldd.arg(path);
        // It fails for static programs, which have none.
        let out = ldd.output().context("run ldd")?;
        for library in linked(&String::from_utf8_lossy(&out.stdout)) {
            self.chain(Path::new(&library))?;
        }
        Ok(())
    }

    /// Follows symlinks, and enters each of them.
    fn chain(&mut self, path: &Path) -> Result<()> {
        let missing = || format!("{} is needed in the guest", path.display());
        let mut at = settled(path).with_context(missing)?;
        while let Ok(target) = fs::read_link(&at) {
            let folder = at.parent().unwrap_or(Path::new("/")).to_owned();
            let text = target.to_string_lossy().into_owned();
            self.put(&at, Node::Symlink(text));
            at = settled(&folder.join(target)).with_context(missing)?;
        }
        let node = Node::Copy(at.clone());
        self.put(&at, node);
        Ok(())
    }

    fn put(&mut self, path: &Path, node: Node) {
        for folder in path.ancestors().skip(1) {
            let known = self.0.entry(folder.to_owned());
            known.or_insert(Node::Folder);
        }
        self.0.insert(path.to_owned(), node);
    }

    /// Writes all of it; parents sort before their children.
    pub(super) fn write(&self, out: impl io::Write) -> Result<()> {
        let mut archive = Archive::new(out);
        for (path, node) in &self.0 {
            let name = path.to_string_lossy();
            let name = name.trim_start_matches('/');
            if name.is_empty() {
                continue;
            }
            match node {
                Node::Folder => archive.folder(name),
                Node::Symlink(target) => archive.symlink(name, target),
                Node::Device(number) => archive.device(name, *number),
                Node::Content(content) => archive.file(name, content),
                Node::Copy(from) => {
                    let content = fs::read(from).with_context(|| from.display().to_string())?;
                    archive.file(name, &content)
                }
            }
            .with_context(|| format!("write {name}"))?;
        }
        archive.finish().context("end the archive")?;
        Ok(())
    }
}

/// The path with its folder's symlinks resolved (`/lib64` is `/usr/lib64`), but not its own.
fn settled(path: &Path) -> Option<PathBuf> {
    let folder = path.parent()?.canonicalize().ok()?;
    let settled = folder.join(path.file_name()?);
    settled.symlink_metadata().is_ok().then_some(settled)
}

/// The files in the output of ldd.
fn linked(text: &str) -> Vec<String> {
    let files = text.lines().filter_map(|line| {
        let line = line.trim();
        let file = line.split_once(" => ").map_or(line, |(_, file)| file);
        let file = file.split(' ').next()?;
        file.starts_with('/').then(|| file.to_owned())
    });
    files.collect()
}

/// A copy without debugging information, which is most of it.
pub(super) fn stripped(from: &Path, to: &Path) -> Result<()> {
    let mut strip = Command::new("strip");
    strip.arg("--strip-debug").arg("-o").arg(to).arg(from);
    shell::quiet(&mut strip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            linked(text),
            ["/lib/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]
        );
        assert!(linked("\tnot a dynamic executable\n").is_empty());
    }
}
