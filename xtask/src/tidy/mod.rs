//! `cargo xtask tidy`: the rules of the tree, as code.

mod rules;
mod tree;

use anyhow::{Result, bail};

use crate::toolchain::root;

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    path: String,
    /// Counted from 1; none for the file as a whole.
    line: Option<usize>,
    text: String,
    weight: Weight,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    /// Worth a thought, and no more.
    Warning,
    Error,
}

pub(crate) fn run() -> Result<()> {
    let files = tree::read(&root())?;
    let findings = check(&files);
    for Finding {
        path,
        line,
        text,
        weight,
    } in &findings
    {
        let line = line.map(|line| format!(":{line}")).unwrap_or_default();
        let weight = match weight {
            Weight::Warning => "warning",
            Weight::Error => "error",
        };
        println!("tidy: {weight}: {path}{line}: {text}");
    }
    let errors = findings
        .iter()
        .filter(|finding| finding.weight == Weight::Error)
        .count();
    if errors > 0 {
        bail!("{errors} tree rules are broken");
    }
    println!("tidy: {} files in order", files.len());
    Ok(())
}

/// A text file of the tree, named from its root.
#[derive(Clone, Debug)]
pub(crate) struct File {
    path: String,
    text: String,
}

fn check(files: &[File]) -> Vec<Finding> {
    let mut findings: Vec<_> = files
        .iter()
        .flat_map(|file| rules::FILE.iter().flat_map(|rule| rule(file)))
        .collect();
    findings.extend(rules::TREE.iter().flat_map(|rule| rule(files)));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_tree_is_in_order() {
        let files = tree::read(&root()).expect("the tree is readable");
        let errors: Vec<_> = check(&files)
            .into_iter()
            .filter(|found| found.weight == Weight::Error)
            .collect();
        assert_eq!(errors, []);
    }
}
