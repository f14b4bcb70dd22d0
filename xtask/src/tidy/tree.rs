//! Reads the tree's text files: those that are committed, or would be.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::File;

/// Endings of the files that the rules speak of.
const KINDS: &[&str] = &["rs", "toml", "md", "sh", "yml", "yaml"];
/// Neither ours nor text.
const SKIPPED: &[&str] = &["target", ".git"];
const CI: &str = ".ci/run";

pub(super) fn read(root: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    collect(root, root, &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<File>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("list {}", folder.display()))?
            .path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            if !SKIPPED.contains(&name.as_str()) {
                collect(root, &path, files)?;
            }
            continue;
        }
        let relative = path
            .strip_prefix(root)
            .unwrap_or(&path)
            .to_string_lossy()
            .into_owned();
        let kind = path.extension().unwrap_or_default().to_string_lossy();
        if relative == CI || KINDS.contains(&kind.as_ref()) {
            let text = fs::read_to_string(&path).with_context(|| format!("read {relative}"))?;
            files.push(File {
                path: relative,
                text,
            });
        }
    }
    Ok(())
}
